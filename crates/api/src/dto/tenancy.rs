//! Which tenant and scope a request is about.

use aionis_core::{
    error::DomainError,
    ids::{ScopeKey, TenantId},
};

use crate::{
    fields::{Fields, Issues},
    state::ApiSettings,
};

/// The tenant and request scope: from the body, else the header, else the defaults.
pub(crate) fn scope_of(
    body: &Fields<'_>,
    header_tenant: Option<&str>,
    settings: &ApiSettings,
    issues: &mut Issues,
) -> Result<(TenantId, ScopeKey), DomainError> {
    let tenant = body.text("tenant_id", issues);
    let scope = body.text("scope", issues);
    let header_tenant = header_tenant.map(str::trim).filter(|t| !t.is_empty());
    let tenant = TenantId::parse(tenant.as_deref().or(header_tenant).unwrap_or(&settings.default_tenant))?;
    let scope = ScopeKey::new(&tenant, scope.as_deref().unwrap_or(&settings.default_scope))?;
    Ok((tenant, scope))
}
