//! `adit drain`.

use std::time::Duration;

use clap::Args;
use hyper::Method;

use crate::admin::view::DrainView;
use crate::cli::client::query;
use crate::cli::output::{Format, whole};
use crate::cli::{Context, Failed, span};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  adit drain                    then the process ends; its pods stay captured
  adit drain --deadline 5m")]
pub(super) struct DrainArgs {
    /// How long open flows are given to end
    #[arg(long, default_value = "30s", value_parser = span::parse)]
    deadline: Duration,
}

pub(super) async fn run(context: &mut Context<'_>, args: DrainArgs) -> Result<(), Failed> {
    let deadline = args.deadline.as_millis().to_string();
    let path = query("/v1/drain", &[("deadlineMs", deadline)]);
    // The answer comes when the drain is over.
    let limit = args.deadline + Duration::from_secs(30);
    let view: DrainView = context.client.send(Method::POST, &path, None::<&()>, limit).await?;
    if matches!(context.format, Format::Json | Format::Yaml) {
        return whole(context.format, context.out, &view);
    }
    match view.cut {
        0 => writeln!(context.out, "drained: every flow ended by itself")?,
        cut => writeln!(
            context.out,
            "drained: {cut} flows were cut when {} had passed",
            span::short(args.deadline)
        )?,
    }
    Ok(())
}
