//! What a guest says on its console, and what follows from it.

use anyhow::{Result, bail};

/// The guest's first process prints it before the exit status of `adit doctor`.
pub(super) const DOCTOR: &str = "ADIT-DOCTOR-EXIT";
/// And this before the tests' exit status, after everything else.
pub(super) const TESTS: &str = "ADIT-TESTS-EXIT";

/// The number of tests that passed, if the guest came to its end, `adit doctor` and the test program
/// reported success, and no test was left out but those that were to be.
pub(super) fn verdict(console: &str, left_out: usize) -> Result<u64> {
    for (marker, what) in [(DOCTOR, "`adit doctor`"), (TESTS, "the tests")] {
        match lines(console).find_map(|line| line.strip_prefix(marker)).map(str::trim) {
            Some("0") => {}
            Some(status) => bail!("{what} failed, with exit status {status}"),
            None => bail!("the guest did not come to the end of {what}"),
        }
    }
    if lines(console).any(|line| line.contains("SKIPPED")) {
        bail!("a test skipped itself");
    }
    let Some(summary) = lines(console).find(|line| line.starts_with("test result: ok.")) else {
        bail!("the test program said nothing about its tests");
    };
    let count = |what: &str| {
        let words = summary.split([';', '.']).map(str::trim);
        words.filter_map(|part| part.strip_suffix(what)).find_map(|n| n.trim().parse::<u64>().ok())
    };
    match (count("passed"), count("failed"), count("ignored"), count("filtered out")) {
        (Some(passed), Some(0), Some(0), Some(filtered))
            if passed > 0 && filtered == left_out as u64 =>
        {
            Ok(passed)
        }
        _ => bail!("not every test ran: {summary}"),
    }
}

/// The end of it, for people.
pub(super) fn tail(console: &str) -> String {
    let lines: Vec<&str> = lines(console).collect();
    lines.get(lines.len().saturating_sub(60)..).unwrap_or_default().join("\n")
}

/// The console ends lines as terminals want it.
fn lines(console: &str) -> impl Iterator<Item = &str> {
    console.lines().map(|line| line.trim_end_matches('\r'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(summary: &str, status: &str) -> String {
        format!(
            "{DOCTOR} 0\r\nrunning 3 tests\r\ntest a ... ok\r\n\r\n{summary}\r\n{TESTS} {status}\r\n"
        )
    }

    const FINE: &str = "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 9s";

    #[test]
    fn all_tests_that_passed_are_a_pass() {
        assert_eq!(verdict(&said(FINE, "0"), 1).unwrap(), 30);
    }

    #[test]
    fn everything_else_is_none() {
        let cases = [
            said(FINE, "101"),
            said(FINE, ""),
            said("", "0"),
            said(&FINE.replace("30 passed", "0 passed"), "0"),
            said(&FINE.replace("0 failed", "1 failed"), "0"),
            said(&FINE.replace("0 ignored", "2 ignored"), "0"),
            said(&FINE.replace("1 filtered", "7 filtered"), "0"),
            format!("SKIPPED: needs root\r\n{}", said(FINE, "0")),
            said(FINE, "0").replace(&format!("{DOCTOR} 0"), &format!("{DOCTOR} 1")),
            said(FINE, "0").replace(DOCTOR, ""),
            FINE.to_owned(), // killed before its end
            String::new(),
        ];
        for console in cases {
            assert!(verdict(&console, 1).is_err(), "{console}");
        }
    }
}
