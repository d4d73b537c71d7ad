//! Every error code a caller can meet: when it is given and what to do. The interface's documents are made of this
//! table, and [`crate::error::DomainError::new`] refuses a code that is not in it when debug assertions are on.

use crate::error::ErrorKind::{self, *};

/// Where a code is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// In answers of the HTTP interface.
    Http,
    /// In messages of operator commands and at start only.
    Command,
}

/// A code with its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode {
    /// Stable and machine-readable.
    pub code: &'static str,
    /// Class of the failure.
    pub kind: ErrorKind,
    /// When it is given.
    pub meaning: &'static str,
    /// What the caller can do.
    pub remedy: &'static str,
    /// Where it is met.
    pub surface: Surface,
}

const fn http(code: &'static str, kind: ErrorKind, meaning: &'static str, remedy: &'static str) -> ErrorCode {
    ErrorCode { code, kind, meaning, remedy, surface: Surface::Http }
}

const fn command(code: &'static str, kind: ErrorKind, meaning: &'static str, remedy: &'static str) -> ErrorCode {
    ErrorCode { code, kind, meaning, remedy, surface: Surface::Command }
}

/// The entry of a code.
pub fn find(code: &str) -> Option<&'static ErrorCode> {
    CODES.iter().find(|entry| entry.code == code)
}

/// All codes, by kind and name.
pub const CODES: &[ErrorCode] = &[
    http(
        "as_of_scope_too_large",
        Invalid,
        "an earlier state of so large a scope is not recalled from; `details`: `nodes`, `nodes_max`",
        "use find with `as_of`, or raise `AIONIS_AS_OF_NODES_MAX`",
    ),
    http("body_unreadable", Invalid, "the body broke off", "send the whole body"),
    http(
        "debug_embeddings_limit_too_high",
        Invalid,
        "`include_embeddings` with a `limit` above 20",
        "lower `limit` to 20 or less",
    ),
    http(
        "debug_embeddings_not_allowed",
        Invalid,
        "the caller may not see embeddings",
        "use a credential of the role admin, or send `x-admin-token`",
    ),
    http(
        "debug_embeddings_requires_return_debug",
        Invalid,
        "`include_embeddings` without `return_debug`",
        "set `return_debug` too",
    ),
    http("debug_embeddings_too_large", Invalid, "the embeddings to show are larger than 65,536 bytes", "lower `limit`"),
    http(
        "decision_candidates_mismatch",
        Invalid,
        "the decision was made among other candidates, or in another order; `details`",
        "send the candidates of the decision",
    ),
    http(
        "decision_not_found_in_scope",
        Invalid,
        "no such decision in this scope; `details`",
        "check the scope; feedback may leave `decision_id` out",
    ),
    http(
        "decision_run_id_mismatch",
        Invalid,
        "the decision belongs to another run; `details`",
        "send the run of the decision",
    ),
    http(
        "decision_selected_tool_mismatch",
        Invalid,
        "the decision selected another tool; `details`",
        "send the tool the decision selected",
    ),
    http("forget_too_large", Invalid, "more nodes or edges than are forgotten at once; `details`", "forget in parts"),
    http(
        "invalid_idempotency_key",
        Invalid,
        "`Idempotency-Key` is empty, longer than 255, or not visible ASCII",
        "send 1 to 255 visible ASCII characters",
    ),
    http(
        "invalid_private_rule_owner",
        Invalid,
        "a private rule without owner; `details`",
        "name `owner_agent_id` or `owner_team_id`, or use the shared lane",
    ),
    http(
        "invalid_request",
        Invalid,
        "problems of fields, in `issues` (at most 100); malformed or empty body; unknown ends of \
         edges; wrong dimension",
        "correct the fields named in `issues`",
    ),
    http(
        "invalid_rule_exceptions_json",
        Invalid,
        "the rule cannot go live: its `exceptions` are no list of conditions",
        "write the rule with other `exceptions`",
    ),
    http(
        "invalid_rule_if_json",
        Invalid,
        "the rule cannot go live: its `if` is no condition",
        "write the rule with another `if`",
    ),
    http(
        "invalid_rule_scope_target",
        Invalid,
        "the rule cannot go live: its `rule_scope` needs a target",
        "name `target_agent_id` or `target_team_id`",
    ),
    http(
        "invalid_rule_then_json",
        Invalid,
        "the rule cannot go live: its `then` is no policy; `details`",
        "write the rule with another `then`",
    ),
    http(
        "invalid_scope",
        Invalid,
        "the scope is blank, too long or not allowed",
        "send a scope as described in the common rules",
    ),
    http(
        "invalid_tenant_id",
        Invalid,
        "the tenant is blank or does not match the pattern; `details`",
        "send a tenant as described in the common rules",
    ),
    http(
        "no_tools_allowed",
        Invalid,
        "strict, and no candidate is allowed; `details`: `candidates`, `allow`, `deny`",
        "offer other candidates, or send `strict`: false",
    ),
    http(
        "nodes_activate_no_resolved_nodes",
        Invalid,
        "none of the named nodes is there",
        "check the scope and the ids",
    ),
    http("rehydrate_no_resolved_nodes", Invalid, "none of the named nodes is there", "check the scope and the ids"),
    http(
        "rule_not_found_in_scope",
        Invalid,
        "no such rule that the caller may see; `details`",
        "check the scope, and that the node is of type rule",
    ),
    http(
        "unauthorized",
        Unauthorized,
        "no credential, or not a good one; `www-authenticate` says which are taken",
        "send a good credential",
    ),
    http(
        "forbidden",
        Forbidden,
        "the role is not enough; `details`: `required_role`, `role`",
        "use a credential of the needed role",
    ),
    http(
        "host_not_allowed",
        Forbidden,
        "nobody is authenticated, and the request names a host that is not this machine; `details`: `host`",
        "use 127.0.0.1 or localhost, name the host in `AIONIS_ALLOWED_HOSTS`, or set `MEMORY_AUTH_MODE`",
    ),
    http(
        "identity_mismatch",
        Forbidden,
        "the request claims to be somebody else; `details`: `field`, `provided`, `expected`",
        "leave the field out",
    ),
    http(
        "node_belongs_to_another",
        Forbidden,
        "a node of the write has the id of another owner's private node",
        "use another id or `client_id`",
    ),
    http(
        "origin_not_allowed",
        Forbidden,
        "nobody is authenticated, and the request comes from a web page of another origin; `details`: `origin`",
        "name the origin in `CORS_ALLOW_ORIGINS`, or set `MEMORY_AUTH_MODE`",
    ),
    http(
        "commit_not_found",
        NotFound,
        "no commit of this scope is named so",
        "list commits with `GET /v1/memory/commits`",
    ),
    http(
        "forget_no_resolved_nodes",
        NotFound,
        "nothing that was named is stored, or may be changed by the caller",
        "check the scope, the ids and the filter",
    ),
    http("metrics_disabled", NotFound, "no metrics recorder is installed", "start the service with `aionis serve`"),
    http(
        "node_not_found",
        NotFound,
        "no node of the scope that the caller may see has this id; `details`",
        "check the scope and the id",
    ),
    http("scope_not_found", NotFound, "nothing was ever written to this scope", "check tenant and scope"),
    http(
        "body_too_slow",
        TooSlow,
        "bytes of the body stopped coming, or come too slowly; `details`: `received_bytes`",
        "send the body without pauses",
    ),
    http(
        "erased",
        Gone,
        "the node, or a rule behind the decision, was forgotten; `details`",
        "nothing: the content is gone, its digest is kept",
    ),
    http(
        "decision_has_feedback",
        Conflict,
        "the decision was reported with another outcome before; `details`",
        "keep the first outcome",
    ),
    http(
        "forget_selection_changed",
        Conflict,
        "what would be erased is not what the token was given for",
        "look at it again without `confirmation_token`",
    ),
    http("idempotency_key_reused", Conflict, "the key was used for another request in this scope", "use a fresh key"),
    http(
        "min_commit_not_reached",
        Conflict,
        "the commit is not visible yet; `details`: `min_commit`, `as_of_commit`",
        "raise `max_wait_ms`, or ask again",
    ),
    http(
        "rule_changed",
        Conflict,
        "the rule got new content while its state was being changed",
        "look at the rule and send the request again",
    ),
    http("batch_too_large", TooLarge, "too many nodes or edges; `details`: `field`, `count`, `max`", "split the write"),
    http("body_too_large", TooLarge, "the body is larger than allowed; `details`: `max_bytes`", "split the request"),
    http(
        "unsupported_media_type",
        UnsupportedMediaType,
        "the body is not declared as JSON",
        "send `content-type: application/json`",
    ),
    http(
        "as_of_busy",
        TooManyRequests,
        "as many earlier states as the process holds at once are being recalled from",
        "repeat after `Retry-After`",
    ),
    http(
        "body_backpressure",
        TooManyRequests,
        "the bodies of other requests take all the memory there is for them; `details`: `waited_ms`, `bytes_max`",
        "repeat after `Retry-After`",
    ),
    http(
        "commit_waiters_full",
        TooManyRequests,
        "too many recalls wait for a commit, of all tenants or of this one; `details`: `waiting`, `max`",
        "repeat after `Retry-After`, or ask without `min_commit`",
    ),
    http(
        "key_lookups_busy",
        TooManyRequests,
        "too many keys are being looked up in the store at once",
        "repeat after `Retry-After`",
    ),
    http(
        "rate_limited_debug_embeddings",
        TooManyRequests,
        "the address asks too often; `details`: `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "rate_limited_recall",
        TooManyRequests,
        "the address asks too often; `details`: `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "rate_limited_recall_text_embed",
        TooManyRequests,
        "the address asks too often; `details`: `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "rate_limited_write",
        TooManyRequests,
        "the address asks too often; `details`: `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "recall_backpressure",
        TooManyRequests,
        "too many recalls at once and waiting, or waited too long; `details`",
        "repeat after `Retry-After`",
    ),
    http(
        "recall_text_embed_queue_full",
        TooManyRequests,
        "too many questions wait for embedding",
        "repeat after `Retry-After`",
    ),
    http(
        "tenant_rate_limited_debug_embeddings",
        TooManyRequests,
        "the tenant asks too often; `details`: `tenant_id`, `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "tenant_rate_limited_recall",
        TooManyRequests,
        "the tenant asks too often; `details`: `tenant_id`, `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "tenant_rate_limited_recall_text_embed",
        TooManyRequests,
        "the tenant asks too often; `details`: `tenant_id`, `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "tenant_rate_limited_write",
        TooManyRequests,
        "the tenant asks too often; `details`: `tenant_id`, `retry_after_ms`, `waited_ms`",
        "repeat after `Retry-After`",
    ),
    http(
        "upstream_embedding_rate_limited",
        TooManyRequests,
        "the embedding provider asked to slow down; `details`",
        "repeat after `Retry-After`",
    ),
    http(
        "verify_in_progress",
        TooManyRequests,
        "a verification is under way in this process",
        "repeat when it is done",
    ),
    http(
        "write_backpressure",
        TooManyRequests,
        "too many writes at once and waiting, or waited too long; `details`",
        "repeat after `Retry-After`",
    ),
    http("internal_error", Internal, "a defect or damaged data; the log says more", "report it with the request id"),
    http(
        "upstream_embedding_bad_response",
        BadGateway,
        "the embedding provider refuses or answers nonsense; `details`",
        "check the provider's settings",
    ),
    http(
        "deadline_exceeded",
        Unavailable,
        "the request took too long",
        "repeat a write with the same `Idempotency-Key` to learn what became of it",
    ),
    http(
        "recall_text_embed_queue_timeout",
        Unavailable,
        "the question waited too long for embedding",
        "repeat after `Retry-After`",
    ),
    http(
        "scope_importing",
        Unavailable,
        "the scope is being copied in and not complete (`aionis copy`), or its tenant is being moved or was moved away",
        "repeat after `Retry-After`",
    ),
    http(
        "scope_purging",
        Unavailable,
        "the scope is being purged (`aionis job scope-purge`)",
        "repeat after `Retry-After`; the scope is empty then",
    ),
    http(
        "storage_read_only",
        Unavailable,
        "the data directory cannot be written; nothing was stored",
        "make the data directory writable",
    ),
    http("storage_unavailable", Unavailable, "storage is busy or failed", "repeat a write to learn what became of it"),
    http(
        "upstream_embedding_unavailable",
        Unavailable,
        "the embedding provider cannot be reached; `details`",
        "repeat after `Retry-After`",
    ),
    http("storage_full", StorageFull, "no space is left; nothing was stored", "free space on the data volume"),
    command(
        "embedding_space_mismatch",
        Conflict,
        "the stored vectors are of another model than the configured one",
        "configure the model of the stored vectors, or run `aionis reembed`",
    ),
    command("key_not_active", Conflict, "the key to rotate is revoked, expired or replaced", "create a new key"),
    command("key_not_found", NotFound, "no key has this id", "take an id that `aionis keys list --all` shows"),
    command("node_changed", Conflict, "a node changed after a job had read it", "run the job again"),
    command(
        "edge_id_in_use",
        Conflict,
        "the id that a moved edge gets is in use for another pair of nodes",
        "forget or rename that edge's node",
    ),
    command("merge_not_found", NotFound, "no merge of the scope has this id, or was made by this run", "check the id"),
    command(
        "merge_superseded",
        Conflict,
        "the duplicate was taken further by a later merge; `details`",
        "take the later merge back first",
    ),
    command("pair_not_found", NotFound, "no such pair waits in the scope's queue", "check the pair's key"),
    command(
        "purge_plan_stale",
        Conflict,
        "the scope is not as it was when the purge was planned, or another purge of it is under way",
        "run `aionis job scope-purge` without `--apply` again, and look at what it says",
    ),
    command(
        "purge_refused",
        Conflict,
        "`--fail-on-delete` or `--mode partition`, and rows would have to be deleted one by one",
        "purge with `--mode auto`, or give the scope partitions of its own first",
    ),
    command("scope_exists", Conflict, "the target of a copy holds the scope already", "copy into an empty store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_said_in_full() {
        for (at, entry) in CODES.iter().enumerate() {
            assert!(CODES[at + 1..].iter().all(|other| other.code != entry.code), "{} twice", entry.code);
            assert!(!entry.meaning.is_empty() && !entry.remedy.is_empty(), "{}", entry.code);
            let word = |b: u8| b.is_ascii_lowercase() || b == b'_';
            assert!(entry.code.bytes().all(word), "{}", entry.code);
            assert_eq!(find(entry.code), Some(entry));
        }
        assert_eq!(find("no_such_code"), None);
    }

    #[test]
    #[should_panic(expected = "error_codes")]
    #[cfg(debug_assertions)]
    fn a_code_that_is_not_listed_is_noticed() {
        let _ = crate::error::DomainError::new(Invalid, "not_listed", "x");
    }

    #[test]
    #[should_panic(expected = "error_codes")]
    #[cfg(debug_assertions)]
    fn a_code_of_another_kind_is_noticed() {
        let _ = crate::error::DomainError::new(Conflict, "invalid_scope", "x");
    }
}
