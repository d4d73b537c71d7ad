//! The one error of the domain: what went wrong, in a form the edge can show to a caller.

use std::time::Duration;

use serde_json::Value;

/// What kind of failure it is; the edge maps each to a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The caller's input cannot be accepted as it is (400).
    Invalid,
    /// Nobody is known to call (401).
    Unauthorized,
    /// The caller is known and may not (403).
    Forbidden,
    /// The thing named does not exist (404).
    NotFound,
    /// The caller was too slow in sending its request (408).
    TooSlow,
    /// The thing named existed and was erased (410).
    Gone,
    /// The input contradicts what is stored, or the state asked for is not there (409).
    Conflict,
    /// More than a limit allows (413).
    TooLarge,
    /// The media type is not understood (415).
    UnsupportedMediaType,
    /// A limit on rate or queue length was hit (429).
    TooManyRequests,
    /// An upstream provider answered nonsense (502).
    BadGateway,
    /// A part of the service is not available now (503).
    Unavailable,
    /// Storage is full (507).
    StorageFull,
    /// A defect or damaged data (500).
    Internal,
}

/// One problem of one field.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Issue {
    /// Dot-joined path of the field, empty for the whole body.
    pub path: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// A failure with everything the caller may see, and what only the log may.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code}: {message}")]
pub struct DomainError {
    /// Class of the failure.
    pub kind: ErrorKind,
    /// Stable machine-readable code.
    pub code: &'static str,
    /// For the caller.
    pub message: String,
    /// Structured facts for the caller.
    pub details: Option<Value>,
    /// Field problems; when not empty the code is `invalid_request`.
    pub issues: Vec<Issue>,
    /// How long to wait before a retry makes sense.
    pub retry_after: Option<Duration>,
    /// For the log only.
    pub internal: Option<String>,
}

impl DomainError {
    /// A failure with a code of [`crate::error_codes`] and a message.
    pub fn new(kind: ErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        debug_assert!(
            crate::error_codes::find(code).is_some_and(|entry| entry.kind == kind),
            "error code {code} of kind {kind:?} needs an entry in error_codes.rs"
        );
        Self {
            kind,
            code,
            message: message.into(),
            details: None,
            issues: Vec::new(),
            retry_after: None,
            internal: None,
        }
    }

    /// A caller's mistake in one named field.
    pub fn field(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self::issues(vec![Issue { path: path.into(), message: message.into() }])
    }

    /// A caller's mistakes, all of them.
    pub fn issues(issues: Vec<Issue>) -> Self {
        let mut error = Self::new(ErrorKind::Invalid, "invalid_request", "the request is not valid");
        error.issues = issues;
        error
    }

    /// A defect or damaged data; `internal` goes to the log.
    pub fn internal(internal: impl Into<String>) -> Self {
        let mut error = Self::new(ErrorKind::Internal, "internal_error", "internal error");
        error.internal = Some(internal.into());
        error
    }

    /// Adds structured facts.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// Adds the pause after which a retry makes sense.
    #[must_use]
    pub fn with_retry_after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// Adds what only the log may see.
    #[must_use]
    pub fn with_internal(mut self, internal: impl Into<String>) -> Self {
        self.internal = Some(internal.into());
        self
    }
}
