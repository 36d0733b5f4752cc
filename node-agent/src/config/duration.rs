//! Durations as people write them.

use std::time::Duration;

/// `250ms`, `10s`, `5m`, `24h`: a whole number and one unit.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(milliseconds)?))
}

/// The largest unit that the duration is a whole number of.
pub(super) fn show(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    for (factor, unit) in [(3_600_000, "h"), (60_000, "m"), (1000, "s")] {
        if milliseconds > 0 && milliseconds.is_multiple_of(factor) {
            return format!("{}{unit}", milliseconds / factor);
        }
    }
    format!("{milliseconds}ms")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_number_and_one_unit() {
        let cases = [
            ("250ms", Some(250)),
            ("10s", Some(10_000)),
            ("5m", Some(300_000)),
            ("24h", Some(86_400_000)),
            ("0s", Some(0)),
            ("", None),
            ("10", None),
            ("s", None),
            ("-1s", None),
            ("+1s", None),
            ("1.5s", None),
            ("1h30m", None),
            ("1 s", None),
            ("1S", None),
            ("1d", None),
            ("99999999999999999999s", None),
            ("18446744073709551615h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn shows_what_it_would_read() {
        for text in ["250ms", "10s", "90s", "5m", "24h", "0ms"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
    }
}
