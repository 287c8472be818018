//! Installing artefacts: numbering them, sending what is new in them, and leaving out those that change nothing.

use penstock_api::ids::Generation;
use penstock_api::message::{Request, Response};
use penstock_api::wire::{self, WireError};
use penstock_api::{Artefact, Difference};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A switch that takes longer than this to answer is taken for stuck.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct Installer {
    socket: PathBuf,
    connection: Option<UnixStream>,
    /// What was installed last in this session: what the switch runs, as far as we know.
    installed: Option<Artefact>,
}

pub(super) enum Outcome {
    /// It runs exactly this already.
    Unchanged,
    Installed {
        generation: Generation,
        took: Duration,
    },
    Failed(String),
}

impl Installer {
    pub(super) fn new(socket: PathBuf) -> Self {
        Installer { socket, connection: None, installed: None }
    }

    /// The switch came or went: what it runs is not known any more.
    pub(super) fn new_session(&mut self) {
        self.connection = None;
        self.installed = None;
    }

    /// Its generation is numbered here.
    pub(super) fn install(&mut self, mut artefact: Artefact) -> Outcome {
        if let Some(installed) = &self.installed {
            artefact.generation = installed.generation;
            if *installed == artefact {
                return Outcome::Unchanged;
            }
        }
        let began = Instant::now();
        match self.try_install(artefact) {
            Ok(generation) => Outcome::Installed { generation, took: began.elapsed() },
            Err(why) => {
                self.new_session();
                Outcome::Failed(why)
            }
        }
    }

    /// Says what is new beside what was installed last, and everything where that is not what the switch runs.
    fn try_install(&mut self, mut artefact: Artefact) -> Result<Generation, String> {
        if let Some(base) = self.installed.take() {
            artefact.generation = Generation(base.generation.0 + 1);
            let difference = Box::new(Difference::between(&base, &artefact));
            match self.ask(&Request::Change { difference })? {
                Response::Installed { generation, .. } => {
                    self.installed = Some(artefact);
                    return Ok(generation);
                }
                Response::Error { message, .. } => {
                    tracing::warn!("the switch refused what is new: {message}; it is told everything");
                    // One that does not know the request closes the connection behind its answer.
                    self.connection = None;
                }
                other => return Err(refusal(other)),
            }
        }
        // The switch remembers over restarts of ours and of its own; one number more than it runs is always new.
        let running = match self.ask(&Request::Status)? {
            Response::Status(status) => status.generation,
            other => return Err(refusal(other)),
        };
        artefact.generation = Generation(running.0 + 1);
        let request = Request::Install { artefact: Box::new(artefact) };
        match self.ask(&request)? {
            Response::Installed { generation, .. } => {
                if let Request::Install { artefact } = request {
                    self.installed = Some(*artefact);
                }
                Ok(generation)
            }
            other => Err(refusal(other)),
        }
    }

    fn ask(&mut self, request: &Request) -> Result<Response, String> {
        let failed = |error: WireError| format!("the switch did not answer: {error}");
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let connection = UnixStream::connect(&self.socket)
                    .map_err(|error| format!("{} cannot be reached: {error}", self.socket.display()))?;
                for result in
                    [connection.set_read_timeout(Some(TIMEOUT)), connection.set_write_timeout(Some(TIMEOUT))]
                {
                    result.map_err(|error| failed(error.into()))?;
                }
                connection
            }
        };
        wire::send(&mut connection, request).map_err(failed)?;
        let response = wire::receive(&mut connection).map_err(failed)?;
        self.connection = Some(connection);
        Ok(response)
    }
}

fn refusal(response: Response) -> String {
    match response {
        Response::Error { message, .. } => format!("the switch refused: {message}"),
        _ => "the switch answered something else than was asked; install matching versions".to_owned(),
    }
}
