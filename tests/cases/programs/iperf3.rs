//! iperf3: what is sent arrives, in both directions, on one stream and on four. Not in both at once:
//! with `--bidir` the server tells its two streams apart by the order in which it accepts them, and
//! connections that a client opens one right after the other may arrive in another order.

use super::{Lane, same_as_without_adit};

const PORT: u16 = 5201;

#[test]
fn iperf3_measures_in_both_directions_without_an_error() {
    same_as_without_adit("iperf3", &["iperf3"], PORT, work);
}

fn work(lane: &Lane<'_>) -> String {
    let _server = lane.serve(PORT, "iperf3", &["--server"]);
    let host = lane.address().to_string();
    let mut seen = Vec::new();
    for direction in [&[][..], &["--reverse"]] {
        for streams in ["1", "4"] {
            let wanted = ["--client", &host, "--bytes", "64M", "--parallel", streams, "--json"];
            let report = lane.run("iperf3", &[&wanted, direction].concat());
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            let bytes = |sum: &str| report["end"][sum]["bytes"].as_u64().unwrap();
            let (sent, received) = (bytes("sum_sent"), bytes("sum_received"));
            // What is under way when the sender has sent enough is not counted, with adit or without.
            let sound = sent >= 64 << 20 && (1..=sent).contains(&received);
            assert!(sound, "{sent} sent, {received} received");
            seen.push(format!("{direction:?} {streams}: error {:?}", report.get("error")));
        }
    }
    seen.join("\n")
}
