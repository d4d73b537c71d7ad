//! Who may call, and as whom.

mod identity;
mod keys;
mod roles;
mod tokens;

pub(crate) use roles::registered;

use std::sync::Arc;

use aionis_api::{Auth, AuthMode, CorsOrigins, StaticKeys, TokenSettings, TokenVerifier};
use aionis_testkit::fixtures::START;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde_json::{Value, json};

use crate::harness::{Answer, Service};

/// Of tenant acme: `ann` is an agent of a team, `team` only a team, `bare` neither.
pub(crate) const KEYS: &str = r#"{
    "ann": { "tenant_id": "acme", "agent_id": "ann", "team_id": "blue" },
    "ben": { "tenant_id": "acme", "agent_id": "ben", "team_id": "red" },
    "team": { "tenant_id": "acme", "team_id": "blue" },
    "bare": { "tenant_id": "acme" },
    "reader": { "tenant_id": "acme", "agent_id": "ann", "role": "reader" },
    "admin": { "tenant_id": "acme", "agent_id": "root", "role": "admin" },
    "other": { "tenant_id": "umbrella", "agent_id": "ann" }
}"#;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn with_auth(auth: Auth) -> Service {
    Service::with(|setup| {
        setup.api.auth = auth;
        setup.api.cors = CorsOrigins::Any;
    })
}

pub(crate) fn keys() -> Auth {
    Auth::new(AuthMode::ApiKey).with_keys(Arc::new(StaticKeys::parse(KEYS).unwrap()))
}

fn by_key() -> Service {
    with_auth(keys())
}

pub(crate) fn token_settings() -> TokenSettings {
    TokenSettings { hs256_secret: Some(SECRET.to_owned()), clock_skew_s: 30, ..TokenSettings::default() }
}

fn by_token(settings: &TokenSettings) -> Service {
    with_auth(Auth::new(AuthMode::Jwt).with_tokens(TokenVerifier::new(settings).unwrap()))
}

/// Seconds since 1970 by the service's clock.
pub(crate) fn now() -> i64 {
    START.0 / 1_000_000
}

pub(crate) fn claims() -> Value {
    json!({ "tenant_id": "acme", "sub": "ann", "team_id": "blue", "exp": now() + 600 })
}

fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A token with any signature.
fn signed(header: &Value, claims: &Value, sign: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header.to_string()), encoded(claims.to_string()));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", encoded(signature))
}

fn mac(secret: &[u8]) -> impl FnOnce(&[u8]) -> Vec<u8> {
    move |message| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

/// A token of the secret.
pub(crate) fn token(claims: &Value) -> String {
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), claims, mac(SECRET.as_bytes()))
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

async fn with_key(service: &Service, key: &str, path: &str, body: &Value) -> Answer {
    service.post_with(path, &[("x-api-key", key)], body).await
}

async fn with_token(service: &Service, token: &str, path: &str, body: &Value) -> Answer {
    service.post_with(path, &[("authorization", &bearer(token))], body).await
}

/// Asserts a refusal for want of a good credential that tells nothing more than which are taken.
fn assert_unauthorized(answer: &Answer, challenges: &[&str], what: &str) {
    assert_eq!(answer.refusal(), (401, "unauthorized".to_owned()), "{what}");
    let body = answer.json();
    assert!(body["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {body}");
    assert!(body.get("details").is_none() && body.get("issues").is_none(), "{what}: {body}");
    let said: Vec<&str> = answer.headers.get_all("www-authenticate").iter().map(|v| v.to_str().unwrap()).collect();
    assert_eq!(said.len(), challenges.len(), "{what}: {said:?}");
    for (said, wanted) in said.iter().zip(challenges) {
        assert!(said.starts_with(wanted), "{what}: {said:?}");
    }
    assert!(answer.header("access-control-allow-origin").is_some() && answer.header("x-request-id").is_some());
}

/// Asserts that a request claims what the credential does not say.
fn assert_mismatch(answer: &Answer, field: &str, provided: &str, expected: Option<&str>) {
    assert_eq!(answer.refusal(), (403, "identity_mismatch".to_owned()), "{field}: {}", answer.text());
    let details = json!({ "field": field, "provided": provided, "expected": expected });
    assert_eq!(answer.json()["details"], details, "{field}");
}
