//! A demo that stays: servers that outlive us, and what to type.

use super::INSTANCE;
use super::story::{HTTP, SQL};
use anyhow::{Context, Result};
use penstock_lab::{Lab, Pod};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

pub(crate) fn explain(lab: &Lab, pods: &[&Pod]) -> Result<()> {
    let ourselves = std::env::current_exe()?;
    for pod in pods {
        let netns = pod.netns().name().context("a pod's namespace has a name")?;
        Command::new(&ourselves)
            .args(["serve", "--netns", netns, "--tcp", &SQL.to_string(), "--http", &HTTP.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("a server for a pod cannot be started")?;
    }
    let penstock = format!("{} --instance {INSTANCE}", lab.program("penstock").display());
    let probe = format!("{} probe --from", ourselves.display());
    let (db, web, batch) = (pods[0], pods[1], pods[2]);
    let name = |pod: &Pod| pod.netns().name().unwrap_or_default().to_owned();
    println!("\nIt runs on. Look around (as root):\n");
    for line in [
        format!("{penstock} status"),
        format!("{penstock} ports"),
        format!("{penstock} flows"),
        format!("{penstock} drops"),
        format!("{penstock} capture --pod shop/db --seconds 10"),
        String::new(),
        format!("{probe} {} tcp {} {SQL}", name(web), db.v4()),
        format!("{probe} {} http {} {HTTP}", name(batch), db.v6()),
        format!("ip netns exec {} bash", name(web)),
        String::new(),
        format!("ls {}     # change the objects: they are watched", lab.objects_dir().display()),
        format!("cp perf/demo/default-deny-all.yaml {}", lab.objects_dir().display()),
        String::new(),
        "make demo-remove".to_owned(),
    ] {
        println!("  {line}");
    }
    println!();
    Ok(())
}
