//! Requests that only look: status, ports, flows, drops, frames. None of them waits for a change in progress.

use super::failure::Failure;
use super::lock;
use super::switch::Shared;
use super::words;
use crate::config::list;
use crate::packet::FlowKey;
use crate::snapshot::PortKind;
use crate::worker::mailbox::Command;
use penstock_api::message::{
    DeviceStatus, DropCount, ErrorCode, FlowStatus, FrameCensus, Mac, PortStatus, RefusedCount, Response,
    StageTimes, Status, WorkerStatus,
};
use penstock_api::{Direction, Generation, PortId, WorkerId, instance::inside};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// How long all workers together may take to answer.
const WORKERS_TIMEOUT: Duration = Duration::from_secs(2);

/// The most flows one answer holds.
const FLOWS_MAX: usize = 100_000;

pub(crate) fn status(shared: &Shared) -> Status {
    let view = shared.view();
    let pods = || view.snapshot.ports.iter().flatten().filter(|port| port.kind != PortKind::Host);
    let subscribers = shared.subscribers.count();
    let late = shared.workers.late(view.snapshot.serial);

    let mut notes = view.notes.clone();
    if view.snapshot.generation() == Generation(0) {
        notes.push("no policy was ever installed: every pod is isolated; start penstock-control".to_owned());
    } else if subscribers == 0 {
        notes.push(format!(
            "no control plane is connected: generation {} stays in force, and new pods are not served; start penstock-control",
            view.snapshot.generation()
        ));
    }
    if let Some(worker) = late {
        notes.push(format!(
            "worker {worker} has not taken up the last change; restart the switch if it stays so"
        ));
    }
    let leaving: Vec<PortId> = view.leaving.iter().map(|port| port.id).collect();
    if !leaving.is_empty() {
        notes.push(format!(
            "detached, but the kernel keeps it: port {}; tried again every second",
            list(&leaving)
        ));
    }
    notes.extend(shared.disk_trouble());
    let busy = lock(&shared.busy).clone();
    for (worker, _) in busy.iter().enumerate().filter(|(_, share)| share.is_none()) {
        notes.push(format!("worker {worker} does nothing at all; restart the switch"));
    }
    let mut kernel = lock(&shared.kernel);
    let shortcut = kernel.shortcut();
    notes.extend(kernel.notes());
    let workers = shared
        .workers
        .ids()
        .map(|worker| {
            let counters = &shared.workers.counters[worker.index()];
            let (mut rx_frames, mut tx_frames) = (0, 0);
            for (_, port) in counters.ports() {
                rx_frames += port.rx_frames.get();
                tx_frames += port.tx_frames.get();
            }
            WorkerStatus {
                worker,
                cpu: shared.config.cpu_of(worker),
                generation: Generation(counters.generation.get()),
                rx_frames,
                tx_frames,
                flows: counters.flows.get() as usize,
                flows_max: counters.flows_max.get() as usize,
                cache_hits: counters.cache_hits.get(),
                cache_misses: counters.cache_misses.get(),
                handed_over: counters.handed_over.get(),
                busy: busy[worker.index()].unwrap_or(0.0),
                rebinds: counters.rebinds.get(),
                umem_bytes: counters.umem_bytes.get(),
                umem_zero_copy_bytes: counters.umem_zero_copy_bytes.get(),
                area_copies: counters.area_copies.get(),
                originated: counters.originated.get(),
                devices: kernel.devices(worker),
            }
        })
        .collect();
    Status {
        instance: shared.config.instance.name().to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_ms: shared.started.elapsed().as_millis() as u64,
        mtu: shared.config.mtu,
        pod_ranges: shared.config.pod_ranges.clone(),
        host_interface: shared.config.instance.host_interface(),
        host_addresses: view.snapshot.host_addresses.clone(),
        polling: shared.config.polling.to_string(),
        generation: view.snapshot.generation(),
        generation_age_ms: match view.snapshot.generation() {
            Generation(0) => 0,
            _ => view.policy_since.elapsed().unwrap_or_default().as_millis() as u64,
        },
        subscribers,
        endpoints: pods().count(),
        endpoints_ready: pods().filter(|port| port.ready).count(),
        workers,
        shortcut,
        notes,
    }
}

pub(crate) fn ports(shared: &Shared) -> Vec<PortStatus> {
    let view = shared.view();
    let (kernel_drops, devices, carried): (_, Vec<DeviceStatus>, _) = {
        let mut kernel = lock(&shared.kernel);
        let devices = shared.workers.ids().flat_map(|worker| kernel.devices(worker)).collect();
        (kernel.drops(), devices, Vec::from_iter(kernel.carried_by_ports()))
    };
    let tally = lock(&shared.tally);
    let all = [shared.workers.counters.as_slice(), &carried].concat();
    let ports = view.snapshot.ports.iter().flatten();
    ports
        .map(|port| {
            let sums = tally.port(&all, port.id);
            let by_kernel = tally.carried(&carried, port.id);
            let registered = view.port(port.id);
            let (kind, interface) = match port.kind {
                PortKind::Host => ("host", inside::HOST.to_owned()),
                PortKind::Pod => ("pod", registered.map_or_else(String::new, |r| r.port.host_end.clone())),
                PortKind::Direct => {
                    ("direct", registered.map_or_else(String::new, |r| r.port.interface.clone()))
                }
            };
            PortStatus {
                port: port.id,
                endpoint: port.endpoint,
                kind: kind.to_owned(),
                interface,
                pod: port.pod.clone(),
                container_id: registered
                    .filter(|registered| !registered.is_direct())
                    .map(|registered| registered.port.container_id.clone()),
                mac: Mac(port.mac),
                addresses: match port.kind {
                    PortKind::Host => view.snapshot.host_addresses.clone(),
                    _ => port.addresses.clone(),
                },
                mtu: port.mtu,
                device: registered.and_then(|registered| {
                    let queue = registered.direct_queue?;
                    let is_its =
                        |d: &&DeviceStatus| d.interface == registered.port.interface && d.queue == queue;
                    devices.iter().find(is_its).cloned()
                }),
                ready: port.ready,
                rx_frames: sums.rx_frames,
                rx_bytes: sums.rx_bytes,
                tx_frames: sums.tx_frames,
                tx_bytes: sums.tx_bytes,
                shortcut_rx_frames: by_kernel.rx_frames,
                shortcut_tx_frames: by_kernel.tx_frames,
                drops: sums.dropped() + tally.kernel_drops(&kernel_drops, port.id),
            }
        })
        .collect()
}

pub(crate) fn drops(shared: &Shared) -> Response {
    let view = shared.view();
    let kernel_drops = lock(&shared.kernel).drops();
    let rows = lock(&shared.tally)
        .drops(&shared.workers.counters, &kernel_drops, |port| view.snapshot.port(port).is_some());
    let drops = rows
        .into_iter()
        .map(|(port, reason, frames)| DropCount {
            reason,
            port,
            pod: port.and_then(|port| view.snapshot.port(port)?.pod.clone()),
            frames,
        })
        .collect();
    let mut refused = Vec::new();
    for port in view.snapshot.ports.iter().flatten() {
        let (Some(pod), sums) = (&port.pod, lock(&shared.tally).port(&shared.workers.counters, port.id))
        else {
            continue;
        };
        for direction in [Direction::Ingress, Direction::Egress] {
            let frames = sums.refused[direction as usize];
            if frames > 0 {
                let policies = words::selecting(&view.snapshot, port, direction);
                refused.push(RefusedCount { endpoint: pod.clone(), direction, policies, frames });
            }
        }
    }
    let recent = lock(&shared.recent_drops).iter().rev().cloned().collect();
    Response::Drops { drops, refused, recent }
}

/// The flows of all workers, most recent first, and how many there are.
pub(crate) fn flows(shared: &Shared, limit: usize) -> Result<(Vec<FlowStatus>, usize), Failure> {
    let limit = limit.min(FLOWS_MAX);
    let mut answers = Ok(Vec::new());
    let carried = lock(&shared.kernel).carried_flows(&mut || {
        answers = ask(shared, |reply| Command::Flows { limit, reply });
    });
    let answers = answers?;
    let total = answers.iter().map(|(_, total)| total).sum();
    let mut flows: Vec<FlowStatus> = answers.into_iter().flat_map(|(flows, _)| flows).collect();
    flows.sort_by_key(|flow| flow.idle_ms);
    flows.truncate(limit);
    let view = shared.view();
    let pod = |address| view.snapshot.port_of(address).and_then(|port| port.pod.clone());
    let of = |key: &FlowKey| carried.get(key).copied().unwrap_or_default();
    for flow in &mut flows {
        let key = FlowKey::new(
            flow.protocol,
            flow.source,
            flow.source_port,
            flow.destination,
            flow.destination_port,
        );
        let (forward, reply) = (of(&key), of(&key.reversed()));
        flow.forward_frames += forward.0;
        flow.forward_bytes += forward.1;
        flow.reply_frames += reply.0;
        flow.reply_bytes += reply.1;
        flow.source_pod = pod(flow.source);
        flow.destination_pod = pod(flow.destination);
    }
    Ok((flows, total))
}

pub(crate) fn frames(shared: &Shared) -> Result<Vec<FrameCensus>, Failure> {
    let workers = ask(shared, |reply| Command::Census { reply })?;
    Ok(workers.into_iter().flatten().collect())
}

pub(crate) fn stages(shared: &Shared, on: bool) -> Result<Vec<StageTimes>, Failure> {
    ask(shared, |reply| Command::Stages { on, reply })
}

/// Asks every worker, and waits for all answers. A worker's answer stands at its place.
fn ask<T>(shared: &Shared, command: impl Fn(SyncSender<T>) -> Command) -> Result<Vec<T>, Failure> {
    let silent = |worker: WorkerId| {
        Failure::new(
            ErrorCode::NotReady,
            format!(
                "worker {worker} does not answer; see `penstock status`, and restart the switch if it stays so"
            ),
        )
    };
    let deadline = Instant::now() + WORKERS_TIMEOUT;
    let mut replies = Vec::new();
    for (worker, mailbox) in shared.workers.ids().zip(&shared.workers.mailboxes) {
        let (sender, receiver) = sync_channel(1);
        mailbox.send(command(sender)).map_err(|_| silent(worker))?;
        replies.push((worker, receiver));
    }
    replies
        .into_iter()
        .map(|(worker, receiver)| {
            let left = deadline.saturating_duration_since(Instant::now());
            receiver.recv_timeout(left).map_err(|_| silent(worker))
        })
        .collect()
}
