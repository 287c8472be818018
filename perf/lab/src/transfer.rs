//! How fast: bytes of one TCP stream in a time, and the time of one small question and its answer.

use crate::place::Place;
use crate::probe::scaled;
use crate::serve::{self, Server, is_tick};
use anyhow::{Context, Result, ensure};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const BLOCK_LEN: usize = 256 * 1024;
/// The size of a question and of its answer, in bytes.
const QUESTION_LEN: usize = 64;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// What a bulk transfer came to, counted where it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    pub bytes: u64,
    pub elapsed: Duration,
}

impl Transfer {
    pub fn gigabits_per_second(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64() / 1e9
    }
}

/// Round-trip times of questions on one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub count: usize,
    pub p50: Duration,
    pub p99: Duration,
    pub max: Duration,
}

/// A transfer that is going on. [`RunningTransfer::finish`] waits for its end.
#[derive(Debug)]
pub struct RunningTransfer {
    sender: JoinHandle<std::io::Result<()>>,
    received: Arc<AtomicU64>,
    began: Instant,
    /// Tells the receiver to stop waiting for the rest.
    _server: Server,
    done: Arc<AtomicBool>,
}

impl RunningTransfer {
    /// Bytes that have arrived so far.
    pub fn bytes(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Waits for the sender, and for the last byte to arrive.
    pub fn finish(self) -> Result<Transfer> {
        match self.sender.join() {
            Ok(result) => result.context("the transfer broke")?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        let deadline = Instant::now() + scaled(Duration::from_secs(5));
        while !self.done.load(Ordering::Acquire) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        let elapsed = self.began.elapsed();
        ensure!(self.done.load(Ordering::Acquire), "the end of the transfer did not arrive in good time");
        Ok(Transfer { bytes: self.received.load(Ordering::Relaxed), elapsed })
    }
}

/// Sends from one place to an address of another for `duration`, over one TCP connection to `port`, which must be free there.
pub(crate) fn start(
    from: &Place,
    to: &Place,
    address: IpAddr,
    port: u16,
    duration: Duration,
) -> Result<RunningTransfer> {
    let received = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let (counter, end) = (received.clone(), done.clone());
    let server = serve::tcp(to.netns(), port, move |mut stream: TcpStream, over| {
        let mut buffer = vec![0; BLOCK_LEN];
        while !over.load(Ordering::Relaxed) {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => drop(counter.fetch_add(len as u64, Ordering::Relaxed)),
                Err(error) if is_tick(&error) => {}
                Err(error) => return Err(error),
            }
        }
        end.store(true, Ordering::Release);
        Ok(())
    })?;
    let mut stream = connect(from, SocketAddr::new(address, port))?;
    let began = Instant::now();
    let sender = thread::Builder::new().name("transfer".to_owned()).spawn(move || {
        let block = vec![0x5a; BLOCK_LEN];
        // A path that stops carrying must end the transfer, not hang it.
        stream.set_write_timeout(Some(scaled(Duration::from_secs(5))))?;
        while began.elapsed() < duration {
            stream.write_all(&block)?;
        }
        Ok(())
    })?;
    Ok(RunningTransfer { sender, received, began, _server: server, done })
}

/// Asks `count` questions, one after the other, of an echo server.
pub(crate) fn round_trips(from: &Place, to: SocketAddr, count: usize) -> Result<Latency> {
    ensure!(count > 0, "no question was asked");
    let mut stream = connect(from, to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(scaled(ANSWER_TIMEOUT)))?;
    let mut times = Vec::with_capacity(count);
    let (mut question, mut answer) = ([0; QUESTION_LEN], [0; QUESTION_LEN]);
    for n in 0..count {
        question[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let asked = Instant::now();
        stream.write_all(&question)?;
        stream.read_exact(&mut answer).with_context(|| format!("answer {n} of {count} did not come"))?;
        times.push(asked.elapsed());
        ensure!(answer == question, "answer {n} is not what was asked");
    }
    Ok(summarise(times))
}

fn connect(from: &Place, to: SocketAddr) -> Result<TcpStream> {
    from.netns()
        .run(|| TcpStream::connect_timeout(&to, scaled(CONNECT_TIMEOUT)))
        .and_then(|result| result)
        .with_context(|| format!("{} cannot connect to {to}", from.name()))
}

fn summarise(mut times: Vec<Duration>) -> Latency {
    times.sort_unstable();
    // The smallest time that at least this share of the questions did not exceed.
    let quantile = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
    Latency { count: times.len(), p50: quantile(50), p99: quantile(99), max: times[times.len() - 1] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let ms = Duration::from_millis;
        let latency = summarise((1..=200).rev().map(ms).collect());
        assert_eq!(latency, Latency { count: 200, p50: ms(100), p99: ms(198), max: ms(200) });
        assert_eq!(summarise(vec![ms(7)]), Latency { count: 1, p50: ms(7), p99: ms(7), max: ms(7) });
    }

    #[test]
    fn a_rate_counts_bits() {
        let transfer = Transfer { bytes: 125_000_000, elapsed: Duration::from_secs(1) };
        assert!((transfer.gigabits_per_second() - 1.0).abs() < 1e-9);
    }
}
