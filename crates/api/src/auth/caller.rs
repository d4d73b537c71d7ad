//! The caller as handlers see it.

use std::{sync::Arc, time::Duration};

use aionis_core::{error::DomainError, model::Viewer};
use aionis_engine::admission::Category;
use axum::{
    extract::FromRequestParts,
    http::{Extensions, request::Parts},
};
use serde_json::Value;

use super::{
    Principal, Role,
    access::{Access, Binding},
    identity,
};
use crate::{client::Client, error::ApiError};

/// Who calls, settled before the handler runs. Handlers take it as an extractor and read bodies through it
/// ([`crate::body::read`]).
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    principal: Option<Arc<Principal>>,
    binding: Binding,
    category: Category,
    client: Client,
    waited: Duration,
}

impl Caller {
    /// The caller of a route, who waited for tokens so far.
    pub(super) fn new(principal: Option<Principal>, access: &Access, client: Client, waited: Duration) -> Self {
        let (binding, category) = (access.binding, access.category);
        Self { principal: principal.map(Arc::new), binding, category, client, waited }
    }

    /// What the request costs tokens of.
    pub(crate) const fn category(&self) -> Category {
        self.category
    }

    /// Where it comes from.
    pub(crate) const fn client(&self) -> Client {
        self.client
    }

    /// How long it waited for tokens before its body was read.
    pub(crate) const fn waited(&self) -> Duration {
        self.waited
    }

    /// Who it is; none when nobody is asked (`MEMORY_AUTH_MODE=off`).
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_deref()
    }

    /// Whether a credential says that this is an administrator.
    pub(crate) fn is_admin(&self) -> bool {
        self.principal().is_some_and(|principal| principal.role >= Role::Admin)
    }

    /// Whose eyes a change is made with: what they cannot see is not changed. None sees everything: administrators, and
    /// everybody when nobody is asked who they are.
    pub(crate) fn viewer(&self) -> Option<Viewer> {
        let principal = self.principal().filter(|principal| principal.role < Role::Admin)?;
        Some(Viewer { agent: principal.agent_id.clone(), team: principal.team_id.clone() })
    }

    /// Makes a body say who calls, and refuses one that says otherwise.
    pub(crate) fn bind(&self, body: &mut Value) -> Result<(), DomainError> {
        match (self.principal(), body.as_object_mut()) {
            (Some(principal), Some(body)) => identity::bind_body(principal, self.binding, body),
            _ => Ok(()),
        }
    }

    /// The caller of a request that came past the guard.
    pub(crate) fn of(extensions: &Extensions) -> Result<Self, DomainError> {
        extensions.get::<Self>().cloned().ok_or_else(|| DomainError::internal("a route without the guard"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        Ok(Self::of(&parts.extensions)?)
    }
}
