//! Who may call.

use std::sync::Arc;

use aionis_api::{Auth, AuthMode, StaticKeys, TokenSettings, TokenVerifier};
use clap::Args;

use super::SecretArg;
use crate::failure::Failure;

/// Which credentials are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AuthModeArg {
    /// Nobody is asked.
    Off,
    /// `x-api-key`.
    #[value(name = "api_key")]
    ApiKey,
    /// `authorization: Bearer <token>`.
    Jwt,
    /// `x-api-key` where it is sent, else the token.
    #[value(name = "api_key_or_jwt")]
    ApiKeyOrJwt,
}

/// Who may call, and how callers are recognised.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Who may call")]
pub(crate) struct AuthArgs {
    /// Which credentials are asked for.
    #[arg(long, env = "MEMORY_AUTH_MODE", value_enum, default_value_t = AuthModeArg::Off)]
    pub(crate) memory_auth_mode: AuthModeArg,
    /// API keys as a JSON object: from the key to `tenant_id`, `agent_id`, `team_id`, `role` (reader, writer or admin).
    #[arg(long, env = "MEMORY_API_KEYS_JSON", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub(crate) memory_api_keys_json: SecretArg,
    /// Secret of tokens signed with HS256.
    #[arg(
        long,
        env = "MEMORY_JWT_HS256_SECRET",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) memory_jwt_hs256_secret: SecretArg,
    /// File with the public keys of tokens signed with RS256, ES256 or EdDSA, as a JSON Web Key Set.
    #[arg(long, env = "MEMORY_JWT_JWKS_FILE", default_value = "", hide_default_value = true)]
    pub(crate) memory_jwt_jwks_file: String,
    /// By how much clocks may differ, in s.
    #[arg(long, env = "MEMORY_JWT_CLOCK_SKEW_SEC", default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=3_600))]
    pub(crate) memory_jwt_clock_skew_sec: u32,
    /// What `iss` of tokens has to be; unset for anything.
    #[arg(long, env = "MEMORY_JWT_ISSUER", default_value = "", hide_default_value = true)]
    pub(crate) memory_jwt_issuer: String,
    /// What `aud` of tokens has to be or hold; unset for anything.
    #[arg(long, env = "MEMORY_JWT_AUDIENCE", default_value = "", hide_default_value = true)]
    pub(crate) memory_jwt_audience: String,
}

impl AuthArgs {
    /// Which credentials are asked for.
    pub(crate) const fn mode(&self) -> AuthMode {
        match self.memory_auth_mode {
            AuthModeArg::Off => AuthMode::Off,
            AuthModeArg::ApiKey => AuthMode::ApiKey,
            AuthModeArg::Jwt => AuthMode::Jwt,
            AuthModeArg::ApiKeyOrJwt => AuthMode::ApiKeyOrJwt,
        }
    }

    /// Loads keys and secrets; what cannot be used is refused.
    pub(crate) fn build(&self, production: bool) -> Result<Auth, Failure> {
        let mode = self.mode();
        let refused = |e: aionis_api::AuthConfigError| Failure::new(e.to_string());
        let mut auth = Auth::new(mode);
        if mode.takes_keys() {
            let json = self.memory_api_keys_json.0.trim();
            let keys = StaticKeys::parse(if json.is_empty() { "{}" } else { json }).map_err(refused)?;
            if production && keys.is_empty() {
                return Err(Failure::new("MEMORY_API_KEYS_JSON holds no key, which is refused in production"));
            }
            auth = auth.with_keys(Arc::new(keys));
        }
        if mode.takes_tokens() {
            let settings = TokenSettings {
                hs256_secret: set(&self.memory_jwt_hs256_secret.0),
                jwks: set(&self.memory_jwt_jwks_file).map(|path| read(&path)).transpose()?,
                clock_skew_s: self.memory_jwt_clock_skew_sec,
                issuer: set(&self.memory_jwt_issuer),
                audience: set(&self.memory_jwt_audience),
                strict: production,
            };
            auth = auth.with_tokens(TokenVerifier::new(&settings).map_err(refused)?);
        }
        Ok(auth)
    }
}

fn set(text: &str) -> Option<String> {
    (!text.trim().is_empty()).then(|| text.to_owned())
}

fn read(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::new(format!("MEMORY_JWT_JWKS_FILE {path} cannot be read: {e}")))
}
