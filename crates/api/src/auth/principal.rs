//! What a credential stands for.

pub use aionis_core::keys::Role;
use aionis_core::{ids::TenantId, text::is_ecmascript_whitespace};

/// Where a principal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// An API key.
    ApiKey,
    /// A token.
    Jwt,
}

/// Who a credential stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The only tenant it reaches.
    pub tenant_id: TenantId,
    /// The agent it is; without one it may claim none.
    pub agent_id: Option<String>,
    /// The team it belongs to; without one it may claim none.
    pub team_id: Option<String>,
    /// What it may do.
    pub role: Role,
    /// Where it comes from.
    pub source: Source,
}

/// Longest agent or team name in bytes, as in bodies.
const NAME_MAX: usize = 512;

impl Principal {
    /// Reads what a credential says; blank names count as absent, a missing role as writer. An error names the member
    /// and what it has to be, never its value.
    ///
    /// # Errors
    /// When the tenant or a name cannot be one, or there is no such role.
    pub fn new(
        tenant: &str,
        agent: Option<&str>,
        team: Option<&str>,
        role: Option<&str>,
        source: Source,
    ) -> Result<Self, &'static str> {
        let tenant_id =
            TenantId::parse(tenant).map_err(|_| "tenant_id has to match ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$")?;
        let role = match role.map(str::trim).filter(|role| !role.is_empty()) {
            None => Role::Writer,
            Some(name) => Role::parse(name).ok_or("role has to be reader, writer or admin")?,
        };
        let agent_id = name(agent, "agent_id has to be at most 512 bytes without control characters")?;
        let team_id = name(team, "team_id has to be at most 512 bytes without control characters")?;
        Ok(Self { tenant_id, agent_id, team_id, role, source })
    }
}

/// Without the white space owners are stored without.
pub(super) fn trimmed(text: &str) -> &str {
    text.trim_matches(is_ecmascript_whitespace)
}

fn name(text: Option<&str>, problem: &'static str) -> Result<Option<String>, &'static str> {
    let Some(text) = text.map(trimmed).filter(|text| !text.is_empty()) else { return Ok(None) };
    if text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return Err(problem);
    }
    Ok(Some(text.to_owned()))
}
