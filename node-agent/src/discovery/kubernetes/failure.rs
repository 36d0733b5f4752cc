//! What went wrong with a request to the API server, by what is to be done about it.

use kube::core::Status;

/// Why a list or a watch ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The server does not know the place in the history any more: list again.
    Gone,
    /// The server does not stream lists: list in pages.
    NotStreamed,
    /// The server has no such kind.
    Absent,
    /// Anything else, in words.
    Failed(String),
}

pub(super) fn classify(error: &kube::Error) -> Failure {
    if let kube::Error::Api(status) = error {
        return classify_status(status);
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let next = error.to_string();
        // Many wrappers print what they wrap; saying it twice helps nobody.
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    Failure::Failed(text)
}

/// The codes are those of <https://kubernetes.io/docs/reference/using-api/api-concepts/>.
pub(super) fn classify_status(status: &Status) -> Failure {
    let Status { code, reason, message, details, .. } = status;
    let causes = details.iter().flat_map(|details| &details.causes);
    let mut causes = causes.map(|cause| cause.reason.as_str());
    match code {
        410 => Failure::Gone,
        // A history that was restored from a backup ends before the place that is asked for.
        504 if causes.any(|cause| cause == "ResourceVersionTooLarge") => Failure::Gone,
        404 => Failure::Absent,
        400 | 422 if message.contains("sendInitialEvents") => Failure::NotStreamed,
        code => Failure::Failed(format!("{code} {reason}: {message}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_what_to_do_next() {
        let status = |text: &str| classify_status(&serde_json::from_str(text).unwrap());
        let cases = [
            (r#"{"code": 410, "reason": "Expired", "message": "too old"}"#, Failure::Gone),
            (
                r#"{"code": 504, "details": {"causes": [{"reason": "ResourceVersionTooLarge"}]}}"#,
                Failure::Gone,
            ),
            (r#"{"code": 404, "reason": "NotFound"}"#, Failure::Absent),
            (
                r#"{"code": 422, "message": "sendInitialEvents: Forbidden: …"}"#,
                Failure::NotStreamed,
            ),
            (
                r#"{"code": 403, "reason": "Forbidden", "message": "pods is forbidden"}"#,
                Failure::Failed("403 Forbidden: pods is forbidden".to_owned()),
            ),
            (
                r#"{"code": 504, "reason": "Timeout", "message": "slow"}"#,
                Failure::Failed("504 Timeout: slow".to_owned()),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(status(text), expected, "{text}");
        }
    }
}
