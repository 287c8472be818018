//! Flow tables that outlive the process.

use super::MachineError;
use crate::config::Config;
use crate::flow::{self, Conntrack};
use crate::io::maps::WORKERS_MAX;
use crate::worker::run;
use std::path::PathBuf;

/// One table per worker, each flow at its owner, also after the number of workers changed.
pub(super) fn open_flow_tables(
    config: &Config,
    notes: &mut Vec<String>,
) -> Result<Vec<Conntrack>, MachineError> {
    let now_ms = run::monotonic_ms();
    let settings = flow::Settings::sized(config.flows_max);
    let path = |worker: usize| -> PathBuf {
        let mut path = config.instance.shm_prefix().into_os_string();
        path.push(format!("-flows-{worker}"));
        path.into()
    };
    let mut tables = Vec::new();
    for worker in 0..config.workers {
        let path = path(worker);
        let table = match config.shm {
            true => match Conntrack::open(&path, settings.clone(), now_ms) {
                Ok((table, adopted)) => {
                    tracing::info!(
                        worker,
                        kept = adopted.kept,
                        discarded = adopted.discarded,
                        "flow table open"
                    );
                    table
                }
                Err(error) => return Err(MachineError::Flows(path.display().to_string(), error)),
            },
            false => Conntrack::create(settings.clone())
                .map_err(|error| MachineError::Flows("in private memory".to_owned(), error))?,
        };
        tables.push(table);
    }
    if config.shm {
        let leftovers: Vec<PathBuf> =
            (config.workers..WORKERS_MAX).map(path).filter(|path| path.exists()).collect();
        let owner = |key: &crate::packet::FlowKey| key.owner(config.workers);
        if let Err(error) = flow::adopt_into(&leftovers, &mut tables, owner, now_ms) {
            notes.push(format!("flows of workers there no longer are were not taken over: {error}"));
        }
    }
    Ok(tables)
}
