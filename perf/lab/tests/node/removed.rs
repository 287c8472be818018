//! Programs that somebody removes by hand: nothing is forwarded without them, and somebody says so.

use crate::common::{LONG, TCP, by_hand, inside, is_to, shop, until, workers};
use penstock_api::DropReason;
use penstock_lab::Outcome::{Reached, TimedOut};
use penstock_lab::{CniCall, CniFailure, Lab, LabOptions, Pod};
use penstock_net::{Netlink, Netns};

fn check(lab: &Lab, pod: &Pod) -> Result<(), CniFailure> {
    let mut call = CniCall { command: "CHECK".to_owned(), ..pod.cni_call().clone() };
    call.configuration["prevResult"] = pod.cni_result().clone();
    lab.cni(&call).map(drop)
}

/// The kernel lets nobody replace the program of a link; its link can be cut.
fn detach_xdp(lab: &Lab) {
    let maps = crate::removal::maps_of(lab);
    let programs = crate::removal::programs_with(&maps);
    let links: Vec<_> = aya::programs::loaded_links()
        .filter_map(Result::ok)
        .filter(|link| programs.contains(&link.program_id()))
        .filter(|link| matches!(link.link_type(), Ok(aya::programs::links::LinkType::Xdp)))
        .collect();
    assert_eq!(links.len(), 1, "one worker has one far end");
    by_hand(lab.host(), &["bpftool", "link", "detach", "id", &links[0].id().to_string()]);
}

/// Takes a tc program off an interface of the switch, whichever way it was attached.
fn remove_program(lab: &Lab, interface: &str) {
    let link = lab.instance().bpf_dir().join("links").join(interface);
    match link.exists() {
        true => by_hand(lab.host(), &["bpftool", "link", "detach", "pinned", &link.display().to_string()]),
        false => by_hand(&inside(lab), &["tc", "filter", "del", "dev", interface, "ingress"]),
    }
}

fn host_end(lab: &Lab, pod: &Pod) -> String {
    let ports = lab.ports().unwrap();
    let port = ports.iter().find(|port| port.addresses.contains(&pod.v4().into()));
    port.unwrap_or_else(|| panic!("{} has no port: {ports:#?}", pod.name())).interface.clone()
}

#[test]
fn a_pod_as_it_was_made_passes_a_check() {
    let (lab, web, db) = shop("asmade", workers(1));
    check(&lab, &web).unwrap();
    check(&lab, &db).unwrap();
}

#[test]
fn without_its_program_a_pod_sends_nothing_and_a_check_says_so_and_mends_it() {
    let (lab, web, db) = shop("nopod", workers(1));
    let arrived = db.watch("eth0", is_to(db.v4().into()));
    let at_host = lab.host().watch(&lab.instance().host_interface(), is_to(db.v4().into()));
    let end = host_end(&lab, &web);
    remove_program(&lab, &end);
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    assert_eq!(web.ping(lab.host().v4()), TimedOut);
    assert_eq!((arrived.count(), at_host.count()), (0, 0));
    let failure = check(&lab, &web).expect_err("CHECK found nothing wrong");
    assert!(failure.message.contains(&end) && failure.message.contains("program"), "{failure}");
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    check(&lab, &web).unwrap();
    lab.assert_frames_conserved();
}

#[test]
fn without_the_trunks_program_nothing_is_delivered_and_a_check_says_so() {
    let (lab, web, db) = shop("notru", workers(1));
    let arrived = db.watch("eth0", is_to(db.v4().into()));
    remove_program(&lab, "trunk0");
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    assert_eq!(lab.host().connect(db.v4(), TCP), TimedOut);
    assert_eq!(arrived.count(), 0);
    let failure = check(&lab, &web).expect_err("CHECK found nothing wrong");
    assert!(failure.message.contains("trunk0"), "{failure}");
    lab.assert_frames_conserved();
}

#[test]
fn without_the_program_of_the_far_end_nothing_reaches_the_switch_and_a_check_says_so() {
    let (lab, web, db) = shop("noxdp", workers(1));
    let arrived = db.watch("eth0", is_to(db.v4().into()));
    detach_xdp(&lab);
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    assert_eq!(arrived.count(), 0);
    let failure = check(&lab, &web).expect_err("CHECK found nothing wrong");
    assert!(failure.message.contains("xsk0"), "{failure}");
}

#[test]
fn without_the_hosts_program_the_host_reaches_no_pod() {
    let (lab, web, db) = shop("nohos", workers(1));
    let arrived = db.watch("eth0", is_to(db.v4().into()));
    remove_program(&lab, "host0");
    assert_eq!(lab.host().connect(db.v4(), TCP), TimedOut);
    assert_eq!(arrived.count(), 0);
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached, "pods are not concerned");
    lab.assert_frames_conserved();
}

#[test]
fn programs_that_were_removed_are_back_after_a_restart() {
    let (lab, web, db) = shop("back", workers(1));
    let end = host_end(&lab, &web);
    for interface in [end.as_str(), "trunk0", "host0"] {
        remove_program(&lab, interface);
    }
    detach_xdp(&lab);
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    crate::common::kill_switch(&lab, nix::sys::signal::Signal::SIGTERM);
    lab.start_switch().unwrap();
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    assert_eq!(lab.host().connect_within(db.v6(), TCP, LONG), Reached);
    until("a check finds nothing wrong", || check(&lab, &web).is_ok());
}

#[test]
fn programs_attached_as_filters_for_older_kernels_carry_everything_and_outlive_the_switch() {
    let options = LabOptions { switch_arguments: vec!["--tc-filters".into()], ..workers(1) };
    let (lab, web, db) = shop("filters", options);
    assert!(!lab.instance().bpf_dir().join("links").join("trunk0").exists(), "it is a link");
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    crate::common::kill_switch(&lab, nix::sys::signal::Signal::SIGKILL);
    lab.start_switch().unwrap();
    assert_eq!(web.connect_within(db.v6(), TCP, LONG), Reached);
    assert_eq!(lab.host().connect_within(db.v4(), TCP, LONG), Reached);
    remove_program(&lab, &host_end(&lab, &web));
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    check(&lab, &web).expect_err("CHECK found nothing wrong");
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached, "a check mends it");
}

#[test]
fn what_an_interface_lets_in_before_the_programs_know_its_port_is_dropped_and_counted() {
    let (lab, web, db) = shop("noentry", workers(1));
    let end = host_end(&lab, &web);
    let netns = Netns::open(lab.instance().netns()).unwrap();
    let ifindex = Netlink::open_in(&netns).unwrap().existing(&end).unwrap().index;
    let map = |name: &str| lab.instance().bpf_dir().join(name).display().to_string();
    let octets = |number: u32| number.to_le_bytes().map(|byte| byte.to_string());
    let (known, guessed) = (map("PORT_BY_IFINDEX"), map("PORT_BY_GUESS"));
    let (key, place) = (octets(ifindex), octets(ifindex % 4096));
    let command = ["bpftool", "map", "delete", "pinned", &known, "key"];
    by_hand(lab.host(), &[&command[..], &key.each_ref().map(String::as_str)].concat());
    let command = ["bpftool", "map", "update", "pinned", &guessed, "key"];
    let place = place.each_ref().map(String::as_str);
    by_hand(lab.host(), &[&command[..], &place, &["value", "0", "0", "0", "0"]].concat());
    let count = || {
        let drops = lab.all_drops().unwrap();
        drops
            .into_iter()
            .filter(|(reason, _)| *reason == DropReason::KernelNoPort)
            .map(|(_, n)| n)
            .sum::<u64>()
    };
    assert_eq!(count(), 0);
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    until("the frames are counted", || count() > 0);
}
