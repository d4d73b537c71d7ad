-- One row per scope: the head of its commit chain. scope_no is the short name of a scope inside the lexical index.
CREATE TABLE memory_scopes (
    scope_no   INTEGER PRIMARY KEY,
    scope_key  TEXT    NOT NULL UNIQUE,
    head_seq   INTEGER NOT NULL CHECK (head_seq >= 0),
    head_hash  BLOB    NOT NULL CHECK (length(head_hash) = 32),
    node_count INTEGER NOT NULL CHECK (node_count >= 0),
    edge_count INTEGER NOT NULL CHECK (edge_count >= 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

-- The chain. Rows are appended, never changed.
CREATE TABLE memory_commits (
    scope_key      TEXT    NOT NULL,
    seq            INTEGER NOT NULL CHECK (seq > 0),
    id             BLOB    NOT NULL,
    parent_hash    BLOB    NOT NULL,
    hash           BLOB    NOT NULL,
    kind           TEXT    NOT NULL,
    actor          TEXT    NOT NULL,
    model_version  TEXT,
    prompt_version TEXT,
    input_sha256   TEXT    NOT NULL,
    request_sha256 BLOB    NOT NULL,
    changes        TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (scope_key, seq),
    UNIQUE (scope_key, id)
) STRICT;
CREATE INDEX memory_commits_request ON memory_commits (scope_key, request_sha256, seq);

CREATE TABLE memory_nodes (
    node_no                   INTEGER PRIMARY KEY,
    scope_key                 TEXT    NOT NULL,
    id                        BLOB    NOT NULL CHECK (length(id) = 16),
    client_id                 TEXT,
    type                      TEXT    NOT NULL,
    title                     TEXT,
    text_summary              TEXT,
    slots                     TEXT    NOT NULL,
    raw_ref                   TEXT,
    evidence_ref              TEXT,
    memory_lane               TEXT    NOT NULL,
    producer_agent_id         TEXT,
    owner_agent_id            TEXT,
    owner_team_id             TEXT,
    tier                      TEXT    NOT NULL,
    salience                  REAL    NOT NULL CHECK (salience BETWEEN 0 AND 1),
    salience_at               INTEGER NOT NULL,
    importance                REAL    NOT NULL CHECK (importance BETWEEN 0 AND 1),
    confidence                REAL    NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    last_activated            INTEGER,
    version                   INTEGER NOT NULL,
    digest                    BLOB    NOT NULL CHECK (length(digest) = 32),
    -- The commit that made this content, and the last one that touched the node.
    content_seq               INTEGER NOT NULL,
    commit_seq                INTEGER NOT NULL,
    commit_id                 BLOB    NOT NULL,
    created_at                INTEGER NOT NULL,
    updated_at                INTEGER NOT NULL,
    embedding_status          TEXT    NOT NULL,
    embedding_model           TEXT,
    embedding_attempts        INTEGER NOT NULL DEFAULT 0,
    embedding_last_error      TEXT,
    embedding_last_attempt_at INTEGER,
    embedding_ready_at        INTEGER,
    -- What recall filters and scores by, derived from the content when it is written.
    recall_flags              INTEGER NOT NULL,
    term_count                INTEGER NOT NULL,
    name_key                  TEXT,
    UNIQUE (scope_key, id)
) STRICT;
CREATE UNIQUE INDEX memory_nodes_client ON memory_nodes (scope_key, client_id) WHERE client_id IS NOT NULL;
CREATE INDEX memory_nodes_pending ON memory_nodes (scope_key, updated_at) WHERE embedding_status = 'pending';

-- Earlier contents of nodes: exactly the text their digest was taken of.
CREATE TABLE memory_node_versions (
    scope_key TEXT    NOT NULL,
    node_id   BLOB    NOT NULL,
    version   INTEGER NOT NULL,
    from_seq  INTEGER NOT NULL,
    to_seq    INTEGER NOT NULL,
    content   TEXT    NOT NULL,
    PRIMARY KEY (scope_key, node_id, version)
) STRICT;

CREATE TABLE memory_edges (
    scope_key      TEXT    NOT NULL,
    src_id         BLOB    NOT NULL,
    type           TEXT    NOT NULL,
    dst_id         BLOB    NOT NULL,
    id             BLOB    NOT NULL,
    weight         REAL    NOT NULL CHECK (weight BETWEEN 0 AND 1),
    confidence     REAL    NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    decay_rate     REAL    NOT NULL CHECK (decay_rate BETWEEN 0 AND 1),
    last_activated INTEGER,
    created_at     INTEGER NOT NULL,
    commit_seq     INTEGER NOT NULL,
    PRIMARY KEY (scope_key, src_id, type, dst_id),
    UNIQUE (scope_key, id),
    CHECK (src_id <> dst_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_edges_dst ON memory_edges (scope_key, dst_id);

-- Vectors, apart from the nodes so that other changes never touch them; one per node and embedding model.
CREATE TABLE memory_vectors (
    vector_no     INTEGER PRIMARY KEY,
    scope_key     TEXT    NOT NULL,
    node_id       BLOB    NOT NULL,
    model         TEXT    NOT NULL,
    dim           INTEGER NOT NULL,
    source_digest BLOB    NOT NULL,
    origin        TEXT    NOT NULL CHECK (origin IN ('client', 'derived')),
    vector        BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,
    UNIQUE (scope_key, node_id, model),
    CHECK (length(vector) = 4 * dim)
) STRICT;

-- Inverted index. rowid is memory_nodes.node_no; terms come analysed and carry their scope as "<scope_no>_<term>",
-- so that a posting list never leaves its scope.
CREATE VIRTUAL TABLE memory_lexical USING fts5 (
    terms, content = '', contentless_delete = 1, tokenize = "ascii tokenchars '_'"
);
CREATE VIRTUAL TABLE memory_lexical_terms USING fts5vocab (memory_lexical, 'instance');

CREATE TABLE memory_rule_defs (
    scope_key         TEXT    NOT NULL,
    rule_node_id      BLOB    NOT NULL,
    state             TEXT    NOT NULL,
    if_json           TEXT    NOT NULL,
    then_json         TEXT    NOT NULL,
    exceptions_json   TEXT    NOT NULL,
    rule_scope        TEXT    NOT NULL,
    target_agent_id   TEXT,
    target_team_id    TEXT,
    positive_count    INTEGER NOT NULL DEFAULT 0,
    negative_count    INTEGER NOT NULL DEFAULT 0,
    last_evaluated_at INTEGER,
    commit_seq        INTEGER NOT NULL,
    created_at        INTEGER NOT NULL,
    updated_at        INTEGER NOT NULL,
    PRIMARY KEY (scope_key, rule_node_id)
) STRICT, WITHOUT ROWID;

-- Derived work. Payloads name nodes, never hold their text.
CREATE TABLE memory_outbox (
    outbox_no     INTEGER PRIMARY KEY,
    scope_key     TEXT    NOT NULL,
    id            BLOB    NOT NULL,
    tenant_id     TEXT    NOT NULL,
    event_type    TEXT    NOT NULL,
    job_key       TEXT    NOT NULL,
    commit_seq    INTEGER NOT NULL,
    payload       TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    available_at  INTEGER NOT NULL,
    claimed_by    TEXT,
    lease_until   INTEGER,
    fence         INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0,
    last_error    TEXT,
    failed_at     INTEGER,
    failed_reason TEXT,
    published_at  INTEGER,
    UNIQUE (scope_key, id),
    UNIQUE (scope_key, event_type, job_key)
) STRICT;
CREATE INDEX memory_outbox_open ON memory_outbox (tenant_id, available_at)
    WHERE published_at IS NULL AND failed_at IS NULL;
CREATE INDEX memory_outbox_dead ON memory_outbox (failed_at) WHERE failed_at IS NOT NULL;

-- Answers kept for repeated requests.
CREATE TABLE memory_requests (
    scope_key      TEXT    NOT NULL,
    request_key    TEXT    NOT NULL,
    request_sha256 BLOB    NOT NULL,
    outcome        TEXT    NOT NULL,
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (scope_key, request_key)
) STRICT;
CREATE INDEX memory_requests_age ON memory_requests (created_at);

CREATE TABLE memory_recall_audit (
    audit_no          INTEGER PRIMARY KEY,
    scope_key         TEXT    NOT NULL,
    endpoint          TEXT    NOT NULL,
    consumer_agent_id TEXT,
    consumer_team_id  TEXT,
    query_sha256      TEXT    NOT NULL,
    seed_count        INTEGER NOT NULL,
    node_count        INTEGER NOT NULL,
    edge_count        INTEGER NOT NULL,
    created_at        INTEGER NOT NULL
) STRICT;
CREATE INDEX memory_recall_audit_scope ON memory_recall_audit (scope_key, created_at);

-- Facts about the store itself: the embedding space of its vectors, the key of redaction tokens.
CREATE TABLE aionis_meta (
    key   TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
