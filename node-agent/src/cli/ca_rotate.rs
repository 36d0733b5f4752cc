//! `adit ca rotate`.

use std::path::PathBuf;
use std::time::SystemTime;

use adit_core::root_rotation::{Next, Phase};
use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::admin::view::Timestamp;
use crate::ca::kubernetes::{Report, RotateOptions, Rotation, Wish};
use crate::cli::output::{Format, whole};
use crate::cli::{Context, Failed, span};
use crate::discovery::kubernetes::{Access, own_namespace};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  kubectl -n adit-system exec deploy/adit-ca -- adit ca rotate            begin; three days later it is over
  kubectl -n adit-system exec deploy/adit-ca -- adit ca rotate --status   what it waits for, until when
  adit ca rotate --abort --kubeconfig ~/.kube/config                      while the old root still signs

The CA itself takes each step when no certificate is left that it would break: to be asked once is enough. Asking
again changes nothing.")]
pub(super) struct RotateArgs {
    /// Only show how far the rotation is, and what it waits for
    #[arg(long, conflicts_with_all = ["abort", "dry_run"])]
    status: bool,
    /// Give the rotation up: possible until the new root signs
    #[arg(long)]
    abort: bool,
    /// Say what would be asked of the CA, and ask nothing
    #[arg(long)]
    dry_run: bool,
    /// The namespace of the CA; by default the one this pod is in, or adit-system
    #[arg(long, value_parser = super::ca::label)]
    namespace: Option<String>,
    /// The Secret with its keys
    #[arg(long, default_value = "adit-ca", value_parser = super::ca::name)]
    secret: String,
    /// The ConfigMap with its roots
    #[arg(long, default_value = "adit-ca-root", value_parser = super::ca::name)]
    bundle: String,
    /// A kubeconfig, where this process is in no pod
    #[arg(long, env = "KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
}

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RotationView {
    secret: String,
    rotatable: bool,
    phase: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_step: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting_until: Option<&'static str>,
    roots: Vec<RootView>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RootView {
    fingerprint: String,
    role: &'static str,
    not_after: Timestamp,
}

pub(super) fn run(context: &mut Context<'_>, args: RotateArgs) -> Result<(), Failed> {
    let wish = match (args.status, args.abort) {
        (true, _) => Wish::Status,
        (false, true) => Wish::Abort,
        (false, false) => Wish::Begin,
    };
    let dry_run = args.dry_run;
    let rotation = Rotation::new(args.options());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("start a runtime")?;
    let (report, remark) = runtime.block_on(async {
        let remark = match (wish, dry_run) {
            (Wish::Status, _) => None,
            (_, true) => Some(would(wish, rotation.would(wish).await?)),
            (_, false) => ask(&rotation, wish).await?,
        };
        // The phase may have begun after this command.
        Ok::<_, anyhow::Error>((rotation.report(SystemTime::now()).await?, remark))
    })?;
    if let Some(remark) = remark {
        writeln!(context.remarks, "{remark}")?;
    }
    print(context, &report)
}

const fn would(wish: Wish, changes: bool) -> &'static str {
    match (wish, changes) {
        (Wish::Abort, true) => "Dry run: the CA would be asked to give the rotation up.",
        (_, true) => "Dry run: the CA would be asked to begin a rotation.",
        (_, false) => "Dry run: that was asked already.",
    }
}

async fn ask(rotation: &Rotation, wish: Wish) -> anyhow::Result<Option<&'static str>> {
    if !rotation.ask(wish).await? {
        return Ok(Some("That was asked already."));
    }
    let taken_up = rotation.taken_up().await?;
    Ok((!taken_up).then_some(
        "No CA has taken it up yet. It will, when one of this version runs: look at its pods.",
    ))
}

impl RotateArgs {
    fn options(self) -> RotateOptions {
        let Self { namespace, secret, bundle, kubeconfig, .. } = self;
        let namespace = namespace.or_else(|| own_namespace().ok());
        let namespace = namespace.unwrap_or_else(|| "adit-system".to_owned());
        RotateOptions { access: Access { kubeconfig }, namespace, secret, bundle }
    }
}

fn print(context: &mut Context<'_>, report: &Report) -> Result<(), Failed> {
    let view = RotationView::of(report);
    if matches!(context.format, Format::Json | Format::Yaml) {
        return whole(context.format, context.out, &view);
    }
    let now = context.now;
    let phase = match report.phase.since() {
        Some(since) => format!("{}, for {}", view.phase, span::age(now, since)),
        None => view.phase.to_owned(),
    };
    let kept_by = if report.ours { "" } else { ", whose root is rotated by whoever made it" };
    writeln!(context.out, "Secret  {}{kept_by}", view.secret)?;
    writeln!(context.out, "Phase   {phase}")?;
    match report.next {
        Next::Nothing => {}
        Next::Do(step) => writeln!(context.out, "Next    {}", step.as_text())?,
        Next::Wait { step, until, awaited } => {
            writeln!(context.out, "Next    in {}: {}", span::until(now, until), step.as_text())?;
            writeln!(context.out, "Waits   until {}", awaited.as_text())?;
        }
    }
    let whole = context.format == Format::Wide;
    for (number, root) in view.roots.iter().enumerate() {
        let head = if number == 0 { "Roots " } else { "      " };
        // Enough to tell them apart.
        let shown = if whole { 64 } else { 16 };
        let print = root.fingerprint.get(..shown).unwrap_or(&root.fingerprint);
        let left = span::until(now, root.not_after.0);
        writeln!(context.out, "{head}  {print}  {}, ends in {left}", root.role)?;
    }
    Ok(())
}

impl RotationView {
    fn of(report: &Report) -> Self {
        let (next_step, not_before, waiting_until) = match report.next {
            Next::Nothing => (None, None, None),
            Next::Do(step) => (Some(step.as_text()), None, None),
            Next::Wait { step, until, awaited } => {
                (Some(step.as_text()), Some(until.into()), Some(awaited.as_text()))
            }
        };
        let roots = report.roots.iter().map(|root| RootView {
            fingerprint: root.fingerprint.clone(),
            role: match (report.phase, root.new) {
                (Phase::Idle | Phase::Requested, _) => "trusted",
                (Phase::Signing { .. }, true) => "new, signs",
                (Phase::Distributing { .. } | Phase::Aborting, true) => "new",
                (Phase::Signing { .. }, false) => "old",
                (Phase::Distributing { .. } | Phase::Aborting, false) => "old, signs",
            },
            not_after: root.not_after.into(),
        });
        Self {
            secret: report.secret.clone(),
            rotatable: report.ours,
            phase: report.phase.as_label(),
            since: report.phase.since().map(Timestamp::from),
            next_step,
            not_before,
            waiting_until,
            roots: roots.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use adit_core::root_rotation::{Lives, next};

    use super::*;
    use crate::ca::kubernetes::Published;
    use crate::cli::client::Client;
    use crate::cli::golden;
    use crate::observer::samples;

    #[test]
    fn a_rotation_prints_in_every_format() {
        let begun = samples::noon();
        let cases = [
            ("idle", Phase::Idle),
            ("distributing", Phase::Distributing { since: begun }),
            ("signing", Phase::Signing { since: begun }),
        ];
        for (name, phase) in cases {
            for (ending, format) in [
                ("table", Format::Table),
                ("wide", Format::Wide),
                ("json", Format::Json),
                ("yaml", Format::Yaml),
            ] {
                if name == "distributing" || format == Format::Table {
                    golden::check(
                        &format!("cli/ca-rotate-{name}.{ending}"),
                        &printed(phase, format),
                    );
                }
            }
        }
    }

    fn printed(phase: Phase, format: Format) -> String {
        let (begun, now) = (samples::noon(), samples::noon() + Duration::from_secs(303));
        let day = Duration::from_secs(24 * 3600);
        let lives = Lives { certificate: day, tunnel: day, signer: None };
        let root = |digit: &str, new| Published {
            fingerprint: digit.repeat(64),
            not_after: begun + Duration::from_secs(3650 * 24 * 3600),
            new,
        };
        let mut roots = vec![root("a", false), root("b", true)];
        roots.truncate(if phase == Phase::Idle { 1 } else { 2 });
        let (secret, next) = ("adit-system/adit-ca".to_owned(), next(phase, lives, now));
        let report = Report { secret, ours: phase != Phase::Idle, phase, next, roots };
        let (mut out, mut remarks) = (Vec::new(), Vec::new());
        let client = Client::new(PathBuf::new());
        let (out_, remarks_) = (&mut out, &mut remarks);
        let mut context =
            Context { client, format, headers: true, now, out: out_, remarks: remarks_ };
        print(&mut context, &report).unwrap();
        String::from_utf8(out).unwrap()
    }
}
