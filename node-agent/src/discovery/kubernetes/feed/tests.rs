//! A feed against a server that does what a real API server rarely can be made to do.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::*;

#[test]
fn pauses_double_from_half_a_second_to_ten_seconds_and_are_jittered() {
    let range = |attempt| (pause(attempt, 0).as_millis(), pause(attempt, 100).as_millis());
    assert_eq!(range(0), (250, 500));
    assert_eq!(range(1), (500, 1000));
    assert_eq!(range(5), (5_000, 10_000));
    assert_eq!(range(u32::MAX), (5_000, 10_000));
}

#[tokio::test]
async fn a_list_is_streamed_and_the_watch_goes_on_where_it_ended() {
    let mut server = Server::start([
        Answer::lines([added("a", 5), added("b", 7), bookmark(9, true), added("c", 11)]),
        Answer::lines([deleted("a", 12), bookmark(20, false)]),
        Answer::lines([added("d", 21)]),
    ])
    .await;
    let first = server.request().await;
    assert!(
        first.contains("sendInitialEvents=true") && first.contains("resourceVersion=&")
            || first.ends_with("resourceVersion="),
        "{first}"
    );
    assert!(first.contains("allowWatchBookmarks=true"), "{first}");
    server.hears([LISTING, "a", "b", LISTED, CURRENT, "c"]).await;
    assert!(server.request().await.contains("resourceVersion=11"));
    server.hears([CURRENT, "-a", CURRENT]).await;
    assert!(server.request().await.contains("resourceVersion=20"));
    server.hears([CURRENT, "d"]).await;
}

#[tokio::test]
async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let refusal = r#"{"kind":"Status","code":422,"reason":"Invalid","message":"ListOptions is invalid: sendInitialEvents: Forbidden"}"#;
    let mut server = Server::start([
        Answer::new("422 Unprocessable Entity", refusal),
        Answer::new("200 OK", &page(&["a", "b"], Some("next-page"), "8")),
        Answer::new("200 OK", &page(&["c"], None, "8")),
        Answer::lines([added("d", 9)]),
    ])
    .await;
    server.request().await;
    assert!(server.request().await.contains("limit=500"));
    assert!(server.request().await.contains("continue=next-page"));
    let watch = server.request().await;
    assert!(watch.contains("resourceVersion=8") && !watch.contains("sendInitial"), "{watch}");
    server.hears([LISTING, "a", "b", "c", LISTED, CURRENT, "d"]).await;
}

#[tokio::test]
async fn a_place_that_the_server_has_forgotten_leads_to_a_new_list() {
    let gone = r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old resource version"}}"#;
    let mut server = Server::start([
        Answer::lines([added("a", 5), bookmark(5, true)]),
        Answer::lines([gone.to_owned()]),
        Answer::lines([added("b", 50), bookmark(50, true)]),
    ])
    .await;
    server.hears([LISTING, "a", LISTED, CURRENT, CURRENT, LISTING, "b", LISTED, CURRENT]).await;
    server.request().await;
    assert!(server.request().await.contains("resourceVersion=5"));
    assert!(server.request().await.contains("sendInitialEvents=true"));
}

#[tokio::test]
async fn a_list_that_breaks_off_is_begun_again_and_never_resumed_in_the_middle() {
    let mut server = Server::start([
        Answer::cut([added("a", 5)]),
        Answer::lines([added("a", 5), bookmark(6, true)]),
    ])
    .await;
    server.hears([LISTING, "a"]).await;
    server.hears_at_last([LISTING, "a", LISTED, CURRENT]).await;
    server.request().await;
    assert!(server.request().await.contains("sendInitialEvents=true"));
}

#[tokio::test]
async fn what_is_no_json_is_told_and_tried_again() {
    let mut server = Server::start([
        Answer::lines(["{\"type\": \"ADDED\", \"object\": nonsense}".to_owned()]),
        Answer::lines([added("a", 5), bookmark(6, true)]),
    ])
    .await;
    server.hears([LISTING]).await;
    assert!(server.failing().await.contains("expected ident"), "what serde says");
    server.hears([LISTING, "a", LISTED, CURRENT]).await;
}

#[tokio::test]
async fn a_refusal_is_told_in_the_server_s_words() {
    let refusal = r#"{"kind":"Status","code":403,"reason":"Forbidden","message":"pods is forbidden: User \"system:serviceaccount:x:y\" cannot list resource"}"#;
    let mut server =
        Server::start([Answer::new("403 Forbidden", refusal), Answer::lines([bookmark(6, true)])])
            .await;
    let told = server.failing().await;
    assert!(told.starts_with("403 Forbidden: pods is forbidden: User"), "{told}");
    server.hears([LISTING, LISTED, CURRENT]).await;
}

#[tokio::test]
async fn ten_megabytes_in_small_pieces_arrive_whole() {
    let objects = (0..2000).map(|i| {
        let pad = "x".repeat(5000);
        event("ADDED", &format!("p{i}"), i, &json!({"pad": pad}))
    });
    let lines: Vec<String> = objects.chain([bookmark(3000, true)]).collect();
    assert!(lines.iter().map(String::len).sum::<usize>() > 10_000_000);
    let mut server = Server::start([Answer::in_pieces(lines)]).await;
    server.hears([LISTING]).await;
    for i in 0..2000 {
        assert_eq!(server.next().await, format!("p{i}"));
    }
    server.hears([LISTED, CURRENT]).await;
}

#[tokio::test]
async fn a_kind_without_a_definition_is_looked_for_in_every_version() {
    let missing = r#"{"kind":"Status","code":404,"reason":"NotFound","message":"no"}"#;
    let answers = [Answer::new("404 Not Found", missing), Answer::new("404 Not Found", missing)];
    let mut server = Server::with(Kind::PeerAuthentication, answers).await;
    assert!(server.request().await.contains("/security.istio.io/v1/peerauth"));
    assert!(server.request().await.contains("/security.istio.io/v1beta1/peerauth"));
    server.hears([ABSENT_KIND]).await;
}

#[tokio::test]
async fn a_feed_that_waits_asks_at_once_when_another_one_is_answered() {
    let answers = [Answer::new("503 Unavailable", "away"), Answer::lines([bookmark(6, true)])];
    // After so many failures it would wait for five seconds at least.
    let mut server = Server::after(5, Kind::Pod, answers).await;
    server.request().await;
    server.failing().await;
    let asked = async {
        loop {
            server.back.notify_waiters();
            tokio::select! {
                asked = server.requests.recv() => return asked,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
    };
    let asked = tokio::time::timeout(Duration::from_secs(4), asked).await;
    assert!(asked.is_ok(), "it was not woken");
}

#[tokio::test]
async fn a_feed_that_is_answered_after_a_failure_wakes_the_others() {
    let answers = [Answer::new("503 Unavailable", "away"), Answer::lines([bookmark(6, true)])];
    let server = Server::start(answers).await;
    let back = Arc::clone(&server.back);
    assert!(tokio::time::timeout(Duration::from_secs(10), back.notified()).await.is_ok());
}

const LISTING: &str = "listing";
const LISTED: &str = "listed";
const CURRENT: &str = "current";
const ABSENT_KIND: &str = "absent";

struct Server {
    back: Arc<Notify>,
    news: mpsc::Receiver<(Kind, News)>,
    requests: mpsc::UnboundedReceiver<String>,
    kubeconfig: PathBuf,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// How to answer one request; after the last answer the server keeps silent.
struct Answer {
    status: String,
    body: Vec<u8>,
    piece: usize,
    /// Ends without the end of the chunked body.
    cut: bool,
}

impl Answer {
    fn new(status: &str, body: &str) -> Self {
        let body = body.as_bytes().to_vec();
        Self { status: status.to_owned(), piece: body.len().max(1), body, cut: false }
    }

    fn lines(lines: impl IntoIterator<Item = String>) -> Self {
        let body: String = lines.into_iter().map(|line| line + "\n").collect();
        Self::new("200 OK", &body)
    }

    fn cut(lines: impl IntoIterator<Item = String>) -> Self {
        Self { cut: true, ..Self::lines(lines) }
    }

    fn in_pieces(lines: impl IntoIterator<Item = String>) -> Self {
        Self { piece: 7919, ..Self::lines(lines) }
    }

    async fn send(self, stream: &mut TcpStream) -> std::io::Result<()> {
        let head = format!(
            "HTTP/1.1 {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\
             connection: close\r\n\r\n",
            self.status
        );
        stream.write_all(head.as_bytes()).await?;
        for piece in self.body.chunks(self.piece) {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
        }
        if !self.cut {
            stream.write_all(b"0\r\n\r\n").await?;
        }
        stream.shutdown().await
    }
}

impl Server {
    async fn start(answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::with(Kind::Pod, answers).await
    }

    async fn with(kind: Kind, answers: impl IntoIterator<Item = Answer>) -> Self {
        Self::after(0, kind, answers).await
    }

    /// For a feed that has failed so many times.
    async fn after(attempts: u32, kind: Kind, answers: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers: Mutex<VecDeque<Answer>> = Mutex::new(answers.into_iter().collect());
        let (told, requests) = mpsc::unbounded_channel();
        let serving = tokio::spawn(serve(listener, Arc::new(answers), told));
        let name = format!("adit-kubeconfig-{:x}", rand::random::<u64>());
        let kubeconfig = std::env::temp_dir().join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\n\
             users: [{{name: u, user: {{}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        );
        std::fs::write(&kubeconfig, text).unwrap();
        let access = Access { kubeconfig: Some(kubeconfig.clone()) };
        let (sender, news) = mpsc::channel(4096);
        let back = Arc::new(Notify::new());
        let mut feed = Feed::new(Resource::of(kind), access, sender, Arc::clone(&back));
        feed.attempt = attempts;
        let tasks = vec![serving, tokio::spawn(feed.run())];
        Self { back, news, requests, kubeconfig, tasks }
    }

    /// The path and query of the next request.
    async fn request(&mut self) -> String {
        self.requests.recv().await.unwrap()
    }

    async fn next(&mut self) -> String {
        let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
        match self.news.recv().await.unwrap().1 {
            News::Listing => LISTING.to_owned(),
            News::Object(object) => name(&object),
            News::Gone(object) => format!("-{}", name(&object)),
            News::Listed => LISTED.to_owned(),
            News::Current => CURRENT.to_owned(),
            News::Absent => ABSENT_KIND.to_owned(),
            News::Failing(why) => format!("failing: {why}"),
        }
    }

    async fn hears<const N: usize>(&mut self, expected: [&str; N]) {
        for (at, expected) in expected.into_iter().enumerate() {
            assert_eq!(self.next().await, expected, "number {at}");
        }
    }

    /// The same, after what went wrong was told or not.
    async fn hears_at_last<const N: usize>(&mut self, expected: [&str; N]) {
        let mut expected = expected.into_iter();
        let first = self.next().await;
        if !first.starts_with("failing: ") {
            assert_eq!(Some(first.as_str()), expected.next());
        }
        for expected in expected {
            assert_eq!(self.next().await, expected);
        }
    }

    async fn failing(&mut self) -> String {
        let news = self.next().await;
        news.strip_prefix("failing: ").unwrap_or_else(|| panic!("{news}")).to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        let _gone: std::io::Result<()> = std::fs::remove_file(&self.kubeconfig);
    }
}

async fn serve(
    listener: TcpListener,
    answers: Arc<Mutex<VecDeque<Answer>>>,
    told: mpsc::UnboundedSender<String>,
) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (answers, told) = (Arc::clone(&answers), told.clone());
        tokio::spawn(async move {
            let mut head = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|window| window == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(read) => head.extend_from_slice(&buffer[..read]),
                }
            }
            let head = String::from_utf8(head).unwrap();
            let answer = answers.lock().unwrap().pop_front();
            let Some(answer) = answer else {
                // Silence, for as long as the client likes.
                let _closed = stream.read(&mut buffer).await;
                return;
            };
            told.send(head.split(' ').nth(1).unwrap().to_owned()).ok();
            // The client may have gone.
            let _sent: std::io::Result<()> = answer.send(&mut stream).await;
        });
    }
}

fn added(name: &str, version: u32) -> String {
    event("ADDED", name, version, &Value::Null)
}

fn deleted(name: &str, version: u32) -> String {
    event("DELETED", name, version, &Value::Null)
}

fn event(event: &str, name: &str, version: u32, spec: &Value) -> String {
    let metadata = json!({"name": name, "resourceVersion": version.to_string()});
    json!({"type": event, "object": {"metadata": metadata, "spec": spec}}).to_string()
}

fn bookmark(version: u32, end: bool) -> String {
    let mut metadata = json!({"resourceVersion": version.to_string()});
    if end {
        metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
    }
    let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": metadata});
    json!({"type": "BOOKMARK", "object": object}).to_string()
}

fn page(names: &[&str], next: Option<&str>, version: &str) -> String {
    let items: Vec<Value> = names.iter().map(|name| json!({"metadata": {"name": name}})).collect();
    let metadata = json!({"resourceVersion": version, "continue": next.unwrap_or_default()});
    json!({"metadata": metadata, "items": items}).to_string()
}
