//! More connections than a client has ports. How fast that goes is the benchmark's to say.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use adit_e2e::client;
use adit_e2e::wait::wait_until;

use crate::support::Scene;

const CONNECTIONS: usize = 100_000;
const CLIENTS: usize = 32;

/// One in so many is finished by the client, whose port then rests for a minute, with adit or without
/// it: the search for a free one is what limits a client that does so always.
const CLIENT_FIRST: usize = 8;

#[test]
fn a_hundred_thousand_short_connections_from_one_client_to_one_pod_all_succeed() {
    let Some(scene) = Scene::own("short-connections") else {
        return;
    };
    let (client, server) = scene.pair();
    let answers = |mut stream: TcpStream| {
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {
            // An `s` asks the server to finish first, a `c` leaves that to the client.
            if byte == *b"c" {
                let _end = client::read(&mut stream, &mut byte);
            }
        }
    };
    let echo = server.serve(8080, answers).unwrap();
    let to = server.at4(8080);
    let begun = AtomicUsize::new(0);

    // A thread inherits the network namespace of the one that starts it.
    let all_connections = || {
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| connections_until_done(to, &begun));
            }
        });
    };
    client.run(all_connections).unwrap();

    assert_eq!(echo.connections(), CONNECTIONS);
    let agents = scene.cluster.agents();
    wait_until("the agents to let go of the sockets", Duration::from_secs(20), || {
        agents.iter().all(|agent| agent.open_files().is_ok_and(|files| files < 500))
    })
    .unwrap();
}

fn connections_until_done(to: SocketAddr, begun: &AtomicUsize) {
    loop {
        let number = begun.fetch_add(1, Ordering::Relaxed);
        if number >= CONNECTIONS {
            return;
        }
        one_connection(to, !number.is_multiple_of(CLIENT_FIRST)).unwrap();
    }
}

/// Sends a byte and reads it back. Who finishes first is left with a TIME_WAIT socket: on the
/// server's side that is the application, or the agent's connection to it.
fn one_connection(to: SocketAddr, server_first: bool) -> io::Result<()> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(if server_first { b"s" } else { b"c" })?;
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    if !server_first {
        stream.shutdown(Shutdown::Write)?;
    }
    match client::read(&mut stream, &mut byte)? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
