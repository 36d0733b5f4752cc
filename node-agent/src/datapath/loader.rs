//! Loads the object: once for the node, and an instance for each of its pods.
//!
//! Making aya's loader reads the kernel's whole BTF, some 30 ms and 20 MB of heap, of which the object needs
//! nothing; loading takes a millisecond. So one loader serves many pods. It borrows the configuration that it
//! writes into an instance, and lives where that stands: on a thread.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;

use adit_shared::names;
use adit_shared::value::PodConfig;
use aya::{Ebpf, EbpfLoader};

use crate::datapath::DatapathError;
use crate::datapath::maps::failed;
use crate::sys::process;

static OBJECT: &[u8] = aya::include_bytes_aligned!("../../../ebpf/adit.bpf.o");

/// After so many pods, whose configurations stay in memory until then, a new loader is made.
const PODS: usize = 1024;

/// What loads. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Loader {
    jobs: SyncSender<Job>,
}

struct Job {
    pod: PodConfig,
    loaded: SyncSender<Result<Ebpf, DatapathError>>,
}

impl Loader {
    /// The maps of what it loads are those pinned in `pins`, and are pinned there if they are new; without
    /// `pins` each object has its own.
    pub(super) fn start(pins: Option<&Path>) -> Result<Self, DatapathError> {
        let pins = pins.map(Path::to_owned);
        let (jobs, queue) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name("loader".to_owned())
            .spawn(move || while serve(&queue, pins.as_ref()) {})
            .map_err(|source| failed("start the thread that loads eBPF objects", source))?;
        Ok(Self { jobs })
    }

    /// Loads the object, with a pod's configuration in its look-up program.
    pub(super) fn load(&self, pod: PodConfig) -> Result<Ebpf, DatapathError> {
        let gone = "the thread that loads eBPF objects has ended";
        let (loaded, answer) = mpsc::sync_channel(1);
        let job = Job { pod, loaded };
        self.jobs.send(job).map_err(|_job| failed("load the eBPF object", gone))?;
        answer.recv().map_err(|_gone| failed("load the eBPF object", gone))?
    }
}

/// Serves as many pods as one loader does. Whether there may be more.
fn serve(queue: &Receiver<Job>, pins: Option<&PathBuf>) -> bool {
    let pods: Vec<OnceCell<PodConfig>> = (0..PODS).map(|_| OnceCell::new()).collect();
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    process::return_free_memory();
    for (pins, name) in pins.into_iter().flat_map(|pins| names::MAPS.map(|name| (pins, name))) {
        loader.map_pin_path(name, pins.join(name));
    }
    for pod in &pods {
        let Ok(job) = queue.recv() else {
            return false;
        };
        loader.override_global(names::POD, pod.get_or_init(|| job.pod), true);
        let loaded = loader.load(OBJECT);
        // Who asked may have gone.
        let _gone =
            job.loaded.send(loaded.map_err(|source| failed("load the eBPF object", source)));
    }
    true
}
