//! Public keys from a JSON Web Key Set.

use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde_json::Value;

use crate::auth::AuthConfigError;

/// A public key and the one algorithm it is for.
pub(super) struct PublicKey {
    pub(super) kid: Option<String>,
    pub(super) alg: Algorithm,
    pub(super) key: DecodingKey,
}

/// Reads a key set. Keys for something else than checking signatures with RS256, ES256 or EdDSA are left out.
///
/// # Errors
/// When it is no key set, two keys have one name and algorithm, or no key is left.
pub(super) fn parse(json: &str) -> Result<Vec<PublicKey>, AuthConfigError> {
    let problem = |what: String| AuthConfigError(format!("MEMORY_JWT_JWKS_FILE: {what}"));
    let set: Value = serde_json::from_str(json).map_err(|e| problem(format!("is not valid JSON: {e}")))?;
    let keys = set["keys"].as_array().ok_or_else(|| problem("has to be an object with the array keys".to_owned()))?;
    let mut usable: Vec<PublicKey> = Vec::with_capacity(keys.len());
    let mut left_out = Vec::new();
    for (at, value) in keys.iter().enumerate() {
        match read(value) {
            Ok(key) if usable.iter().any(|other| other.kid == key.kid && other.alg == key.alg) => {
                return Err(problem(format!("key {} has the same kid and algorithm as one before it", at + 1)));
            }
            Ok(key) => usable.push(key),
            Err(reason) => left_out.push(format!("key {}: {reason}", at + 1)),
        }
    }
    if usable.is_empty() {
        return Err(problem(format!("holds no key that can be used; {}", left_out.join(", "))));
    }
    if !left_out.is_empty() {
        tracing::warn!(left_out = left_out.join(", "), "some keys of the key set are not used");
    }
    Ok(usable)
}

fn read(value: &Value) -> Result<PublicKey, &'static str> {
    if value.get("d").is_some() {
        return Err("is a private key");
    }
    let jwk: Jwk = serde_json::from_value(value.clone()).map_err(|_| "is of an unknown kind")?;
    let common = &jwk.common;
    if common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature)
        || common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify))
    {
        return Err("is not for signatures");
    }
    let alg = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => Algorithm::ES256,
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        // A shared secret in a file of public keys would let whoever reads the file sign tokens.
        AlgorithmParameters::OctetKey(_) => return Err("is a shared secret"),
        _ => return Err("is for another algorithm than RS256, ES256 or EdDSA"),
    };
    if common.key_algorithm.is_some_and(|stated| stated != alg.into()) {
        return Err("is for another algorithm than RS256, ES256 or EdDSA");
    }
    let key = DecodingKey::from_jwk(&jwk).map_err(|_| "cannot be read")?;
    let sound = match (alg, key.kind()) {
        // 2048 bits, as RFC 7518 asks for.
        (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, .. }) => n.len() >= 256,
        (Algorithm::ES256, DecodingKeyKind::SecretOrDer(point)) => point.len() == 65,
        (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(point)) => point.len() == 32,
        _ => false,
    };
    if sound { Ok(PublicKey { kid: common.key_id.clone(), alg, key }) } else { Err("has a wrong length") }
}
