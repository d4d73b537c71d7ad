-- Pairs of nodes that look alike, and what was decided about them.
CREATE TABLE memory_consolidation_candidates (
    scope_key          TEXT    NOT NULL,
    pair_key           TEXT    NOT NULL,
    low_id             BLOB    NOT NULL CHECK (length(low_id) = 16),
    high_id            BLOB    NOT NULL CHECK (length(high_id) = 16),
    type               TEXT    NOT NULL,
    -- What both said when they were compared.
    low_digest         BLOB    NOT NULL CHECK (length(low_digest) = 32),
    high_digest        BLOB    NOT NULL CHECK (length(high_digest) = 32),
    score              REAL    NOT NULL,
    vector_similarity  REAL    NOT NULL,
    lexical_similarity REAL    NOT NULL,
    conflict_kind      TEXT,
    conflict_score     REAL,
    shared_tokens      INTEGER,
    state              TEXT    NOT NULL,
    created_at         INTEGER NOT NULL,
    updated_at         INTEGER NOT NULL,
    PRIMARY KEY (scope_key, pair_key)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_consolidation_candidates_queue ON memory_consolidation_candidates (scope_key, score DESC, pair_key);
CREATE INDEX memory_consolidation_candidates_low ON memory_consolidation_candidates (scope_key, low_id);
CREATE INDEX memory_consolidation_candidates_high ON memory_consolidation_candidates (scope_key, high_id);

-- Nodes that were made aliases, with the notes both had before: what is needed to take it back.
CREATE TABLE memory_merges (
    scope_key       TEXT    NOT NULL,
    id              BLOB    NOT NULL CHECK (length(id) = 16),
    run_id          BLOB    NOT NULL,
    ordinal         INTEGER NOT NULL,
    -- The merge that took an alias along to another node.
    cause_id        BLOB,
    canonical_id    BLOB    NOT NULL,
    duplicate_id    BLOB    NOT NULL,
    pair_key        TEXT,
    score           REAL,
    prior_duplicate TEXT,
    prior_canonical TEXT,
    applied_seq     INTEGER NOT NULL,
    applied_at      INTEGER NOT NULL,
    undone_seq      INTEGER,
    PRIMARY KEY (scope_key, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_merges_run ON memory_merges (scope_key, run_id);
CREATE INDEX memory_merges_cause ON memory_merges (scope_key, cause_id) WHERE cause_id IS NOT NULL;
CREATE INDEX memory_merges_duplicate ON memory_merges (scope_key, duplicate_id);
CREATE INDEX memory_merges_canonical ON memory_merges (scope_key, canonical_id);

-- Edges that were moved or dropped by a job, as they were, and the edge they became part of with what that one was before.
CREATE TABLE memory_removed_edges (
    scope_key           TEXT    NOT NULL,
    edge_id             BLOB    NOT NULL CHECK (length(edge_id) = 16),
    removed_seq         INTEGER NOT NULL,
    src_id              BLOB    NOT NULL,
    type                TEXT    NOT NULL,
    dst_id              BLOB    NOT NULL,
    weight              REAL    NOT NULL,
    confidence          REAL    NOT NULL,
    decay_rate          REAL    NOT NULL,
    last_activated      INTEGER,
    created_at          INTEGER NOT NULL,
    commit_seq          INTEGER NOT NULL,
    role                TEXT    NOT NULL,
    target_id           BLOB,
    base_weight         REAL,
    base_confidence     REAL,
    base_decay_rate     REAL,
    base_last_activated INTEGER,
    restored_seq        INTEGER,
    PRIMARY KEY (scope_key, edge_id, removed_seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX memory_removed_edges_src ON memory_removed_edges (scope_key, src_id);
CREATE INDEX memory_removed_edges_dst ON memory_removed_edges (scope_key, dst_id);
CREATE INDEX memory_removed_edges_target ON memory_removed_edges (scope_key, target_id) WHERE target_id IS NOT NULL;
