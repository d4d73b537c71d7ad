//! Ids derived from content (specification 3.4): the same request always names the same node or edge.

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::canon::canonical_sha256;
use crate::text::is_ecmascript_whitespace;

/// The UUID of `name`: the first 16 bytes of SHA-256(`aionis-memory-graph:` + name) with version 5 and the RFC 9562
/// variant stamped in (`stableUuid` of specification 3.4).
pub fn stable_uuid(name: &str) -> Uuid {
    let digest = Sha256::new().chain_update(b"aionis-memory-graph:").chain_update(name).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[6] = (bytes[6] & 0x0F) | 0x50;
    bytes[8] = (bytes[8] & 0x3F) | 0x80;
    Uuid::from_bytes(bytes)
}

/// The reference's scope key: `scope` itself for the default tenant, else `tenant:<tenant>::scope:<scope>`
/// (specification 3.1).
///
/// The encoding is ambiguous (a default-tenant scope can spell another tenant's key, W-1), so it is used in id
/// derivation only, where it keeps derived ids equal to the reference's. Never key storage or access by it.
pub fn reference_scope_key(tenant: &str, scope: &str, default_tenant: &str) -> String {
    if tenant == default_tenant { scope.to_owned() } else { format!("tenant:{tenant}::scope:{scope}") }
}

/// The id of a node that has a client id: `<scope key>:node:<client_id trimmed>` (specification 3.4).
pub fn node_id_by_client_id(ref_scope_key: &str, client_id: &str) -> Uuid {
    stable_uuid(&format!("{ref_scope_key}:node:{}", client_id.trim_matches(is_ecmascript_whitespace)))
}

/// The id of a node with neither id nor client id: `<scope key>:node:<sha(CJ(node))>`, where `node` is the node as
/// received once unknown keys are stripped, before any trimming or normalisation (specification 3.4).
pub fn node_id_by_content(ref_scope_key: &str, node: &Value) -> Uuid {
    stable_uuid(&format!("{ref_scope_key}:node:{}", canonical_sha256(node)))
}

/// The id of an edge without id: `<scope key>:edge:<input>:<type>:<src>:<dst>` (specification 3.4).
///
/// `input` is the normalised and redacted input text, or else the input digest; `src` and `dst` are the endpoints' id
/// or client id as sent. The two edges of a clustered event have this form too, with `topic_cluster` as `input`.
pub fn edge_id(ref_scope_key: &str, input: &str, edge_type: &str, src: &str, dst: &str) -> Uuid {
    stable_uuid(&format!("{ref_scope_key}:edge:{input}:{edge_type}:{src}:{dst}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn golden_stable_uuid() {
        for (name, id) in [
            ("default:node:a1", "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e"),
            ("tenant:acme::scope:s1:node:a1", "68f9eea0-3d7f-53fe-a9ff-df3865352647"),
            ("", "a3c0e595-9acb-588a-ac93-14ba7d26f0a4"),
            ("default:edge:x:part_of:b2:b1", "c3e56a64-122a-5729-a1ea-9d1cfe2a4a4f"),
        ] {
            assert_eq!(stable_uuid(name).to_string(), id, "{name}");
        }
    }

    #[test]
    fn golden_helpers() {
        assert_eq!(node_id_by_client_id("default", " a1\u{FEFF}").to_string(), "aaff6a04-f8f6-5ac6-9592-ebf9f29cdf4e");
        assert_eq!(
            node_id_by_client_id(&reference_scope_key("acme", "s1", "default"), "a1").to_string(),
            "68f9eea0-3d7f-53fe-a9ff-df3865352647"
        );
        let anonymous = json!({"type": "entity", "title": "Bob"});
        assert_eq!(
            canonical_sha256(&anonymous).to_hex(),
            "ede50515ad587fe356ca4af6ea17cd93c0fa0277bfb55ff9269b1da34f5a305b"
        );
        assert_eq!(node_id_by_content("default", &anonymous).to_string(), "fd8f0cf1-d8cb-5be8-ba9a-78b00715a11e");
        assert_eq!(edge_id("default", "x", "part_of", "b2", "b1").to_string(), "c3e56a64-122a-5729-a1ea-9d1cfe2a4a4f");
    }

    #[test]
    fn the_configured_default_tenant_is_not_encoded() {
        assert_eq!(reference_scope_key("acme", "s1", "acme"), "s1");
        assert_eq!(reference_scope_key("default", "s1", "acme"), "tenant:default::scope:s1");
    }
}
