//! A real directory, real inotify: what is written there is in the world soon after. Every wait is
//! for the world or the status to become so, and ends with what it is instead.

mod policies;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;

use adit_core::workload::{MeshMode, ObjectName};
use adit_core::world::World;
use tokio::task::JoinHandle;

use super::*;
use crate::shutdown::{self, Trigger};

/// Below [`RESCAN`], so that what the safety net finds does not count.
const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn what_is_there_at_the_start_is_listed_before_the_source_counts_as_synced() {
    let directory = TempDir::new();
    directory.write("b.yaml", &pod("web-1", "10.0.0.1"));
    directory.write("a.yml", NAMESPACE);
    directory.write("c.json", SERVICE_JSON);
    directory.write(".hidden.yaml", &pod("hidden", "10.0.0.9"));
    directory.write("notes.txt", "not yaml: [");
    fs::create_dir(directory.path.join("sub.yaml")).unwrap();
    let agent = Agent::start(&directory.path);

    agent.worlds.synced().wait_for(|synced| *synced).await.unwrap();

    let world = agent.worlds.load();
    assert_eq!(world.namespace("shop").unwrap().mode, MeshMode::Ambient);
    assert_eq!(names(&world), ["web-1"]);
    let web = ObjectName::new("shop", "web");
    assert_eq!(world.endpoints(&web)[0].address, "10.0.0.1".parse::<std::net::IpAddr>().unwrap());
    let status = agent.status(|status| status.files == 3).await;
    assert_eq!((status.objects, status.errors.len()), (3, 0), "{status:?}");
    assert!(status.last_change.is_some());
}

#[tokio::test]
async fn create_change_rename_and_delete_are_followed() {
    let directory = TempDir::new();
    let agent = Agent::start_synced(&directory.path).await;

    directory.write("web.yaml", &pod("web-1", "10.0.0.1"));
    agent.pods(&["web-1"]).await;

    directory.write(
        "web.yaml",
        &format!("{}---\n{}", pod("web-1", "10.0.0.1"), pod("web-2", "10.0.0.2")),
    );
    agent.pods(&["web-1", "web-2"]).await;

    directory.write("web.yaml", &pod("web-2", "10.0.0.7"));
    let seven = "10.0.0.7".parse().unwrap();
    agent.world(|world| world.workload_at(seven).is_some()).await;
    agent.pods(&["web-2"]).await;

    fs::rename(directory.path.join("web.yaml"), directory.path.join("web.yaml.off")).unwrap();
    agent.pods(&[]).await;

    fs::rename(directory.path.join("web.yaml.off"), directory.path.join("on.yaml")).unwrap();
    agent.pods(&["web-2"]).await;

    fs::remove_file(directory.path.join("on.yaml")).unwrap();
    agent.pods(&[]).await;
}

#[tokio::test]
async fn a_change_is_effective_within_a_fifth_of_a_second() {
    let directory = TempDir::new();
    let agent = Agent::start_synced(&directory.path).await;
    let mut fastest = Duration::MAX;
    for n in 1..=5 {
        let started = std::time::Instant::now();
        let name = format!("web-{n}");
        directory.write("web.yaml", &pod(&name, "10.0.0.1"));
        agent.pods(&[&name]).await;
        fastest = fastest.min(started.elapsed());
    }
    // The fastest of five: the others say how busy this machine is.
    assert!(fastest < Duration::from_millis(200), "{fastest:?}");
}

#[tokio::test]
async fn a_config_maps_atomic_swap_is_one_change() {
    let directory = TempDir::new();
    let version = |n: u8, files: &[(&str, String)]| {
        let folder = directory.path.join(format!("..v{n}"));
        fs::create_dir(&folder).unwrap();
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        symlink(format!("..v{n}"), directory.path.join("..data_tmp")).unwrap();
        fs::rename(directory.path.join("..data_tmp"), directory.path.join("..data")).unwrap();
    };
    version(1, &[("a.yaml", pod("a-1", "10.0.0.1")), ("b.yaml", pod("b-1", "10.0.0.2"))]);
    for name in ["a.yaml", "b.yaml"] {
        symlink(format!("..data/{name}"), directory.path.join(name)).unwrap();
    }
    let agent = Agent::start_synced(&directory.path).await;
    agent.pods(&["a-1", "b-1"]).await;
    let mut changes = agent.worlds.subscribe();

    version(2, &[("a.yaml", pod("a-2", "10.0.0.1")), ("b.yaml", pod("b-2", "10.0.0.2"))]);
    fs::remove_dir_all(directory.path.join("..v1")).unwrap();

    agent.pods(&["a-2", "b-2"]).await;
    let first = changes.try_recv().unwrap();
    assert_eq!(first.workloads.len(), 4, "old and new in one batch: {first:?}");
    assert!(changes.try_recv().is_err(), "a second batch");
    assert_eq!(agent.status.load().errors, Vec::<String>::new());
}

#[tokio::test]
async fn a_link_that_lost_its_target_keeps_what_it_led_to() {
    let (directory, elsewhere) = (TempDir::new(), TempDir::new());
    elsewhere.write("real.yaml", &pod("web-1", "10.0.0.1"));
    symlink(elsewhere.path.join("real.yaml"), directory.path.join("web.yaml")).unwrap();
    let agent = Agent::start_synced(&directory.path).await;
    agent.pods(&["web-1"]).await;

    elsewhere.write("real.yaml", &pod("web-2", "10.0.0.1"));
    agent.pods(&["web-2"]).await;

    fs::remove_file(elsewhere.path.join("real.yaml")).unwrap();
    agent.error("web.yaml: a symbolic link to nowhere").await;
    agent.pods(&["web-2"]).await;

    fs::remove_file(directory.path.join("web.yaml")).unwrap();
    agent.pods(&[]).await;
    agent.no_errors().await;
}

#[tokio::test]
async fn an_invalid_document_keeps_its_last_good_version_and_spares_the_others() {
    let directory = TempDir::new();
    let web =
        |second: &str, third: &str| format!("{}---\n{second}---\n{third}", pod("a", "10.0.0.1"));
    let agent = Agent::start_synced(&directory.path).await;
    directory.write("web.yaml", &web(&pod("b", "10.0.0.2"), &pod("c", "10.0.0.3")));
    agent.pods(&["a", "b", "c"]).await;

    // A field is wrong: recognised by its name. Its neighbour changes at the same time.
    directory.write("web.yaml", &web(&pod("b", "10.0.0"), &pod("c", "10.0.0.33")));
    agent.error("web.yaml: document 2: status.podIP: \"10.0.0\": not an IP address").await;
    let (two, three) = ("10.0.0.2".parse().unwrap(), "10.0.0.33".parse().unwrap());
    let both =
        |world: &World| world.workload_at(two).is_some() && world.workload_at(three).is_some();
    agent.world(both).await;

    // The text is broken: recognised by its place.
    directory.write("web.yaml", &web("kind: [\n", &pod("d", "10.0.0.4")));
    agent.status(|status| status.errors.iter().any(|error| error.contains("document 2: "))).await;
    agent.pods(&["a", "b", "d"]).await;

    // Another type: named with its path.
    directory.write("web.yaml", &web(&pod("b", "[1]"), &pod("d", "10.0.0.4")));
    agent
        .status(|status| {
            let error = "web.yaml: document 2: status.podIP: invalid type: sequence";
            status.errors.len() == 1 && status.errors[0].starts_with(error)
        })
        .await;
    agent.pods(&["a", "b", "d"]).await;

    directory.write("web.yaml", &web(&pod("b", "10.0.0.22"), &pod("d", "10.0.0.4")));
    agent.no_errors().await;
    let moved = "10.0.0.22".parse().unwrap();
    agent.world(|world| world.workload_at(moved).is_some()).await;

    // Taken out is taken out.
    directory.write("web.yaml", &pod("a", "10.0.0.1"));
    agent.pods(&["a"]).await;
}

#[tokio::test]
async fn a_document_that_was_never_good_is_left_out() {
    let directory = TempDir::new();
    directory.write("a.yaml", &pod("a", "10.0.0"));
    directory.write("b.yaml", "just text\n---\nkind: Pod\n");
    directory.write("c.yaml", &pod("c", "10.0.0.3"));
    directory.write("d.json", "{\"kind\": \"Pod\"");
    fs::write(directory.path.join("e.yaml"), b"a: \xff").unwrap();
    let agent = Agent::start_synced(&directory.path).await;
    agent.pods(&["c"]).await;
    let status = agent.status(|status| status.errors.len() == 5).await;
    let missing = "apiVersion, kind: missing: not a Kubernetes object";
    let unknown = "; what it said before this agent started is not known, and not in force";
    assert_eq!(status.errors[1], format!("b.yaml: document 1: {missing}{unknown}"));
    assert_eq!(status.errors[2], format!("b.yaml: document 2: {missing}{unknown}"));
    assert!(status.errors[3].starts_with("d.json: document 1: EOF"), "{status:?}");
    assert_eq!(status.errors[4], "e.yaml: not UTF-8: byte 3");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_keeps_its_objects() {
    let directory = TempDir::new();
    directory.write("web.yaml", &pod("web-1", "10.0.0.1"));
    let agent = Agent::start_synced(&directory.path).await;
    agent.pods(&["web-1"]).await;

    let file = fs::File::options().write(true).open(directory.path.join("web.yaml")).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    agent.error("web.yaml: larger than 16 MiB").await;
    agent.pods(&["web-1"]).await;

    fs::remove_file(directory.path.join("web.yaml")).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(directory.path.join("web.yaml")).unwrap();
    agent.error("web.yaml: not a regular file").await;
    agent.pods(&["web-1"]).await;
    drop(socket);

    fs::remove_file(directory.path.join("web.yaml")).unwrap();
    agent.pods(&[]).await;
}

#[tokio::test]
async fn of_two_documents_for_one_object_the_first_wins_and_the_other_is_reported() {
    let directory = TempDir::new();
    directory.write("b.yaml", &pod("web", "10.0.0.2"));
    directory.write("a.yaml", &pod("web", "10.0.0.1"));
    let agent = Agent::start_synced(&directory.path).await;
    agent.error("b.yaml: document 1: Pod shop/web is already in a.yaml; ignored here").await;
    let (one, two) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    agent.world(|world| world.workload_at(one).is_some()).await;

    fs::remove_file(directory.path.join("a.yaml")).unwrap();
    agent.world(|world| world.workload_at(two).is_some()).await;
    agent.no_errors().await;
}

#[tokio::test]
async fn a_list_is_read_item_by_item() {
    let directory = TempDir::new();
    let indented = |text: String| text.replace('\n', "\n  ");
    directory.write(
        "list.yaml",
        &format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}\n- {}\n- apiVersion: v1\n  kind: ConfigMap\n\
             - {}\n",
            indented(pod("a", "10.0.0.1")),
            indented(pod("b", "10.0.0")),
            indented(pod("c", "10.0.0.3")),
        ),
    );
    let agent = Agent::start_synced(&directory.path).await;
    agent.pods(&["a", "c"]).await;
    agent
        .error("list.yaml: document 1: items[1].status.podIP: \"10.0.0\": not an IP address")
        .await;
}

#[tokio::test]
async fn other_kinds_are_no_errors() {
    let directory = TempDir::new();
    directory.write(
        "other.yaml",
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: strict}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n\
         ---\napiVersion: v1\nkind: Service\nmetadata: {name: alias}\n\
         spec: {type: ExternalName, externalName: example.com}\n",
    );
    let agent = Agent::start_synced(&directory.path).await;
    let status = agent.status(|status| status.files == 1).await;
    assert_eq!((status.objects, status.errors.len()), (0, 0), "{status:?}");
}

#[test]
fn a_directory_that_is_emptied_at_once_is_believed_after_a_while() {
    let directory = TempDir::new();
    directory.write("a.yaml", &pod("a-1", "10.0.0.1"));
    directory.write("b.yaml", &pod("b-1", "10.0.0.2"));
    let mut catalog = Catalog::new(directory.path.clone(), domain());
    let start = std::time::Instant::now();
    assert_eq!(catalog.scan(start).deltas.len(), 2);
    for name in ["a.yaml", "b.yaml"] {
        fs::remove_file(directory.path.join(name)).unwrap();
    }

    let scan = catalog.scan(start + Duration::from_secs(1));
    assert!(scan.deltas.is_empty() && scan.troubled && scan.objects == 2, "{scan:?}");
    assert!(scan.stale.as_ref().unwrap().contains("emptied at once"), "{scan:?}");
    assert_eq!(scan.errors, [scan.stale.unwrap()]);
    let scan = catalog.scan(start + Duration::from_secs(30));
    assert!(scan.deltas.is_empty() && scan.stale.is_some(), "{scan:?}");

    let scan = catalog.scan(start + Duration::from_secs(31));
    assert_eq!((scan.deltas.len(), scan.objects, scan.stale), (2, 0, None));
}

#[test]
fn an_empty_directory_in_the_place_of_another_one_is_not_believed_until_it_has_a_file() {
    let directory = TempDir::new();
    directory.write("a.yaml", &pod("a-1", "10.0.0.1"));
    let mut catalog = Catalog::new(directory.path.clone(), domain());
    let start = std::time::Instant::now();
    assert_eq!(catalog.scan(start).deltas.len(), 1);
    // As when a volume is unmounted.
    let aside = TempDir::new();
    fs::rename(&directory.path, aside.path.join("volume")).unwrap();
    fs::create_dir(&directory.path).unwrap();

    let scan = catalog.scan(start + Duration::from_secs(3600));
    assert!(scan.deltas.is_empty() && scan.troubled, "{scan:?}");
    assert!(scan.stale.unwrap().contains("replaced by an empty directory"));

    directory.write("none.yaml", "");
    let scan = catalog.scan(start + Duration::from_secs(3601));
    assert_eq!((scan.deltas.len(), scan.objects, scan.stale), (1, 0, None));
}

#[tokio::test]
async fn a_directory_that_is_absent_at_the_start_is_reported_and_found_when_it_comes() {
    let parent = TempDir::new();
    let path = parent.path.join("manifests");
    let agent = Agent::start(&path);
    let error = format!("{}: No such file or directory (os error 2)", path.display());
    agent.error(&error).await;
    assert!(!*agent.worlds.synced().borrow());

    fs::create_dir(&path).unwrap();
    fs::write(path.join("web.yaml"), pod("web-1", "10.0.0.1")).unwrap();
    agent.pods(&["web-1"]).await;
    agent.no_errors().await;
    assert!(*agent.worlds.synced().borrow());
}

#[tokio::test]
async fn a_directory_that_is_deleted_keeps_its_objects_and_is_followed_when_it_is_back() {
    let parent = TempDir::new();
    let path = parent.path.join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("web.yaml"), pod("web-1", "10.0.0.1")).unwrap();
    let agent = Agent::start_synced(&path).await;
    agent.pods(&["web-1"]).await;

    fs::remove_dir_all(&path).unwrap();
    agent.error(&format!("{}: No such file or directory (os error 2)", path.display())).await;
    // The file may have been seen to go before the directory was.
    let left = names(&agent.worlds.load());
    assert!(left.is_empty() || left == ["web-1"]);

    fs::create_dir(&path).unwrap();
    fs::write(path.join("web.yaml"), pod("web-2", "10.0.0.1")).unwrap();
    agent.pods(&["web-2"]).await;
    fs::write(path.join("web.yaml"), pod("web-3", "10.0.0.1")).unwrap();
    agent.pods(&["web-3"]).await;
}

#[tokio::test]
async fn a_directory_that_is_moved_away_keeps_its_objects() {
    let parent = TempDir::new();
    let path = parent.path.join("manifests");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("web.yaml"), pod("web-1", "10.0.0.1")).unwrap();
    let agent = Agent::start_synced(&path).await;

    fs::rename(&path, parent.path.join("away")).unwrap();
    agent.error(&format!("{}: No such file or directory (os error 2)", path.display())).await;
    agent.pods(&["web-1"]).await;
}

#[tokio::test]
async fn a_directory_that_is_a_link_is_followed_when_it_is_swapped() {
    let parent = TempDir::new();
    let path = parent.path.join("manifests");
    for n in 1..=2 {
        let folder = parent.path.join(format!("v{n}"));
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("web.yaml"), pod(&format!("web-{n}"), "10.0.0.1")).unwrap();
    }
    symlink("v1", &path).unwrap();
    let agent = Agent::start_synced(&path).await;
    agent.pods(&["web-1"]).await;

    symlink("v2", parent.path.join("new")).unwrap();
    fs::rename(parent.path.join("new"), &path).unwrap();
    agent.pods(&["web-2"]).await;

    fs::write(parent.path.join("v2/web.yaml"), pod("web-3", "10.0.0.1")).unwrap();
    agent.pods(&["web-3"]).await;
}

#[tokio::test]
async fn a_directory_of_a_thousand_files_is_followed() {
    let directory = TempDir::new();
    for n in 0..1000 {
        let address = format!("10.0.{}.{}", n / 250, n % 250 + 1);
        directory.write(&format!("{n}.yaml"), &pod(&format!("pod-{n}"), &address));
    }
    let agent = Agent::start_synced(&directory.path).await;
    agent.world(|world| world.workloads().count() == 1000).await;
    let mut changes = agent.worlds.subscribe();

    directory.write("7.yaml", &pod("pod-7", "10.1.0.7"));

    let moved = "10.1.0.7".parse().unwrap();
    agent.world(|world| world.workload_at(moved).is_some()).await;
    assert_eq!(changes.try_recv().unwrap().workloads.len(), 1);
}

#[tokio::test]
async fn reading_the_directory_does_not_wake_the_reader() {
    let directory = TempDir::new();
    directory.write("web.yaml", &pod("web-1", "10.0.0.1"));
    let mut source = Source {
        watch: Watch::new(&directory.path),
        catalog: Catalog::new(directory.path.clone(), domain()),
    };
    let wake = source.watch.wake();
    let scan = source.scan();
    assert_eq!(scan.deltas.len(), 1);
    // A write afterwards is what ends the wait: had the scan woken it, this would be the second.
    while wake.notified().now_or_never().is_some() {}
    assert!(source.scan().deltas.is_empty());
    directory.write("web.yaml", &pod("web-2", "10.0.0.1"));
    tokio::time::timeout(SOON, wake.notified()).await.unwrap();
    let scan = source.scan();
    assert!(scan.deltas.len() == 2 || scan.unrested, "{scan:?}");
}

#[tokio::test]
async fn the_source_ends_when_the_agent_drains() {
    let directory = TempDir::new();
    let agent = Agent::start_synced(&directory.path).await;
    agent.trigger.advance(Phase::Draining);
    tokio::time::timeout(SOON, agent.task).await.unwrap().unwrap();
}

const NAMESPACE: &str =
    "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {adit.dev/mode: ambient}}\n";

const SERVICE_JSON: &str = r#"{"apiVersion": "v1", "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {"clusterIP": "10.96.0.1", "selector": {"app": "web"}, "ports": [{"port": 80}]}}"#;

fn pod(name: &str, address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop, uid: {name}, \
         labels: {{app: web}}, annotations: {{adit.dev/netns: /run/netns/{name}}}}}\n\
         spec: {{nodeName: node-a, containers: []}}\nstatus: {{podIP: {address}}}\n"
    )
}

fn names(world: &World) -> Vec<String> {
    world.workloads().map(|pod| pod.name.name.to_string()).collect()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

struct Agent {
    worlds: Worlds,
    status: StatusHandle,
    trigger: Trigger,
    task: JoinHandle<()>,
}

impl Agent {
    fn start(directory: &Path) -> Self {
        let settings = Settings { directory: directory.to_owned() };
        let (worlds, status) = (Worlds::new(), StatusHandle::new());
        let (trigger, shutdown) = shutdown::channel();
        let run = run(settings, domain(), worlds.clone(), status.clone(), shutdown);
        let task = tokio::spawn(run);
        Self { worlds, status, trigger, task }
    }

    async fn start_synced(directory: &Path) -> Self {
        let agent = Self::start(directory);
        let mut synced = agent.worlds.synced();
        let synced = synced.wait_for(|synced| *synced);
        drop(tokio::time::timeout(SOON, synced).await.unwrap().unwrap());
        agent
    }

    #[track_caller]
    fn world(&self, wanted: impl Fn(&World) -> bool) -> impl Future<Output = ()> {
        let mut changes = self.worlds.subscribe();
        let caller = std::panic::Location::caller();
        async move {
            let become_so = async {
                while !wanted(&self.worlds.load()) {
                    changes.recv().await.unwrap();
                }
            };
            if tokio::time::timeout(SOON, become_so).await.is_err() {
                let (world, status) = (names(&self.worlds.load()), self.status.load());
                panic!("{caller}: the world has the pods {world:?}; {status:?}");
            }
        }
    }

    #[track_caller]
    fn pods(&self, expected: &[&str]) -> impl Future<Output = ()> {
        self.world(move |world| names(world) == expected)
    }

    #[track_caller]
    fn status(
        &self,
        wanted: impl Fn(&SourceStatus) -> bool,
    ) -> impl Future<Output = Arc<SourceStatus>> {
        let mut changes = self.status.subscribe();
        let caller = std::panic::Location::caller();
        async move {
            let become_so = changes.wait_for(|status| wanted(status));
            match tokio::time::timeout(SOON, become_so).await {
                Ok(status) => Arc::clone(&status.unwrap()),
                Err(_) => panic!("{caller}: {:?}", self.status.load()),
            }
        }
    }

    #[track_caller]
    fn error(&self, expected: &str) -> impl Future<Output = Arc<SourceStatus>> {
        self.status(move |status| status.errors.iter().any(|error| error == expected))
    }

    #[track_caller]
    fn no_errors(&self) -> impl Future<Output = Arc<SourceStatus>> {
        self.status(|status| status.errors.is_empty())
    }
}

/// A directory that ends with the test.
struct TempDir {
    path: PathBuf,
}

impl TempDir {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("adit-manifests-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self { path }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _left: std::io::Result<()> = fs::remove_dir_all(&self.path);
    }
}
