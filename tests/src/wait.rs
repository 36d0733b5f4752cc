//! Waiting for something to become true, with a limit and a message instead of a fixed sleep.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(20);

/// Long enough for anything that is expected to happen at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(15);

/// Asks `probe` until it answers, and returns the answer.
///
/// # Errors
/// `what` did not happen within `limit`.
pub fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = probe();
        if let Ok(Some(found)) = answer {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            match answer {
                Ok(_) => bail!("waited {limit:?} in vain for: {what}"),
                Err(error) => {
                    return Err(error.context(format!("waited {limit:?} in vain for: {what}")));
                }
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Asks `probe` until it says yes.
///
/// # Errors
/// `what` did not become true within `limit`.
pub fn wait_until(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(probe().then_some(())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_in_vain_says_what_it_waited_for() {
        let error = wait_until("the sun to rise", Duration::from_millis(1), || false);
        assert!(format!("{:#}", error.unwrap_err()).contains("the sun to rise"));
    }

    #[test]
    fn the_last_error_of_the_probe_is_kept() {
        let error = wait_for("an answer", Duration::from_millis(1), || -> Result<Option<()>> {
            bail!("no such file")
        });
        assert!(format!("{:#}", error.unwrap_err()).contains("no such file"));
    }
}
