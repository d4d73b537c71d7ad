//! JSON Web Tokens. Which algorithm a key is for is settled when the key is loaded: HS256 with the secret, RS256, ES256 or
//! EdDSA with a key of the key set. A token chooses among those by `alg` and `kid` and brings neither key nor algorithm.

mod claims;
mod jwks;
mod provider;

use aionis_core::clock::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::Value;

use self::jwks::PublicKey;
use super::{AuthConfigError, Principal};

/// How tokens are checked.
#[derive(Clone, Default)]
pub struct TokenSettings {
    /// Secret of HS256 tokens (`MEMORY_JWT_HS256_SECRET`).
    pub hs256_secret: Option<String>,
    /// Text of a JSON Web Key Set with public keys (`MEMORY_JWT_JWKS_FILE`).
    pub jwks: Option<String>,
    /// By how many seconds clocks may differ (`MEMORY_JWT_CLOCK_SKEW_SEC`).
    pub clock_skew_s: u32,
    /// What `iss` has to be (`MEMORY_JWT_ISSUER`).
    pub issuer: Option<String>,
    /// What `aud` has to be or hold (`MEMORY_JWT_AUDIENCE`).
    pub audience: Option<String>,
    /// Whether a token that never expires is refused, and a secret shorter than HS256 asks for (in production).
    pub strict: bool,
}

/// Checks tokens.
pub struct TokenVerifier {
    secret: Option<DecodingKey>,
    public: Vec<PublicKey>,
    rules: claims::Rules,
}

/// Why a token is refused, for the log and for metrics.
type Refusal = &'static str;

/// Longest token, in bytes.
const TOKEN_MAX: usize = 16 * 1024;
/// Shortest secret of HS256 in bytes (RFC 7518, 3.2).
const SECRET_MIN: usize = 32;

impl TokenVerifier {
    /// Loads the keys.
    ///
    /// # Errors
    /// When there is neither a secret nor a key set, or one cannot be used.
    pub fn new(settings: &TokenSettings) -> Result<Self, AuthConfigError> {
        provider::install();
        let secret = settings.hs256_secret.as_deref().filter(|secret| !secret.trim().is_empty());
        if settings.strict && secret.is_some_and(|secret| secret.len() < SECRET_MIN) {
            let message = format!("MEMORY_JWT_HS256_SECRET has to be at least {SECRET_MIN} bytes long in production");
            return Err(AuthConfigError(message));
        }
        let public = match &settings.jwks {
            Some(json) => jwks::parse(json)?,
            None => Vec::new(),
        };
        if secret.is_none() && public.is_empty() {
            let message = "tokens need MEMORY_JWT_HS256_SECRET or MEMORY_JWT_JWKS_FILE".to_owned();
            return Err(AuthConfigError(message));
        }
        let rules = claims::Rules {
            skew_s: f64::from(settings.clock_skew_s),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            expiry_required: settings.strict,
        };
        Ok(Self { secret: secret.map(|secret| DecodingKey::from_secret(secret.as_bytes())), public, rules })
    }

    /// Who a token stands for.
    pub(super) fn verify(&self, token: &str, now: Timestamp) -> Result<Principal, Refusal> {
        if token.len() > TOKEN_MAX {
            return Err("malformed");
        }
        let header = decode_header(token).map_err(|_| "malformed")?;
        if header.crit.is_some() {
            // It asks for extensions to be understood, and none is.
            return Err("malformed");
        }
        let key = self.key(header.alg, header.kid.as_deref()).ok_or("unknown_token_key")?;
        let mut validation = Validation::new(header.alg);
        // Times are checked below, by the clock everything else goes by; so are issuer and audience.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = decode::<Value>(token, key, &validation).map_err(|_| "bad_signature")?.claims;
        self.rules.principal(&claims, now)
    }

    /// The key for an algorithm: never one that was loaded for another.
    fn key(&self, alg: Algorithm, kid: Option<&str>) -> Option<&DecodingKey> {
        if alg == Algorithm::HS256 {
            return self.secret.as_ref();
        }
        let mut fitting =
            self.public.iter().filter(|key| key.alg == alg && (kid.is_none() || key.kid.as_deref() == kid));
        let key = fitting.next()?;
        // Without a name it has to be clear which one is meant.
        if fitting.next().is_some() { None } else { Some(&key.key) }
    }
}
