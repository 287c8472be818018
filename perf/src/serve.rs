//! Servers and single probes inside a network namespace, for a demo that was kept.

use anyhow::Result;
use clap::Subcommand;
use penstock_lab::{Outcome, Place};
use penstock_net::Netns;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, clap::Args)]
pub(crate) struct ServeArguments {
    #[arg(long, value_name = "NAME")]
    netns: String,
    /// Echo on this TCP port; may be repeated.
    #[arg(long, value_name = "PORT")]
    tcp: Vec<u16>,
    /// Answer HTTP on this port; may be repeated.
    #[arg(long, value_name = "PORT")]
    http: Vec<u16>,
}

/// Serves until the namespace has lost its name.
pub(crate) fn serve(arguments: &ServeArguments) -> Result<bool> {
    let place = Place::open(&arguments.netns)?;
    for port in &arguments.tcp {
        place.listen_tcp(*port);
    }
    for port in &arguments.http {
        place.listen_http(*port);
    }
    while Netns::exists(&arguments.netns) {
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(true)
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArguments {
    /// The network namespace to probe from.
    #[arg(long, value_name = "NAME")]
    from: String,
    #[command(subcommand)]
    probe: Probe,
}

#[derive(Debug, Subcommand)]
enum Probe {
    /// Connect to a TCP echo server.
    Tcp { address: IpAddr, port: u16 },
    /// GET / of an HTTP server.
    Http { address: IpAddr, port: u16 },
    /// One ICMP echo.
    Ping { address: IpAddr },
}

/// True when the other end was reached.
pub(crate) fn probe(arguments: &ProbeArguments) -> Result<bool> {
    const TIMEOUT: Duration = Duration::from_secs(1);
    let place = Place::open(&arguments.from)?;
    let outcome = match arguments.probe {
        Probe::Tcp { address, port } => place.connect_within(address, port, TIMEOUT),
        Probe::Ping { address } => place.ping_with(address, 56, TIMEOUT),
        Probe::Http { address, port } => match place.http_get(address, port, "/", TIMEOUT) {
            Ok(answer) => {
                print!("{} {}", answer.status, answer.body);
                Outcome::Reached
            }
            Err(outcome) => outcome,
        },
    };
    println!("{outcome}");
    Ok(outcome == Outcome::Reached)
}
