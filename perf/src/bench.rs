//! What TCP makes of the switch, beside the kernel's own bridge in the same run.
//!
//! Two pods on the switch and two namespaces on a kernel bridge take turns, so that a machine that gets slower slows both
//! down. Absolute figures belong to the machine; the ratio is what is compared.

use anyhow::{Context, Result};
use comfy_table::{ContentArrangement, Table, presets};
use ipnet::IpNet;
use penstock_lab::{Lab, LabOptions, Place};
use penstock_net::route::VethSpec;
use penstock_net::{Netlink, Netns};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;
use std::time::Duration;

const PORT: u16 = 5432;
const TRANSFER_PORT: u16 = 5001;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Milliseconds of each transfer.
    #[arg(long, default_value_t = 2000, value_name = "MS")]
    transfer_ms: u64,
    /// Questions of each measurement of latency.
    #[arg(long, default_value_t = 5000, value_name = "N")]
    questions: usize,
}

/// What one path gave in each round.
#[derive(Debug, Default)]
struct Figures {
    gigabits_per_second: Vec<f64>,
    p50_us: Vec<f64>,
    p99_us: Vec<f64>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let bridge = Bridge::make().context("the kernel bridge to compare with")?;
    let lab = Lab::start("bench", LabOptions::default())?;
    let (web, db) = (lab.add_pod("bench", "web", &[])?, lab.add_pod("bench", "db", &[])?);
    db.listen_tcp(PORT);
    bridge.places[1].listen_tcp(PORT);
    let mut figures = [Figures::default(), Figures::default()];
    for round in 1..=arguments.rounds.max(1) {
        let paths = [(&*web, &*db), (&bridge.places[0], &bridge.places[1])];
        for ((from, to), figures) in paths.into_iter().zip(&mut figures) {
            measure(from, to, arguments, figures)?;
        }
        println!("bench: round {round}/{}", arguments.rounds);
    }
    let [penstock, kernel] = figures;
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["MEDIAN OF ROUNDS", "PENSTOCK", "KERNEL BRIDGE", "RATIO"]);
    for (name, ours, theirs) in [
        ("one TCP stream, Gb/s", penstock.gigabits_per_second, kernel.gigabits_per_second),
        ("TCP request p50, us", penstock.p50_us, kernel.p50_us),
        ("TCP request p99, us", penstock.p99_us, kernel.p99_us),
    ] {
        let (ours, theirs) = (median(ours), median(theirs));
        table.add_row([
            name.to_owned(),
            format!("{ours:.2}"),
            format!("{theirs:.2}"),
            format!("{:.2}", ours / theirs),
        ]);
    }
    println!("{table}");
    Ok(true)
}

fn measure(from: &Place, to: &Place, arguments: &Arguments, figures: &mut Figures) -> Result<()> {
    let time = Duration::from_millis(arguments.transfer_ms);
    let transfer = from.start_transfer(to, to.v4(), TRANSFER_PORT, time)?.finish()?;
    figures.gigabits_per_second.push(transfer.gigabits_per_second());
    let latency = from.round_trips(to.v4(), PORT, arguments.questions)?;
    figures.p50_us.push(latency.p50.as_secs_f64() * 1e6);
    figures.p99_us.push(latency.p99.as_secs_f64() * 1e6);
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Two namespaces on a bridge in a third.
struct Bridge {
    names: Vec<String>,
    places: Vec<Place>,
}

impl Bridge {
    fn make() -> Result<Bridge> {
        let prefix = format!("pt-br-{}", std::process::id());
        let mut made = Bridge { names: vec![], places: vec![] };
        let middle = made.netns(&prefix)?;
        let in_middle = Netlink::open_in(&middle)?;
        let bridge = in_middle.create_bridge("br0")?.index;
        in_middle.set_up(bridge, true)?;
        for n in [1u8, 2] {
            let netns = made.netns(&format!("{prefix}-{n}"))?;
            let port = format!("port{n}");
            let spec = VethSpec { peer_netns: Some(netns.as_fd()), ..VethSpec::new(&port, "eth0") };
            let port = in_middle.create_veth(&spec)?.index;
            in_middle.set_master(port, Some(bridge))?;
            in_middle.set_up(port, true)?;
            let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, n));
            let netlink = Netlink::open_in(&netns)?;
            let eth0 = netlink.existing("eth0")?.index;
            netlink.add_address(eth0, IpNet::new(address, 24)?, false)?;
            netlink.set_up(eth0, true)?;
            made.places.push(Place::new(format!("bridged {n}"), netns, vec![address]));
        }
        Ok(made)
    }

    fn netns(&mut self, name: &str) -> Result<Netns> {
        let netns = Netns::create(name)?;
        self.names.push(name.to_owned());
        Ok(netns)
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        for name in &self.names {
            if let Err(error) = Netns::delete(name) {
                eprintln!("bench: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_is_untouched_by_one_wild_round() {
        assert_eq!(median(vec![3.0, 1.0, 2.0, 900.0, 2.5]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
    }
}
