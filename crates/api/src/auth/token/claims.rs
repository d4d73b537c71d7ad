//! What a token whose signature is good has to say.

use aionis_core::clock::Timestamp;
use serde_json::Value;

use super::Refusal;
use crate::auth::{Principal, Source};

/// What is asked of claims.
pub(super) struct Rules {
    pub(super) skew_s: f64,
    pub(super) issuer: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) expiry_required: bool,
}

impl Rules {
    pub(super) fn principal(&self, claims: &Value, now: Timestamp) -> Result<Principal, Refusal> {
        self.check_times(claims, now)?;
        if let Some(issuer) = &self.issuer
            && claims["iss"].as_str() != Some(issuer)
        {
            return Err("issuer");
        }
        if let Some(audience) = &self.audience {
            let given = &claims["aud"];
            let named = |value: &Value| value.as_str() == Some(audience);
            if !named(given) && !given.as_array().is_some_and(|list| list.iter().any(named)) {
                return Err("audience");
            }
        }
        let tenant = text(claims, "tenant_id")?.or(text(claims, "tenant")?).ok_or("claims")?;
        let agent = text(claims, "agent_id")?.or(text(claims, "sub")?);
        let (team, role) = (text(claims, "team_id")?, text(claims, "role")?);
        Principal::new(tenant, agent, team, role, Source::Jwt).map_err(|_| "claims")
    }

    fn check_times(&self, claims: &Value, now: Timestamp) -> Result<(), Refusal> {
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are exact in a double")]
        let now_s = now.0.div_euclid(1_000_000) as f64;
        match time(claims, "exp")? {
            Some(expiry) if now_s >= expiry + self.skew_s => return Err("expired"),
            None if self.expiry_required => return Err("no_expiry"),
            _ => {}
        }
        match time(claims, "nbf")? {
            Some(start) if now_s + self.skew_s < start => Err("not_yet_valid"),
            _ => Ok(()),
        }
    }
}

/// A time in seconds; one that is no number is refused rather than ignored.
fn time(claims: &Value, name: &str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => value.as_f64().filter(|time| time.is_finite()).map(Some).ok_or("claims"),
    }
}

/// A text that is not blank; anything but a text is refused rather than ignored.
fn text<'a>(claims: &'a Value, name: &str) -> Result<Option<&'a str>, Refusal> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.trim()).filter(|text| !text.is_empty())),
        Some(_) => Err("claims"),
    }
}
