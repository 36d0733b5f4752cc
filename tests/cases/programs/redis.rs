//! Redis: what the server counted and kept after `redis-benchmark`.

use super::{Lane, same_as_without_adit};

const PORT: u16 = 6379;

#[test]
fn redis_with_redis_benchmark_counts_and_keeps_the_same() {
    let tools = ["redis-server", "redis-benchmark", "redis-cli"];
    same_as_without_adit("redis", &tools, PORT, work);
}

fn work(lane: &Lane<'_>) -> String {
    let options = ["--save", "", "--appendonly", "no", "--protected-mode", "no"];
    let _server = lane.serve(PORT, "redis-server", &options);
    let host = lane.address().to_string();
    let benchmark = |more: &[&str]| {
        lane.run("redis-benchmark", &[&["-h", &host, "-q"], more].concat());
    };
    let cli = |words: &[&str]| lane.run("redis-cli", &[&["-h", &host], words].concat());

    benchmark(&["-n", "5000", "-c", "50", "-t", "ping_mbulk,set,get,incr,lpush,lrange_100"]);
    benchmark(&["-n", "20000", "-c", "10", "-P", "16", "-d", "4096", "-t", "set,get"]);
    benchmark(&["-n", "500", "-c", "10", "-k", "0", "-t", "incr"]);

    let calls = cli(&["info", "commandstats"]);
    let calls = calls.lines().filter_map(|line| {
        // The benchmark asks for the configuration and may be told to reset the statistics.
        let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(':')?;
        let calls = counts.split(',').next()?;
        let failed: String = counts.split(',').filter(|count| count.contains("_calls=")).collect();
        Some(format!("{name} {calls} {failed}"))
    });
    let mut calls: Vec<String> = calls.collect();
    calls.sort_unstable();
    let kept = [
        cli(&["dbsize"]),
        cli(&["llen", "mylist"]),
        cli(&["strlen", "key:__rand_int__"]),
        cli(&["get", "counter:__rand_int__"]),
    ];
    format!("{}\n{}", calls.join("\n"), kept.concat())
}
