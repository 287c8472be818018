//! Maps that outlive the process: pinned by name, and taken up by the next switch if they are of its shape.
//!
//! A map of another version would be read as what it is not. One such, and all are made anew: they refer to each other by port and by
//! row. Programs that are attached still use the old ones, and are replaced as their interfaces are looked at
//! ([`Programs::attach_tc`](super::bpf::Programs::attach_tc)).

use super::bpf::BpfError;
use super::shortcut::SHORTCUTS_MAX;
use aya::maps::MapInfo;
use aya::programs::{TcAttachType, tc};
use aya::{Ebpf, EbpfLoader};
use std::path::Path;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/penstock.bpf.o"));

const MAPS: [&str; 14] = [
    "PORTS",
    "PORT_BY_IFINDEX",
    "PORT_BY_GUESS",
    "SETTINGS",
    "ROUNDS",
    "SPENT",
    "QUEUES",
    "PASSING",
    "XSKS",
    "PORT_COUNTS",
    "QUEUE_COUNTS",
    "SHORTCUTS",
    "FLOWS",
    "CARRIED",
];

/// The directory of the pinned links, beside the maps. Each is named after its interface.
pub(super) const LINKS: &str = "links";
/// No host end is called so.
const OUTSIDE: &str = "outside-";

/// The programs, over what is pinned here and with new maps for the rest, which are pinned.
pub(super) fn load_over(pins: &Path, cpus: usize) -> Result<Ebpf, BpfError> {
    let mut loader = EbpfLoader::new();
    loader.map_max_entries("CARRIED", (cpus * SHORTCUTS_MAX) as u32);
    for map in MAPS {
        loader.map_pin_path(map, pins.join(map));
    }
    Ok(loader.load(OBJECT)?)
}

/// Takes away the pins of all maps if one of them is not as this version has it: the programs would read it as what it is not.
pub(super) fn remove_strangers(pins: &Path, cpus: usize) -> Result<Vec<&'static str>, BpfError> {
    if !MAPS.iter().any(|map| pins.join(map).exists()) {
        return Ok(Vec::new());
    }
    // What this version would make, beside.
    let beside = pins.join("beside");
    let failed = |error| BpfError::PinDirectory(beside.display().to_string(), error);
    let remove = || match std::fs::remove_dir_all(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(()),
    };
    remove()?;
    std::fs::create_dir_all(&beside).map_err(failed)?;
    let fresh = load_over(&beside, cpus);
    let is_strange = |map: &&str| {
        let path = pins.join(map);
        path.exists() && shape(&path) != shape(&beside.join(map))
    };
    let strangers: Vec<_> = MAPS.into_iter().filter(is_strange).collect();
    remove()?;
    fresh?;
    if !strangers.is_empty() {
        for map in MAPS {
            let _ = std::fs::remove_file(pins.join(map));
        }
    }
    Ok(strangers)
}

/// What must agree for a map to be taken up. Fields that change places within a value change the map's name, too.
fn shape(pin: &Path) -> Option<(u32, u32, u32, u32, u32)> {
    let info = MapInfo::from_pin(pin).ok()?;
    let kind = info.map_type().ok()? as u32;
    Some((kind, info.key_size(), info.value_size(), info.max_entries(), info.map_flags()))
}

/// What the pin of a link is called whose interface is in the host's namespace.
pub(super) fn outside(ifindex: u32) -> String {
    format!("{OUTSIDE}{ifindex}")
}

/// A filter lives as long as its interface, and the host's interfaces outlive an instance. So there is a directory
/// (a bpf file system has no files of ours) named after each: `outside-NUMBER-PROGRAM`.
pub(super) fn note_filter(pins: &Path, interface: &str, program: &str) -> Result<(), String> {
    let index = nix::net::if_::if_nametoindex(interface).map_err(|error| error.to_string())?;
    let note = pins.join(LINKS).join(format!("{}-{program}", outside(index)));
    match std::fs::create_dir(&note) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(format!("{}: {error}", note.display()))
        }
        _ => Ok(()),
    }
}

/// Takes the programs from interfaces of the host's namespace, which is the caller's, but for those with these numbers.
pub(super) fn detach_outside(pins: &Path, but: &[u32]) {
    let Ok(entries) = std::fs::read_dir(pins.join(LINKS)) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(OUTSIDE)) else { continue };
        let (index, program) = rest.split_once('-').map_or((rest, None), |(index, name)| (index, Some(name)));
        let Some(index) = index.parse().ok().filter(|index| !but.contains(index)) else { continue };
        match program {
            // The link's last holder.
            None => drop(std::fs::remove_file(entry.path())),
            Some(program) => {
                if let Ok(interface) = nix::net::if_::if_indextoname(index)
                    && let Ok(interface) = interface.to_str()
                {
                    // It is gone, or somebody else took it away: fine.
                    let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, program);
                }
                let _ = std::fs::remove_dir(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::bpf::Programs;
    use std::path::PathBuf;

    #[test]
    fn maps_of_another_shape_are_replaced_and_those_of_this_version_are_taken_up() {
        assert!(nix::unistd::geteuid().is_root(), "this test loads programs: run it as root");
        let pins = PathBuf::from(format!("/sys/fs/bpf/pt-shapes-{}", std::process::id()));
        std::fs::create_dir_all(&pins).unwrap();
        let mut other = EbpfLoader::new();
        for map in MAPS {
            other.map_pin_path(map, pins.join(map));
        }
        drop(other.map_max_entries("FLOWS", 16).load(OBJECT).unwrap());
        let replaced = |programs: Result<Programs, BpfError>| programs.unwrap().replaced().to_vec();
        let first = replaced(Programs::load(&pins, false));
        let second = replaced(Programs::load(&pins, false));
        std::fs::remove_dir_all(&pins).unwrap();
        assert!(first.contains(&"FLOWS") && !first.contains(&"PORTS"), "{first:?}");
        assert!(second.is_empty(), "{second:?}");
    }
}
