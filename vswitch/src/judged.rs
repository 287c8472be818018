//! `penstock-vswitch judge`: a node and flows in, one JSON object per line; what became of each flow out.

use anyhow::Context;
use penstock_api::judge::{Flow, Node};
use penstock_vswitch::judge::Judge;
use std::io::{BufRead, BufWriter, Write};

pub(crate) fn run() -> anyhow::Result<()> {
    let mut lines = std::io::stdin().lock().lines();
    let node = lines.next().context("standard input is empty; the first line is the node")??;
    let node: Node = serde_json::from_str(&node).context("line 1 is not a node of this version")?;
    let mut judge = Judge::new(&node)?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for (number, line) in (2..).zip(lines) {
        let flow: Flow =
            serde_json::from_str(&line?).with_context(|| format!("line {number} is not a flow"))?;
        let outcome = judge.judge(&flow).with_context(|| format!("line {number}"))?;
        serde_json::to_writer(&mut out, &outcome)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}
