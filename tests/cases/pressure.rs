//! Many flows, and applications that do not read: what the agents hold is bounded.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use adit_e2e::agent::Setup;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, Pod, client, server};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::Scene;

const FLOWS: usize = 5000;
const MIB: u64 = 1 << 20;

#[test]
fn five_thousand_flows_at_once_are_kept_apart() {
    let Some(scene) = Scene::own("five-thousand") else {
        return;
    };
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(most > 3 * FLOWS as u64, "this case needs more open files than {most}");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let (client, server) = scene.pair();
    let client = &client;
    let idle = scene.cluster.agents().each_ref().map(|agent| agent.resident().unwrap());
    let stop = echo_many(&server, 8080);

    let to = server.at4(8080);
    let (opened, wait_opened) = mpsc::channel();
    let (go_on, wait_go_on) = mpsc::channel::<()>();
    let (residents, shown) = std::thread::scope(|scope| {
        let all = scope.spawn(move || client.run(move || flows(to, &opened, &wait_go_on)).unwrap());
        wait_opened.recv_timeout(Duration::from_secs(60)).unwrap();
        let agents = scene.cluster.agents();
        let residents = agents.each_ref().map(|agent| agent.resident().unwrap());
        let status =
            agents.each_ref().map(|agent| agent.status().unwrap()["flowsOpen"].as_u64().unwrap());
        go_on.send(()).unwrap();
        all.join().unwrap().unwrap();
        (residents, status)
    });
    drop(stop);

    assert_eq!(shown, [FLOWS as u64; 2]);
    for (before, with_flows) in idle.into_iter().zip(residents) {
        let each = with_flows.saturating_sub(before) / FLOWS as u64;
        assert!(each <= 16 << 10, "{each} bytes for an idle flow, {before} without any");
    }
}

/// Opens all flows, says so, and when told to, uses each of them once more.
fn flows(to: SocketAddr, opened: &mpsc::Sender<()>, go_on: &mpsc::Receiver<()>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut open = Vec::new();
        while open.len() < FLOWS {
            // As many at a time as a listener's backlog takes.
            let batch = (0..250).map(|n| flow(to, open.len() + n));
            open.extend(futures_util::future::try_join_all(batch).await?);
        }
        opened.send(()).unwrap();
        go_on.recv().unwrap();
        for (number, stream) in open.iter_mut().enumerate() {
            exchange(stream, number).await?;
            stream.shutdown().await?;
            assert_eq!(stream.read(&mut [0]).await?, 0);
        }
        Ok(())
    })
}

async fn flow(to: SocketAddr, number: usize) -> io::Result<tokio::net::TcpStream> {
    let mut stream = tokio::net::TcpStream::connect(to).await?;
    exchange(&mut stream, number).await?;
    Ok(stream)
}

async fn exchange(stream: &mut tokio::net::TcpStream, number: usize) -> io::Result<()> {
    let (sent, mut got) = (number.to_le_bytes(), [0; 8]);
    stream.write_all(&sent).await?;
    stream.read_exact(&mut got).await?;
    assert_eq!(got, sent);
    Ok(())
}

/// An echo without a thread for each connection; it ends when the sender is dropped.
#[track_caller]
fn echo_many(pod: &Pod, port: u16) -> tokio::sync::oneshot::Sender<()> {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (ready, is_ready) = mpsc::channel();
    let serve = async move {
        let any = SocketAddr::from(([0_u16; 8], port));
        let listener = tokio::net::TcpListener::bind(any).await.unwrap();
        ready.send(()).unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    };
    let _running = pod.netns().spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! { () = serve => {}, _ = stopped => {} }
        });
    });
    is_ready.recv_timeout(SOON).unwrap();
    stop
}

#[test]
fn applications_that_do_not_read_cost_the_agent_no_more_than_the_limit() {
    const LIMIT: u64 = 16 * MIB;
    let more = "tunnel: { unreadLimitMiB: 16 }\n".to_owned();
    let Some(scene) = Scene::own_with(&Setup { more, ..Setup::default() }, "slow-readers") else {
        return;
    };
    let [server, one, two, well] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("one", Node::A),
        scene.pod("two", Node::A),
        scene.pod("well", Node::A),
    ]);
    let (_hold, never) = mpsc::channel::<()>();
    let never = std::sync::Mutex::new(never);
    let does_not_read = move |_stream: TcpStream| {
        let _ended: Result<(), mpsc::RecvError> = never.lock().unwrap().recv();
    };
    let _stalled = server.serve(8080, does_not_read).unwrap();
    let _echo = server.serve(8081, server::echo).unwrap();
    well.run(|| client::echo(server.at4(8081), b"before")).unwrap().unwrap();
    let agent = scene.cluster.agent(Node::B);
    let before = agent.resident().unwrap();

    // Their windows together are several times the limit.
    let streams: Vec<TcpStream> = (0..24)
        .map(|n| if n % 2 == 0 { &one } else { &two })
        .map(|pod| pod.connect(server.at4(8080)).unwrap())
        .collect();
    let most = std::thread::scope(|scope| {
        for mut stream in streams {
            scope.spawn(move || {
                stream.set_write_timeout(Some(Duration::from_secs(3))).unwrap();
                // Until it stalls or is ended; either ends in an error.
                while stream.write_all(&[1; 64 << 10]).is_ok() {}
            });
        }
        let mut most = 0;
        wait_until("a flow to be ended for its memory", SOON, || {
            most = most.max(agent.resident().unwrap());
            well.run(|| client::echo(server.at4(8081), b"meanwhile")).unwrap().unwrap();
            let flows = agent.flows().unwrap();
            flows.iter().any(|flow| flow.end.as_deref() == Some("memory_limit"))
        })
        .unwrap();
        most.max(agent.resident().unwrap())
    });

    let grown = most.saturating_sub(before);
    // The limit, what the victims still held when it was reached, and the allocator's rounding.
    assert!(grown <= 3 * LIMIT, "{} MiB more for readers that stall", grown / MIB);
    well.run(|| client::echo(server.at4(8081), b"after")).unwrap().unwrap();
}
