//! Log lines: format, destination, and a filter that can be changed while the agent runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use tracing::Subscriber;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt};

use crate::telemetry::sink::Sink;

/// The longest filter that is accepted, in bytes.
const MAX_FILTER_LEN: usize = 1024;

/// The section `log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines are written: `level` and `target=level`, separated by commas.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, target, message, `key=value`.
    #[default]
    Text,
    /// For programs: one JSON object a line, the fields on its top level.
    Json,
}

/// The running log: its filter can be read and replaced. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogControl {
    reload: reload::Handle<EnvFilter, Registry>,
    filter: Arc<Mutex<String>>,
    sink: Option<Sink>,
}

/// Why the log could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is longer than is sensible.
    #[error("the log filter is longer than {MAX_FILTER_LEN} bytes")]
    TooLong,
    /// A part of the filter means nothing.
    #[error(
        "log filter: {0:?} is neither a level (error, warn, info, debug, trace, off) nor target=level"
    )]
    Directive(String),
    /// The thread that writes could not be started.
    #[error("start the log writer's thread")]
    Thread(#[source] std::io::Error),
    /// The process has a log already.
    #[error("the process has a log already")]
    AlreadySet,
    /// The log has ended.
    #[error("the log has ended")]
    Ended,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

/// Makes the process log to standard output.
///
/// # Errors
/// The filter is not one, or there is a log already.
pub fn init(settings: &LogSettings) -> Result<LogControl, LogError> {
    let sink = Sink::start(std::io::stdout()).map_err(LogError::Thread)?;
    let (subscriber, mut control) = build(settings, sink.clone())?;
    control.sink = Some(sink);
    subscriber
        .try_init()
        .map_err(|_already: tracing_subscriber::util::TryInitError| LogError::AlreadySet)?;
    Ok(control)
}

/// A subscriber that writes to `writer`, and its control.
///
/// # Errors
/// The filter is not one.
pub fn build<W>(
    settings: &LogSettings,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), LogError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, reload) = reload::Layer::new(parse_filter(&settings.filter)?);
    // Errors of the writer are not printed: `eprintln!` panics when stderr is closed as well.
    let lines = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    let lines = match settings.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => {
            lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    let control =
        LogControl { reload, filter: Arc::new(Mutex::new(settings.filter.clone())), sink: None };
    Ok((Registry::default().with(filter).with(lines), control))
}

impl LogControl {
    /// The filter in force.
    #[must_use]
    pub fn filter(&self) -> String {
        self.filter.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the filter.
    ///
    /// # Errors
    /// `text` is not a filter; the old one stays.
    pub fn set_filter(&self, text: &str) -> Result<(), LogError> {
        let filter = parse_filter(text)?;
        let mut current = self.filter.lock().unwrap_or_else(PoisonError::into_inner);
        self.reload.reload(filter).map_err(|_gone: reload::Error| LogError::Ended)?;
        text.clone_into(&mut current);
        Ok(())
    }

    /// Waits, for a second at most, until every line so far is written. For the end of the process.
    pub fn flush(&self) {
        if let Some(sink) = &self.sink {
            sink.flush(Duration::from_secs(1));
        }
    }
}

/// Says as an error, and without saying where to, each time that an API server cannot be reached. Discovery warns
/// of the first time, with the reason.
const TOLD_OTHERWISE: &str = "kube_client::client::builder";

/// `EnvFilter` takes any word for a target and would switch everything else off; a misspelt level
/// must not do that.
fn parse_filter(text: &str) -> Result<EnvFilter, LogError> {
    if text.len() > MAX_FILTER_LEN {
        return Err(LogError::TooLong);
    }
    for directive in text.split(',').map(str::trim) {
        let (target, level) = directive.split_once('=').unwrap_or(("all", directive));
        let is_target = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':' | b'-');
        let valid = !target.is_empty()
            && target.bytes().all(is_target)
            && !level.is_empty()
            && level.bytes().all(|b| b.is_ascii_alphabetic())
            && level.parse::<LevelFilter>().is_ok();
        if !valid {
            return Err(LogError::Directive(directive.to_owned()));
        }
    }
    // A directive that says otherwise of the same target comes later, and wins.
    EnvFilter::try_new(format!("{TOLD_OTHERWISE}=off,{text}")).map_err(
        |_not: tracing_subscriber::filter::ParseError| LogError::Directive(text.to_owned()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::access_log::tests::Capture;

    #[test]
    fn the_filter_can_be_changed_while_the_log_runs() {
        let capture = Capture::default();
        let (subscriber, control) = build(&LogSettings::default(), capture.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::debug!("unseen");
            control.set_filter("warn,adit=debug").unwrap();
            tracing::debug!(target: "adit::enrol", "seen");
            tracing::info!(target: "h2", "unseen as well");
        });
        assert_eq!(control.filter(), "warn,adit=debug");
        let text = capture.text();
        assert!(text.contains("DEBUG adit::enrol: seen"), "{text}");
        assert!(!text.contains("unseen"), "{text}");
    }

    #[test]
    fn what_is_told_otherwise_is_seen_only_if_it_is_asked_for() {
        let capture = Capture::default();
        let (subscriber, control) = build(&LogSettings::default(), capture.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: TOLD_OTHERWISE, "unseen");
            control.set_filter(&format!("info,{TOLD_OTHERWISE}=error")).unwrap();
            tracing::error!(target: TOLD_OTHERWISE, "seen");
        });
        let text = capture.text();
        assert!(text.contains("kube_client::client::builder: seen"), "{text}");
        assert!(!text.contains("unseen"), "{text}");
    }

    #[test]
    fn a_filter_that_is_none_is_named_and_the_old_one_stays() {
        let (_subscriber, control) = build(&LogSettings::default(), Capture::default()).unwrap();
        let cases = ["inof", "", "info,", "adit=loud", "=info", "a[b]=info", "4"];
        for text in cases {
            let error = control.set_filter(text).unwrap_err();
            assert!(error.to_string().contains("neither a level"), "{text}: {error}");
        }
        let long = "a".repeat(MAX_FILTER_LEN + 1);
        assert!(matches!(control.set_filter(&long), Err(LogError::TooLong)));
        assert_eq!(control.filter(), "info");
    }
}
