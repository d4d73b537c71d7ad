//! A violation of every check: what makes it, behind the program's back, in a scope in which nothing else is wrong.

/// A violation. In SQL, `{name}` is the id of a node, an edge or a decision of the scope as a literal, `<name>` the same as
/// text, `{scope}` the scope's key, `{now}` the time now in microseconds, `{now_ms}` in milliseconds.
#[derive(Clone, Copy)]
pub(super) struct Seed {
    pub(super) check: &'static str,
    /// In the embedded engine; nothing where the check is not made there.
    pub(super) embedded: &'static [&'static str],
    /// In PostgreSQL; nothing where the check is not made there.
    pub(super) postgres: &'static [&'static str],
    /// A field of the first sample and what it says: a name of the scope, or a value.
    pub(super) sample: (&'static str, &'static str),
    /// Checks that the same damage violates: content is bound by digests.
    pub(super) also: &'static [&'static str],
}

const fn both(check: &'static str, sql: &'static [&'static str], sample: (&'static str, &'static str)) -> Seed {
    Seed { check, embedded: sql, postgres: sql, sample, also: &[] }
}

const fn bound(seed: Seed) -> Seed {
    Seed { also: &["content_digest_mismatch"], ..seed }
}

const fn each(
    check: &'static str,
    embedded: &'static [&'static str],
    postgres: &'static [&'static str],
    sample: (&'static str, &'static str),
) -> Seed {
    Seed { check, embedded, postgres, sample, also: &[] }
}

/// What is noted beside the node `$node`.
macro_rules! noted {
    ($check:literal, $node:literal, $notes:literal) => {
        both(
            $check,
            &[concat!("UPDATE memory_nodes SET activity = '", $notes, "' WHERE id = {", $node, "}")],
            ("id", $node),
        )
    };
}

macro_rules! nodes {
    ($check:literal, $node:literal, $set:literal) => {
        both($check, &[concat!("UPDATE memory_nodes SET ", $set, " WHERE id = {", $node, "}")], ("id", $node))
    };
}

/// Of scopes.
pub(super) const OF_SCOPES: &[Seed] = &[
    bound(both(
        "edges_cross_scope",
        &["UPDATE memory_edges SET dst_id = {ghost} WHERE scope_key = '{scope}' AND id = {edge}"],
        ("id", "edge"),
    )),
    each(
        "embedding_dim_mismatch",
        &["UPDATE memory_vectors SET dim = 1, vector = X'0000803f' WHERE node_id = {e1}"],
        &["UPDATE memory_vectors SET dim = 1, embedding = '[1]' WHERE node_id = {e1}"],
        ("node_id", "e1"),
    ),
    both("embedding_ready_without_vector", &["DELETE FROM memory_vectors WHERE node_id = {e1}"], ("id", "e1")),
    both(
        "embedding_not_ready_with_vector",
        &[
            "UPDATE memory_nodes SET embedding_status = 'failed', embedding_last_error = 'no_embed_text' WHERE id = {e1}",
        ],
        ("node_id", "e1"),
    ),
    nodes!("embedding_model_missing_for_ready", "e1", "embedding_model = ' '"),
    nodes!("embedding_model_invalid_for_ready", "e1", "embedding_model = 'Unknown:model'"),
    each(
        "vectors_without_node",
        &["INSERT INTO memory_vectors (scope_key, node_id, model, dim, source_digest, origin, vector, created_at) \
           SELECT scope_key, {ghost}, model, dim, source_digest, origin, vector, created_at FROM memory_vectors \
           WHERE node_id = {e1}"],
        &[
            "INSERT INTO memory_vectors (scope_key, node_id, model, dim, source_digest, origin, gate, created_at, code, \
           embedding) SELECT scope_key, {ghost}, model, dim, source_digest, origin, gate, created_at, code, embedding \
           FROM memory_vectors WHERE node_id = {e1}",
        ],
        ("node_id", "ghost"),
    ),
    each(
        "vector_digest_stale_ready",
        &["UPDATE memory_vectors SET source_digest = zeroblob(32) WHERE node_id = {e1}"],
        &["UPDATE memory_vectors SET source_digest = decode(repeat('00', 32), 'hex') WHERE node_id = {e1}"],
        ("node_id", "e1"),
    ),
    nodes!("embedding_stuck_pending", "pending", "embedding_pending_at = embedding_pending_at - 7200000000"),
    nodes!("embedding_failed", "pending", "embedding_status = 'failed', embedding_last_error = 'refused'"),
    each(
        "lexical_index_parity",
        &["DELETE FROM memory_lexical WHERE rowid = (SELECT node_no FROM memory_nodes WHERE id = {plain})"],
        &["UPDATE memory_nodes SET lexical_terms = 'zebra 1' WHERE id = {plain}"],
        ("id", "plain"),
    ),
    nodes!("lexical_index_parity", "plain", "term_count = term_count + 1"),
    noted!("topic_state_invalid", "topic", r#"{"topic_state":"odd"}"#),
    noted!("topic_member_count_invalid", "topic", r#"{"member_count":"many"}"#),
    noted!("topic_member_count_mismatch", "topic", r#"{"member_count":7}"#),
    noted!("tier_transition_marker_invalid", "e1", r#"{"last_tier_transition_ms":-5}"#),
    noted!("protected_nodes_recently_tiered", "e1", r#"{"pin":"Yes","last_tier_transition_ms":{now_ms}}"#),
    nodes!("archive_salience_too_high", "plain", "tier = 'archive', salience = 0.9"),
    noted!("adaptive_feedback_quality_invalid", "e1", r#"{"feedback_quality":1.5}"#),
    noted!("adaptive_feedback_counts_invalid", "e1", r#"{"feedback_negative":-1}"#),
    noted!("compression_citations_invalid", "summary", r#"{"citations":{"node_id":"x"}}"#),
    both(
        "compression_citation_node_missing",
        &[r#"UPDATE memory_nodes SET activity = '{"citations":[{"node_id":"<ghost>"}]}' WHERE id = {summary}"#],
        ("target_id", "ghost"),
    ),
    noted!("alias_self_reference", "plain", r#"{"superseded_by":"<plain>"}"#),
    noted!("alias_target_missing", "plain", r#"{"alias_of":"<ghost>"}"#),
    noted!("superseded_target_missing", "plain", r#"{"superseded_by":"<ghost>"}"#),
    noted!("alias_target_type_mismatch", "plain", r#"{"alias_of":"<entity>"}"#),
    both(
        "alias_cycle",
        &[
            r#"UPDATE memory_nodes SET activity = '{"alias_of":"<plain>"}' WHERE id = {alias}"#,
            r#"UPDATE memory_nodes SET activity = '{"alias_of":"<alias>"}' WHERE id = {plain}"#,
        ],
        ("length", "2"),
    ),
    noted!("consolidation_conflict_detected_without_override", "e1", r#"{"consolidation_conflict_detected":true}"#),
    both(
        "aliased_nodes_with_incident_edges",
        &[r#"UPDATE memory_nodes SET activity = '{"alias_of":"<e3>"}' WHERE id = {updated}"#],
        ("id", "edge"),
    ),
    bound(nodes!("private_lane_without_owner", "plain", "memory_lane = 'private'")),
    bound(nodes!("private_rule_without_owner", "private_rule", "owner_agent_id = NULL")),
    noted!("derived_wider_than_sources", "plain", r#"{"source_event_ids":["<private>"]}"#),
    noted!("derived_wider_than_sources", "summary", r#"{"citations":[{"node_id":"<private>"}]}"#),
    bound(nodes!("derived_wider_than_sources", "derived", "memory_lane = 'shared', owner_agent_id = NULL")),
    both(
        "orphan_rule_definition",
        &[
            "INSERT INTO memory_rule_defs (scope_key, rule_node_id, state, if_json, then_json, exceptions_json, rule_scope, \
           commit_seq, created_at, updated_at) SELECT scope_key, {e1}, state, if_json, then_json, exceptions_json, \
           rule_scope, commit_seq, created_at, updated_at FROM memory_rule_defs WHERE rule_node_id = {private_rule}",
        ],
        ("id", "e1"),
    ),
    both(
        "rule_without_definition",
        &["DELETE FROM memory_rule_defs WHERE rule_node_id = {private_rule}"],
        ("id", "private_rule"),
    ),
    both(
        "rule_scope_target_missing",
        &["UPDATE memory_rule_defs SET rule_scope = 'team' WHERE rule_node_id = {private_rule}"],
        ("id", "private_rule"),
    ),
    both(
        "rule_feedback_counters_mismatch",
        &["UPDATE memory_rule_defs SET negative_count = 9 WHERE rule_node_id = {rule}"],
        ("id", "rule"),
    ),
    both(
        "tools_feedback_missing_decision_id",
        &[
            "UPDATE memory_rule_feedback SET decision_id = NULL WHERE scope_key = '{scope}' AND source = 'tools_feedback'",
        ],
        ("rule_node_id", "rule"),
    ),
    both(
        "tools_feedback_decision_link_broken",
        &[
            "UPDATE memory_rule_feedback SET decision_id = {ghost} WHERE scope_key = '{scope}' AND source = 'tools_feedback'",
        ],
        ("decision_id", "ghost"),
    ),
    both(
        "tools_feedback_run_id_mismatch_with_decision",
        &["UPDATE memory_rule_feedback SET run_id = 'other' WHERE scope_key = '{scope}' AND source = 'tools_feedback'"],
        ("decision_id", "decision"),
    ),
    both(
        "tools_decision_missing_run_id",
        &["UPDATE memory_decisions SET run_id = ' ' WHERE scope_key = '{scope}' AND id = {decision}"],
        ("id", "decision"),
    ),
    both(
        "commit_chain_broken",
        &["UPDATE memory_commits SET actor = 'somebody' WHERE scope_key = '{scope}' AND seq = 2"],
        ("seq", "2"),
    ),
    both("commit_chain_broken", &["UPDATE memory_scopes SET head_seq = 99 WHERE scope_key = '{scope}'"], ("seq", "99")),
    nodes!("content_digest_mismatch", "plain", "raw_ref = 's3://elsewhere'"),
    both(
        "content_digest_mismatch",
        &["UPDATE memory_edges SET weight = 0.75 WHERE scope_key = '{scope}' AND id = {edge}"],
        ("id", "edge"),
    ),
    both(
        "content_digest_mismatch",
        &["UPDATE memory_node_versions SET content = '{}' WHERE scope_key = '{scope}'"],
        ("object", "version"),
    ),
    Seed {
        also: &["scope_counters_mismatch"],
        ..both(
            "content_digest_mismatch",
            &["DELETE FROM memory_edges WHERE scope_key = '{scope}' AND id = {edge}"],
            ("code", "not_stored"),
        )
    },
    nodes!("node_commit_scope", "plain", "commit_seq = 999"),
    both(
        "edge_commit_scope",
        &["UPDATE memory_edges SET commit_seq = 999 WHERE scope_key = '{scope}' AND id = {edge}"],
        ("id", "edge"),
    ),
    both(
        "scope_counters_mismatch",
        &["UPDATE memory_scopes SET edge_count = edge_count + 1 WHERE scope_key = '{scope}'"],
        ("counter", "edge_count"),
    ),
    both(
        "outbox_should_be_failed_but_not_marked",
        &["UPDATE memory_outbox SET attempts = 25 WHERE scope_key = '{scope}'"],
        ("attempts", "25"),
    ),
    both(
        "outbox_claimed_too_old",
        &["UPDATE memory_outbox SET claimed_by = 'gone', lease_until = {now} - 120000000 WHERE scope_key = '{scope}'"],
        ("age_s", "120"),
    ),
    both(
        "outbox_dead_letters",
        &["UPDATE memory_outbox SET failed_at = {now} - 5000000, failed_reason = 'max_attempts_exceeded' \
           WHERE scope_key = '{scope}'"],
        ("age_s", "5"),
    ),
];

/// Of the deployment.
pub(super) const OF_THE_DEPLOYMENT: &[Seed] = &[
    each(
        "tenant_scope_key_malformed",
        &[
            "INSERT INTO memory_recall_audit (scope_key, endpoint, query_sha256, seed_count, node_count, edge_count, created_at) \
           VALUES ('no-tenant', 'recall', 'q', 0, 0, 0, 0)",
        ],
        &[
            "INSERT INTO memory_recall_audit (scope_key, id, endpoint, query_sha256, seed_count, node_count, edge_count, created_at) \
           VALUES ('no-tenant', gen_random_uuid(), 'recall', 'q', 0, 0, 0, 0)",
        ],
        ("scope_key", "no-tenant"),
    ),
    each(
        "scope_head_missing",
        &["INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
           VALUES ('default/headless', 'k', zeroblob(32), '{}', 0)"],
        &["INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
           VALUES ('default/headless', 'k', decode(repeat('00', 32), 'hex'), '{}', 0)"],
        ("table", "memory_requests"),
    ),
    each(
        "cross_tenant_outbox_scope_mismatch",
        &["UPDATE memory_outbox SET tenant_id = 'other' WHERE scope_key = '{scope}'"],
        &[],
        ("tenant_id", "other"),
    ),
    each(
        "lexical_rows_without_node",
        &["INSERT INTO memory_lexical (rowid, terms) VALUES (4000000, '1_zebra')"],
        &[],
        ("id", "4000000"),
    ),
];
