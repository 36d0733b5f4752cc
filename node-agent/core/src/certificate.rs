//! Why there is no certificate: one reason for certificates, flows and metrics.

/// Why there is no valid certificate for an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoCertificate {
    /// The CA has not answered yet.
    Awaited,
    /// The one there was has expired by this node's clock, and the CA has not answered yet.
    Expired,
    /// By this node's clock the one there is is not valid yet: the clock was set back.
    NotYetValid,
    /// No connection to the CA.
    Unreachable,
    /// The CA did not answer in time.
    TimedOut,
    /// The CA does not accept this node's token.
    Unauthenticated,
    /// The CA does not give this node that identity.
    PermissionDenied,
    /// The CA answered with another error.
    Failed,
    /// The CA's answer cannot be used.
    BadAnswer,
    /// The CA's answer is not valid at this time: its clock or this node's is wrong.
    NotValidNow,
    /// The root or an intermediate that the CA's answer chains to has expired.
    CaExpired,
    /// A file of this node is missing or wrong, or a request failed inside the agent.
    Local,
}

impl NoCertificate {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Awaited => "awaited",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::Failed => "failed",
            Self::BadAnswer => "bad_answer",
            Self::NotValidNow => "not_valid_now",
            Self::CaExpired => "ca_expired",
            Self::Local => "local",
        }
    }

    /// What somebody should do about it.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::Awaited | Self::Expired => {
                "right after a start or a change of the clock this ends by itself"
            }
            Self::NotYetValid => "set this node's clock right",
            Self::Unreachable | Self::TimedOut => {
                "is the CA up, and can this node reach it at identity.ca.address?"
            }
            Self::Unauthenticated => "give this node a token that the CA knows (identity.ca.token)",
            Self::PermissionDenied => {
                "does the CA see a pod with this service account on this node?"
            }
            Self::Failed => "look at the CA's log",
            Self::BadAnswer => "do identity.ca.address and identity.ca.root belong to one CA?",
            Self::NotValidNow => "compare the clocks of this node and the CA",
            Self::CaExpired => "renew the certificates of the CA",
            Self::Local => "correct what it names on this node",
        }
    }
}
