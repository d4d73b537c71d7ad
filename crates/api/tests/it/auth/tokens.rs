//! Tokens.

use aionis_api::{TokenSettings, TokenVerifier};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::{
    SECRET, assert_unauthorized, bearer, by_token, claims, encoded, mac, now, signed, token, token_settings, with_token,
};
use crate::harness::{RECALL_TEXT, Service};

/// An RSA key whose private part is not kept anywhere, and a token that was signed with it: acme, agent ann, until 2100.
const RSA_MODULUS: &str = concat!(
    "nzrK_zaWfqdAJ5vAtFHv8_LEm17lCBzKTtI7I86c-z4SZJisHoQBToLlqvTZqxw3ERaRxF0QmXk5Ix8csdK7kiEZt9sNOkA-mglL",
    "uUS6EgZNyRl26DPDavVCTpknsg-HPPS2aRM9TKYycZpOPuahwP03chZropzqA78GhAEnSq0RhXzyIsYPMLetHEpoQWYDhWvwDrAa",
    "_LUClKreJfCN05KfjLF1gUEK7GKyi_vKhCiCfurgMkEhBE8xieoRsumzJUXJzdm8YZNqjqEDvDMwX0h191bwm8cCmPBj8lzmzT5C",
    "i0J9RioB0o67alBVjOaSxW42gEtDKeyFrWS4QG11FQ",
);
const RSA_TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIn0.eyJ0ZW5hbnRfaWQiOiJhY21lIiwic3ViIjoiYW5uIiwiZXhwIjo0MTAyNDQ0ODAw",
    "fQ.I2vDmKFT7mIu-sF9dUPEJx3oI5VtVXZKg_OXSbPCzNw9D3JW53ZfzHgkQmsBHhOfrddt8NQZr50bGO5i_Z8XboN4BsuQd7qFr",
    "25Vdt9FAdgkyF819byoEuXZZ3GwdD2AoBmY5p82ib7ogmB3OE0j51xUepjq3buTWDxX1wiW30CIl5EAzPnOKMBQFm-o5rN6AZgir",
    "H5uukI-sAIW8wOFE1usBUAGD0Ivfl6BVzy4CwYKM1h21DXVkXvoMBKA2CjEz4ovYlGsnhf9O68byru3Dql2fN_6WZs8ZEs-tU6ns",
    "Dv2spatSyoNFOtC6rVB2MmCoMTTxPYJ4UlRbg7no8kr5Q",
);
async fn assert_refused(service: &Service, token: &str, what: &str) {
    let answer = with_token(service, token, RECALL_TEXT, &json!({ "query_text": "x" })).await;
    assert_unauthorized(&answer, &["Bearer realm=\"aionis\", error=\"invalid_token\""], what);
}

async fn assert_taken(service: &Service, token: &str, what: &str) {
    let answer = with_token(service, token, RECALL_TEXT, &json!({ "query_text": "x" })).await;
    assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    assert_eq!(answer.json()["tenant_id"], "acme", "{what}");
}

/// The claims, with one changed; null removes it.
fn but(name: &str, value: Value) -> Value {
    let mut claims = claims();
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    claims
}

#[tokio::test]
async fn auth_a_token_is_what_the_header_holds() {
    let service = by_token(&token_settings());
    let good = token(&claims());
    let body = json!({ "query_text": "x" });
    for value in [format!("Bearer {good}"), format!("bearer  {good} "), format!("BEARER {good}")] {
        service.post_with(RECALL_TEXT, &[("authorization", &value)], &body).await.ok();
    }
    let answer = service.post(RECALL_TEXT, &body).await;
    assert_unauthorized(&answer, &["Bearer realm=\"aionis\""], "none");
    assert!(!answer.header("www-authenticate").unwrap().contains("error"), "none was sent, so none is wrong");
    for value in [good.clone(), format!("Basic {good}"), "Bearer".to_owned(), format!("Bearer{good}")] {
        let answer = service.post_with(RECALL_TEXT, &[("authorization", &value)], &body).await;
        assert_unauthorized(&answer, &["Bearer"], &value);
    }
    let twice = [("authorization", bearer(&good)), ("authorization", bearer(&good))];
    let twice = twice.each_ref().map(|(name, value)| (*name, value.as_str()));
    assert_unauthorized(&service.post_with(RECALL_TEXT, &twice, &body).await, &["Bearer"], "twice");
    // A key is none here.
    assert_unauthorized(&service.post_with(RECALL_TEXT, &[("x-api-key", "ann")], &body).await, &["Bearer"], "a key");
}

#[tokio::test]
async fn auth_a_token_that_is_no_token_is_refused() {
    let service = by_token(&token_settings());
    let good = token(&claims());
    let parts: Vec<&str> = good.split('.').collect();
    let (head, payload, signature) = (parts[0], parts[1], parts[2]);
    let forged = encoded(but("sub", json!("ben")).to_string());
    for (token, what) in [
        (String::from("x"), "one part"),
        (format!("{head}.{payload}"), "two parts"),
        (format!("{head}.{payload}."), "no signature"),
        (format!("{good}.x"), "four parts"),
        (format!("{head}..{signature}"), "no claims"),
        (format!(".{payload}.{signature}"), "no header"),
        (format!("{head}.{forged}.{signature}"), "changed claims"),
        (format!("{head}.{payload}.{}", encoded([0; 32])), "a signature of zeros"),
        (format!("{good}A"), "a longer signature"),
        (signed(&json!({ "alg": "HS256" }), &claims(), mac(b"another secret")), "another secret"),
        (signed(&json!({ "alg": "HS256" }), &claims(), mac(b"")), "an empty secret"),
        (signed(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), &claims(), mac(SECRET.as_bytes())), "crit"),
        (signed(&json!({ "typ": "JWT" }), &claims(), mac(SECRET.as_bytes())), "no alg"),
        (signed(&json!({ "alg": "HS256" }), &json!("ann"), mac(SECRET.as_bytes())), "claims that are no object"),
        (
            signed(&json!({ "alg": "HS256" }), &but("pad", json!("x".repeat(20_000))), mac(SECRET.as_bytes())),
            "too long",
        ),
    ] {
        assert_refused(&service, &token, what).await;
    }
}

#[tokio::test]
async fn auth_no_other_algorithm_passes() {
    let secret = SECRET.as_bytes();
    let service = by_token(&token_settings());
    for alg in ["none", "None", "NONE", "", "HS384", "HS512", "RS256", "ES256", "EdDSA", "PS256", "hs256"] {
        for (token, what) in [
            (signed(&json!({ "alg": alg }), &claims(), |_| Vec::new()), "unsigned"),
            (signed(&json!({ "alg": alg }), &claims(), mac(secret)), "signed with the secret"),
        ] {
            assert_refused(&service, &token, &format!("{alg:?} {what}")).await;
        }
    }
}

/// Keys made for a test, as a key set and as something that signs.
struct Pairs {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    jwks: Value,
}

fn make_pairs() -> Pairs {
    let rng = SystemRandom::new();
    let ed = Ed25519KeyPair::generate_pkcs8(&rng).unwrap();
    let ed = Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap();
    let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &rng).unwrap();
    let point = ec.public_key().as_ref();
    let jwks = json!({ "keys": [
        { "kty": "OKP", "crv": "Ed25519", "kid": "d1", "use": "sig", "alg": "EdDSA", "x": encoded(ed.public_key()) },
        { "kty": "EC", "crv": "P-256", "kid": "e1", "x": encoded(&point[1..33]), "y": encoded(&point[33..]) },
        { "kty": "RSA", "kid": "r1", "alg": "RS256", "n": RSA_MODULUS, "e": "AQAB" },
    ] });
    Pairs { ed, ec, jwks }
}

impl Pairs {
    fn settings(&self) -> TokenSettings {
        TokenSettings { hs256_secret: None, jwks: Some(self.jwks.to_string()), ..token_settings() }
    }

    fn ed(&self, header: &Value) -> String {
        signed(header, &claims(), |message| self.ed.sign(message).as_ref().to_vec())
    }

    fn ec(&self, header: &Value) -> String {
        let sign = |message: &[u8]| self.ec.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        signed(header, &claims(), sign)
    }
}

#[tokio::test]
async fn auth_tokens_of_public_keys_are_taken() {
    let (pairs, stranger) = (make_pairs(), make_pairs());
    let service = by_token(&pairs.settings());
    assert_taken(&service, &pairs.ed(&json!({ "alg": "EdDSA", "kid": "d1" })), "EdDSA").await;
    assert_taken(&service, &pairs.ec(&json!({ "alg": "ES256", "kid": "e1" })), "ES256").await;
    assert_taken(&service, RSA_TOKEN, "RS256").await;
    assert_taken(&service, &pairs.ed(&json!({ "alg": "EdDSA" })), "the only key of its kind needs no name").await;
    for (token, what) in [
        (pairs.ed(&json!({ "alg": "EdDSA", "kid": "d2" })), "an unknown key"),
        (pairs.ed(&json!({ "alg": "EdDSA", "kid": "e1" })), "the name of another key"),
        (pairs.ed(&json!({ "alg": "ES256", "kid": "d1" })), "another algorithm"),
        (pairs.ec(&json!({ "alg": "ES384", "kid": "e1" })), "another curve"),
        (pairs.ec(&json!({ "alg": "EdDSA", "kid": "d1" })), "signed with another key"),
        (stranger.ed(&json!({ "alg": "EdDSA", "kid": "d1" })), "signed with a stranger's key"),
        (token(&claims()), "HS256 without a secret"),
        (format!("{RSA_TOKEN}A"), "a broken signature"),
        (RSA_TOKEN.replacen("eyJ", "eyK", 1), "a broken header"),
    ] {
        assert_refused(&service, &token, what).await;
    }
}

/// A public key is known to everyone: nothing signed with it as if it were a secret may pass, with a secret configured
/// beside the key set or without.
#[tokio::test]
async fn auth_a_public_key_is_no_secret() {
    let pairs = make_pairs();
    let with_secret = TokenSettings { hs256_secret: Some(SECRET.to_owned()), ..pairs.settings() };
    let modulus = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, RSA_MODULUS).unwrap();
    let key_set = pairs.jwks.to_string();
    for service in [by_token(&pairs.settings()), by_token(&with_secret)] {
        for (public, kid) in [
            (pairs.ed.public_key().as_ref(), "d1"),
            (pairs.ec.public_key().as_ref(), "e1"),
            (modulus.as_slice(), "r1"),
            (RSA_MODULUS.as_bytes(), "r1"),
            (key_set.as_bytes(), "r1"),
        ] {
            for alg in ["HS256", "RS256", "ES256", "EdDSA"] {
                let token = signed(&json!({ "alg": alg, "kid": kid }), &claims(), mac(public));
                assert_refused(&service, &token, &format!("{alg} {kid}")).await;
            }
        }
        // Nor a key that a token brings along.
        let brought = json!({ "alg": "EdDSA", "jwk": pairs.jwks["keys"][0], "kid": "mine" });
        assert_refused(&service, &pairs.ed(&brought), "a key of its own").await;
    }
    assert_taken(&by_token(&with_secret), &token(&claims()), "the secret beside the key set").await;
    assert_taken(&by_token(&with_secret), RSA_TOKEN, "the key set beside the secret").await;
}

#[test]
fn auth_a_key_set_without_a_usable_key_is_refused() {
    let pairs = make_pairs();
    let keys = pairs.jwks["keys"].as_array().unwrap();
    let with = |at: usize, name: &str, value: &str| {
        let mut key = keys[at].clone();
        key[name] = json!(value);
        json!({ "keys": [key] }).to_string()
    };
    for (jwks, wanted) in [
        ("nothing".to_owned(), "not valid JSON"),
        ("{}".to_owned(), "array keys"),
        (json!({ "keys": [] }).to_string(), "no key"),
        (json!({ "keys": [{ "kty": "oct", "k": encoded("secret"), "kid": "x" }] }).to_string(), "a shared secret"),
        (with(0, "d", "AAAA"), "a private key"),
        (with(0, "use", "enc"), "not for signatures"),
        (with(0, "alg", "ES256"), "another algorithm"),
        (with(0, "x", "AAAA"), "wrong length"),
        (with(1, "crv", "P-384"), "another algorithm"),
        (with(1, "y", "AAAA"), "wrong length"),
        (with(2, "alg", "RSA-OAEP"), "another algorithm"),
        (with(2, "alg", "PS256"), "another algorithm"),
        (with(2, "n", &encoded([0xff; 128])), "wrong length"),
        (json!({ "keys": [keys[0], keys[0]] }).to_string(), "same kid"),
    ] {
        let settings = TokenSettings { jwks: Some(jwks.clone()), ..TokenSettings::default() };
        let said = TokenVerifier::new(&settings).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(said.starts_with("MEMORY_JWT_JWKS_FILE: ") && said.contains(wanted), "{jwks}: {said}");
    }
    let message = TokenVerifier::new(&TokenSettings::default()).err().unwrap().to_string();
    assert!(message.contains("MEMORY_JWT_HS256_SECRET"), "{message}");
    // What cannot be used is left out as long as something is left.
    let mixed = json!({ "keys": [{ "kty": "new" }, keys[1]] }).to_string();
    assert!(TokenVerifier::new(&TokenSettings { jwks: Some(mixed), ..TokenSettings::default() }).is_ok());
}

#[tokio::test]
async fn auth_tokens_are_bound_to_their_time() {
    let service = by_token(&token_settings());
    for (claims, taken) in [
        (but("exp", json!(now() + 1)), true),
        (but("exp", json!(now() - 29)), true),
        (but("exp", json!(now() - 30)), false),
        (but("exp", json!(now() - 31)), false),
        (but("exp", json!(0)), false),
        (but("exp", json!(-1)), false),
        (but("exp", json!("never")), false),
        (but("exp", json!([now() + 600])), false),
        (but("exp", json!(9e99)), true),
        (but("exp", Value::Null), true),
        (but("nbf", json!(now() + 30)), true),
        (but("nbf", json!(now() + 31)), false),
        (but("nbf", json!("now")), false),
        (but("nbf", json!(now() - 1)), true),
    ] {
        match taken {
            true => assert_taken(&service, &token(&claims), &claims.to_string()).await,
            false => assert_refused(&service, &token(&claims), &claims.to_string()).await,
        }
    }
    let expiring = token(&claims());
    assert_taken(&service, &expiring, "before").await;
    service.clock.advance(std::time::Duration::from_secs(631));
    assert_refused(&service, &expiring, "after").await;
    let mut null = claims();
    null["exp"] = Value::Null;
    assert_refused(&service, &token(&null), "null is no time").await;
}

#[tokio::test]
async fn auth_in_production_tokens_must_end_and_secrets_be_long() {
    let strict = TokenSettings { strict: true, ..token_settings() };
    let service = by_token(&strict);
    assert_taken(&service, &token(&claims()), "with exp").await;
    assert_refused(&service, &token(&but("exp", Value::Null)), "without exp").await;
    let short = TokenSettings { hs256_secret: Some("x".repeat(31)), ..strict };
    let message = TokenVerifier::new(&short).err().unwrap().to_string();
    assert!(message.contains("32 bytes") && !message.contains("xxx"), "{message}");
}

#[tokio::test]
async fn auth_issuer_and_audience_are_checked_when_they_are_set() {
    let settings = TokenSettings {
        issuer: Some("https://id.example".to_owned()),
        audience: Some("aionis".to_owned()),
        ..token_settings()
    };
    let service = by_token(&settings);
    let with = |issuer: Value, audience: Value| {
        let mut claims = claims();
        claims["iss"] = issuer;
        claims["aud"] = audience;
        token(&claims)
    };
    let good = json!("https://id.example");
    assert_taken(&service, &with(good.clone(), json!("aionis")), "one audience").await;
    assert_taken(&service, &with(good.clone(), json!(["other", "aionis"])), "one of several").await;
    for (issuer, audience) in [
        (json!("https://evil.example"), json!("aionis")),
        (json!(["https://id.example"]), json!("aionis")),
        (json!("https://id.example/"), json!("aionis")),
        (Value::Null, json!("aionis")),
        (good.clone(), json!("other")),
        (good.clone(), json!(["other"])),
        (good.clone(), json!([])),
        (good.clone(), Value::Null),
    ] {
        assert_refused(&service, &with(issuer.clone(), audience.clone()), &format!("{issuer} {audience}")).await;
    }
    assert_refused(&service, &token(&claims()), "neither").await;
    let open = by_token(&token_settings());
    assert_taken(&open, &with(json!("https://evil.example"), json!("other")), "neither is set").await;
}

#[tokio::test]
async fn auth_claims_say_who_it_is() {
    let service = by_token(&token_settings());
    for (claims, taken) in [
        (json!({ "tenant": "acme" }), true),
        (json!({ "tenant_id": " acme ", "tenant": "umbrella" }), true),
        (json!({ "tenant_id": " ", "tenant": "acme" }), true),
        (json!({ "tenant_id": "acme", "role": "reader" }), true),
        (json!({ "tenant_id": "acme", "role": null, "team_id": null }), true),
        (json!({ "sub": "ann" }), false),
        (json!({ "tenant_id": "" }), false),
        (json!({ "tenant_id": "a/b" }), false),
        (json!({ "tenant_id": 7 }), false),
        (json!({ "tenant_id": ["acme"] }), false),
        (json!({ "tenant_id": "acme", "role": "root" }), false),
        (json!({ "tenant_id": "acme", "role": "Admin" }), false),
        (json!({ "tenant_id": "acme", "role": ["admin"] }), false),
        (json!({ "tenant_id": "acme", "sub": 7 }), false),
        (json!({ "tenant_id": "acme", "agent_id": "a\u{0}b" }), false),
        (json!({ "tenant_id": "acme", "team_id": "x".repeat(513) }), false),
    ] {
        match taken {
            true => assert_taken(&service, &token(&claims), &claims.to_string()).await,
            false => assert_refused(&service, &token(&claims), &claims.to_string()).await,
        }
    }
    // The agent is `agent_id`, else `sub`.
    let claim = json!({ "query_text": "x", "consumer_agent_id": "ben" });
    let ben = token(&json!({ "tenant_id": "acme", "agent_id": "ben", "sub": "ann" }));
    with_token(&service, &ben, RECALL_TEXT, &claim).await.ok();
    let ann = token(&json!({ "tenant_id": "acme", "agent_id": " ", "sub": "ann" }));
    super::assert_mismatch(
        &with_token(&service, &ann, RECALL_TEXT, &claim).await,
        "consumer_agent_id",
        "ben",
        Some("ann"),
    );
}
