//! Who calls: credentials, roles, and how a request is bound to the caller's identity (runtime specification 4.1 and
//! 4.5). It is settled once, before a handler runs; nothing in a body or header widens it.

mod access;
mod caller;
mod challenge;
mod guard;
mod identity;
mod keys;
mod principal;
mod secret;
mod stored;
mod token;

use std::{fmt, sync::Arc};

use aionis_core::{
    canon::sha256,
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    keys::KeyText,
};
use axum::http::{HeaderMap, HeaderName, header};

pub use self::{
    access::required_role,
    keys::{KeySource, StaticKeys},
    principal::{Principal, Role, Source},
    stored::StoredKeys,
    token::{TokenSettings, TokenVerifier},
};
pub(crate) use self::{caller::Caller, guard::guard, secret::same_secret};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Which credentials are taken (`MEMORY_AUTH_MODE`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuthMode {
    /// None: everyone may do everything.
    #[default]
    Off,
    /// `x-api-key`.
    ApiKey,
    /// `authorization: Bearer`.
    Jwt,
    /// `x-api-key` where it is sent, else `authorization: Bearer`.
    ApiKeyOrJwt,
}

impl AuthMode {
    /// Whether API keys are taken.
    pub const fn takes_keys(self) -> bool {
        matches!(self, Self::ApiKey | Self::ApiKeyOrJwt)
    }

    /// Whether tokens are taken.
    pub const fn takes_tokens(self) -> bool {
        matches!(self, Self::Jwt | Self::ApiKeyOrJwt)
    }

    /// The header a credential is expected in, for messages.
    const fn expected(self) -> &'static str {
        match self {
            Self::Off => "nothing",
            Self::ApiKey => "x-api-key",
            Self::Jwt => "authorization: Bearer <token>",
            Self::ApiKeyOrJwt => "x-api-key or authorization: Bearer <token>",
        }
    }
}

/// A setting of authentication that cannot be used. The message is one line and holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthConfigError(pub String);

/// Recognises callers.
#[derive(Clone, Default)]
pub struct Auth {
    mode: AuthMode,
    keys: Vec<Arc<dyn KeySource>>,
    tokens: Option<Arc<TokenVerifier>>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Auth {
    /// Recognises nobody until keys or tokens are added; with [`AuthMode::Off`] nobody is asked.
    pub const fn new(mode: AuthMode) -> Self {
        Self { mode, keys: Vec::new(), tokens: None }
    }

    /// Also takes the keys of `source`; sources are asked in the order they were added.
    #[must_use]
    pub fn with_keys(mut self, source: Arc<dyn KeySource>) -> Self {
        self.keys.push(source);
        self
    }

    /// Takes the tokens `verifier` accepts.
    #[must_use]
    pub fn with_tokens(mut self, verifier: TokenVerifier) -> Self {
        self.tokens = Some(Arc::new(verifier));
        self
    }

    /// Which credentials are taken.
    pub const fn mode(&self) -> AuthMode {
        self.mode
    }

    /// The caller, or none when nobody is asked.
    ///
    /// # Errors
    /// `unauthorized` without a credential or with one that is not accepted; what a key source fails with.
    async fn identify(&self, headers: &HeaderMap, now: Timestamp) -> Result<Option<Principal>, DomainError> {
        if self.mode == AuthMode::Off {
            return Ok(None);
        }
        if self.mode.takes_keys()
            && let Some(key) = credential(headers, &API_KEY)?
        {
            // A key that is sent decides alone: a wrong one is not rescued by a token beside it.
            return self.by_key(key).await.map(Some);
        }
        if self.mode.takes_tokens()
            && let Some(value) = credential(headers, &header::AUTHORIZATION)?
        {
            return self.by_token(value, now).map(Some);
        }
        Err(unauthorized("missing", format!("a credential is required: send {}", self.mode.expected())))
    }

    async fn by_key(&self, key: &str) -> Result<Principal, DomainError> {
        // Whatever the time of a look-up tells, it tells about a digest and not about a key.
        let digest = sha256(key);
        for source in &self.keys {
            if source.may_know(key)
                && let Some(principal) = source.find(&digest).await?
            {
                return Ok(principal);
            }
        }
        Err(match KeyText::parse(key) {
            Err(malformed) => unauthorized("malformed_key", format!("{malformed}: send all of it in x-api-key")),
            Ok(_) => unauthorized("unknown_key", "the key in x-api-key is not valid"),
        })
    }

    fn by_token(&self, value: &str, now: Timestamp) -> Result<Principal, DomainError> {
        let refused = |reason: &'static str| {
            let message = match reason {
                // Said only of tokens whose signature is good.
                "expired" => "the token in authorization has expired",
                "not_yet_valid" => "the token in authorization is not valid yet",
                _ => "the token in authorization is not valid: send authorization: Bearer <token>",
            };
            unauthorized(reason, message)
        };
        let (scheme, token) = value.split_once(' ').ok_or_else(|| refused("malformed"))?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(refused("malformed"));
        }
        let verifier = self.tokens.as_ref().ok_or_else(|| refused("no_verifier"))?;
        verifier.verify(token.trim(), now).map_err(refused)
    }
}

/// The trimmed value of a header that is sent once; blank counts as not sent.
fn credential<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, DomainError> {
    let mut values = headers.get_all(name).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(unauthorized("malformed", format!("{name} is sent more than once")));
    }
    let Some(value) = first else { return Ok(None) };
    match value.to_str() {
        Ok(text) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        Err(_) => Err(unauthorized("malformed", format!("{name} is not text"))),
    }
}

/// A refusal; `reason` goes to the log and to metrics.
fn unauthorized(reason: &'static str, message: impl Into<String>) -> DomainError {
    DomainError::new(ErrorKind::Unauthorized, "unauthorized", message).with_internal(reason)
}
