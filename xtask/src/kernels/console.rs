//! What a guest says on its console, and what follows from it.

use anyhow::{Result, bail};

/// The guest's first process prints it before the exit status of `adit doctor`.
pub(super) const DOCTOR: &str = "ADIT-DOCTOR-EXIT";
/// This before the exit status of the datapath's tests.
pub(super) const TESTS: &str = "ADIT-TESTS-EXIT";
/// And this before that of the end-to-end cases, after everything else.
pub(super) const CASES: &str = "ADIT-CASES-EXIT";

/// The number of tests and cases that passed, if the guest came to its end, `adit doctor` and the test
/// programs reported success, no test was left out but those that were to be, and all `cases` ran.
pub(super) fn verdict(console: &str, left_out: usize, cases: usize) -> Result<u64> {
    let all = [(DOCTOR, "`adit doctor`"), (TESTS, "the tests"), (CASES, "the cases")];
    for (marker, what) in all {
        match lines(console).find_map(|line| line.strip_prefix(marker)).map(str::trim) {
            Some("0") => {}
            Some(status) => bail!("{what} failed, with exit status {status}"),
            None => bail!("the guest did not come to the end of {what}"),
        }
    }
    if lines(console).any(|line| line.contains("SKIPPED")) {
        bail!("a test skipped itself");
    }
    let mut summaries = lines(console).filter(|line| line.starts_with("test result: ok."));
    let (Some(tests), Some(of_cases)) = (summaries.next(), summaries.next()) else {
        bail!("a test program said nothing about its tests");
    };
    match (counts(tests), counts(of_cases)) {
        (Some((passed, filtered)), Some((cases_passed, _others)))
            if passed > 0 && filtered == left_out as u64 && cases_passed == cases as u64 =>
        {
            Ok(passed + cases_passed)
        }
        _ => bail!("not every test ran: {tests} {of_cases}"),
    }
}

/// How many passed and how many were left out, if none failed or was ignored.
fn counts(summary: &str) -> Option<(u64, u64)> {
    let count = |what: &str| {
        let words = summary.split([';', '.']).map(str::trim);
        words.filter_map(|part| part.strip_suffix(what)).find_map(|n| n.trim().parse::<u64>().ok())
    };
    match (count("passed"), count("failed"), count("ignored"), count("filtered out")) {
        (Some(passed), Some(0), Some(0), Some(filtered)) => Some((passed, filtered)),
        _ => None,
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
            "{DOCTOR} 0\r\nrunning 3 tests\r\ntest a ... ok\r\n\r\n{summary}\r\n{TESTS} {status}\r\n\
             {CASES_FINE}\r\n{CASES} 0\r\n"
        )
    }

    const FINE: &str = "test result: ok. 30 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out; finished in 9s";

    const CASES_FINE: &str = "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 90 filtered out; finished in 9s";

    #[test]
    fn all_tests_that_passed_are_a_pass() {
        assert_eq!(verdict(&said(FINE, "0"), 1, 7).unwrap(), 37);
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
            said(FINE, "0").replace(&format!("{CASES} 0"), &format!("{CASES} 101")),
            said(FINE, "0").replace("7 passed", "6 passed"),
            said(FINE, "0").replace(CASES_FINE, ""),
            FINE.to_owned(), // killed before its end
            String::new(),
        ];
        for console in cases {
            assert!(verdict(&console, 1, 7).is_err(), "{console}");
        }
    }
}
