//! `adit certs`.

use std::time::SystemTime;

use crate::admin::view::CertificateView;
use crate::cli::output::{self, Table, or_dash};
use crate::cli::{Context, Failed, span};

pub(super) async fn run(context: &mut Context<'_>) -> Result<(), Failed> {
    let list: Vec<CertificateView> = context.client.get("/v1/certs").await?;
    let now = context.now;
    output::list(context, "certificates", &list, |wide| table(&list, wide, now))
}

fn table(list: &[CertificateView], wide: bool, now: SystemTime) -> Table {
    let mut headers = vec!["IDENTITY", "STATE", "EXPIRES IN", "RENEWED", "NEXT IN", "ERROR"];
    if wide {
        headers.extend(["SERIAL", "NOT BEFORE", "NOT AFTER"]);
    }
    let mut table = Table::new(&headers);
    for certificate in list {
        let in_time = |time| {
            or_dash(Option::map(time, |at: crate::admin::view::Timestamp| span::until(now, at.0)))
        };
        let mut row = vec![
            certificate.identity.clone(),
            certificate.state.clone(),
            in_time(certificate.not_after),
            certificate.renewals.to_string(),
            in_time(certificate.next_attempt),
            or_dash(certificate.last_error.as_ref()),
        ];
        if wide {
            row.push(or_dash(certificate.serial.as_ref()));
            row.push(or_dash(certificate.not_before));
            row.push(or_dash(certificate.not_after));
        }
        table.push(row);
    }
    table
}
