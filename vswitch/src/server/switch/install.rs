//! Policy comes into force, and onto the disk.

use super::Shared;
use crate::server::failure::Failure;
use crate::server::{lock, store};
use penstock_api::message::ErrorCode;
use penstock_api::{Artefact, Difference, Generation};
use penstock_lookup::Policy;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

impl Shared {
    /// Puts a policy in force. Returns the generation and the time it took until every worker ran it.
    pub(crate) fn install(&self, artefact: Artefact) -> Result<(Generation, Duration), Failure> {
        self.put_in_force(artefact, Instant::now())
    }

    /// The same with the successor of what is in force.
    pub(crate) fn change(&self, difference: Difference) -> Result<(Generation, Duration), Failure> {
        let begun = Instant::now();
        let base = self.view().snapshot.policy.clone();
        // The result is whole. Should another one come into force meanwhile, its generation is too low or its content another.
        let artefact = difference
            .apply(base.artefact())
            .map_err(|error| Failure::new(ErrorCode::Artefact, format!("{error}; nothing changed")))?;
        self.put_in_force(artefact, begun)
    }

    fn put_in_force(&self, artefact: Artefact, begun: Instant) -> Result<(Generation, Duration), Failure> {
        let offered = artefact.generation;
        let refused = |text: String| Err(Failure::new(ErrorCode::Artefact, text));
        let stale = |running: Generation| {
            refused(format!(
                "generation {offered} is not newer than {running}, which is running and stays in force; install a higher one"
            ))
        };
        // Before the work of building; again under the lock, which is what counts.
        let running = self.view().snapshot.generation();
        if offered < running {
            return stale(running);
        }
        let policy = match Policy::build(artefact) {
            Ok(policy) => Arc::new(policy),
            Err(error) => return refused(format!("{error}; generation {running} stays in force")),
        };

        let mut switch = lock(&self.switch);
        let running = switch.policy.generation();
        let published = if offered > running {
            switch.policy = policy.clone();
            switch.policy_since = SystemTime::now();
            self.publish(&mut switch)
        } else if offered == running && policy.artefact() == switch.policy.artefact() {
            // The answer to the first attempt was lost. It is in force; is it everywhere?
            self.acknowledged(&switch)
        } else {
            return stale(running);
        };
        let took = begun.elapsed();
        drop(switch);
        // In force first, on disk second: a full disk must not keep a refusal from taking effect.
        self.keep(&policy);
        published?;
        tracing::info!(generation = %offered, took_us = took.as_micros() as u64, "installed");
        Ok((offered, took))
    }

    /// Writes a policy to disk unless a newer one is there. A failure is remembered and tried again.
    pub(super) fn keep(&self, policy: &Arc<Policy>) {
        let mut disk = lock(&self.disk);
        let generation = policy.generation();
        if generation <= disk.generation {
            return;
        }
        match store::write(&self.paths.artefact(), policy.artefact()) {
            Ok(()) => {
                disk.generation = generation;
                // A newer one may have failed meanwhile, and still has to be tried again.
                disk.failed = disk.failed.take().filter(|(failed, _)| failed.generation() > generation);
            }
            Err(error) => {
                tracing::error!(
                    "generation {generation} is in force, but a restart would not know it: {error}"
                );
                let newest = match disk.failed.take() {
                    Some((failed, _)) if failed.generation() > generation => failed,
                    _ => policy.clone(),
                };
                disk.failed = Some((newest, error.to_string()));
            }
        }
    }

    /// What went wrong on disk, for the status.
    pub(crate) fn disk_trouble(&self) -> Option<String> {
        let disk = lock(&self.disk);
        disk.failed.as_ref().map(|(policy, error)| {
            format!(
                "generation {} is in force but not on disk, and a restart would begin with {}: {error}",
                policy.generation(),
                disk.generation
            )
        })
    }
}
