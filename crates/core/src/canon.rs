//! Canonical JSON and SHA-256 digests: the one serialisation behind every hash (specification 3.2).

use std::fmt::{self, Write as _};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Number, Value};
use sha2::{Digest as _, Sha256};

/// Largest integer up to which every integer is exact in an IEEE double (2^53).
const MAX_EXACT_INTEGER: i64 = 1 << 53;

/// Returns the canonical JSON text of `value` (`CJ` of specification 3.2).
///
/// Object members are sorted by the UTF-16 code units of their keys, there is no whitespace, strings are escaped like
/// `JSON.stringify` does, and numbers print like ECMAScript's `Number::toString` after `JSON.parse`: integers beyond
/// 2^53 are rounded to the nearest double, `-0` is `0`, `1e21` is `1e+21`. A number that is not a finite double (only
/// constructible outside of JSON text) prints as `null`.
///
/// The traversal keeps its own stack, so nesting depth cannot exhaust the thread's.
pub fn canonical_json(value: &Value) -> String {
    enum Frame<'a> {
        Array(std::slice::Iter<'a, Value>),
        Object(std::vec::IntoIter<(&'a str, &'a Value)>),
    }

    let mut out = String::new();
    let mut stack: Vec<Frame<'_>> = Vec::new();
    let mut current = Some(value);
    loop {
        if let Some(value) = current.take() {
            match value {
                Value::Null => out.push_str("null"),
                Value::Bool(true) => out.push_str("true"),
                Value::Bool(false) => out.push_str("false"),
                Value::Number(number) => push_number(&mut out, number),
                Value::String(string) => push_string(&mut out, string),
                Value::Array(items) => {
                    out.push('[');
                    stack.push(Frame::Array(items.iter()));
                }
                Value::Object(members) => {
                    out.push('{');
                    stack.push(Frame::Object(sorted_members(members).into_iter()));
                }
            }
        }
        match stack.last_mut() {
            None => return out,
            Some(Frame::Array(items)) => match items.next() {
                Some(item) => {
                    if !out.ends_with('[') {
                        out.push(',');
                    }
                    current = Some(item);
                }
                None => {
                    out.push(']');
                    stack.pop();
                }
            },
            Some(Frame::Object(members)) => match members.next() {
                Some((key, member)) => {
                    if !out.ends_with('{') {
                        out.push(',');
                    }
                    push_string(&mut out, key);
                    out.push(':');
                    current = Some(member);
                }
                None => {
                    out.push('}');
                    stack.pop();
                }
            },
        }
    }
}

/// Members in the order of their keys' UTF-16 code units, whatever order the map itself keeps.
fn sorted_members(members: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut sorted: Vec<(&str, &Value)> = members.iter().map(|(key, value)| (key.as_str(), value)).collect();
    // Byte order equals UTF-16 order unless a key leaves the range below the surrogates, i.e. has a byte >= 0xED.
    if sorted.iter().all(|(key, _)| key.bytes().all(|byte| byte < 0xED)) {
        sorted.sort_unstable_by_key(|(key, _)| *key);
    } else {
        sorted.sort_unstable_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    sorted
}

fn push_number(out: &mut String, number: &Number) {
    match number.as_i64() {
        Some(integer) if (-MAX_EXACT_INTEGER..=MAX_EXACT_INTEGER).contains(&integer) => {
            // Writing to a String cannot fail.
            let _ = write!(out, "{integer}");
        }
        _ => push_f64(out, number.as_f64().unwrap_or(f64::NAN)),
    }
}

fn push_f64(out: &mut String, number: f64) {
    if number.is_finite() {
        // The formatter of the canonicaliser, without a text of its own for every number.
        out.push_str(ryu_js::Buffer::new().format_finite(number));
    } else {
        out.push_str("null");
    }
}

/// Every recall by vector does this some thousand times, so it does not go through 64 bits.
fn push_f32(out: &mut String, number: f32) {
    if number.is_finite() {
        out.push_str(ryu_js::Buffer::new().format_finite(number));
    } else {
        out.push_str("null");
    }
}

fn push_string(out: &mut String, string: &str) {
    out.reserve(string.len() + 2);
    out.push('"');
    let mut copied = 0;
    for (at, byte) in string.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&string[copied..at]);
        copied = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x09 => out.push_str("\\t"),
            0x0A => out.push_str("\\n"),
            0x0C => out.push_str("\\f"),
            0x0D => out.push_str("\\r"),
            control => {
                let _ = write!(out, "\\u{control:04x}");
            }
        }
    }
    out.push_str(&string[copied..]);
    out.push('"');
}

/// A SHA-256 digest. Its textual form everywhere (`Display`, serde) is 64 lowercase hex digits.
/// The default is all zeros, the digest of nothing in particular.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The text is not a digest: it is not exactly 64 lowercase hex digits (specification 2.5, `sha`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 lowercase hex digits")]
pub struct InvalidDigest;

impl Digest {
    /// The 64 lowercase hex digits.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Parses 64 lowercase hex digits.
    ///
    /// # Errors
    /// [`InvalidDigest`] for any other text, uppercase digits included.
    pub fn from_hex(text: &str) -> Result<Self, InvalidDigest> {
        fn nibble(byte: u8) -> Result<u8, InvalidDigest> {
            match byte {
                b'0'..=b'9' => Ok(byte - b'0'),
                b'a'..=b'f' => Ok(byte - b'a' + 10),
                _ => Err(InvalidDigest),
            }
        }
        if text.len() != 64 {
            return Err(InvalidDigest);
        }
        let mut digest = [0; 32];
        for (target, pair) in digest.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *target = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = InvalidDigest;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_hex(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_hex())
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::from_hex(&text).map_err(serde::de::Error::custom)
    }
}

/// Lowercase hex of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 0x0F)]));
    }
    text
}

/// The SHA-256 of `bytes`.
pub fn sha256(bytes: impl AsRef<[u8]>) -> Digest {
    Digest(Sha256::digest(bytes.as_ref()).into())
}

/// The SHA-256 of `bytes` as 64 lowercase hex digits (`sha(x)` of the specification; text is hashed as UTF-8).
pub fn sha256_hex(bytes: impl AsRef<[u8]>) -> String {
    sha256(bytes).to_hex()
}

/// `sha(CJ(value))`, the digest of a JSON value (specification 3.2).
pub fn canonical_sha256(value: &Value) -> Digest {
    sha256(canonical_json(value))
}

/// The idempotency key of an outbox job: `sha(CJ({v:1, scope, commit_id, event_type, payloadSha}))`
/// (specification 3.6 step 9). `scope` is the internal scope key, `payload_sha` the hex digest of the payload's `CJ`.
pub fn job_key(scope: &str, commit_id: &str, event_type: &str, payload_sha: &str) -> String {
    canonical_sha256(&serde_json::json!({
        "v": 1,
        "scope": scope,
        "commit_id": commit_id,
        "event_type": event_type,
        "payloadSha": payload_sha,
    }))
    .to_hex()
}

/// The `context_sha256` of an execution decision: `sha(CJ(context))`, an absent context being `null`
/// (specification 3.15 step 6).
pub fn context_sha256(context: &Value) -> String {
    canonical_sha256(context).to_hex()
}

/// The `policy_sha256` of an execution decision: `sha(CJ(policy))` of the applied policy (specification 3.15 step 6).
pub fn policy_sha256(policy: &Value) -> String {
    canonical_sha256(policy).to_hex()
}

/// The `query_sha256` of a recall audit row: the digest of the query vector's JSON text, numbers in ECMAScript form,
/// a non-finite component as `null` (specification Appendix A, "audit digest"). A component is the shortest decimal of its
/// 32 bits, of two equally near ones the even one.
pub fn audit_vector_sha256(vector: &[f32]) -> String {
    let mut text = String::with_capacity(vector.len() * 16 + 2);
    text.push('[');
    for (index, component) in vector.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        push_f32(&mut text, *component);
    }
    text.push(']');
    sha256_hex(text)
}

/// What tells the reference's two kinds of commit hashes apart (specification 3.6 step 5, 3.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferenceCommitForm<'a> {
    /// A commit of `/v1/memory/write`.
    Write {
        /// The caller's model label; `None` is hashed as `null`.
        model_version: Option<&'a str>,
        /// The caller's prompt label; `None` is hashed as `null`.
        prompt_version: Option<&'a str>,
    },
    /// A commit of any other endpoint or job, for example `rule_feedback` or `topic_cluster`.
    Kind(&'a str),
}

/// The hashed fields of a commit in the reference's chain (version 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReferenceCommit<'a> {
    /// The parent's commit hash; empty without a parent.
    pub parent_hash: &'a str,
    /// Hex digest of the input.
    pub input_sha: &'a str,
    /// Hex digest of the diff's canonical JSON.
    pub diff_sha: &'a str,
    /// The reference's scope key (see [`reference_scope_key`](crate::derive_id::reference_scope_key)).
    pub scope: &'a str,
    /// Who wrote.
    pub actor: &'a str,
    /// Endpoint-dependent part.
    pub form: ReferenceCommitForm<'a>,
}

/// The reference implementation's commit hash, version 1:
/// `sha(CJ({parentHash, inputSha, diffSha, scope, actor, model_version, prompt_version}))` for a write (specification
/// 3.6 step 5) and `sha(CJ({parentHash, inputSha, diffSha, scope, actor, kind}))` otherwise (3.13).
///
/// Only for importing and verifying chains the reference wrote. It leaves most of what a commit changes unhashed; new
/// commits must not use it.
pub fn reference_commit_hash(commit: &ReferenceCommit<'_>) -> String {
    let mut fields = Map::new();
    let mut field = |name: &str, value: Option<&str>| {
        fields.insert(name.to_owned(), value.map_or(Value::Null, Value::from));
    };
    field("parentHash", Some(commit.parent_hash));
    field("inputSha", Some(commit.input_sha));
    field("diffSha", Some(commit.diff_sha));
    field("scope", Some(commit.scope));
    field("actor", Some(commit.actor));
    match commit.form {
        ReferenceCommitForm::Write { model_version, prompt_version } => {
            field("model_version", model_version);
            field("prompt_version", prompt_version);
        }
        ReferenceCommitForm::Kind(kind) => field("kind", Some(kind)),
    }
    canonical_sha256(&Value::Object(fields)).to_hex()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn write_hash(diff: &Value, input: &str) -> String {
        reference_commit_hash(&ReferenceCommit {
            parent_hash: "",
            input_sha: &sha256_hex(input),
            diff_sha: &canonical_sha256(diff).to_hex(),
            scope: "default",
            actor: "system",
            form: ReferenceCommitForm::Write { model_version: None, prompt_version: None },
        })
    }

    fn write_diff(redaction: &Value) -> Value {
        json!({
            "redaction": redaction,
            "nodes": [{
                "id": "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e", "client_id": "a1", "type": "event",
                "memory_lane": "shared", "producer_agent_id": null, "owner_agent_id": null, "owner_team_id": null,
            }],
            "edges": [],
        })
    }

    #[test]
    fn golden_canonical_json() {
        let value: Value = serde_json::from_str(r#"{"b":1,"a":[1,null,{"d":null}],"é":1e21,"z":-0}"#).unwrap();
        assert_eq!(canonical_json(&value), r#"{"a":[1,null,{"d":null}],"b":1,"z":0,"é":1e+21}"#);
    }

    #[test]
    fn golden_write_commit() {
        assert_eq!(sha256_hex("hello world"), "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9");
        let diff = write_diff(&json!({"email": 1, "ip": 1}));
        assert_eq!(
            canonical_json(&diff),
            concat!(
                r#"{"edges":[],"nodes":[{"client_id":"a1","id":"aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e","#,
                r#""memory_lane":"shared","owner_agent_id":null,"owner_team_id":null,"producer_agent_id":null,"#,
                r#""type":"event"}],"redaction":{"email":1,"ip":1}}"#
            )
        );
        assert_eq!(
            canonical_sha256(&diff).to_hex(),
            "5d9c1b7f8fd3c4b6e2110e665ad7e971a790beb98f7c7c61ffb128bed6394c1c"
        );
        assert_eq!(
            write_hash(&diff, "hello world"),
            "c2b32c9e4d2d482816d5906eff4ec89f73e55bf99e811efe797c77ef598333ed"
        );
        assert_eq!(
            write_hash(&write_diff(&json!({})), "hello world"),
            "c485e2d4c4f6e096486c8269c9b0be5bf3fa5ca0fea2541b6f10778f1b43ba21"
        );
        assert_eq!(
            write_hash(&json!({"redaction": {}, "nodes": [], "edges": []}), "only commit"),
            "fcb68b8a7881809696b84da47c2a366cb7e63c5c684da4b0a9d0663757361558"
        );
    }

    #[test]
    fn a_kind_commit_hashes_the_kind_instead_of_the_versions() {
        let hash = reference_commit_hash(&ReferenceCommit {
            parent_hash: "p",
            input_sha: "i",
            diff_sha: "d",
            scope: "s",
            actor: "job",
            form: ReferenceCommitForm::Kind("topic_cluster"),
        });
        let text =
            r#"{"actor":"job","diffSha":"d","inputSha":"i","kind":"topic_cluster","parentHash":"p","scope":"s"}"#;
        assert_eq!(hash, sha256_hex(text));
    }

    #[test]
    fn golden_outbox() {
        let payload = json!({"nodes": [{
            "id": "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e",
            "text": "Mail [EMAIL#581d5f19] from [IP#f5047344]",
        }]});
        let payload_sha = canonical_sha256(&payload).to_hex();
        assert_eq!(payload_sha, "34674b5b0cd07463c90fde1dd0dfa836acd16bf3152dd54df8a2dada3c03ccd0");
        assert_eq!(
            job_key("default", "d413ada1-99be-40b6-b5ca-65239a75b526", "embed_nodes", &payload_sha),
            "494e34f94ea5c9ae516209d203005773518b89d3e25b9f8406e9cfc60412f37d"
        );
    }

    #[test]
    fn golden_decision_hashes() {
        assert_eq!(context_sha256(&Value::Null), "74234e98afe7498fb5daf1f36ac2d78acc339464f950703b8c019892f982b90b");
        assert_eq!(context_sha256(&json!({})), "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a");
        assert_eq!(
            policy_sha256(&json!({"tool": {}})),
            "681a2313e3abb9da1a668cd8007fb1a786f62c3551fccb105691e4272f410ce3"
        );
        assert_eq!(
            policy_sha256(&json!({"tool": {"prefer": ["psql"]}})),
            "2133168121d9bacf6cc0905c2b1eb7822d0ba4f3504f1f40041d666d9e8c6298"
        );
    }

    #[test]
    fn golden_audit_and_health() {
        assert_eq!(
            audit_vector_sha256(&[0.1, -0.25, 1e-7]),
            "599916a4cd5fe533e9978d31dbf64f62154bd3959b503d557b5c6aa5f2c12806"
        );
        assert_eq!(audit_vector_sha256(&[f32::NAN, -0.0]), sha256_hex("[null,0]"));
        assert_eq!(
            sha256_hex("loopback:55991/aionis_memory"),
            "8fa861c94d5efd968953d47e1da18ea604f33f36f45cccd0570d9fde9ce7db7c"
        );
    }

    #[test]
    fn numbers_print_like_ecmascript() {
        for (json, expected) in [
            ("18446744073709551615", "18446744073709552000"),
            ("9007199254740993", "9007199254740992"),
            ("-9007199254740993", "-9007199254740992"),
            ("9007199254740992", "9007199254740992"),
            ("9223372036854775807", "9223372036854776000"),
            ("123456789012345678901234567890", "1.2345678901234568e+29"),
            ("1.0", "1"),
            ("1e2", "100"),
            ("-0.0", "0"),
            ("1e-7", "1e-7"),
            ("0.000001", "0.000001"),
            ("5e-324", "5e-324"),
            ("0.1", "0.1"),
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(canonical_json(&value), expected, "{json}");
        }
    }

    #[test]
    fn keys_sort_by_utf16_code_units() {
        // U+10000 (first unit D800) sorts before U+FF21, unlike in UTF-8.
        let value = json!({"\u{FF21}": 1, "\u{10000}": 2, "a": 3, "": 4, "\n": 5});
        assert_eq!(canonical_json(&value), "{\"\":4,\"\\n\":5,\"a\":3,\"\u{10000}\":2,\"\u{FF21}\":1}");
    }

    #[test]
    fn brackets_in_strings_do_not_confuse_the_separators() {
        let value = json!(["[", [], {}, [[], "{"], {"{": "[", "a": {}}]);
        assert_eq!(canonical_json(&value), r#"["[",[],{},[[],"{"],{"a":{},"{":"["}]"#);
    }

    #[test]
    fn nesting_does_not_recurse() {
        let mut value = json!(1);
        for _ in 0..5_000 {
            value = Value::Array(vec![value]);
        }
        assert_eq!(canonical_json(&value).len(), 10_001);
    }

    #[test]
    fn digest_round_trips_and_rejects_other_texts() {
        let digest = sha256("x");
        assert_eq!(Digest::from_hex(&digest.to_hex()), Ok(digest));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(serde_json::from_value::<Digest>(json!(digest)).unwrap(), digest);
        assert_eq!(format!("{digest:?}"), format!("Digest({digest})"));
        for wrong in ["", "00", &digest.to_hex().to_uppercase(), &"g".repeat(64), &"é".repeat(32)] {
            assert_eq!(Digest::from_hex(wrong), Err(InvalidDigest));
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_component_prints_as_the_shortest_decimal_of_its_bits(bits in prop::collection::vec(any::<u32>(), 64)) {
            for component in bits.into_iter().map(f32::from_bits).filter(|component| component.is_finite()) {
                let (mut text, mut wide) = (String::new(), String::new());
                push_f32(&mut text, component);
                prop_assert_eq!(text.parse::<f32>(), Ok(component));
                push_f64(&mut wide, crate::model::real(f64::from(component)));
                prop_assert_eq!(text.len(), wide.len(), "{} {}", text, wide);
                // It is the text of the 64 bits it stands for, as the reference would write it.
                let mut again = String::new();
                push_f64(&mut again, text.parse().unwrap());
                prop_assert_eq!(text, again);
            }
        }

        #[test]
        fn agrees_with_the_rfc_8785_library(value in any_json()) {
            prop_assert_eq!(canonical_json(&value), serde_json_canonicalizer::to_string(&value).unwrap());
        }
    }
}
