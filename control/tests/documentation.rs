//! The policy guide's examples are objects this version takes.

use penstock_control::load::load_text;
use std::path::Path;

#[test]
fn every_example_of_the_policy_guide_is_accepted() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let text = std::fs::read_to_string(&guide).unwrap();
    let examples: Vec<&str> =
        text.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 2, "the guide has examples");
    for example in examples {
        let report = load_text(Path::new("docs/policy.md"), example);
        assert!(report.errors.is_empty(), "{example}: {:?}", report.errors);
        assert_eq!(report.objects.len(), 1, "{example}");
    }
}
