//! `adit log-level`.

use std::time::Duration;

use clap::Args;
use hyper::Method;

use crate::admin::view::LogLevelView;
use crate::cli::output::{Format, whole};
use crate::cli::{Context, Failed};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit log-level                          what is written now
  adit log-level debug                    everything but the finest
  adit log-level info,adit::enrol=debug   one part in detail
  adit log-level info,access=off          without a line for every flow")]
pub(super) struct LogLevelArgs {
    /// The new filter: `level` and `target=level`, separated by commas, such as
    /// `info,adit::enrol=debug,access=off`; without it the present one is shown
    filter: Option<String>,
}

pub(super) async fn run(context: &mut Context<'_>, args: LogLevelArgs) -> Result<(), Failed> {
    let path = "/v1/log-level";
    let view: LogLevelView = match args.filter {
        None => context.client.get(path).await?,
        Some(filter) => {
            let body = LogLevelView { filter };
            let limit = Duration::from_secs(30);
            context.client.send(Method::PUT, path, Some(&body), limit).await?
        }
    };
    if matches!(context.format, Format::Json | Format::Yaml) {
        return whole(context.format, context.out, &view);
    }
    writeln!(context.out, "{}", view.filter)?;
    Ok(())
}
