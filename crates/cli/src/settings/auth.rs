//! Who may call.

use std::{sync::Arc, time::Duration};

use aionis_api::{Auth, AuthMode, StaticKeys, StoredKeys, TokenSettings, TokenVerifier};
use aionis_core::{clock::Clock, ports::store::KeyStore};
use aionis_store::Deployment;
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
    /// For how long what the database says of a key is remembered, in ms; a revoked key works so long at most. 0 asks the
    /// database for every request.
    #[arg(long, env = "AIONIS_KEY_CACHE_TTL_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub(crate) key_cache_ttl_ms: u64,
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

    /// Loads keys and secrets; what cannot be used is refused. In production one key is needed, unless there is a database
    /// that may hold one: [`Self::with_stored`] looks into it.
    pub(crate) fn build(&self, production: bool, may_be_stored: bool) -> Result<Auth, Failure> {
        let mode = self.mode();
        let refused = |e: aionis_api::AuthConfigError| Failure::new(e.to_string());
        let mut auth = Auth::new(mode);
        if mode.takes_keys() {
            let keys = self.static_keys()?;
            if production && keys.is_empty() && !may_be_stored {
                return Err(no_key());
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

    /// Also takes the keys of a store, after those of the setting.
    pub(crate) async fn with_stored(
        &self,
        auth: Auth,
        store: &Arc<dyn Deployment>,
        clock: &Arc<dyn Clock>,
        production: bool,
        lookups_max: usize,
    ) -> Result<Auth, Failure> {
        if !auth.mode().takes_keys() {
            return Ok(auth);
        }
        self.require_key(&**store, &**clock, production).await?;
        let store: Arc<dyn KeyStore> = Arc::clone(store) as Arc<dyn KeyStore>;
        let ttl = Duration::from_millis(self.key_cache_ttl_ms);
        let keys = StoredKeys::new(store, Arc::clone(clock), ttl).with_lookups_max(lookups_max);
        Ok(auth.with_keys(Arc::new(keys)))
    }

    /// Refuses a production service that takes keys and has none, neither in the setting nor in the store.
    pub(crate) async fn require_key(
        &self,
        store: &dyn Deployment,
        clock: &dyn Clock,
        production: bool,
    ) -> Result<(), Failure> {
        let needed = production && self.mode().takes_keys() && self.static_keys()?.is_empty();
        if needed && !store.has_active_key(clock.now()).await? { Err(no_key()) } else { Ok(()) }
    }

    fn static_keys(&self) -> Result<StaticKeys, Failure> {
        let json = self.memory_api_keys_json.0.trim();
        StaticKeys::parse(if json.is_empty() { "{}" } else { json }).map_err(|e| Failure::new(e.to_string()))
    }
}

fn no_key() -> Failure {
    Failure::new(
        "MEMORY_API_KEYS_JSON holds no key and the database no active one, which is refused in production; create one with \
         `aionis keys create`",
    )
}

fn set(text: &str) -> Option<String> {
    (!text.trim().is_empty()).then(|| text.to_owned())
}

fn read(path: &str) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| Failure::new(format!("MEMORY_JWT_JWKS_FILE {path} cannot be read: {e}")))
}
