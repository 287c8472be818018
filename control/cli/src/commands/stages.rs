//! `penstock status --stages`: what each stage of the workers' pipelines costs per frame, measured while one waits.

use crate::client::{Client, unexpected};
use crate::context::{Context, Output};
use crate::failure::Failure;
use crate::output::{print, print_json, print_table, table};
use penstock_api::message::{Request, Response, StageTimes};
use std::io::Write;
use std::time::Duration;

pub(crate) fn run(context: &Context, seconds: u8, out: &mut dyn Write) -> Result<(), Failure> {
    let mut client = Client::connect(context)?;
    switch(&mut client, true)?;
    std::thread::sleep(Duration::from_secs(seconds.into()));
    let workers = switch(&mut client, false)?;
    match context.output {
        Output::Json => print_json(out, &workers),
        Output::Table => print_workers(out, &workers),
    }
}

fn switch(client: &mut Client<'_>, on: bool) -> Result<Vec<StageTimes>, Failure> {
    match client.ask(&Request::Stages { on })? {
        Response::Stages { workers } => Ok(workers),
        other => Err(unexpected("stages", &other)),
    }
}

fn print_workers(out: &mut dyn Write, workers: &[StageTimes]) -> Result<(), Failure> {
    for StageTimes { worker, frames, rounds, stages } in workers {
        if *frames == 0 {
            print(out, format_args!("worker {worker}: no frames meanwhile"))?;
            continue;
        }
        let batch = *frames as f64 / (*rounds).max(1) as f64;
        print(out, format_args!("worker {worker}: {frames} frames, {batch:.1} to a round"))?;
        let mut table = table(&["STAGE", "NS PER FRAME"]);
        let per_frame = |nanos: u64| format!("{:.1}", nanos as f64 / *frames as f64);
        for stage in stages {
            table.add_row([stage.stage.clone(), per_frame(stage.nanos)]);
        }
        table.add_row(["all".to_owned(), per_frame(stages.iter().map(|stage| stage.nanos).sum())]);
        print_table(out, &table)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_api::WorkerId;
    use penstock_api::message::StageTime;

    #[test]
    fn stages_are_said_per_frame_and_a_worker_without_frames_says_so() {
        let stage = |stage: &str, nanos| StageTime { stage: stage.to_owned(), nanos };
        let busy = StageTimes {
            worker: WorkerId(0),
            frames: 200,
            rounds: 10,
            stages: vec![stage("admit", 3_000), stage("lookup", 1_000)],
        };
        let idle = StageTimes { worker: WorkerId(1), ..StageTimes::default() };
        let mut out = Vec::new();
        print_workers(&mut out, &[busy, idle]).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in ["200 frames, 20.0 to a round", "15.0", "5.0", "20.0", "worker 1: no frames meanwhile"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
