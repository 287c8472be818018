//! A label changed in the directory of objects, until frames between two real pods show it: granted, and revoked.
//!
//! One pod sends a datagram every 200 us, numbered by when it was sent; the other says which came. Granted: the first that
//! arrives was sent after the change. Revoked: the last that arrives. The cluster around them is as large as in
//! [`super::compile`], in files of its own.

use super::{Arguments, cluster, judge, p99};
use crate::figures::{Bound, Document, Figure};
use crate::progress::Progress;
use anyhow::{Result, bail, ensure};
use penstock_lab::{Lab, LabOptions, Place, Polling};
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const PORT: u16 = 7000;
const PAUSE: Duration = Duration::from_micros(200);
/// A change not seen by then is not counted as slow but as an error.
const SEEN_WITHIN: Duration = Duration::from_millis(2000);
/// No datagram for so long: it is revoked.
const SILENCE: Duration = Duration::from_millis(60);

const POLICY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: change, name: guests}
spec:
  podSelector: {matchLabels: {app: sink}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {guest: 'yes'}}}]
";

pub(super) fn measure(arguments: &Arguments, document: &mut Document, progress: &mut Progress) -> Result<()> {
    progress.step("making pods")?;
    let directory = tempfile::tempdir()?;
    let options = LabOptions {
        objects: Some(directory.path().to_owned()),
        instance: Some("pt-change".to_owned()),
        workers: Some(1),
        polling: Some(Polling::Adaptive),
        ..LabOptions::default()
    };
    let namespaces = usize::from(arguments.namespaces);
    let objects = cluster::objects(arguments.pods, arguments.policies, namespaces);
    for (n, part) in objects.chunks(500).enumerate() {
        let text: String = part.iter().map(|object| format!("{object}\n")).collect();
        std::fs::write(directory.path().join(format!("cluster-{n}.json")), text)?;
    }
    let lab = Lab::start("change", options)?;
    lab.try_apply("guests", POLICY)?;
    let source = lab.add_pod("change", "source", &[("app", "source"), ("guest", "no")])?;
    let sink = lab.add_pod("change", "sink", &[("app", "sink")])?;
    lab.settled()?;

    let guest = Guest::find(lab.objects_dir())?;
    let begin = Instant::now();
    let last = Mutex::new(None::<Duration>);
    let first_after = Mutex::new((Duration::ZERO, None::<Duration>));
    let stop = AtomicBool::new(false);
    let (mut granted, mut revoked) = (Vec::new(), Vec::new());
    let sockets = (bound(&source, 0)?, bound(&sink, PORT)?);
    sockets.1.set_read_timeout(Some(Duration::from_millis(20)))?;
    let to = SocketAddr::new(sink.v4().into(), PORT);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let sent = begin.elapsed().as_nanos() as u64;
                let _ = sockets.0.send_to(&sent.to_le_bytes(), to);
                std::thread::sleep(PAUSE);
            }
        });
        scope.spawn(|| {
            let mut bytes = [0; 8];
            while !stop.load(Ordering::Relaxed) {
                if !matches!(sockets.1.recv(&mut bytes), Ok(8)) {
                    continue;
                }
                let sent = Duration::from_nanos(u64::from_le_bytes(bytes));
                *last.lock().expect("not poisoned") = Some(sent);
                let mut first = first_after.lock().expect("not poisoned");
                if first.1.is_none() && sent >= first.0 {
                    first.1 = Some(sent);
                }
            }
        });
        let mut changes = || -> Result<()> {
            for _ in 0..arguments.changes.div_ceil(2) {
                progress.step("changing a label")?;
                let at = begin.elapsed();
                *first_after.lock().expect("not poisoned") = (at, None);
                guest.becomes("yes")?;
                granted.push(wait(|| first_after.lock().expect("not poisoned").1)?.saturating_sub(at));
                std::thread::sleep(Duration::from_millis(30));
                progress.step("changing a label")?;
                let at = begin.elapsed();
                guest.becomes("no")?;
                let silent = || {
                    let sent = last.lock().expect("not poisoned").unwrap_or_default();
                    (begin.elapsed() - sent.max(at) > SILENCE).then_some(sent)
                };
                revoked.push(wait(silent)?.saturating_sub(at));
            }
            Ok(())
        };
        let result = changes();
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    let ms = |times: &[Duration]| times.iter().map(|time| time.as_secs_f64() * 1e3).collect::<Vec<_>>();
    let all: Vec<f64> = [ms(&granted), ms(&revoked)].concat();
    const ENFORCED: &str = "label changed to enforced";
    document.figures.extend([
        Figure::of("label changed to frames pass", "ms", ms(&granted)).at("quantile", "p50"),
        Figure::of("label changed to no frame passes", "ms", ms(&revoked)).at("quantile", "p50"),
    ]);
    let p99 = p99(all.clone());
    judge(document, Figure::of(ENFORCED, "ms", all).at("quantile", "p50"), Bound::AtMost(10.0));
    judge(document, Figure::one(ENFORCED, "ms", p99).at("quantile", "p99"), Bound::AtMost(100.0));
    Ok(())
}

/// The file of the pod whose label changes.
struct Guest {
    file: PathBuf,
    text: String,
}

impl Guest {
    const NO: &str = "\"guest\": \"no\"";

    fn find(objects: &Path) -> Result<Guest> {
        for entry in std::fs::read_dir(objects)? {
            let file = entry?.path();
            let text = std::fs::read_to_string(&file)?;
            if text.contains(Guest::NO) {
                return Ok(Guest { file, text });
            }
        }
        bail!("no file in {} holds the pod", objects.display())
    }

    /// As a careful program writes files: whole, and renamed into place.
    fn becomes(&self, answer: &str) -> Result<()> {
        let hidden = self.file.with_file_name(".guest");
        std::fs::write(&hidden, self.text.replace(Guest::NO, &format!("\"guest\": \"{answer}\"")))?;
        Ok(std::fs::rename(&hidden, &self.file)?)
    }
}

fn bound(place: &Place, port: u16) -> Result<UdpSocket> {
    Ok(place.run(|| UdpSocket::bind(("0.0.0.0", port)))?)
}

fn wait(seen: impl Fn() -> Option<Duration>) -> Result<Duration> {
    let begin = Instant::now();
    loop {
        if let Some(time) = seen() {
            return Ok(time);
        }
        ensure!(begin.elapsed() < SEEN_WITHIN, "a change was not seen within {SEEN_WITHIN:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
