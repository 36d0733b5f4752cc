//! One worker's thread: the command loop.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use adit_core::flow::CloseReason;
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::{mpsc, oneshot};

use super::balance::Peers;
use super::essential::essential;
use super::pods::{Local, Pods};
use super::{Command, Context, GONE};
use crate::proxy::{Flows, Stages};
use crate::tunnel::{Budget, Handshakes, Tunnels};

/// How often a drain looks whether the last flow has ended.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long tunnels may take to send what is left in them once their flows have ended.
const FLUSH: Duration = Duration::from_secs(2);

/// Runs the thread; tells at once whether it could be set up.
pub(super) fn run(
    started: &SyncSender<io::Result<()>>,
    (index, peers): (usize, Peers),
    context: &Context,
    budget: Budget,
    commands: mpsc::UnboundedReceiver<Command>,
) {
    let built = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime: LocalRuntime = match built {
        Ok(runtime) => runtime,
        Err(error) => return drop(started.send(Err(error))),
    };
    drop(started.send(Ok(())));
    runtime.block_on(async move {
        let certificates = context.certificates.clone();
        let handshakes =
            Handshakes::new(context.control.clone(), certificates, context.tunnel.clone());
        let flows = Flows::new(index, peers.count(), context.recorder.clone());
        let set = (context.tunnel.clone(), budget.clone());
        let tunnels = Tunnels::new(handshakes.clone(), set, {
            let flows = Rc::clone(&flows);
            move |ends, reason| flows.end_tunnel(ends, reason)
        });
        let stages = Rc::new(Stages {
            worlds: context.worlds.clone(),
            tunnels: tunnels.clone(),
            flows,
            cluster: Arc::clone(&context.cluster),
            connect_timeout: context.tunnel.connect_timeout,
            settings: context.flow,
        });
        let load = peers.load(index);
        let local = Local { index, stages, handshakes, peers, load };
        let pods = Pods::new(Rc::new(local), (context.tunnel.clone(), budget));
        let kept = essential("kept its tunnels", tunnels.run());
        let timers = tokio::task::spawn_local(kept);
        essential("carried out a command", serve(pods, commands)).await;
        timers.abort();
    });
}

async fn serve(mut pods: Pods, mut commands: mpsc::UnboundedReceiver<Command>) {
    while let Some(command) = commands.recv().await {
        let stages = Rc::clone(pods.stages());
        match command {
            Command::AddPod(pod, listeners, done) => answer(done, pods.add(&pod, listeners)),
            Command::RemovePod(uid, done) => {
                pods.remove(&uid);
                answer(done, ());
            }
            Command::EndPod(uid, done) => {
                pods.end(&uid);
                stages.tunnels.pod_gone(&uid);
                stages.flows.end_pod(&uid, GONE);
                answer(done, ());
            }
            Command::WhenIdle(uid, done) => stages.flows.when_idle(&uid, done),
            Command::Tunnel(tunnel) => pods.carry(*tunnel),
            Command::Recheck(changes) => {
                stages.flows.recheck(&stages.worlds.load(), changes.as_deref());
            }
            Command::Flows(list) => answer(list, stages.flows.list()),
            Command::Moved(list) => answer(list, stages.flows.moved()),
            Command::Tunnels(list) => answer(list, pods.tunnels()),
            Command::Drain(done) => {
                pods.remove_all();
                tokio::task::spawn_local(when_drained(stages, pods.carried(), done));
            }
            Command::EndAll(count) => answer(count, stages.flows.end_all(CloseReason::Drained)),
        }
    }
}

/// Waits for the flows, and then for the tunnels: what a flow sent last may still be in them.
async fn when_drained(stages: Rc<Stages>, carried: impl Fn() -> bool, done: oneshot::Sender<()>) {
    while stages.flows.len() > 0 {
        tokio::time::sleep(DRAIN_POLL).await;
    }
    stages.tunnels.close_all();
    let flushed = async {
        while carried() || stages.tunnels.are_open() {
            tokio::time::sleep(DRAIN_POLL).await;
        }
    };
    // A peer that does not answer is not waited for.
    let _late = tokio::time::timeout(FLUSH, flushed).await;
    answer(done, ());
}

fn answer<T>(to: oneshot::Sender<T>, answer: T) {
    // Whoever asked may have given up.
    drop(to.send(answer));
}
