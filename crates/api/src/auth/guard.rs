//! What stands before every route below `/v1`: no handler runs for a caller who may not call it.

use std::time::Duration;

use aionis_core::error::{DomainError, ErrorKind};
use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use super::{
    Caller, Principal,
    access::{self, Access},
    challenge, identity,
};
use crate::{admission, client::Client, error::ApiError, middleware::TENANT, state::AppState};

pub(crate) async fn guard(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    let path = match request.extensions().get::<MatchedPath>() {
        Some(path) if path.as_str().starts_with("/v1/") => path.clone(),
        // Health, metrics, and what does not exist.
        _ => return next.run(request).await,
    };
    match admit(&state, path.as_str(), &mut request).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => refuse(&state, &request, error),
    }
}

/// Tokens of the address come first, so that guessing credentials costs them; tokens of the tenant once it is known
/// whose request it is.
async fn admit(state: &AppState, path: &str, request: &mut Request) -> Result<Caller, DomainError> {
    let auth = &state.settings.auth;
    let client = Client::of(request.extensions(), request.headers(), &state.settings.trusted_proxies);
    let mut waited = Duration::ZERO;
    if let Some(access) = access::of(path) {
        waited = admission::address(state, client, access.category, waited).await?;
    }
    let principal = auth.identify(request.headers(), state.engine.clock().now()).await?;
    let access = authorize(path, principal.as_ref())?;
    if let Some(principal) = &principal {
        identity::check_head(principal, request.headers(), request.uri())?;
        // From here on the header is the caller's tenant, also for a handler that looks at nothing else.
        let tenant = HeaderValue::from_str(principal.tenant_id.as_str())
            .map_err(|e| DomainError::internal(format!("a tenant that fits no header: {e}")))?;
        request.headers_mut().insert(TENANT, tenant);
        waited = state.limits.tenant(access.category, principal.tenant_id.as_str(), waited).await?;
    }
    Ok(Caller::new(principal, access, client, waited))
}

/// Whether a caller may call a route: it has an entry, and the caller's role is enough. A route without an entry is
/// closed also where nobody is authenticated, so that it is missed at once.
fn authorize(path: &str, principal: Option<&Principal>) -> Result<&'static Access, DomainError> {
    let Some(access) = access::of(path) else {
        let error = DomainError::new(ErrorKind::Forbidden, "forbidden", "no role may call this route");
        return Err(error.with_internal("unlisted_route"));
    };
    match principal {
        Some(principal) if principal.role < access.role => {
            let (needed, role) = (access.role.as_str(), principal.role.as_str());
            let message = format!("this needs the role {needed}; the credential has the role {role}");
            let error = DomainError::new(ErrorKind::Forbidden, "forbidden", message);
            Err(error.with_details(json!({ "required_role": needed, "role": role })).with_internal("role"))
        }
        _ => Ok(access),
    }
}

fn refuse(state: &AppState, request: &Request, error: DomainError) -> Response {
    let unauthorized = error.kind == ErrorKind::Unauthorized;
    if unauthorized || error.kind == ErrorKind::Forbidden {
        let reason = error.internal.clone().unwrap_or_else(|| error.code.to_owned());
        tracing::info!(code = error.code, reason, path = request.uri().path(), "request refused");
        metrics::counter!("aionis_auth_refusals_total", "code" => error.code, "reason" => reason).increment(1);
    }
    let mut response = ApiError(error).into_response();
    if unauthorized {
        let token_refused = request.headers().contains_key(header::AUTHORIZATION);
        challenge::add(response.headers_mut(), state.settings.auth.mode(), token_refused);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Source;

    fn of(role: &str) -> Principal {
        Principal::new("acme", None, None, Some(role), Source::ApiKey).unwrap()
    }

    #[test]
    fn auth_an_unlisted_route_is_closed_to_everyone() {
        for principal in [None, Some(of("reader")), Some(of("admin"))] {
            let refused = authorize("/v1/memory/unlisted", principal.as_ref()).err().unwrap();
            assert_eq!((refused.kind, refused.code), (ErrorKind::Forbidden, "forbidden"));
        }
    }

    #[test]
    fn auth_a_role_is_enough_or_the_needed_one_is_named() {
        let roles = ["reader", "writer", "admin"];
        for (path, needed) in [("/v1/memory/recall", 0), ("/v1/memory/tools/select", 1)] {
            assert!(authorize(path, None).is_ok(), "nobody is asked");
            for (at, role) in roles.iter().enumerate() {
                match authorize(path, Some(&of(role))) {
                    Ok(_) => assert!(at >= needed, "{role} {path}"),
                    Err(error) => {
                        assert!(at < needed && error.message.contains(roles[needed]), "{role} {path}: {error}");
                    }
                }
            }
        }
    }
}
