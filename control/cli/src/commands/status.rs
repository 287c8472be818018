//! `penstock status`: the switch's own account, and what the control plane left about itself in the run directory.

use crate::client::Client;
use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{bytes, duration, joined, or_dash, print, print_json, print_table, table};
use penstock_api::message::{ShortcutStatus, Status};
use serde::Serialize;
use serde_json::Value;
use std::io::Write;
use std::path::PathBuf;

/// What `--output json` prints.
#[derive(Debug, Serialize)]
struct Report {
    switch: Status,
    /// The control plane's status file as it is; null when there is none.
    control: Option<Value>,
    /// Objects the control plane refused.
    control_errors: Vec<Value>,
}

pub(crate) fn run(context: &Context, out: &mut dyn Write) -> Result<(), Failure> {
    let switch = Client::connect(context)?.status()?;
    let report = Report { switch, control: control_file(context), control_errors: control_errors(context) };
    match context.output {
        Output::Json => print_json(out, &report),
        Output::Table => print_report(out, &report),
    }
}

/// The control plane's account of itself. A file being rewritten or of another version counts as absent.
pub(crate) fn control_file(context: &Context) -> Option<Value> {
    read_json(context.run_dir.join("control.json"))
}

pub(crate) fn control_errors(context: &Context) -> Vec<Value> {
    match read_json(context.run_dir.join("control-errors.json")) {
        Some(Value::Array(errors)) => errors,
        Some(Value::Object(mut fields)) => match fields.remove("errors") {
            Some(Value::Array(errors)) => errors,
            _ => vec![],
        },
        _ => vec![],
    }
}

fn read_json(file: PathBuf) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(file).ok()?).ok()
}

/// One refused object as one line: `FILE:LINE:COLUMN: OBJECT: FIELD: message`, as far as it is known.
pub(crate) fn error_line(error: &Value) -> String {
    let text = |name: &str| error.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let Some(message) = text("message") else { return error.to_string() };
    let number = |name: &str| error.get(name).and_then(Value::as_u64).filter(|number| *number > 0);
    let place = text("file").map(|file| match (number("line"), number("column")) {
        (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
        (Some(line), None) => format!("{file}:{line}"),
        _ => file.to_owned(),
    });
    let parts = [place.as_deref(), text("object"), text("field"), Some(message)];
    parts.into_iter().flatten().collect::<Vec<_>>().join(": ")
}

fn print_report(out: &mut dyn Write, report: &Report) -> Result<(), Failure> {
    let s = &report.switch;
    let ready = match s.endpoints - s.endpoints_ready.min(s.endpoints) {
        0 => "all ready".to_owned(),
        waiting => format!("{waiting} isolated, policy not known yet"),
    };
    let generation = match s.generation.0 {
        0 => "none installed: every pod is isolated".to_owned(),
        generation => format!("generation {generation}, {} old", duration(s.generation_age_ms)),
    };
    let control = match (s.subscribers, report.control_errors.len()) {
        (0, _) => "not connected: policy stays as it is".to_owned(),
        (_, 0) => "connected".to_owned(),
        (_, refused) => format!("connected, {refused} objects refused (below)"),
    };
    for (name, value) in [
        (
            "instance",
            format!("{}, penstock {}, pid {}, up {}", s.instance, s.version, s.pid, duration(s.uptime_ms)),
        ),
        ("policy", generation),
        ("control plane", control),
        ("endpoints", format!("{}, {ready}", s.endpoints)),
        ("pod ranges", joined(&s.pod_ranges)),
        ("host", format!("{} ({})", s.host_interface, joined(&s.host_addresses))),
        ("polling", format!("{}, MTU {}", s.polling, s.mtu)),
        ("shortcut", shortcut(&s.shortcut)),
    ] {
        print(out, format_args!("{name:<14} {value}"))?;
    }
    print(out, "")?;
    print_table(out, &workers(s))?;
    let mut devices = table(&["WORKER", "DEVICE", "QUEUE", "MODE", "WHY"]);
    for worker in &s.workers {
        for device in &worker.devices {
            devices.add_row([
                worker.worker.to_string(),
                device.interface.clone(),
                device.queue.to_string(),
                device.mode.clone(),
                device.why.clone(),
            ]);
        }
    }
    print(out, "")?;
    print_table(out, &devices)?;
    for note in &s.notes {
        print(out, format_args!("note: {note}"))?;
    }
    for error in &report.control_errors {
        print(out, format_args!("refused: {}", error_line(error)))?;
    }
    Ok(())
}

fn shortcut(s: &ShortcutStatus) -> String {
    if !s.is_on {
        return "off: every frame crosses userspace".to_owned();
    }
    let overflow = match s.overflow {
        0 => String::new(),
        times => format!("; no room {times} times"),
    };
    let direct: String = s
        .direct_ports
        .iter()
        .map(|port| match (&port.not_to_it, &port.not_from_it) {
            (None, None) => format!("; {} both ways", port.interface),
            (None, Some(why)) => format!("; to {}, and not from it: {why}", port.interface),
            (Some(why), _) => format!("; not {}: {why}", port.interface),
        })
        .collect();
    format!(
        "on, {} of {} flows in the kernel and {} on their way there, {} frames ({}) carried{overflow}{direct}",
        s.direct,
        s.flows_max,
        s.flows.saturating_sub(s.direct),
        s.frames,
        bytes(s.bytes)
    )
}

fn workers(status: &Status) -> comfy_table::Table {
    let mut table = table(&[
        "WORKER",
        "CPU",
        "GENERATION",
        "RX",
        "TX",
        "FLOWS",
        "CACHE HITS",
        "HANDED OVER",
        "BUSY",
        "REBINDS",
        "UMEM",
    ]);
    for w in &status.workers {
        let looked_up = w.cache_hits.saturating_add(w.cache_misses);
        let hits = match looked_up {
            0 => "-".to_owned(),
            total => format!("{:.1} %", w.cache_hits as f64 * 100.0 / total as f64),
        };
        table.add_row([
            w.worker.to_string(),
            or_dash(w.cpu),
            w.generation.to_string(),
            w.rx_frames.to_string(),
            w.tx_frames.to_string(),
            format!("{}/{}", w.flows, w.flows_max),
            hits,
            w.handed_over.to_string(),
            format!("{:.0} %", w.busy * 100.0),
            w.rebinds.to_string(),
            match w.umem_zero_copy_bytes {
                0 => bytes(w.umem_bytes),
                zero_copy => format!("{} ({} zero-copy)", bytes(w.umem_bytes), bytes(zero_copy)),
            },
        ]);
    }
    table
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{context, printed, serve};
    use penstock_api::message::{DeviceStatus, Request, Response, WorkerStatus};
    use penstock_api::{Generation, WorkerId};

    pub(crate) fn status() -> Status {
        Status {
            instance: "test".into(),
            version: "0.1.0".into(),
            pid: 7,
            uptime_ms: 65_000,
            mtu: 1500,
            pod_ranges: vec!["10.1.0.0/24".parse().unwrap()],
            host_interface: "test0".into(),
            host_addresses: vec!["192.0.2.1".parse().unwrap()],
            polling: "adaptive".into(),
            generation: Generation(3),
            generation_age_ms: 1500,
            subscribers: 1,
            endpoints: 2,
            endpoints_ready: 1,
            workers: vec![WorkerStatus {
                worker: WorkerId(0),
                cpu: Some(1),
                generation: Generation(3),
                rx_frames: 10,
                tx_frames: 8,
                flows: 2,
                flows_max: 65_536,
                cache_hits: 9,
                cache_misses: 1,
                handed_over: 0,
                busy: 0.25,
                rebinds: 0,
                umem_bytes: 24 << 20,
                umem_zero_copy_bytes: 8 << 20,
                area_copies: 1,
                originated: 0,
                devices: vec![DeviceStatus {
                    interface: "xsk0".into(),
                    queue: 0,
                    mode: "native copy".into(),
                    why: "veth has no zero-copy".into(),
                }],
            }],
            shortcut: ShortcutStatus {
                is_on: true,
                flows: 3,
                direct: 2,
                flows_max: 32_768,
                frames: 1000,
                bytes: 3 << 20,
                installed: 9,
                overflow: 4,
                direct_ports: Vec::new(),
            },
            notes: vec!["CPU 1 is shared; isolate it".into()],
        }
    }

    #[test]
    fn status_says_what_waits_and_names_refused_objects() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        serve(&context, |request, _| {
            assert_eq!(request, Request::Status);
            Some(Response::Status(Box::new(status())))
        });
        std::fs::write(
            context.run_dir.join("control-errors.json"),
            r#"[{"file":"a.yaml","line":3,"column":1,"object":"Pod a/b","field":null,"message":"duplicate key"}]"#,
        )
        .unwrap();
        let text = printed(|out| run(&context, out));
        for part in [
            "generation 3, 1.5s old",
            "1 isolated",
            "90.0 %",
            "native copy",
            "24.0 MiB (8.0 MiB zero-copy)",
            "refused: a.yaml:3:1: Pod a/b: duplicate key",
            "note: CPU 1 is shared",
            "on, 2 of 32768 flows in the kernel and 1 on their way there, 1000 frames (3.0 MiB) carried; no room 4 times",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
    }

    #[test]
    fn json_carries_every_field_of_the_switch() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context { output: Output::Json, ..context(dir.path()) };
        serve(&context, |_, _| Some(Response::Status(Box::new(status()))));
        let report: Value = serde_json::from_str(&printed(|out| run(&context, out))).unwrap();
        assert_eq!(serde_json::from_value::<Status>(report["switch"].clone()).unwrap(), status());
        assert_eq!(report["control"], Value::Null);
    }

    #[test]
    fn no_switch_names_the_socket_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let failure = run(&context, &mut Vec::new()).unwrap_err();
        let text = failure.to_string();
        assert!(matches!(failure, Failure::NoSwitch { .. }));
        assert!(text.contains(&context.socket.display().to_string()), "{text}");
        assert!(text.contains("penstock --instance test up"), "{text}");
    }

    #[test]
    fn a_switch_that_hangs_up_is_no_switch_and_one_that_refuses_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let silent = context(dir.path());
        serve(&silent, |_, _| None);
        assert!(matches!(run(&silent, &mut Vec::new()), Err(Failure::NoSwitch { .. })));

        let dir = tempfile::tempdir().unwrap();
        let refusing = context(dir.path());
        serve(&refusing, |_, _| {
            Some(Response::Error {
                code: penstock_api::message::ErrorCode::Kernel,
                message: "no, because".into(),
            })
        });
        assert_eq!(run(&refusing, &mut Vec::new()).unwrap_err().to_string(), "no, because");
    }
}
