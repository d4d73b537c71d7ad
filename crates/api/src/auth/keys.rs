//! API keys.

use std::{collections::HashMap, fmt};

use aionis_core::{
    canon::{Digest, sha256},
    error::DomainError,
};
use async_trait::async_trait;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{AuthConfigError, Principal, Source};

/// Where API keys are looked up.
#[async_trait]
pub trait KeySource: Send + Sync {
    /// Whether a key could be one of these, by its form; one that could not is not asked for.
    fn may_know(&self, _key: &str) -> bool {
        true
    }

    /// Who the key with this SHA-256 digest stands for.
    ///
    /// # Errors
    /// `unauthorized` when the key is known and not accepted any more. When the source cannot be asked; the request is then answered with that failure, never as an unknown key.
    async fn find(&self, digest: &Digest) -> Result<Option<Principal>, DomainError>;
}

/// Keys from a setting, held as digests.
#[derive(Default)]
pub struct StaticKeys(HashMap<Digest, Principal>);

impl StaticKeys {
    /// Reads `MEMORY_API_KEYS_JSON`: an object from keys to `{tenant_id, agent_id?, team_id?, role?}`. Blank keys are
    /// skipped.
    ///
    /// # Errors
    /// One line that names the first wrong entry by its position, never a key.
    pub fn parse(json: &str) -> Result<Self, AuthConfigError> {
        // The reader's own messages show what they stumble over.
        let entries: Entries = serde_json::from_str(json).map_err(|e| {
            let place = format!("line {} column {}", e.line(), e.column());
            problem(format!("has to be a JSON object from keys to objects; it is not at {place}"))
        })?;
        let mut keys = HashMap::with_capacity(entries.0.len());
        let mut positions = HashMap::with_capacity(entries.0.len());
        for (at, (key, value)) in entries.0.iter().enumerate() {
            let (at, key) = (at + 1, key.trim());
            if key.is_empty() {
                continue;
            }
            let principal = read(value).map_err(|what| problem(format!("key {at}: {what}")))?;
            let digest = sha256(key);
            if let Some(earlier) = positions.insert(digest, at) {
                return Err(problem(format!("keys {earlier} and {at} are the same")));
            }
            keys.insert(digest, principal);
        }
        Ok(Self(keys))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn problem(what: String) -> AuthConfigError {
    AuthConfigError(format!("MEMORY_API_KEYS_JSON: {what}"))
}

#[async_trait]
impl KeySource for StaticKeys {
    async fn find(&self, digest: &Digest) -> Result<Option<Principal>, DomainError> {
        Ok(self.0.get(digest).cloned())
    }
}

/// One entry. A misspelt `role` would otherwise be a writer, so unknown members are refused; they are not shown,
/// because a key may stand in the wrong place.
fn read(value: &Value) -> Result<Principal, &'static str> {
    let entry = value.as_object().ok_or("has to be an object")?;
    if entry.keys().any(|name| !["tenant_id", "agent_id", "team_id", "role"].contains(&name.as_str())) {
        return Err("has a member other than tenant_id, agent_id, team_id and role");
    }
    let tenant = text(entry, "tenant_id", "tenant_id has to be a text")?.ok_or("tenant_id is missing")?;
    let agent = text(entry, "agent_id", "agent_id has to be a text")?;
    let team = text(entry, "team_id", "team_id has to be a text")?;
    let role = text(entry, "role", "role has to be reader, writer or admin")?;
    Principal::new(tenant, agent, team, role, Source::ApiKey)
}

fn text<'a>(entry: &'a Map<String, Value>, name: &str, problem: &'static str) -> Result<Option<&'a str>, &'static str> {
    match entry.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(problem),
    }
}

/// The entries in the order they are written, repetitions included.
struct Entries(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Entries;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entries, M::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Role;

    fn refusal(json: &str) -> String {
        StaticKeys::parse(json).err().map(|e| e.to_string()).unwrap_or_default()
    }

    #[test]
    fn a_wrong_entry_is_named_by_its_position_and_no_key_is_shown() {
        let good = r#""zz-secret-0":{"tenant_id":"a"}"#;
        for (entry, wanted) in [
            (r#""secret-1":1"#, "key 2: has to be an object"),
            (r#""secret-1":"secret-2""#, "key 2: has to be an object"),
            (r#""secret-1":{}"#, "key 2: tenant_id is missing"),
            (r#""secret-1":{"tenant_id":null}"#, "key 2: tenant_id is missing"),
            (r#""secret-1":{"tenant_id":" "}"#, "key 2: tenant_id"),
            (r#""secret-1":{"tenant_id":"secret/2"}"#, "key 2: tenant_id"),
            (r#""secret-1":{"tenant_id":7}"#, "key 2: tenant_id"),
            (r#""secret-1":{"tenant_id":"a","agent_id":7}"#, "key 2: agent_id"),
            (r#""secret-1":{"tenant_id":"a","agent_id":"x\u0000secret"}"#, "key 2: agent_id"),
            (r#""secret-1":{"tenant_id":"a","team_id":[]}"#, "key 2: team_id"),
            (r#""secret-1":{"tenant_id":"a","role":"secret"}"#, "key 2: role has to be reader, writer or admin"),
            (r#""secret-1":{"tenant_id":"a","role":true}"#, "key 2: role"),
            (r#""secret-1":{"tenant_id":"a","rolle":"admin"}"#, "key 2: has a member other than"),
            (r#""keys":{"secret-1":{"tenant_id":"a"}}"#, "key 2: has a member other than"),
            (r#"" zz-secret-0 ":{"tenant_id":"b"}"#, "keys 1 and 2 are the same"),
            (r#""secret-1":{"tenant_id":secret}"#, "line 1 column"),
        ] {
            let said = refusal(&format!("{{{good},{entry}}}"));
            assert!(said.starts_with("MEMORY_API_KEYS_JSON: ") && said.contains(wanted), "{entry}: {said}");
            assert!(!said.contains("secret") && !said.contains('\n'), "{entry}: {said}");
        }
        for json in ["", "[]", "null", "\"secret\"", "{", "[\"secret\"]"] {
            let said = refusal(json);
            assert!(said.contains("JSON object") && !said.contains("secret"), "{json}: {said}");
        }
    }

    #[tokio::test]
    async fn keys_and_values_are_trimmed_and_blank_keys_skipped() {
        let keys = StaticKeys::parse(
            r#"{" k1 ":{"tenant_id":" acme ","agent_id":" a ","team_id":" ","role":" reader "},"  ":5,"k2":{"tenant_id":"b"}}"#,
        )
        .unwrap();
        let found = keys.find(&sha256("k1")).await.unwrap().unwrap();
        assert_eq!((found.tenant_id.as_str(), found.agent_id.as_deref()), ("acme", Some("a")));
        assert_eq!((found.team_id, found.role, found.source), (None, Role::Reader, Source::ApiKey));
        assert_eq!(keys.find(&sha256("k2")).await.unwrap().unwrap().role, Role::Writer, "the default");
        for unknown in ["", " ", " k1 ", "K1", "k1 "] {
            assert_eq!(keys.find(&sha256(unknown)).await.unwrap(), None, "{unknown:?}");
        }
        assert!(StaticKeys::parse("{}").unwrap().is_empty());
    }
}
