//! Tables and numbers as people read them.

use crate::failure::{Failure, output_failure};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::Write;
use std::net::IpAddr;

/// A table with a header row and nothing drawn around it: it can be read, and cut by `awk`.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

pub(crate) fn print(out: &mut dyn Write, text: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(out, "{text}").map_err(output_failure)
}

/// Prints a table without the blanks it pads its lines with.
pub(crate) fn print_table(out: &mut dyn Write, table: &Table) -> Result<(), Failure> {
    for line in table.to_string().lines() {
        print(out, line.trim_end().strip_prefix(' ').unwrap_or(line))?;
    }
    Ok(())
}

pub(crate) fn print_json(out: &mut dyn Write, value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::failed(format!("the answer cannot be written as JSON: {error}")))?;
    print(out, text)
}

/// `1.5 MiB`.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `3.2s`, `4m05s`, `2h03m`, `5d04h`.
pub(crate) fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..60 => format!("{}.{}s", seconds, ms % 1000 / 100),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

pub(crate) fn protocol(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmpv6".to_owned(),
        132 => "sctp".to_owned(),
        other => other.to_string(),
    }
}

/// `10.0.0.1:80`, `[fd00::1]:80`; without a port where the protocol has none.
pub(crate) fn address(address: IpAddr, port: u16, protocol: u8) -> String {
    match (matches!(protocol, 6 | 17 | 132), address) {
        (false, address) => address.to_string(),
        (true, IpAddr::V4(address)) => format!("{address}:{port}"),
        (true, IpAddr::V6(address)) => format!("[{address}]:{port}"),
    }
}

pub(crate) fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

pub(crate) fn or_dash<T: ToString>(item: Option<T>) -> String {
    item.map_or_else(|| "-".to_owned(), |item| item.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_people_write_them() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(duration(3_250), "3.2s");
        assert_eq!(duration(245_000), "4m05s");
        assert_eq!(duration(7_380_000), "2h03m");
        assert_eq!(address("fd00::1".parse().unwrap(), 80, 6), "[fd00::1]:80");
        assert_eq!(address("10.0.0.1".parse().unwrap(), 8, 1), "10.0.0.1");
    }
}
