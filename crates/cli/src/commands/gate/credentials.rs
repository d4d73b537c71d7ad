//! Which credentials the release gate sends.

use clap::Args;
use serde_json::Value;

use crate::{failure::Failure, settings::SecretArg};

/// Credentials, by the variables of the reference. Of each kind the first that is set is used.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Credentials of the release gate")]
pub(super) struct CredentialArgs {
    /// API key the gate sends.
    #[arg(long, env = "API_KEY", hide_env_values = true, default_value = "", hide_default_value = true)]
    api_key: SecretArg,
    /// API key the gate sends when API_KEY is unset.
    #[arg(long, env = "PERF_API_KEY", hide_env_values = true, default_value = "", hide_default_value = true)]
    perf_api_key: SecretArg,
    /// API keys of the server; the first of the gate's tenant is sent when no other one is set.
    #[arg(long, env = "MEMORY_API_KEYS_JSON", hide_env_values = true, default_value = "", hide_default_value = true)]
    memory_api_keys_json: SecretArg,
    /// Bearer token the gate sends.
    #[arg(long, env = "AUTH_BEARER", hide_env_values = true, default_value = "", hide_default_value = true)]
    auth_bearer: SecretArg,
    /// Bearer token the gate sends when AUTH_BEARER is unset.
    #[arg(long, env = "PERF_AUTH_BEARER", hide_env_values = true, default_value = "", hide_default_value = true)]
    perf_auth_bearer: SecretArg,
}

impl CredentialArgs {
    /// The API key for a tenant, if there is one.
    pub(super) fn api_key(&self, tenant: &str) -> Result<Option<String>, Failure> {
        match first([&self.api_key, &self.perf_api_key]) {
            Some(key) => Ok(Some(key)),
            None => key_of(&self.memory_api_keys_json.0, tenant),
        }
    }

    /// The bearer token, if there is one.
    pub(super) fn bearer(&self) -> Option<String> {
        first([&self.auth_bearer, &self.perf_auth_bearer])
    }
}

fn first(secrets: [&SecretArg; 2]) -> Option<String> {
    secrets.into_iter().map(|secret| secret.0.trim()).find(|text| !text.is_empty()).map(str::to_owned)
}

/// The first key of a tenant. One of another tenant would judge another memory.
fn key_of(json: &str, tenant: &str) -> Result<Option<String>, Failure> {
    if json.trim().is_empty() {
        return Ok(None);
    }
    let keys: Value = serde_json::from_str(json).map_err(|e| {
        Failure::new(format!("MEMORY_API_KEYS_JSON is no JSON (line {}, column {})", e.line(), e.column()))
    })?;
    let keys = keys.as_object().ok_or_else(|| Failure::new("MEMORY_API_KEYS_JSON must be an object of keys"))?;
    Ok(keys.iter().find(|(_, whose)| whose["tenant_id"] == tenant).map(|(key, _)| key.clone()))
}

#[cfg(test)]
mod tests {
    use super::key_of;

    #[test]
    fn the_key_is_one_of_the_tenant() {
        let keys = r#"{"k1": {"tenant_id": "other"}, "k2": {"tenant_id": "acme"}, "k3": {"tenant_id": "acme"}}"#;
        assert_eq!(key_of(keys, "acme").unwrap().as_deref(), Some("k2"));
        assert_eq!(key_of(keys, "default").unwrap(), None);
        assert_eq!(key_of("", "acme").unwrap(), None);
        assert!(key_of("{k", "acme").unwrap_err().to_string().starts_with("MEMORY_API_KEYS_JSON"));
        assert!(key_of("[]", "acme").is_err());
    }
}
