//! `penstock-perf report`: figures as one page that needs nothing but itself.
//!
//! Any JSON the other commands wrote, in any number. What it is of decides which plots are drawn ([`sections`]); below them stand
//! the machine, the method, and every figure there is, so that a picture can always be checked.

mod chart;
mod page;
mod sections;

use anyhow::{Context, Result, ensure};
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What `--output json` of `compare`, `throughput`, `latency`, `tcp`, `engine` or `policy` wrote.
    #[arg(required = true, value_name = "FILE.json")]
    files: Vec<PathBuf>,
    /// Where the page goes; standard output when absent.
    #[arg(long, short, value_name = "FILE.html")]
    out: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let mut documents = Vec::new();
    for file in &arguments.files {
        let what = || file.display().to_string();
        let text = std::fs::read_to_string(file).with_context(what)?;
        let value: serde_json::Value = serde_json::from_str(&text).with_context(what)?;
        ensure!(value["figures"].is_array(), "{} has no figures: is it what '--output json' wrote?", what());
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
        documents.push((name, value));
    }
    let page = page::page(&documents);
    match &arguments.out {
        Some(out) => std::fs::write(out, page).with_context(|| out.display().to_string())?,
        None => println!("{page}"),
    }
    Ok(true)
}
