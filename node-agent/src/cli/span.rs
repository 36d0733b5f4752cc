//! Durations and sizes, as people write and read them.

use std::time::{Duration, SystemTime};

/// Reads `250ms`, `10s`, `5m`, `24h` or `365d`.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is no duration; write 250ms, 10s, 5m, 24h or 365d");
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(error)?;
    let number: u64 = number.parse().map_err(|_not: std::num::ParseIntError| error())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(error()),
    };
    let total = number.checked_mul(milliseconds).ok_or_else(error)?;
    Ok(Duration::from_millis(total))
}

/// A duration in at most two units: `250ms`, `1.5s`, `45s`, `5m3s`, `3h5m`, `2d3h`.
pub(super) fn short(duration: Duration) -> String {
    let (seconds, milliseconds) = (duration.as_secs(), duration.subsec_millis());
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0 => format!("{milliseconds}ms"),
        1..10 if milliseconds >= 100 => format!("{seconds}.{}s", milliseconds / 100),
        1..60 => format!("{seconds}s"),
        60..3600 => two(minutes, "m", seconds % 60, "s"),
        3600..86400 => two(hours, "h", minutes % 60, "m"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// How long ago; whole seconds. What lies ahead, because clocks differ, is `0s`.
pub(super) fn age(now: SystemTime, then: SystemTime) -> String {
    let age = now.duration_since(then).unwrap_or_default();
    whole(age)
}

/// How long until then, or `-` and how long ago.
pub(super) fn until(now: SystemTime, then: SystemTime) -> String {
    match then.duration_since(now) {
        Ok(left) => whole(left),
        Err(past) => format!("-{}", whole(past.duration())),
    }
}

fn whole(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds => short(Duration::from_secs(seconds)),
    }
}

/// A number of bytes in the largest binary unit that leaves a digit before the point.
pub(super) fn bytes(count: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count}B");
    }
    let mut tenths = u128::from(count) * 10;
    let mut unit = "B";
    for next in units {
        if tenths < 10 * 1024 {
            break;
        }
        tenths /= 1024;
        unit = next;
    }
    if tenths < 100 {
        format!("{}.{}{unit}", tenths / 10, tenths % 10)
    } else {
        format!("{}{unit}", tenths / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_durations_and_names_what_is_none() {
        let cases = [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("1d", 86_400_000)];
        for (text, milliseconds) in cases {
            assert_eq!(parse(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in [
            "",
            "10",
            "s",
            "-1s",
            "1.5s",
            "10 s",
            "1w",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(parse(text).unwrap_err().contains(&format!("{text:?}")));
        }
    }

    #[test]
    fn prints_durations_in_at_most_two_units() {
        let cases = [
            (0, "0ms"),
            (250, "250ms"),
            (1_507, "1.5s"),
            (2_000, "2s"),
            (45_999, "45s"),
            (60_000, "1m"),
            (303_000, "5m3s"),
            (3_725_000, "1h2m"),
            (183_600_000, "2d3h"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(short(Duration::from_millis(milliseconds)), text);
        }
    }

    #[test]
    fn prints_sizes_in_binary_units() {
        let cases = [
            (0, "0B"),
            (1023, "1023B"),
            (1024, "1.0KiB"),
            (48_213, "47KiB"),
            (5_000_000_000, "4.6GiB"),
            (u64::MAX, "15EiB"),
        ];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
    }
}
