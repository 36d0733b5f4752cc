//! What runs in the pods of the demo and of some tests: small servers and clients as real processes.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

use std::env;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use adit_e2e::{client, server};
use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Socket, Type};

const USAGE: &str = "usage: pod serve-http PORT | echo PORT | get ADDRESS:PORT PATH | send ADDRESS:PORT TEXT | \
     send-when-told ADDRESS:PORT TEXT";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pod: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match *arguments.as_slice() {
        ["serve-http", port] => serve(port, server::http),
        ["echo", port] => serve(port, server::echo),
        ["get", to, path] => get(to, path),
        ["send", to, text] => send(to, text),
        ["send-when-told", to, text] => send_when_told(to, text),
        _ => bail!(USAGE),
    }
}

/// Serves both families on one port until the process is ended.
fn serve(port: &str, handler: fn(TcpStream)) -> Result<()> {
    let port: u16 = port.parse().with_context(|| format!("no port: {port}"))?;
    let listener = TcpListener::bind((std::net::Ipv6Addr::UNSPECIFIED, port))
        .with_context(|| format!("cannot listen on port {port}"))?;
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        thread::spawn(move || handler(stream));
    }
    Ok(())
}

fn connect(to: &str) -> Result<TcpStream> {
    let address: SocketAddr = to.parse().with_context(|| format!("no address and port: {to}"))?;
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(15))
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(15)))?;
    Ok(stream)
}

/// Prints the status line and the body of an HTTP answer.
fn get(to: &str, path: &str) -> Result<()> {
    let mut stream = connect(to)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("no answer")?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    println!("{}: {}", head.lines().next().unwrap_or_default(), body.trim_end());
    Ok(())
}

/// Sends a text and prints what comes back.
fn send(to: &str, text: &str) -> Result<()> {
    let answer = client::exchange(connect(to)?, text.as_bytes())?;
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Waits for a line, makes a socket, waits for another line, then connects and sends by that socket and
/// by a new one: so that something can be done to the process in between.
fn send_when_told(to: &str, text: &str) -> Result<()> {
    let address: SocketAddr = to.parse().with_context(|| format!("no address and port: {to}"))?;
    let mut lines = std::io::stdin().lines();
    let mut wait =
        || lines.next().context("nobody is there to say when")?.context("standard input");
    println!("ready");
    wait()?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    println!("a socket is made");
    wait()?;
    socket.connect(&address.into()).with_context(|| format!("cannot connect to {to}"))?;
    let answer = client::exchange(socket.into(), text.as_bytes())?;
    println!("{}", String::from_utf8_lossy(&answer));
    send(to, text)
}
