//! `penstock-vswitch replay`: the arguments, and lines for people or programs.

use anyhow::Context;
use penstock_vswitch::replay::{self, Replay};
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct ReplayArgs {
    /// The artefact to enforce: `artefact.json` of a switch's state directory.
    #[arg(long, value_name = "FILE")]
    artefact: PathBuf,
    /// What a port sent: `namespace/name=FILE.pcap` or `host=FILE.pcap`; may be repeated.
    #[arg(long = "input", value_name = "PORT=FILE", value_parser = input, required = true)]
    inputs: Vec<(String, PathBuf)>,
    /// Write what each port gets to DIR/namespace.name.pcap.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..=9000))]
    mtu: u16,
    /// The node's own addresses; may be repeated.
    #[arg(long = "host-address", value_name = "ADDRESS")]
    host_addresses: Vec<IpAddr>,
    /// Where this node's pods have their addresses; may be repeated.
    #[arg(long = "pod-range", value_name = "PREFIX")]
    pod_ranges: Vec<ipnet::IpNet>,
    /// One JSON object per frame instead of a line for people.
    #[arg(long)]
    json: bool,
}

fn input(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((port, file)) if !port.is_empty() && !file.is_empty() => Ok((port.to_owned(), file.into())),
        _ => Err(format!("{text:?} is not PORT=FILE, as default/web=web.pcap")),
    }
}

pub(crate) fn run(args: ReplayArgs) -> anyhow::Result<()> {
    let text =
        std::fs::read(&args.artefact).with_context(|| format!("cannot read {}", args.artefact.display()))?;
    let artefact = serde_json::from_slice(&text)
        .with_context(|| format!("{} is not an artefact of this version", args.artefact.display()))?;
    let replay = Replay {
        artefact,
        inputs: args.inputs,
        output: args.output,
        workers: args.workers.into(),
        mtu: args.mtu,
        host_addresses: args.host_addresses,
        pod_ranges: args.pod_ranges,
    };
    replay::run(&replay, |outcome| match args.json {
        true => println!("{}", serde_json::json!(outcome)),
        false => println!("{} -> {}: {}", outcome.from, outcome.to.join(", "), outcome.verdict),
    })?;
    Ok(())
}
