//! Identity of things: tenants, scopes and typed object ids.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::error::{DomainError, ErrorKind};

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id_type!(
    /// Id of a node, unique within its scope.
    NodeId
);
id_type!(
    /// Id of an edge, unique within its scope.
    EdgeId
);
id_type!(
    /// Id of a commit: derived from its hash.
    CommitId
);

/// Longest public scope name, in bytes.
pub const SCOPE_MAX_BYTES: usize = 256;

/// A validated tenant name: `^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantId(Arc<str>);

impl TenantId {
    /// Validates a tenant name; surrounding white space is dropped.
    ///
    /// # Errors
    /// `invalid_tenant_id` when empty or outside the pattern.
    pub fn parse(raw: &str) -> Result<Self, DomainError> {
        let name = raw.trim();
        let well_formed = name.len() <= 64
            && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if well_formed {
            return Ok(Self(name.into()));
        }
        let error = DomainError::new(
            ErrorKind::Invalid,
            "invalid_tenant_id",
            "tenant_id must match ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$",
        );
        Err(if name.is_empty() { error } else { error.with_details(json!({ "tenant_id": clip(name, 80) })) })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The key of one scope of one tenant, `<tenant>/<scope>`. A tenant holds no `/`, so the key cannot be forged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ScopeKey {
    key: Arc<str>,
    tenant_len: usize,
}

impl ScopeKey {
    /// Joins a tenant and a public scope name; surrounding white space of the scope is dropped.
    ///
    /// # Errors
    /// `invalid_scope` when the scope is blank, too long, holds control characters, looks like an encoded key of
    /// another tenant (`tenant:…::scope:…`), or has a `.` or `..` path segment.
    pub fn new(tenant: &TenantId, scope: &str) -> Result<Self, DomainError> {
        let scope = scope.trim();
        let problem = if scope.is_empty() {
            Some("scope must not be blank")
        } else if scope.len() > SCOPE_MAX_BYTES {
            Some("scope must not be longer than 256 bytes")
        } else if scope.chars().any(char::is_control) {
            Some("scope must not hold control characters")
        } else if scope.starts_with("tenant:") && scope.contains("::scope:") {
            Some("scope must not look like an encoded scope key; send tenant_id and scope apart")
        } else if scope.split(['/', '\\']).any(|part| part == ".." || part == ".") {
            Some("scope must not have `.` or `..` as a path segment")
        } else {
            None
        };
        match problem {
            Some(message) => Err(DomainError::new(ErrorKind::Invalid, "invalid_scope", message)),
            None => Ok(Self { key: format!("{}/{scope}", tenant.as_str()).into(), tenant_len: tenant.as_str().len() }),
        }
    }

    /// Reads a stored key back.
    ///
    /// # Errors
    /// An internal error when the text is not a key: stored data is damaged.
    pub fn from_stored(key: &str) -> Result<Self, DomainError> {
        let (tenant, scope) =
            key.split_once('/').ok_or_else(|| DomainError::internal(format!("stored scope key {key:?} has no `/`")))?;
        let tenant = TenantId::parse(tenant)?;
        Self::new(&tenant, scope)
    }

    /// The key as stored.
    pub fn as_str(&self) -> &str {
        &self.key
    }

    /// The tenant's name.
    pub fn tenant(&self) -> &str {
        &self.key[..self.tenant_len]
    }

    /// The public scope name.
    pub fn scope(&self) -> &str {
        &self.key[self.tenant_len + 1..]
    }
}

impl fmt::Display for ScopeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

/// At most `max` bytes of `text`, cut at a character boundary.
pub fn clip(text: &str, max: usize) -> &str {
    if text.len() <= max {
        return text;
    }
    let mut end = max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(raw: &str) -> Result<ScopeKey, DomainError> {
        ScopeKey::new(&TenantId::parse("acme").unwrap(), raw)
    }

    #[test]
    fn a_key_joins_and_splits() {
        let key = scope("  team/notes ").unwrap();
        assert_eq!((key.as_str(), key.tenant(), key.scope()), ("acme/team/notes", "acme", "team/notes"));
        assert_eq!(ScopeKey::from_stored(key.as_str()).unwrap(), key);
    }

    #[test]
    fn forged_and_odd_scopes_are_refused() {
        for bad in ["", "  ", "tenant:x::scope:y", "../x", "a/../b", "a\u{0}b", "a\nb", "./a", "..\\x"] {
            assert_eq!(scope(bad).unwrap_err().code, "invalid_scope", "{bad:?}");
        }
        assert!(scope(&"x".repeat(257)).is_err());
        assert!(scope("tenant:x").is_ok(), "only the full encoding is reserved");
    }

    #[test]
    fn tenants_follow_the_pattern() {
        for bad in ["", " ", "a/b", "-a", "ä", &"x".repeat(65), "a b"] {
            assert_eq!(TenantId::parse(bad).unwrap_err().code, "invalid_tenant_id", "{bad:?}");
        }
        assert_eq!(TenantId::parse(" A.b_c-9 ").unwrap().as_str(), "A.b_c-9");
    }
}
