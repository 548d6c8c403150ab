//! Calls to API servers: each with its own deadline, and errors that say which, why and whether to try again.

use std::future::Future;
use std::time::Duration;

use kube::core::Status;
use rand::Rng as _;

/// Longest wait for a readiness probe.
pub const PROBE: Duration = Duration::from_secs(3);
/// Longest wait for one read or write of an object.
pub const WRITE: Duration = Duration::from_secs(10);
/// Longest wait for a list.
pub const LIST: Duration = Duration::from_secs(30);

/// Longest text of a cause that reaches a status, in characters.
const MESSAGE_LIMIT: usize = 256;

/// Why a call to an API server failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time. The call may still take effect.
    #[error("no answer within {} s", after.as_secs_f32())]
    Deadline {
        /// The deadline that passed.
        after: Duration,
    },
    /// The server answered without what was asked for.
    #[error("the answer is empty")]
    Empty,
    /// The call failed, or the server refused it.
    #[error("API call failed")]
    Kube(#[source] Box<kube::Error>),
}

impl From<kube::Error> for CallError {
    fn from(error: kube::Error) -> Self {
        Self::Kube(Box::new(error))
    }
}

impl CallError {
    /// The server's own answer, if it gave one.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Kube(error) => match &**error {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Deadline { .. } | Self::Empty => None,
        }
    }

    /// HTTP status of the server's answer.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.status().map(|s| s.code)
    }

    /// Whether the object, its namespace or its kind does not exist.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the server refused because of a conflict: of field owners, of a precondition, or because the
    /// object exists.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the server could not be reached or did not answer, as opposed to having refused.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Deadline { .. } => true,
            Self::Empty => false,
            Self::Kube(error) => !matches!(**error, kube::Error::Api(_) | kube::Error::SerdeError(_)),
        }
    }

    /// Whether the same call may succeed later without anybody changing anything.
    #[must_use]
    pub fn retry(&self) -> bool {
        if self.is_untyped() {
            return false;
        }
        match self.code() {
            None => true,
            Some(code) => matches!(code, 401 | 403 | 404 | 408 | 409 | 425 | 429) || code >= 500,
        }
    }

    /// Whether the object does not fit its kind's schema. The API server answers such an apply with 500
    /// (apimachinery `managedfields/internal/structuredmerge.go`), although it will never succeed.
    fn is_untyped(&self) -> bool {
        self.status().is_some_and(|s| s.message.starts_with("failed to create typed patch object"))
    }

    /// A bounded word for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Deadline { .. } => "Timeout",
            Self::Empty => "BadAnswer",
            Self::Kube(error) => match &**error {
                kube::Error::Api(_) if self.is_untyped() => "Invalid",
                kube::Error::Api(status) => match status.code {
                    400 | 422 => "Invalid",
                    401 => "Unauthorized",
                    403 => "Forbidden",
                    404 => "NotFound",
                    409 => "Conflict",
                    429 => "TooManyRequests",
                    _ => "ServerError",
                },
                kube::Error::SerdeError(_) => "BadAnswer",
                _ if chain(error.as_ref()).contains("certificate") => "CertificateInvalid",
                _ => "ConnectFailed",
            },
        }
    }

    /// One line for people, without secrets, at most 256 characters.
    #[must_use]
    pub fn message(&self) -> String {
        let text = match self {
            Self::Deadline { .. } | Self::Empty => self.to_string(),
            Self::Kube(error) => match &**error {
                kube::Error::Api(status) => match &status.details {
                    // The causes of a refused apply are the fields at fault, which is what people need.
                    Some(details) if !details.causes.is_empty() && status.code == 409 => {
                        let fields: Vec<&str> = details
                            .causes
                            .iter()
                            .map(|c| c.field.as_str())
                            .filter(|f| !f.is_empty())
                            .collect();
                        format!("{}: {}", status.message, fields.join(", "))
                    }
                    _ if status.message.is_empty() => format!("HTTP {}", status.code),
                    _ => status.message.clone(),
                },
                other => chain(other),
            },
        };
        cut(&text)
    }
}

/// Runs one call under a deadline.
///
/// # Errors
/// [`CallError::Deadline`] if the call did not end in time, else what the call returned.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(deadline, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(CallError::Deadline { after: deadline }),
    }
}

/// Runs a call again and again under one deadline while the server says that it is busy or not ready yet (429, 5xx):
/// just after a definition was applied, for example. Waits 100 to 300 ms in between.
///
/// # Errors
/// [`CallError::Deadline`] if the last try did not end in time, else what the last try returned.
pub async fn patiently<T, Fut>(deadline: Duration, call: impl Fn() -> Fut) -> Result<T, CallError>
where
    Fut: Future<Output = Result<T, kube::Error>>,
{
    let end = tokio::time::Instant::now() + deadline;
    loop {
        let left = end.saturating_duration_since(tokio::time::Instant::now());
        let error = match within(left, call()).await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let is_busy = error.code().is_some_and(|code| code == 429 || code >= 500) && error.retry();
        let pause = Duration::from_millis(rand::rng().random_range(100..300));
        if !is_busy || tokio::time::Instant::now() + pause >= end {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
    }
}

/// Cuts a text to what a status may hold.
#[must_use]
pub fn cut(text: &str) -> String {
    if text.chars().count() <= MESSAGE_LIMIT {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(MESSAGE_LIMIT - 3).collect();
    short.push_str("...");
    short
}

/// An error and its causes in one line, each text once.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let part = cause.to_string();
        if !text.contains(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        source = cause.source();
    }
    text
}

/// The causes of any error in one line, for logs.
#[must_use]
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error)
}

#[cfg(test)]
mod tests {
    use super::{CallError, cut};
    use kube::core::Status;

    fn refused(code: u16, message: &str) -> CallError {
        let mut status = Status::failure(message, "Whatever");
        status.code = code;
        CallError::from(kube::Error::Api(Box::new(status)))
    }

    #[test]
    fn a_refusal_is_no_unreachability() {
        assert!(!refused(500, "no").is_unreachable());
        assert!(CallError::Deadline { after: super::PROBE }.is_unreachable());
    }

    #[test]
    fn only_what_can_heal_by_itself_is_tried_again() {
        assert!(refused(503, "").retry());
        assert!(refused(403, "").retry(), "rights may be granted later");
        assert!(!refused(422, "").retry());
        assert!(!refused(400, "").retry());
        assert!(!refused(500, "failed to create typed patch object (a/b; v1): x").retry());
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_is_asked_again_and_a_refusal_is_not() {
        let tries = std::cell::Cell::new(0);
        let answer = |code: u16, after: u32| {
            tries.set(tries.get() + 1);
            let mut status = Status::failure("storage is (re)initializing", "TooManyRequests");
            status.code = code;
            let is_refused = tries.get() < after;
            async move { if is_refused { Err(kube::Error::Api(Box::new(status))) } else { Ok(()) } }
        };
        super::patiently(super::WRITE, || answer(429, 3)).await.expect("the third try is answered");
        tries.set(0);
        let refused = super::patiently(super::WRITE, || answer(403, 3)).await.expect_err("refused");
        assert_eq!((refused.code(), tries.get()), (Some(403), 1));
    }

    #[test]
    fn long_texts_are_cut_at_a_character_border() {
        let text = cut(&"é".repeat(400));
        assert_eq!(text.chars().count(), 256);
        assert!(text.ends_with("..."));
    }
}
