//! Servers that live in a namespace: their sockets are made inside, their threads run anywhere.

use anyhow::{Context, Result};
use nix::sys::socket::{Shutdown, shutdown};
use penstock_net::Netns;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// How often a waiting server looks whether it should end.
const TICK: Duration = Duration::from_millis(100);

/// A server that ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    over: Arc<AtomicBool>,
    listener: Option<Arc<TcpListener>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(listener) = &self.listener {
            // Wakes the accepting thread; failing means that it has ended.
            let _ = shutdown(listener.as_raw_fd(), Shutdown::Both);
        }
    }
}

/// Serves every connection to `port`, of both families, on a thread of its own.
pub(crate) fn tcp(
    netns: &Netns,
    port: u16,
    serve: impl Fn(TcpStream, &AtomicBool) -> io::Result<()> + Send + Sync + 'static,
) -> Result<Server> {
    let what = || format!("TCP port {port} of {} cannot be listened on", netns.path().display());
    let listener = netns
        .run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)))
        .and_then(|result| result)
        .with_context(what)?;
    let server = Server { over: Arc::default(), listener: Some(Arc::new(listener)) };
    let (listener, over) = (server.listener.clone(), server.over.clone());
    let serve = Arc::new(serve);
    thread::Builder::new()
        .name(format!("tcp-{port}"))
        .spawn(move || {
            while let Some(Ok((stream, _))) = listener.as_ref().map(|listener| listener.accept()) {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (serve, over) = (serve.clone(), over.clone());
                thread::spawn(move || {
                    let set_up = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(TICK)));
                    // How a client leaves is its business.
                    let _ = set_up.and_then(|()| serve(stream, &over));
                });
            }
        })
        .with_context(what)?;
    Ok(server)
}

/// Sends back what comes.
pub(crate) fn echo(mut stream: TcpStream, over: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => stream.write_all(&buffer[..len])?,
            Err(error) if is_tick(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Answers every request with `200` and a body of one line: the server's name, the method and the path.
pub(crate) fn http(name: &str, stream: TcpStream, over: &AtomicBool) -> io::Result<()> {
    const HEAD_LEN_MAX: u64 = 16 * 1024;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    while !over.load(Ordering::Relaxed) {
        let mut request = String::new();
        if (&mut reader).take(HEAD_LEN_MAX).read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut closes = false;
        loop {
            let mut line = String::new();
            if (&mut reader).take(HEAD_LEN_MAX).read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            closes |= line.trim().eq_ignore_ascii_case("connection: close");
        }
        let mut words = request.split(' ');
        let body = format!("{name} {} {}\n", words.next().unwrap_or("?"), words.next().unwrap_or("?"));
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
        if closes {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends every datagram back, of both families.
pub(crate) fn udp_echo(netns: &Netns, port: u16) -> Result<Server> {
    let what = || format!("UDP port {port} of {} cannot be listened on", netns.path().display());
    let socket = netns
        .run(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)))
        .and_then(|result| result)
        .and_then(|socket| socket.set_read_timeout(Some(TICK)).map(|()| socket))
        .with_context(what)?;
    let server = Server { over: Arc::default(), listener: None };
    let over = server.over.clone();
    thread::Builder::new()
        .name(format!("udp-{port}"))
        .spawn(move || {
            let mut buffer = vec![0; 65_536];
            while !over.load(Ordering::Relaxed) {
                // Timeouts, and errors that an earlier answer earned.
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                let _ = socket.send_to(&buffer[..len], from);
            }
        })
        .with_context(what)?;
    Ok(server)
}

pub(crate) fn is_tick(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}
