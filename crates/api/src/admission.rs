//! What a request costs, and whom: tokens of its address, taken before anything else is done for it, and of its tenant,
//! taken as soon as it is known (runtime specification 2.3 and 4.3).

use std::time::Duration;

use aionis_core::{error::DomainError, ids::TenantId};
use aionis_engine::admission::Category;
use axum::http::HeaderMap;
use serde_json::Value;

use crate::{auth::Caller, client::Client, middleware::tenant_header, state::AppState};

/// Spends a token of an address. Returns how long the request waited for it.
pub(crate) async fn address(
    state: &AppState,
    client: Client,
    category: Category,
    waited: Duration,
) -> Result<Duration, DomainError> {
    if client.is_local && state.settings.bypass_loopback {
        return Ok(waited);
    }
    state.limits.address(category, client.address, waited).await
}

/// Somebody whose request was admitted so far.
pub(crate) struct Asking {
    /// Whose turn it is at a gate.
    pub(crate) tenant: TenantId,
    client: Client,
    waited: Duration,
}

impl Asking {
    /// Settles the tenant of a request whose body was read, and spends its token. The guard did both already where the
    /// caller was authenticated: what a request claims counts only when nobody is asked who they are.
    ///
    /// # Errors
    /// `invalid_tenant_id`, `tenant_rate_limited_<category>`.
    pub(crate) async fn settle(
        state: &AppState,
        caller: &Caller,
        headers: &HeaderMap,
        body: &Value,
    ) -> Result<Self, DomainError> {
        let (client, mut waited) = (caller.client(), caller.waited());
        let tenant = match caller.principal() {
            Some(principal) => principal.tenant_id.clone(),
            None => {
                let tenant = claimed(state, headers, body)?;
                waited = state.limits.tenant(caller.category(), tenant.as_str(), waited).await?;
                tenant
            }
        };
        Ok(Self { tenant, client, waited })
    }

    /// Spends tokens of something that costs extra: of the address, then of the tenant.
    ///
    /// # Errors
    /// `rate_limited_<category>`, `tenant_rate_limited_<category>`.
    pub(crate) async fn spend(&mut self, state: &AppState, category: Category) -> Result<(), DomainError> {
        self.waited = address(state, self.client, category, self.waited).await?;
        self.waited = state.limits.tenant(category, self.tenant.as_str(), self.waited).await?;
        Ok(())
    }
}

/// The tenant a request names. A `tenant_id` that is empty or no text is refused when the body is read field by field.
fn claimed(state: &AppState, headers: &HeaderMap, body: &Value) -> Result<TenantId, DomainError> {
    let header = tenant_header(headers).map(str::trim).filter(|tenant| !tenant.is_empty());
    let named = body.get("tenant_id").and_then(Value::as_str).filter(|tenant| !tenant.is_empty()).or(header);
    TenantId::parse(named.unwrap_or(&state.settings.default_tenant))
}
