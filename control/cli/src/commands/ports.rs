//! `penstock ports`: who is attached where.

use crate::client::Client;
use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{bytes, joined, or_dash, print, print_json, print_table, table};
use std::io::Write;

pub(crate) fn run(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    let ports = Client::connect(context)?.ports()?;
    if context.output == Output::Json {
        return print_json(out, &ports);
    }
    let mut table = table(&[
        "PORT",
        "KIND",
        "INTERFACE",
        "MODE",
        "POD",
        "ADDRESSES",
        "MAC",
        "MTU",
        "STATE",
        "RX",
        "RX BYTES",
        "TX",
        "TX BYTES",
        "IN KERNEL",
        "DROPS",
    ]);
    for port in &ports {
        table.add_row([
            port.port.to_string(),
            port.kind.clone(),
            port.interface.clone(),
            or_dash(port.device.as_ref().map(|device| &device.mode)),
            or_dash(port.pod.as_ref()),
            joined(&port.addresses),
            port.mac.to_string(),
            port.mtu.to_string(),
            if port.ready { "ready" } else { "isolated" }.to_owned(),
            port.rx_frames.to_string(),
            bytes(port.rx_bytes),
            port.tx_frames.to_string(),
            bytes(port.tx_bytes),
            in_kernel(port),
            port.drops.to_string(),
        ]);
    }
    print_table(out, &table)?;
    for device in ports.iter().filter_map(|port| port.device.as_ref()).filter(|device| !device.why.is_empty())
    {
        print(out, format_args!("{} queue {}: {}", device.interface, device.queue, device.why))?;
    }
    Ok(())
}

/// The share of the frames that no worker saw.
fn in_kernel(port: &penstock_api::message::PortStatus) -> String {
    match (port.rx_frames + port.tx_frames, port.shortcut_rx_frames + port.shortcut_tx_frames) {
        (_, 0) => "-".to_owned(),
        (all, carried) => format!("{:.1} %", carried as f64 * 100.0 / all.max(1) as f64),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{context, printed, serve};
    use penstock_api::artefact::PodKey;
    use penstock_api::message::{Mac, PortStatus, Response};
    use penstock_api::{EndpointId, PortId};

    pub(crate) fn port(number: u16, pod: Option<(&str, &str)>) -> PortStatus {
        PortStatus {
            port: PortId(number),
            endpoint: EndpointId(u32::from(number)),
            kind: if pod.is_some() { "pod" } else { "host" }.into(),
            interface: format!("p{number}"),
            pod: pod.map(|(namespace, name)| PodKey::new(namespace, name)),
            container_id: None,
            mac: Mac([2, 0, 0, 0, 0, number as u8]),
            addresses: vec![format!("10.1.0.{number}").parse().unwrap()],
            mtu: 1500,
            device: None,
            ready: pod.is_none_or(|(_, name)| name != "waiting"),
            rx_frames: 5,
            rx_bytes: 2048,
            tx_frames: 6,
            tx_bytes: 100,
            shortcut_rx_frames: 0,
            shortcut_tx_frames: 0,
            drops: 1,
        }
    }

    #[test]
    fn a_port_whose_policy_is_unknown_is_shown_as_isolated() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |_, _| {
            Some(Response::Ports {
                ports: vec![port(0, None), port(1, Some(("shop", "db"))), port(2, Some(("shop", "waiting")))],
            })
        });
        let text = printed(|out| run(&context, out));
        let line = |part: &str| text.lines().find(|line| line.contains(part)).expect(part).to_owned();
        assert!(line("shop/db").contains("ready") && line("shop/db").contains("2.0 KiB"), "{text}");
        assert!(line("shop/waiting").contains("isolated"), "{text}");
        assert!(line("host").starts_with('0'), "{text}");
    }
}
