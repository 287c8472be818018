//! `ADD`, `CHECK` and `DEL` on real namespaces, with a switch that answers as told. These tests need root, and fail
//! without it.

mod common;

use common::{Manner, Node, Pod, error};
use penstock_api::artefact::PodKey;
use penstock_api::message::{ErrorCode, Request, gateway};
use penstock_cni::step::Step;
use penstock_net::route::VethSpec;
use penstock_net::{Netns, sysctl};
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn an_add_gives_the_pod_an_interface_and_offers_the_other_end_to_the_switch() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let result = pod.add().unwrap();

    let eth0 = pod.netlink().existing("eth0").unwrap();
    let host_end = node.netlink().existing(&pod.host_end()).unwrap();
    assert_eq!((eth0.peer_index, host_end.peer_index), (Some(host_end.index), Some(eth0.index)));
    assert_eq!((eth0.mtu, host_end.mtu), (1400, 1400));
    assert_eq!(node.offered_up(), [false], "the switch brings the host end up, nobody else");
    assert_eq!(
        (&result["ips"][0]["address"], &result["ips"][1]["address"]),
        (&json!("10.244.0.2/32"), &json!("fd00:10:244::2/128"))
    );
    assert_eq!(result["interfaces"][0]["name"], pod.host_end());
    assert_eq!(result["interfaces"][1]["sandbox"], pod.netns.path().to_str().unwrap());

    let quiet = format!("net/ipv6/conf/{}/disable_ipv6", pod.host_end());
    assert_eq!(node.netns().run(|| sysctl::get(&quiet)).unwrap().unwrap(), "1");
    let router = pod.netns.run(|| sysctl::get("net/ipv6/conf/eth0/accept_ra")).unwrap().unwrap();
    assert_eq!(router, "0");

    assert_eq!(node.address_files(), ["10.244.0.2", "fd00:10:244::2"]);
    let file: Value =
        serde_json::from_slice(&fs::read(node.addresses_dir().join("10.244.0.2")).unwrap()).unwrap();
    assert_eq!(
        file,
        json!({"container_id": pod.container_id, "interface": "eth0",
               "pod": {"namespace": "shop", "name": pod.name, "uid": "u-1"}})
    );
    match node.requests().as_slice() {
        [Request::Attach { port, wait_ms: 1000 }] => {
            assert_eq!(port.host_end, pod.host_end());
            assert_eq!(port.mac.0, eth0.mac);
            assert_eq!(port.pod, PodKey { uid: Some("u-1".into()), ..PodKey::new("shop", &pod.name) });
            assert_eq!(port.addresses, [ip("10.244.0.2"), ip("fd00:10:244::2")]);
            assert_eq!(port.mtu, 1400);
        }
        other => panic!("the switch was asked {other:?}"),
    }
}

#[test]
fn what_the_configuration_leaves_out_the_switch_says() {
    let node = Node::new();
    let mut pod = Pod::new(&node);
    for key in ["mtu", "ranges"] {
        pod.config.as_object_mut().unwrap().remove(key);
    }
    let result = pod.add().unwrap();
    assert_eq!(result["ips"][1]["address"], "fd00:77::2/128");
    assert_eq!(pod.netlink().existing("eth0").unwrap().mtu, 1450);
    pod.check(&result).unwrap();
}

#[test]
fn an_mtu_that_ipv6_cannot_live_with_is_refused_also_when_the_range_is_the_switchs() {
    let node = Node::new();
    let mut pod = Pod::new(&node);
    pod.config["mtu"] = json!(1000);
    pod.config["ranges"] = Value::Null;
    let (code, msg) = error(pod.add());
    assert!(code == 7 && msg.contains("mtu is 1000, and IPv6 needs 1280"), "{code} {msg}");
    node.assert_empty("refused");
}

#[test]
fn the_program_does_what_the_library_does() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let call = |command, config: &Value| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_penstock-cni"))
            .envs(pod.environment(command))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(config.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        output.stdout
    };
    let result: Value = serde_json::from_slice(&call("ADD", &pod.config)).unwrap();
    let mut config = pod.config.clone();
    config["prevResult"] = result;
    assert!(call("CHECK", &config).is_empty());
    assert!(call("DEL", &config).is_empty());
    node.assert_empty("after DEL");
}

#[test]
fn a_pod_without_ipv6_and_one_whose_runtime_turned_it_off_both_work() {
    let node = Node::new();
    for (ranges, addresses) in
        [(json!(["10.244.0.0/24"]), 1), (json!(["10.244.0.0/24", "fd00:10:244::/64"]), 2)]
    {
        let mut pod = Pod::new(&node);
        for conf in ["all", "default"] {
            let path = format!("net/ipv6/conf/{conf}/disable_ipv6");
            pod.netns.run(|| sysctl::set(&path, "1")).unwrap().unwrap();
        }
        pod.config["ranges"] = ranges;
        let result = pod.add().unwrap();
        assert_eq!(result["ips"].as_array().unwrap().len(), addresses);
        pod.check(&result).unwrap();
    }
}

#[test]
fn an_ipv6_address_is_usable_before_anything_is_on_the_other_end() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let seen = std::sync::Mutex::new(None);
    let look = |step| {
        if step == Step::PodRouted {
            *seen.lock().unwrap() = Some(pod.netlink().addresses().unwrap());
        }
    };
    pod.add_observed(&look).unwrap();
    let seen = seen.into_inner().unwrap().unwrap();
    let v6 = seen.iter().find(|found| found.net.addr() == ip("fd00:10:244::2")).unwrap();
    assert!(!v6.is_tentative(), "{v6:?}");
}

#[test]
fn a_del_removes_all_of_it_and_again_has_nothing_to_do() {
    let node = Node::new();
    let pod = Pod::new(&node);
    pod.add().unwrap();
    node.requests();
    pod.del();
    node.assert_empty("after DEL");
    pod.assert_empty("after DEL");
    assert_eq!(
        node.requests(),
        [Request::Detach { container_id: pod.container_id.clone(), interface: "eth0".into() }]
    );
    pod.del();
    pod.add().unwrap();
}

#[test]
fn a_del_needs_neither_pod_nor_switch_nor_namespace_nor_a_good_configuration() {
    let mut node = Node::new();
    let mut pod = Pod::new(&node);
    pod.add().unwrap();
    node.stop_switch();
    Netns::delete(&pod.name).unwrap();
    pod.config =
        json!({"cniVersion": "1.0.0", "instance": node.instance.name(), "mtu": "nonsense", "colour": 1});
    pod.del();
    node.assert_empty("after DEL");

    // As after a reboot: no namespace, but files.
    let pod = Pod::new(&node);
    node.start_switch();
    pod.add().unwrap();
    node.stop_switch();
    Netns::delete(node.instance.netns()).unwrap();
    pod.del();
    assert_eq!(node.address_files(), [""; 0]);
    fs::remove_dir_all(node.instance.state_dir()).unwrap();
    pod.del();
    assert!(!node.instance.state_dir().exists());
}

#[test]
fn a_del_of_one_interface_leaves_the_others() {
    let node = Node::new();
    let (one, mut two, other) = (Pod::new(&node), Pod::new(&node), Pod::new(&node));
    two.container_id = one.container_id.clone();
    two.interface = "net1".into();
    one.add().unwrap();
    let results = [two.add().unwrap(), other.add().unwrap()];
    one.del();
    two.check(&results[0]).unwrap();
    other.check(&results[1]).unwrap();
}

#[test]
fn an_add_that_fails_after_any_step_leaves_nothing() {
    let node = Node::new();
    for step in Step::ALL {
        let pod = Pod::new(&node);
        let fail = |done| assert_ne!(done, step, "on purpose");
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pod.add_observed(&fail)));
        assert!(outcome.is_err(), "{step:?} was not reached");
        node.assert_empty(&format!("after {step:?}"));
        pod.assert_empty(&format!("after {step:?}"));
    }
}

/// Not a test by itself: the process that the next test kills.
#[test]
#[ignore = "run by a_del_removes_what_a_killed_add_left, in a process of its own"]
fn an_add_that_is_killed() {
    let variable = |name| std::env::var(name).unwrap();
    let step = Step::ALL[variable("STEP").parse::<usize>().unwrap()];
    let environment = penstock_cni::Environment::of_process();
    let kill = |done| {
        if done == step {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    };
    let outcome = penstock_cni::run_observed(&environment, variable("CONFIG").as_bytes(), &kill);
    panic!("{step:?} was not reached: {outcome:?}");
}

#[test]
fn a_del_removes_what_a_killed_add_left() {
    use std::os::unix::process::ExitStatusExt;
    let node = Node::new();
    for (index, step) in Step::ALL.into_iter().enumerate() {
        let pod = Pod::new(&node);
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "an_add_that_is_killed", "--ignored"])
            .envs(pod.environment("ADD"))
            .env("STEP", index.to_string())
            .env("CONFIG", pod.config.to_string())
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(9), "{step:?}");
        pod.del();
        node.assert_empty(&format!("killed after {step:?}"));
        pod.assert_empty(&format!("killed after {step:?}"));
        let result = pod.add().unwrap();
        pod.check(&result).unwrap();
        pod.del();
    }
}

#[test]
fn an_add_the_switch_does_not_carry_out_is_undone_and_says_whether_to_try_again() {
    let node = Node::new();
    for (manner, code, words) in [
        (Manner::Refuses(ErrorCode::NotReady, "no policy for shop/web"), 11, "no policy for shop/web"),
        (Manner::Refuses(ErrorCode::Conflict, "the MAC is taken"), 101, "the MAC is taken"),
        (Manner::Refuses(ErrorCode::Invalid, "MTU 9000 exceeds 3506"), 100, "MTU 9000 exceeds 3506"),
        (Manner::HangsUp, 11, "went away"),
        (Manner::Babbles, 100, "capturing"),
        (Manner::Silent, 11, "did not answer within"),
    ] {
        let mut pod = Pod::new(&node);
        pod.config["waitSeconds"] = json!(0);
        node.switch_is(manner.clone());
        let (got, msg) = error(pod.add());
        assert!(got == code && msg.contains(words), "{manner:?}: {got} {msg}");
        assert!(msg.contains(node.instance.name()), "{msg}");
        node.assert_empty(&format!("{manner:?}"));
        pod.assert_empty(&format!("{manner:?}"));
        assert!(
            matches!(node.requests().as_slice(), [Request::Attach { .. }, Request::Detach { .. }]),
            "a switch that was asked is told to forget it"
        );
    }
}

#[test]
fn without_a_switch_or_its_namespace_an_add_touches_nothing() {
    let mut node = Node::new();
    let pod = Pod::new(&node);
    node.stop_switch();
    let (code, msg) = error(pod.add());
    assert!(code == 11 && msg.contains("is not running") && msg.contains("control.sock"), "{code} {msg}");
    Netns::delete(node.instance.netns()).unwrap();
    let (code, msg) = error(pod.add());
    assert!(code == 11 && msg.contains("is not up") && msg.contains(node.instance.name()), "{code} {msg}");
    pod.assert_empty("without a switch");
    assert!(!node.addresses_dir().exists());
}

#[test]
fn a_repeated_add_is_refused_and_leaves_the_first_as_it_is() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let result = pod.add().unwrap();
    let files = node.address_files();
    let (code, msg) = error(pod.add());
    assert!(code == 101 && msg.contains("attached already"), "{code} {msg}");
    // Also when only the files are left of it.
    let host_end = node.netlink().existing(&pod.host_end()).unwrap();
    pod.check(&result).unwrap();
    assert_eq!(node.address_files(), files);
    node.netlink().delete_link(host_end.index).unwrap();
    let (code, msg) = error(pod.add());
    assert!(code == 101 && msg.contains("10.244.0.2"), "{code} {msg}");
    assert_eq!(node.address_files(), files);
}

#[test]
fn an_interface_that_is_there_is_refused_and_left_alone() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let theirs = pod.netlink().create_veth(&VethSpec::new("eth0", "other")).unwrap();
    let (code, msg) = error(pod.add());
    assert!(code == 101 && msg.contains("eth0") && msg.contains(&pod.name), "{code} {msg}");
    assert_eq!(pod.netlink().link("eth0").unwrap(), Some(theirs));
    node.assert_empty("refused");
    pod.del();
    assert!(pod.netlink().link("eth0").unwrap().is_some());
}

#[test]
fn a_namespace_that_is_no_pods_is_refused() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let with = |path: &str| {
        let mut environment = pod.environment("ADD");
        environment.iter_mut().find(|(name, _)| *name == "CNI_NETNS").unwrap().1 = path.to_owned();
        error(penstock_cni::run(
            &penstock_cni::Environment::new(environment),
            pod.config.to_string().as_bytes(),
        ))
    };
    for (path, words) in [
        ("/proc/self/ns/net", "the plugin itself runs in"),
        (node.netns().path().to_str().unwrap(), "switch's own namespace"),
        ("/run/netns/there-is-none", "No such file"),
        ("/etc/hostname", "not a namespace"),
    ] {
        let (code, msg) = with(path);
        assert!(code == 4 && msg.contains("CNI_NETNS") && msg.contains(words), "{path}: {code} {msg}");
    }
    node.assert_empty("refused");
}

#[test]
fn a_damaged_address_file_stops_an_add_by_name_and_no_del() {
    let node = Node::new();
    let (before, after) = (Pod::new(&node), Pod::new(&node));
    before.add().unwrap();
    let damaged = node.addresses_dir().join("10.244.0.9");
    fs::write(&damaged, "{\"container_id\":").unwrap();
    let (code, msg) = error(after.add());
    assert!(code == 103 && msg.contains(damaged.to_str().unwrap()), "{code} {msg}");
    after.assert_empty("refused");
    before.del();
    assert_eq!(node.address_files(), ["10.244.0.9"]);
    fs::remove_file(&damaged).unwrap();
    after.add().unwrap();
}

#[test]
fn a_range_that_is_used_up_is_said_to_be_and_costs_nobody_anything() {
    let node = Node::new();
    let pods: Vec<_> = (0..2)
        .map(|_| {
            let mut pod = Pod::new(&node);
            pod.config["ranges"] = json!(["10.244.9.0/30"]);
            pod
        })
        .collect();
    let result = pods[0].add().unwrap();
    let (code, msg) = error(pods[1].add());
    assert!(code == 102 && msg.contains("10.244.9.0/30"), "{code} {msg}");
    pods[1].assert_empty("no address");
    pods[0].check(&result).unwrap();
    pods[0].del();
    pods[1].add().unwrap();
}

#[test]
fn many_pods_at_once_get_an_interface_each() {
    let node = Node::new();
    let pods: Vec<_> = (0..20).map(|_| Pod::new(&node)).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let adds: Vec<_> = pods.iter().map(|pod| scope.spawn(|| pod.add().unwrap())).collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> =
        results.iter().map(|result| result["ips"][0]["address"].to_string()).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 20);
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| pod.del());
        }
    });
    node.assert_empty("after all DELs");
}

#[test]
fn a_check_is_content_with_what_an_add_made_and_names_whatever_has_changed() {
    let node = Node::new();
    let pod = Pod::new(&node);
    let result = pod.add().unwrap();
    assert_eq!(pod.check(&result), Ok(None));
    let inside = pod.netlink();
    let eth0 = inside.existing("eth0").unwrap().index;
    let host_end = node.netlink().existing(&pod.host_end()).unwrap().index;
    let v4_file = node.addresses_dir().join("10.244.0.2");
    let content = fs::read(&v4_file).unwrap();

    type Act<'a> = Box<dyn Fn() + 'a>;
    let default = |inside: &penstock_net::Netlink| {
        let routes = inside.routes().unwrap();
        *routes.iter().find(|route| route.destination == "0.0.0.0/0".parse().unwrap()).unwrap()
    };
    let route = default(&inside);
    let damage: [(&str, Act<'_>, Act<'_>); 8] = [
        (
            "lost its route 0.0.0.0/0 via 169.254.1.1",
            Box::new(|| inside.del_route(&route).unwrap()),
            Box::new(|| inside.add_route(&route).unwrap()),
        ),
        (
            "permanent neighbour fe80::1",
            Box::new(|| inside.replace_neighbour(eth0, ip("fe80::1"), [2, 6, 6, 6, 6, 6], true).unwrap()),
            Box::new(|| inside.replace_neighbour(eth0, ip("fe80::1"), gateway::MAC.0, true).unwrap()),
        ),
        (
            "lost its address fd00:10:244::2/128",
            Box::new(|| inside.del_address(eth0, "fd00:10:244::2/128".parse().unwrap()).unwrap()),
            Box::new(|| inside.add_address(eth0, "fd00:10:244::2/128".parse().unwrap(), true).unwrap()),
        ),
        (
            "has MTU 1300",
            Box::new(|| inside.set_mtu(eth0, 1300).unwrap()),
            Box::new(|| inside.set_mtu(eth0, 1400).unwrap()),
        ),
        (
            "host end",
            Box::new(|| node.netlink().set_up(host_end, false).unwrap()),
            Box::new(|| node.netlink().set_up(host_end, true).unwrap()),
        ),
        (
            "10.244.0.2 is this container's",
            Box::new(|| fs::remove_file(&v4_file).unwrap()),
            Box::new(|| fs::write(&v4_file, &content).unwrap()),
        ),
        (
            "loopback is down",
            Box::new(|| inside.set_up(1, false).unwrap()),
            Box::new(|| inside.set_up(1, true).unwrap()),
        ),
        (
            "has the MAC address 0a:0b",
            Box::new(|| inside.set_mac(eth0, [0x0a, 0x0b, 0, 0, 0, 1]).unwrap()),
            Box::new(|| {
                let mac = penstock_cni::names::pod_mac(&pod.container_id, "eth0");
                inside.set_mac(eth0, mac.0).unwrap();
                // Another MAC address costs an interface its neighbours, permanent ones included.
                for gateway in ["169.254.1.1", "fe80::1"] {
                    inside.replace_neighbour(eth0, ip(gateway), gateway::MAC.0, true).unwrap();
                }
            }),
        ),
    ];
    for (words, harm, mend) in &damage {
        harm();
        let (code, msg) = error(pod.check(&result));
        assert!(code == 104 && msg.contains(words), "{words}: {code} {msg}");
        mend();
        pod.check(&result).unwrap_or_else(|error| panic!("after mending {words}: {error}"));
    }
    node.switch_is(Manner::Refuses(ErrorCode::NotFound, "no program on the host end"));
    let (code, msg) = error(pod.check(&result));
    assert!(code == 100 && msg.contains("no program on the host end"), "{code} {msg}");
    node.netlink().delete_link(host_end).unwrap();
    let (code, msg) = error(pod.check(&result));
    assert!(code == 104 && msg.contains("is gone") && msg.contains("no interface eth0"), "{code} {msg}");
}

#[test]
fn a_check_without_the_result_of_the_add_or_in_0_3_1_is_refused() {
    let node = Node::new();
    let mut pod = Pod::new(&node);
    let result = pod.add().unwrap();
    let (code, msg) = error(pod.call("CHECK"));
    assert!(code == 7 && msg.contains("prevResult is missing"), "{code} {msg}");
    let (code, msg) = error(pod.check(&json!({"cniVersion": "1.0.0", "interfaces": 7})));
    assert!(code == 7 && msg.contains("prevResult") && msg.contains("interfaces"), "{code} {msg}");
    pod.config["cniVersion"] = json!("0.3.1");
    let (code, msg) = error(pod.check(&result));
    assert!(code == 1 && msg.contains("0.3.1"), "{code} {msg}");
}
