//! What the running kernel lacks: named, and done without.

use crate::common::{has_multi_buffer, kernel_has, shop, workers};
use penstock_lab::LabOptions;

#[test]
fn what_the_kernel_lacks_is_in_the_notes_and_nothing_else_is() {
    let (lab, _web, _db) = shop("lacks", LabOptions { mtu: 9000, ..workers(1) });
    let notes = lab.status().unwrap().notes;
    let mut rest = notes.clone();
    for (has, told) in [
        (has_multi_buffer(), "the MTU is 3506, not 9000"),
        (kernel_has("vmlinux", "tcx_link_attach"), "and not as TCX links"),
        (kernel_has("vmlinux", "max_tx_budget"), "32 frames of a copying socket with one call"),
    ] {
        eprintln!("{}: {told}", if has { "had" } else { "done without" });
        let before = rest.len();
        rest.retain(|note| !note.contains(told));
        assert_eq!(before - rest.len(), usize::from(!has), "{told:?}: {notes:#?}");
    }
    assert!(rest.is_empty(), "{rest:#?}");
}
