//! nginx: `wrk` without an error, with connections that are kept and with one for each request, and
//! a file that arrives whole.

use super::{Lane, noise, same_as_without_adit, sha256};

const PORT: u16 = 8080;

#[test]
fn nginx_with_wrk_serves_without_an_error_and_files_arrive_whole() {
    same_as_without_adit("nginx", &["nginx", "wrk", "curl"], PORT, work);
}

fn work(lane: &Lane<'_>) -> String {
    lane.write("small", "hello\n");
    lane.write("large", noise(4 << 20));
    let root = lane.directory.display();
    let configuration = format!(
        "daemon off; master_process off; pid {root}/pid; error_log stderr;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {root}/body; proxy_temp_path {root}/proxy;
  fastcgi_temp_path {root}/fastcgi; uwsgi_temp_path {root}/uwsgi; scgi_temp_path {root}/scgi;
  server {{ listen {PORT} backlog=1024; root {root}; }}
}}
"
    );
    let file = lane.write("nginx.conf", configuration).display().to_string();
    let _server = lane.serve(PORT, "nginx", &["-e", "stderr", "-c", &file]);
    let url = |name: &str| format!("http://{}:{PORT}/{name}", lane.address());

    let mut seen = Vec::new();
    for (name, header) in [
        ("small", "Connection: keep-alive"),
        ("small", "Connection: close"),
        ("large", "Connection: keep-alive"),
    ] {
        let arguments = ["-t2", "-c32", "-d1s", "--timeout", "10s", "-H", header, &url(name)];
        let report = lane.run("wrk", &arguments);
        assert!(!report.contains("\n  0 requests in"), "{report}");
        // wrk prints these lines only where there is something to tell.
        let bad = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
        let bad: Vec<&str> = report.lines().filter(bad).collect();
        seen.push(format!("{name}, {header}: {bad:?}"));
    }
    lane.run("curl", &["--silent", "--fail", "--output", "fetched", &url("large")]);
    assert_eq!(sha256(&lane.path("fetched")), sha256(&lane.path("large")));
    seen.join("\n")
}
