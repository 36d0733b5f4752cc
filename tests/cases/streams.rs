//! What happens to a connection that lasts: its bytes, its end, its being cut.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use adit_e2e::{Node, client, server};

use crate::support::Scene;

const PATIENCE: Duration = Duration::from_secs(20);
/// Of 64 KiB: 1 GiB.
const CHUNKS: usize = 16 << 10;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("streams", ns)
}

#[test]
fn a_gibibyte_each_way_at_once_arrives_with_the_sha_256_that_it_left_with() {
    let Some(scene) = scene("bulk") else { return };
    let (client, server) = scene.pair();
    let (sender, receiver) = mpsc::channel();
    let both_ways = move |mut stream: TcpStream| {
        let mut back = stream.try_clone().unwrap();
        let sending = thread::spawn(move || client::send_pattern(&mut back, 2, CHUNKS));
        let received = client::receive_pattern(&mut stream, 1, CHUNKS);
        let sent = sending.join().unwrap();
        sender.send(received.and_then(|received| Ok((received, sent?)))).unwrap();
    };
    let _server = server.serve(8080, both_ways).unwrap();

    let mut stream = client.connect(server.at4(8080)).unwrap();
    let mut forth = stream.try_clone().unwrap();
    let sending = thread::spawn(move || client::send_pattern(&mut forth, 1, CHUNKS));
    let back = client::receive_pattern(&mut stream, 2, CHUNKS).unwrap();

    let forth = sending.join().unwrap().unwrap();
    let (forth_there, back_there) = receiver.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(forth.as_ref(), forth_there.as_ref());
    assert_eq!(back.as_ref(), back_there.as_ref());
    drop(stream);
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!((flow.bytes_sent, flow.bytes_received), (1 << 30, 1 << 30));
}

#[test]
fn a_client_that_finishes_sending_still_receives() {
    let Some(scene) = scene("half-close-client") else {
        return;
    };
    let (client, server) = scene.pair();
    let answers_at_the_end = |mut stream: TcpStream| {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        stream.write_all(format!("{} bytes", text.len()).as_bytes()).unwrap();
    };
    let _server = server.serve(8080, answers_at_the_end).unwrap();

    let stream = client.connect(server.at4(8080)).unwrap();

    assert_eq!(client::exchange(stream, &[7; 100_000]).unwrap(), b"100000 bytes");
    assert_eq!(scene.outbound(&client, &server, 8080).end.as_deref(), Some("finished"));
}

#[test]
fn a_server_that_finishes_sending_still_receives() {
    let Some(scene) = scene("half-close-server") else {
        return;
    };
    let (client, server) = scene.pair();
    let (sender, receiver) = mpsc::channel();
    let finishes_first = move |mut stream: TcpStream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        sender.send(text.len()).unwrap();
    };
    let _server = server.serve(8080, finishes_first).unwrap();

    let mut stream = client.connect(server.at4(8080)).unwrap();
    let mut farewell = Vec::new();
    stream.read_to_end(&mut farewell).unwrap();
    stream.write_all(&[7; 100_000]).unwrap();
    drop(stream);

    assert_eq!(farewell, b"bye");
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), 100_000);
}

#[test]
fn a_half_close_while_the_reader_stalls_loses_nothing() {
    let Some(scene) = scene("half-close-stalled") else {
        return;
    };
    let (client, server) = scene.pair();
    let (go, gate) = mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let reads_late = move |mut stream: TcpStream| {
        gate.lock().unwrap().recv().unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        stream.write_all(text.len().to_string().as_bytes()).unwrap();
    };
    let _server = server.serve(8080, reads_late).unwrap();

    // More than the buffers of sockets and the window of a stream hold together.
    let length = 24 << 20;
    let stream = client.connect(server.at4(8080)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        sender.write_all(&vec![1; length]).unwrap();
        sender.shutdown(Shutdown::Write).unwrap();
    });
    thread::sleep(Duration::from_millis(500)); // Nothing tells that a sender has come to a stop.
    assert!(!sending.is_finished(), "a stalled reader must hold the sender back");
    go.send(()).unwrap();

    sending.join().unwrap();
    let mut answer = String::new();
    let mut stream = stream;
    stream.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, length.to_string());
}

#[test]
fn a_half_close_of_the_server_while_the_client_stalls_loses_nothing() {
    let Some(scene) = scene("half-close-stalled-back") else {
        return;
    };
    let (client, server) = scene.pair();
    let (sender, receiver) = mpsc::channel();
    // More than the buffers of sockets and the window of a stream hold together.
    let length = 24 << 20;
    let says_all = move |mut stream: TcpStream| {
        stream.read_exact(&mut [0; 1]).unwrap();
        stream.write_all(&vec![1; length]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        sender.send(()).unwrap();
        let mut text = Vec::new();
        stream.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"and the client still sends");
        sender.send(()).unwrap();
    };
    let _server = server.serve(8080, says_all).unwrap();

    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.write_all(b"?").unwrap();
    let stalled = receiver.recv_timeout(Duration::from_millis(500));
    assert!(stalled.is_err(), "a stalled reader must hold the sender back");
    let mut text = Vec::new();
    stream.read_to_end(&mut text).unwrap();
    receiver.recv_timeout(PATIENCE).unwrap();
    stream.write_all(b"and the client still sends").unwrap();
    drop(stream);

    receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(text.len(), length);
    assert_eq!(scene.outbound(&client, &server, 8080).end.as_deref(), Some("finished"));
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_a_reset() {
    let Some(scene) = scene("reset-by-client") else {
        return;
    };
    let (client, server) = scene.pair();
    let (sender, receiver) = mpsc::channel();
    let waits = move |mut stream: TcpStream| {
        stream.write_all(b"!").unwrap();
        sender.send(client::heard(&mut stream)).unwrap();
    };
    let _server = server.serve(8080, waits).unwrap();

    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
    client::reset(stream).unwrap();

    let heard = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("reset_by_source"));
    let flow = scene.inbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("reset_by_source"));
}

#[test]
fn a_reset_by_the_server_reaches_the_client_as_a_reset() {
    let Some(scene) = scene("reset-by-server") else {
        return;
    };
    let (client, server) = scene.pair();
    let resets = |mut stream: TcpStream| {
        stream.read_exact(&mut [0; 1]).unwrap();
        client::reset(stream).unwrap();
    };
    let _server = server.serve(8080, resets).unwrap();

    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.write_all(b"?").unwrap();
    let heard = client::heard(&mut stream);

    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("reset_by_destination"));
    let flow = scene.inbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("reset_by_destination"));
}

#[test]
fn a_plaintext_flow_passes_a_reset_on_too() {
    let Some(scene) = scene("reset-plaintext") else {
        return;
    };
    let [server, client] = scene.pods([
        scene.pod("server", Node::B).label("adit.dev/mode", "none"),
        scene.pod("client", Node::A),
    ]);
    let resets = |mut stream: TcpStream| {
        stream.read_exact(&mut [0; 1]).unwrap();
        client::reset(stream).unwrap();
    };
    let _server = server.serve(8080, resets).unwrap();

    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.write_all(b"?").unwrap();
    let heard = client::heard(&mut stream);

    assert_eq!(heard, Err(io::ErrorKind::ConnectionReset));
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("reset_by_destination"));
}

#[test]
fn many_flows_at_once_in_both_directions_are_kept_apart() {
    let Some(scene) = scene("many") else { return };
    let (left, right) = scene.pair();
    let _right = right.serve(8080, server::echo).unwrap();
    let _left = left.serve(8080, server::echo).unwrap();

    thread::scope(|scope| {
        for number in 0..64_u8 {
            let (from, to) =
                if number % 2 == 0 { (&left, right.at4(8080)) } else { (&right, left.at6(8080)) };
            let payload = vec![number; 100_000];
            scope.spawn(move || from.run(|| client::echo(to, &payload)).unwrap().unwrap());
        }
    });
}
