//! `tcp`: what programs notice. Bytes of one stream and of several, questions on a connection, and connections that carry one
//! question each.

use crate::figures::{Document, Figure, Output};
use crate::generate::seconds;
use crate::interrupt;
use crate::load::DESTINATION_PORT;
use crate::placement::{self, on_cpu};
use crate::progress::Progress;
use crate::subjects::CONGESTION_CONTROL;
use crate::way::{Way, WayArguments};
use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use nix::sys::socket::{Shutdown, shutdown};
use penstock_lab::Place;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Of a question and of its answer, bytes.
const QUESTION_LEN: usize = 64;
const PATIENCE: Duration = Duration::from_secs(3);
const STREAMS_MAX: u16 = 16;
/// What a transfer left in queues and settings is gone by then.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    way: WayArguments,
    /// NetworkPolicies in force.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    policies: usize,
    /// Rounds; the median counts.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Seconds of each measurement.
    #[arg(long, default_value = "2", value_name = "S", value_parser = seconds)]
    duration: Duration,
    /// Numbers of streams.
    #[arg(long, default_value = "1,8", value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=i64::from(STREAMS_MAX)))]
    streams: Vec<u16>,
    /// Clients that connect, ask and close, each one connection after the other.
    #[arg(long, default_value = "1,8", value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: Vec<u16>,
    /// Both ends of TCP run wherever the scheduler likes, not on the load's CPU.
    #[arg(long)]
    cpus_free: bool,
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<bool> {
    let a = arguments;
    interrupt::listen()?;
    let mut document = Document::new("tcp");
    let mut progress = Progress::new("tcp");
    progress.show(0.0, "making the pods and what is between them");
    let way = a.way.make(1500, 1)?;
    let has_policies = way.set_policies(a.policies)?;
    document.add_subject(way.account());
    document.placement = match a.cpus_free {
        true => placement::ends_free(a.way.worker_cpu),
        false => way.placement(),
    };
    document.method = format!(
        "{} rounds of {} s, {CONGESTION_CONTROL}, blocks of 256 KiB, questions of {QUESTION_LEN} bytes",
        a.rounds,
        a.duration.as_secs_f64()
    );
    let measurements = a.streams.len() + 1 + a.clients.len();
    let mut samples = Samples::default();
    for round in 0..a.rounds {
        let mut nth = 0;
        let mut tell = |what: &str| {
            let done = f64::from(round) + f64::from(nth) / measurements as f64;
            nth += 1;
            progress.show(done / f64::from(a.rounds), &format!("round {}: {what}", round + 1));
            interrupt::check()
        };
        for streams in &a.streams {
            tell(&format!("{streams} streams"))?;
            let gbps = placed(&way, a.cpus_free, |from, to| transfer(from, to, *streams, a.duration))?;
            samples.add("throughput", "Gb/s", ("streams", *streams), gbps);
            thread::sleep(PAUSE);
        }
        tell("questions")?;
        let asked = placed(&way, a.cpus_free, |from, to| questions(from, to, Until::Elapsed(a.duration)))?;
        samples.add("requests", "requests/s", ("clients", 1), asked.per_second());
        samples.add_times("request", ("clients", 1), &asked.times);
        for clients in &a.clients {
            tell(&format!("{clients} clients that connect"))?;
            let made = placed(&way, a.cpus_free, |from, to| connections(from, to, *clients, a.duration))?;
            samples.add("connections", "connections/s", ("clients", *clients), made.per_second());
            samples.add_times("connection", ("clients", *clients), &made.times);
        }
    }
    drop(progress);
    document.figures = samples.figures();
    for figure in &mut document.figures {
        figure.of.insert("over", way.name().to_owned());
        if has_policies {
            figure.of.insert("policies", a.policies.to_string());
        }
    }
    document.print(a.output)?;
    Ok(true)
}

/// On the load's CPU, as everything the sending pod does, or anywhere.
fn placed<T: Send>(way: &Way, is_free: bool, what: impl Fn(&Place, &Place) -> Result<T> + Sync) -> Result<T> {
    let [from, to] = way.places();
    match is_free {
        true => what(from, to),
        false => on_cpu(way.load_cpu(), || what(from, to)),
    }
}

/// By figure and what sets it apart, in rounds and in the order of the first.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Sampled>);

#[derive(Debug)]
struct Sampled {
    name: String,
    unit: &'static str,
    of: (&'static str, String),
    samples: Vec<f64>,
}

impl Samples {
    pub(crate) fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        of: (&'static str, impl ToString),
        value: f64,
    ) {
        let of = (of.0, of.1.to_string());
        match self.0.iter_mut().find(|known| known.name == name && known.unit == unit && known.of == of) {
            Some(known) => known.samples.push(value),
            None => self.0.push(Sampled { name: name.to_owned(), unit, of, samples: vec![value] }),
        }
    }

    pub(crate) fn add_times(
        &mut self,
        name: &str,
        of: (&'static str, impl ToString),
        times: &Histogram<u64>,
    ) {
        let of = (of.0, of.1.to_string());
        for (quantile, label) in [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")] {
            let us = times.value_at_quantile(quantile) as f64 / 1e3;
            self.add(&format!("{name} {label}"), "us", of.clone(), us);
        }
        self.add(&format!("{name} max"), "us", of, times.max() as f64 / 1e3);
    }

    pub(crate) fn figures(self) -> Vec<Figure> {
        let figure = |s: Sampled| Figure::of(s.name, s.unit, s.samples).at(s.of.0, s.of.1);
        self.0.into_iter().map(figure).collect()
    }
}

/// Gb/s of so many streams together, counted where they arrive, from the first one's beginning to the last one's end.
fn transfer(from: &Place, to: &Place, streams: u16, duration: Duration) -> Result<f64> {
    let began = Instant::now();
    let ports = DESTINATION_PORT..DESTINATION_PORT + streams;
    let running: Vec<_> =
        ports.map(|port| from.start_transfer(to, to.v4(), port, duration)).collect::<Result<_>>()?;
    let bytes = running.into_iter().map(|transfer| Ok(transfer.finish()?.bytes)).sum::<Result<u64>>()?;
    Ok(gigabits(bytes, began.elapsed()))
}

pub(crate) fn gigabits(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 * 8.0 / elapsed.as_secs_f64() / 1e9
}

/// How often something was done, and the time each took, ns.
pub(crate) struct Asked {
    pub(crate) times: Histogram<u64>,
    elapsed: Duration,
}

impl Asked {
    fn new() -> Result<Asked> {
        Ok(Asked { times: Histogram::new(3)?, elapsed: Duration::ZERO })
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.times.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// How long questions are asked.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    Asked(u64),
}

/// Questions on one connection, one after the other. The server is started by this thread, and so on its CPU.
pub(crate) fn questions(from: &Place, to: &Place, until: Until) -> Result<Asked> {
    let server = Server::start(to, Closing::ByClient)?;
    let mut stream = connect(from, to.v4())?;
    let mut asked = Asked::new()?;
    let began = Instant::now();
    let is_over = |asked: u64| match until {
        Until::Elapsed(duration) => began.elapsed() >= duration,
        Until::Asked(count) => asked >= count,
    };
    while !is_over(asked.times.len()) {
        let at = Instant::now();
        ask(&mut stream, asked.times.len())?;
        asked.times.record(at.elapsed().as_nanos() as u64)?;
    }
    asked.elapsed = began.elapsed();
    drop(stream);
    server.stop()?;
    Ok(asked)
}

/// Connections that carry a question and its answer and are closed by the server, as of old HTTP: the client's ports are free
/// again at once.
pub(crate) fn connections(from: &Place, to: &Place, clients: u16, duration: Duration) -> Result<Asked> {
    let server = Server::start(to, Closing::ByServer)?;
    let address = to.v4();
    let began = Instant::now();
    let client = || -> Result<Histogram<u64>> {
        // Sockets are made in the namespace the thread is in.
        from.netns().enter_current_thread()?;
        let mut times = Histogram::new(3)?;
        while began.elapsed() < duration {
            let at = Instant::now();
            let mut stream =
                TcpStream::connect_timeout(&SocketAddr::new(address.into(), DESTINATION_PORT), PATIENCE)
                    .with_context(|| format!("connection {} was not made", times.len()))?;
            prepare(&stream)?;
            ask(&mut stream, times.len())?;
            ensure!(stream.read(&mut [0])? == 0, "the server said more than it was asked");
            times.record(at.elapsed().as_nanos() as u64)?;
        }
        Ok(times)
    };
    let mut asked = Asked::new()?;
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        for client in clients {
            match client.join() {
                Ok(times) => asked.times.add(times?)?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    asked.elapsed = began.elapsed();
    server.stop()?;
    Ok(asked)
}

fn connect(from: &Place, to: Ipv4Addr) -> Result<TcpStream> {
    let address = SocketAddr::new(to.into(), DESTINATION_PORT);
    let stream =
        from.netns().run(|| TcpStream::connect_timeout(&address, PATIENCE)).and_then(|result| result);
    let stream = stream.with_context(|| format!("{} cannot connect to {address}", from.name()))?;
    prepare(&stream)?;
    Ok(stream)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

fn ask(stream: &mut TcpStream, nth: u64) -> Result<()> {
    let (mut question, mut answer) = ([0; QUESTION_LEN], [0; QUESTION_LEN]);
    question[..8].copy_from_slice(&nth.to_be_bytes());
    stream.write_all(&question)?;
    stream.read_exact(&mut answer).with_context(|| format!("answer {nth} did not come"))?;
    ensure!(answer == question, "answer {nth} is not what was asked");
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    ByClient,
    ByServer,
}

/// Answers with what it was asked, on one thread, one connection after the other: a thread of its own for each would cost more than
/// the network does.
struct Server {
    listener: Arc<TcpListener>,
    thread: JoinHandle<()>,
}

impl Server {
    fn start(at: &Place, closing: Closing) -> Result<Server> {
        let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), DESTINATION_PORT);
        let listener = at.netns().run(|| TcpListener::bind(address)).and_then(|result| result);
        let listener = Arc::new(listener.with_context(|| format!("{address} of {} is taken", at.name()))?);
        let accepting = listener.clone();
        let thread = thread::Builder::new().name("answers".to_owned()).spawn(move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                // How a client leaves is its business.
                let _ = prepare(&stream).and_then(|()| answer(&mut stream, closing));
            }
        })?;
        Ok(Server { listener, thread })
    }

    fn stop(self) -> Result<()> {
        shutdown(self.listener.as_raw_fd(), Shutdown::Both)?;
        self.thread.join().ok().context("the server's thread ended badly")
    }
}

fn answer(stream: &mut TcpStream, closing: Closing) -> io::Result<()> {
    let mut question = [0; QUESTION_LEN];
    loop {
        stream.read_exact(&mut question)?;
        stream.write_all(&question)?;
        if closing == Closing::ByServer {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_figure_come_together_in_the_order_of_the_first() {
        let mut samples = Samples::default();
        for round in [1.0, 2.0, 9.0] {
            samples.add("throughput", "Gb/s", ("streams", 1), round);
            samples.add("throughput", "Gb/s", ("streams", 8), round * 10.0);
        }
        let figures = samples.figures();
        let medians: Vec<_> =
            figures.iter().map(|figure| (figure.of["streams"].as_str(), figure.spread.median)).collect();
        assert_eq!(medians, [("1", 2.0), ("8", 20.0)]);
    }
}
