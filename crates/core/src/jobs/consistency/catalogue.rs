//! The checks there are. What a check is called, what it looks at and how it is judged is said here and nowhere else.

use super::{
    Check, CheckSet, Probe, ScanTable, Severity, StorageEngine,
    cross::Cross,
    nodes::{self, NodeView},
    work::{self, RowView},
};
use serde_json::Value;

/// What a predicate says of a row: the sample of a violation, nothing, or why the row cannot be judged.
pub(super) type Found = Result<Option<Value>, String>;

/// How a check is judged.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// By a node alone.
    Node(fn(&NodeView<'_>) -> Found),
    /// By another row alone.
    Row(fn(&RowView<'_>) -> Found),
    /// By facts about several rows.
    Cross(Cross),
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Node(_) => "of a node",
            Self::Row(_) => "of a row",
            Self::Cross(_) => "of several rows",
        })
    }
}

use Rule::{Cross as Several, Node, Row};
use ScanTable as T;
use Severity::{Error, Warning};

const fn scope(
    name: &'static str,
    severity: Severity,
    reads: &'static [ScanTable],
    (violation, sample): (&'static str, &'static [&'static str]),
    rule: Rule,
) -> Check {
    Check { name, severity, set: CheckSet::Scope, only: None, reads, violation, sample, probe: None, rule }
}

const fn probed(probe: Probe, check: Check) -> Check {
    Check { probe: Some(probe), ..check }
}

const fn cross_tenant(check: Check) -> Check {
    Check { set: CheckSet::CrossTenant, ..check }
}

const fn embedded(check: Check) -> Check {
    Check { only: Some(StorageEngine::Embedded), ..check }
}

const NODES: &[T] = &[T::Nodes];
const EDGES: &[T] = &[T::Edges, T::Nodes];
const OUTBOX: &[T] = &[T::Outbox];
const NODE: &[&str] = &["id", "type"];
const EMBEDDING: &[&str] = &["id", "type", "embedding_status", "embedding_model"];
const ATTEMPTS: &[&str] = &["id", "type", "embedding_status", "embedding_attempts", "age_s"];
const LANE: &[&str] = &["id", "type", "memory_lane"];
const TARGET: &[&str] = &["id", "target_id"];
const EDGE: &[&str] = &["id", "type", "src_id", "dst_id"];
const WORK: &[&str] = &["id", "event_type", "attempts", "age_s"];

/// Every check, in the order in which they are reported and batched.
pub const CATALOGUE: &[Check] = &[
    scope(
        "edges_cross_scope",
        Error,
        EDGES,
        ("an edge one of whose ends is no node of its scope", EDGE),
        Several(Cross::EdgesCrossScope),
    ),
    probed(
        Probe::ScopeKeys,
        cross_tenant(scope(
            "tenant_scope_key_malformed",
            Error,
            &[T::ScopeKeys],
            ("a scope key, in any table, that is not <tenant>/<scope>", &["table", "scope_key"]),
            Row(work::tenant_scope_key_malformed),
        )),
    ),
    probed(
        Probe::ScopeKeys,
        cross_tenant(scope(
            "scope_head_missing",
            Error,
            &[T::ScopeKeys],
            ("a scope key, in any table, that memory_scopes does not have", &["table", "scope_key"]),
            Several(Cross::ScopeHeadMissing),
        )),
    ),
    embedded(cross_tenant(scope(
        "cross_tenant_outbox_scope_mismatch",
        Error,
        &[T::OutboxTenants],
        ("work whose tenant is not that of its scope", &["id", "scope_key", "tenant_id"]),
        Row(work::cross_tenant_outbox_scope_mismatch),
    ))),
    embedded(cross_tenant(scope(
        "lexical_rows_without_node",
        Error,
        &[T::Lexical],
        ("a row of the word index that no node has", &["id"]),
        Row(work::lexical_rows_without_node),
    ))),
    scope(
        "embedding_dim_mismatch",
        Error,
        &[T::Vectors],
        ("a vector of the model recall uses with another dimension", &["node_id", "model", "dim"]),
        Row(work::embedding_dim_mismatch),
    ),
    scope(
        "embedding_ready_without_vector",
        Error,
        &[T::Nodes, T::Vectors],
        ("a node said to be ready without a vector of the model recall uses", TARGETLESS),
        Several(Cross::ReadyWithoutVector),
    ),
    scope(
        "embedding_not_ready_with_vector",
        Error,
        &[T::Vectors, T::Nodes],
        ("a vector of the present content of a node that is not said to be ready", &["node_id", "model"]),
        Several(Cross::NotReadyWithVector),
    ),
    scope(
        "embedding_model_missing_for_ready",
        Error,
        NODES,
        ("a node that is ready and does not name its model", EMBEDDING),
        Node(nodes::embedding_model_missing_for_ready),
    ),
    scope(
        "embedding_model_invalid_for_ready",
        Error,
        NODES,
        ("a node that is ready whose model is unknown:… or neither client nor <provider>:<model>", EMBEDDING),
        Node(nodes::embedding_model_invalid_for_ready),
    ),
    scope(
        "vectors_without_node",
        Error,
        &[T::Vectors, T::Nodes],
        ("a vector of a node that is not stored", &["node_id", "model"]),
        Several(Cross::VectorsWithoutNode),
    ),
    scope(
        "vector_digest_stale_ready",
        Error,
        &[T::Vectors, T::Nodes],
        ("a vector made of another content than its node has, which is said to be ready", &["node_id", "model"]),
        Several(Cross::VectorDigestStale),
    ),
    probed(
        Probe::Pending,
        scope(
            "embedding_stuck_pending",
            Warning,
            NODES,
            ("a node that waits for its vector for longer than --stuck-after-s", ATTEMPTS),
            Node(nodes::embedding_stuck_pending),
        ),
    ),
    probed(
        Probe::Failed,
        scope(
            "embedding_failed",
            Warning,
            NODES,
            ("a node that got no vector although it wants one", ATTEMPTS),
            Node(nodes::embedding_failed),
        ),
    ),
    scope(
        "lexical_index_parity",
        Error,
        NODES,
        ("a node whose entry in the word index, or count of terms, is not what its text gives", NODE),
        Node(nodes::lexical_index_parity),
    ),
    scope(
        "topic_state_invalid",
        Warning,
        NODES,
        ("a topic whose topic_state is neither active nor draft", NODE),
        Node(nodes::topic_state_invalid),
    ),
    scope(
        "topic_member_count_invalid",
        Warning,
        NODES,
        ("a topic whose member_count is no count", NODE),
        Node(nodes::topic_member_count_invalid),
    ),
    scope(
        "topic_member_count_mismatch",
        Warning,
        &[T::Nodes, T::Edges],
        ("a topic whose member_count is not how many events it has", &["id", "member_count", "edges"]),
        Several(Cross::TopicMemberCountMismatch),
    ),
    scope(
        "tier_transition_marker_invalid",
        Warning,
        NODES,
        ("last_tier_transition_ms that is no number of milliseconds", NODE),
        Node(nodes::tier_transition_marker_invalid),
    ),
    scope(
        "protected_nodes_recently_tiered",
        Error,
        NODES,
        ("a pinned or legally held node that changed its tier in the last 24 hours", &["id", "type", "tier"]),
        Node(nodes::protected_nodes_recently_tiered),
    ),
    scope(
        "archive_salience_too_high",
        Warning,
        NODES,
        ("an archived node whose salience is above --cold-below", &["id", "type", "salience"]),
        Node(nodes::archive_salience_too_high),
    ),
    scope(
        "adaptive_feedback_quality_invalid",
        Warning,
        NODES,
        ("feedback_quality that is no number from -1 to 1", NODE),
        Node(nodes::adaptive_feedback_quality_invalid),
    ),
    scope(
        "adaptive_feedback_counts_invalid",
        Warning,
        NODES,
        ("feedback_positive or feedback_negative that is no count", NODE),
        Node(nodes::adaptive_feedback_counts_invalid),
    ),
    scope(
        "scope_hot_budget_exceeded",
        Warning,
        NODES,
        ("hot nodes above --hot-budget; only with one", &["hot", "budget"]),
        Several(Cross::HotBudget),
    ),
    scope(
        "scope_active_budget_exceeded",
        Warning,
        NODES,
        ("hot and warm nodes above --active-budget; only with one", &["active", "budget"]),
        Several(Cross::ActiveBudget),
    ),
    scope(
        "compression_citations_invalid",
        Warning,
        NODES,
        ("a compression_rollup concept without a list of citations", NODE),
        Node(nodes::compression_citations_invalid),
    ),
    scope(
        "compression_citation_node_missing",
        Warning,
        NODES,
        ("a citation of a node that is not stored in the scope", TARGET),
        Several(Cross::CitationMissing),
    ),
    scope(
        "alias_self_reference",
        Error,
        NODES,
        ("a node that is alias_of or superseded_by itself", NODE),
        Node(nodes::alias_self_reference),
    ),
    scope(
        "alias_target_missing",
        Error,
        NODES,
        ("alias_of a node that is not stored in the scope", TARGET),
        Several(Cross::AliasMissing),
    ),
    scope(
        "superseded_target_missing",
        Warning,
        NODES,
        ("superseded_by a node that is not stored in the scope", TARGET),
        Several(Cross::SupersededMissing),
    ),
    scope(
        "alias_target_type_mismatch",
        Warning,
        NODES,
        ("alias_of a node of another type", TARGET),
        Several(Cross::AliasType),
    ),
    scope(
        "alias_cycle",
        Error,
        NODES,
        ("nodes that are alias_of each other in a circle of two or more; one per circle", &["id", "length"]),
        Several(Cross::AliasCycle),
    ),
    scope(
        "consolidation_conflict_detected_without_override",
        Error,
        NODES,
        ("consolidation_conflict_detected without consolidation_conflict_override", NODE),
        Node(nodes::consolidation_conflict),
    ),
    scope(
        "aliased_nodes_with_incident_edges",
        Warning,
        EDGES,
        ("an edge of a node that is alias_of another one", EDGE),
        Several(Cross::AliasedWithEdges),
    ),
    scope(
        "private_lane_without_owner",
        Warning,
        NODES,
        ("a private node that is no rule and has no owner", LANE),
        Node(nodes::private_lane_without_owner),
    ),
    scope(
        "private_rule_without_owner",
        Error,
        NODES,
        ("a private rule without owner", LANE),
        Node(nodes::private_rule_without_owner),
    ),
    scope(
        "derived_wider_than_sources",
        Error,
        EDGES,
        ("a node seen by others than the private node of another owner it is derived from", &["id", "source_id"]),
        Several(Cross::DerivedWider),
    ),
    scope(
        "orphan_rule_definition",
        Error,
        &[T::Rules, T::Nodes],
        ("an executable part whose node is no stored rule", &["id", "state"]),
        Several(Cross::OrphanRuleDefinition),
    ),
    scope(
        "rule_without_definition",
        Error,
        &[T::Nodes, T::Rules],
        ("a rule without executable part", TARGETLESS),
        Several(Cross::RuleWithoutDefinition),
    ),
    scope(
        "rule_scope_target_missing",
        Error,
        &[T::Rules],
        ("a rule for an agent or a team that does not name it", &["id", "rule_scope"]),
        Row(work::rule_scope_target_missing),
    ),
    scope(
        "rule_feedback_counters_mismatch",
        Error,
        &[T::Rules, T::Feedback],
        ("a rule whose counters are not the numbers of its feedback", FEEDBACK),
        Several(Cross::FeedbackCounters),
    ),
    scope(
        "tools_feedback_missing_decision_id",
        Error,
        &[T::Feedback],
        ("feedback on tools that names no decision", &["id", "rule_node_id"]),
        Row(work::tools_feedback_missing_decision_id),
    ),
    scope(
        "tools_feedback_decision_link_broken",
        Error,
        &[T::Feedback, T::Decisions],
        ("feedback on tools that names a decision that is not stored", &["id", "decision_id"]),
        Several(Cross::DecisionMissing),
    ),
    scope(
        "tools_feedback_run_id_mismatch_with_decision",
        Warning,
        &[T::Feedback, T::Decisions],
        ("feedback on tools of another run than its decision", &["id", "decision_id"]),
        Several(Cross::DecisionRun),
    ),
    scope(
        "tools_decision_missing_run_id",
        Warning,
        &[T::Decisions],
        ("a decision without run", &["id", "created_at"]),
        Row(work::tools_decision_missing_run_id),
    ),
    probed(
        Probe::ChainTail,
        scope(
            "commit_chain_broken",
            Error,
            &[T::Commits, T::Scopes],
            (
                "a commit that does not follow the one before, or is not what its hash says; or a head that is not the last",
                CHAIN,
            ),
            Several(Cross::Chain),
        ),
    ),
    scope(
        "content_digest_mismatch",
        Error,
        &[T::Commits, T::Nodes, T::Versions, T::Edges],
        (
            "a node, an earlier version or an edge that is not what its commit binds, or is missing",
            &["object", "id", "code"],
        ),
        Several(Cross::Digests),
    ),
    scope(
        "node_commit_scope",
        Error,
        &[T::Nodes, T::Commits],
        ("a node whose last commit is none of its scope", &["id", "commit_seq"]),
        Several(Cross::NodeCommit),
    ),
    scope(
        "edge_commit_scope",
        Error,
        &[T::Edges, T::Commits],
        ("an edge whose last commit is none of its scope", &["id", "commit_seq"]),
        Several(Cross::EdgeCommit),
    ),
    scope(
        "scope_counters_mismatch",
        Error,
        &[T::Scopes, T::Nodes, T::Edges],
        ("a scope whose counts of nodes and edges are not what is stored", &["counter", "said", "stored"]),
        Several(Cross::Counters),
    ),
    probed(
        Probe::OpenWork,
        scope(
            "outbox_should_be_failed_but_not_marked",
            Error,
            OUTBOX,
            ("work that has used up its attempts, is nobody's, and is not given up", WORK),
            Row(work::outbox_should_be_failed),
        ),
    ),
    probed(
        Probe::OpenWork,
        scope(
            "outbox_claimed_too_old",
            Warning,
            OUTBOX,
            ("work whose claim ran out longer ago than --claim-timeout-ms", WORK),
            Row(work::outbox_claimed_too_old),
        ),
    ),
    probed(
        Probe::DeadLetters,
        scope(
            "outbox_dead_letters",
            Warning,
            OUTBOX,
            ("work that was given up", &["id", "event_type", "attempts", "age_s", "reason"]),
            Row(work::outbox_dead_letters),
        ),
    ),
];

const TARGETLESS: &[&str] = &["id"];
const FEEDBACK: &[&str] = &["id", "positive_count", "negative_count", "positive_feedback", "negative_feedback"];
const CHAIN: &[&str] = &["seq", "problem"];

/// Checks of the reference that cannot fail here, each with what makes sure of it.
pub const ENFORCED_BY_THE_SCHEMA: &[(&str, &str)] = &[
    ("cross_tenant_edge_scope_mismatch", "an edge names its ends within its own scope key"),
    ("cross_tenant_rule_def_scope_mismatch", "a rule's executable part is keyed by the scope key of its node"),
    ("cross_tenant_rule_feedback_scope_mismatch", "feedback names its rule within its own scope key"),
    (
        "cross_tenant_commit_parent_scope_mismatch",
        "a commit names no parent row; commit_chain_broken compares the hash",
    ),
    (
        "private_rule_owner_constraint_not_validated",
        "there is no such constraint; private_rule_without_owner looks at every rule",
    ),
    ("nodes_missing_commit_id", "NOT NULL"),
    ("edges_missing_commit_id", "commit_seq is NOT NULL; edge_commit_scope looks whether it is there"),
    ("execution_provenance_schema_missing", "migrations are applied and checked at every start"),
    ("outbox_failed_at_missing", "migrations are applied and checked at every start"),
];
