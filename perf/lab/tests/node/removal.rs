//! `penstock down`: nothing is left of an instance, and nothing of another is touched.

use crate::common::{LONG, TCP, shop, until, workers};
use aya::maps::MapInfo;
use aya::programs::loaded_programs;
use penstock_lab::Lab;
use penstock_lab::Outcome::Reached;
use penstock_net::Netlink;
use std::collections::BTreeSet;
use std::path::Path;

/// The kernel's numbers of the maps an instance has pinned.
pub(crate) fn maps_of(lab: &Lab) -> BTreeSet<u32> {
    let entries = std::fs::read_dir(lab.instance().bpf_dir()).unwrap();
    entries.filter_map(|entry| Some(MapInfo::from_pin(entry.ok()?.path()).ok()?.id())).collect()
}

/// The kernel's numbers of the programs that use any of these maps.
pub(crate) fn programs_with(maps: &BTreeSet<u32>) -> BTreeSet<u32> {
    loaded_programs()
        .filter_map(Result::ok)
        .filter(|program| {
            let used = program.map_ids().ok().flatten().unwrap_or_default();
            used.iter().any(|map| maps.contains(map))
        })
        .map(|program| program.id())
        .collect()
}

fn interfaces_of(lab: &Lab) -> BTreeSet<String> {
    let links = Netlink::open_in(lab.host().netns()).unwrap().links().unwrap();
    links.into_iter().map(|link| link.name).collect()
}

#[test]
fn down_leaves_no_interface_namespace_program_map_table_or_process() {
    let (lab, web, db) = shop("down", workers(2));
    assert_eq!(web.connect_within(db.v4(), TCP, LONG), Reached);
    let maps = maps_of(&lab);
    let programs = programs_with(&maps);
    assert!(maps.len() >= 8 && programs.len() >= 4, "{maps:?} {programs:?}");
    let run_dir = lab.instance().run_dir();
    let pids = [lab.status().unwrap().pid, control_pid(&run_dir)];

    lab.penstock(&["down"]).unwrap();

    let left = Lab::leftovers(lab.instance());
    let ours = format!("{}-", lab.instance());
    let left: Vec<_> = left.iter().filter(|name| !name.starts_with(&ours)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    assert!(!interfaces_of(&lab).contains(&lab.instance().host_interface()));
    for pod in [&web, &db] {
        assert!(Netlink::open_in(pod.netns()).unwrap().link("eth0").unwrap().is_none(), "{}", pod.name());
    }
    for pid in pids {
        assert!(crate::common::has_ended(pid), "process {pid} still runs");
    }
    // The kernel frees them a moment after their last user.
    until("programs are unloaded", || {
        let loaded: BTreeSet<u32> = loaded_programs().filter_map(Result::ok).map(|p| p.id()).collect();
        loaded.is_disjoint(&programs)
    });
    until("maps are gone", || {
        let loaded: BTreeSet<u32> = aya::maps::loaded_maps().filter_map(Result::ok).map(|m| m.id()).collect();
        loaded.is_disjoint(&maps)
    });
    // And it can be done again.
    lab.penstock(&["down"]).unwrap();
}

fn control_pid(run_dir: &Path) -> u32 {
    let account = std::fs::read(run_dir.join("control.json")).unwrap();
    let account: serde_json::Value = serde_json::from_slice(&account).unwrap();
    u32::try_from(account["pid"].as_u64().unwrap()).unwrap()
}

#[test]
fn two_nodes_on_one_machine_do_not_touch_each_other() {
    let (one, web, db) = shop("nodea", workers(1));
    let (two, web_of_two, _db_of_two) = shop("nodeb", workers(1));
    let mut connection = web.open_connection(db.v4(), TCP, LONG).unwrap();
    let (pid, ports) = (one.status().unwrap().pid, one.ports().unwrap().len());
    // The same addresses, another node.
    assert_eq!(web.v4(), web_of_two.v4());
    two.apply("deny", crate::common::DENY_INGRESS);
    assert_eq!(connection.echo(LONG), Reached);
    two.penstock(&["down"]).unwrap();
    assert_eq!(connection.echo(LONG), Reached);
    assert_eq!(web.connect_within(db.v6(), TCP, LONG), Reached);
    let status = one.status().unwrap();
    assert_eq!((status.pid, one.ports().unwrap().len()), (pid, ports));
    one.assert_frames_conserved();
}
