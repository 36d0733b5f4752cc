//! PostgreSQL: server-side state after `pgbench`, and a bulk copy out.

use super::{Lane, as_nobody, output, same_as_without_adit, server_program};

const PORT: u16 = 5432;

#[test]
fn postgresql_with_pgbench_ends_in_the_same_state() {
    let tools = ["initdb", "postgres", "psql", "pgbench"];
    same_as_without_adit("postgresql", &tools, PORT, work);
}

fn work(lane: &Lane<'_>) -> String {
    let data = lane.path("data").display().to_string();
    let mut init = as_nobody(lane.server, &server_program("initdb"));
    init.args(["--no-sync", "--auth=trust", "--username=postgres", "--encoding=UTF8"]);
    output(init.args(["--locale=C", "--pgdata", &data]).current_dir(&lane.directory));
    let sockets = format!("unix_socket_directories={}", lane.directory.display());
    lane.write("data/pg_hba.conf", "host all all 0.0.0.0/0 trust\n");
    let _server = lane.serve(
        PORT,
        &server_program("postgres"),
        &["-D", &data, "-c", "listen_addresses=*", "-c", &sockets, "-c", "fsync=off"],
    );
    let host = lane.address().to_string();
    let to = ["-h", &host, "-U", "postgres"];
    let pgbench = |more: &[&str]| lane.run("pgbench", &[&to, more, &["postgres"]].concat());
    let psql = |query| lane.run("psql", &[&to[..], &["-XAtc", query, "postgres"]].concat());

    pgbench(&["--initialize", "--quiet", "--scale=1"]);
    // What the transactions add up to does not depend on their order.
    let report = pgbench(&["--random-seed=7", "--client=8", "--jobs=2", "--transactions=40"]);
    let connects = pgbench(&["--connect", "--select-only", "--client=4", "--transactions=25"]);
    let counted = |report: &str| {
        let wanted = |line: &&str| line.contains("actually processed") || line.contains("failed");
        report.lines().filter(wanted).collect::<Vec<_>>().join("\n")
    };
    let sums = psql(
        "select sum(abalance), md5(string_agg(aid || ':' || abalance, ',' order by aid)) \
         from pgbench_accounts",
    );
    let rows = psql("select aid, bid, abalance from pgbench_accounts order by aid");
    format!("{}\n{}\n{sums}\n{rows}", counted(&report), counted(&connects))
}
