//! Sees to it that a tunnel does not outlive what proved its ends, as [`adit_core::term`] decides.

use std::time::{Duration, SystemTime};

use adit_core::flow::TlsFailure;
use adit_core::identity::SpiffeId;
use adit_core::term::{Standing, Term};
use rustls::pki_types::CertificateDer;
use tokio::time::sleep;

use crate::identity::{Certificates, Proof, Role, Svid};

/// How long the ends of a tunnel's last flows may take to reach the other end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The term of one tunnel, and what it depends on.
pub(crate) struct Tenure {
    term: Term,
    local: SpiffeId,
    proof: Proof,
    certificates: Certificates,
}

impl Tenure {
    /// Begins when a handshake is done: `own` proved this end, `chain` the other.
    pub(super) fn begin(
        (certificates, grace): (&Certificates, Duration),
        own: &Svid,
        (chain, role): (&[CertificateDer<'_>], Role),
    ) -> Result<Self, TlsFailure> {
        let proof = Proof::try_new(chain, role, own.bundle())?;
        let not_after = [own.not_after(), proof.not_after()];
        let term = Term::new(certificates.now(), not_after, grace);
        let (local, certificates) = (own.identity().clone(), certificates.clone());
        Ok(Self { term, local, proof, certificates })
    }

    /// Who is at the other end.
    pub(super) const fn peer(&self) -> &SpiffeId {
        self.proof.identity()
    }

    /// Tells each change of the tunnel's standing, and completes when nothing may be left of it.
    pub(super) async fn keep(mut self, mut changed: impl FnMut(Standing)) {
        let mut renewals = self.certificates.changes();
        let mut standing = Standing::Serves;
        loop {
            renewals.mark_unchanged();
            let now = self.certificates.now();
            let trusted = self.is_trusted(now);
            let next = self.term.standing(now, trusted);
            if next > standing {
                standing = next;
                changed(next);
            }
            if matches!(standing, Standing::Ended(_)) {
                return sleep(LAST_WORDS).await;
            }
            let mut date = std::pin::pin!(sleep(self.term.holds_for(now)));
            let renewed = tokio::select! {
                () = &mut date => continue,
                renewed = renewals.changed() => renewed,
            };
            if renewed.is_err() {
                // Nothing is renewed any more: the agent ends.
                date.await;
            }
        }
    }

    /// By the roots that came with this end's present certificate; without one, as it was.
    fn is_trusted(&mut self, now: SystemTime) -> bool {
        let Some(own) = self.certificates.current(&self.local) else {
            return self.proof.is_trusted_still();
        };
        self.proof.is_trusted(own.bundle(), now)
    }
}
