//! What the running switch says about its policy and its drops, by the commands of the guide.

use crate::common::{DENY_INGRESS, TCP, shop, until, workers};
use penstock_lab::Outcome::TimedOut;
use std::path::Path;

#[test]
fn every_command_of_the_policy_guide_that_asks_the_switch_is_answered() {
    let (lab, web, db) = shop("guide", workers(1));
    lab.apply("deny", DENY_INGRESS);
    assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let block = guide.split("```console running\n").nth(1).unwrap().split("```").next().unwrap();
    let commands: Vec<&str> = block.lines().filter_map(|line| line.strip_prefix("$ penstock ")).collect();
    assert!(commands.len() >= 3, "{block}");
    for command in commands {
        lab.penstock(&command.split_whitespace().collect::<Vec<_>>()).unwrap();
    }
}

#[test]
fn a_refusal_is_explained_by_the_policy_in_force_and_counted_where_it_was_refused() {
    let (lab, web, db) = shop("why", workers(2));
    lab.apply("deny", DENY_INGRESS);
    for _ in 0..3 {
        assert_eq!(web.connect(db.v4(), TCP), TimedOut);
    }
    let said = lab.penstock(&["policy", "explain", "shop/web", "shop/db", "5432/TCP"]).unwrap();
    assert!(said.contains("ingress of shop/db: deny"), "{said}");
    assert!(said.contains("Selected by NetworkPolicy shop/deny."), "{said}");
    assert!(said.contains("egress of shop/web: open"), "{said}");

    let mut drops = String::new();
    until("the refusals are told", || {
        drops = lab.penstock(&["drops"]).unwrap();
        drops.contains("ingress of shop/db: no rule of NetworkPolicy shop/deny allows it")
    });
    let counted = drops.split("refused by policy:").nth(1).unwrap_or_else(|| panic!("{drops}"));
    let line = counted.lines().find(|line| line.contains("ingress of shop/db")).unwrap();
    assert!(line.ends_with("NetworkPolicy shop/deny"), "{drops}");
    let frames: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
    assert!(frames >= 3, "{drops}");
    assert_eq!(frames, lab.drops(penstock_api::DropReason::PolicyIngress), "{drops}");
}
