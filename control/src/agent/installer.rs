//! Installing artefacts: numbering them, and leaving out those that change nothing.

use penstock_api::Artefact;
use penstock_api::ids::Generation;
use penstock_api::message::{Request, Response};
use penstock_api::wire::{self, WireError};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A switch that takes longer than this to answer is taken for stuck.
const TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct Installer {
    socket: PathBuf,
    connection: Option<UnixStream>,
    /// What the switch runs, as far as we know.
    running: Option<Generation>,
    /// What was installed in this session, its generation set to 0.
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
        Installer { socket, connection: None, running: None, installed: None }
    }

    /// The switch came or went: what it runs is not known any more.
    pub(super) fn new_session(&mut self) {
        self.connection = None;
        self.running = None;
        self.installed = None;
    }

    pub(super) fn install(&mut self, artefact: Artefact) -> Outcome {
        if self.installed.as_ref() == Some(&artefact) {
            return Outcome::Unchanged;
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

    fn try_install(&mut self, mut artefact: Artefact) -> Result<Generation, String> {
        let running = match self.running {
            Some(running) => running,
            // The switch remembers over restarts of ours and of its own; one number more than it runs is always new.
            None => match self.ask(&Request::Status)? {
                Response::Status(status) => status.generation,
                other => return Err(refusal(other)),
            },
        };
        artefact.generation = Generation(running.0 + 1);
        let request = Request::Install { artefact: Box::new(artefact) };
        match self.ask(&request)? {
            Response::Installed { generation, .. } => {
                self.running = Some(generation);
                if let Request::Install { mut artefact } = request {
                    artefact.generation = Generation(0);
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
