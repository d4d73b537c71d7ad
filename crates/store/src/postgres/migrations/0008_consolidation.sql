-- Pairs of nodes that look alike, and what was decided about them. Indexes begin with what rows are looked up by, or with a
-- number made of the scope: see 0002.
CREATE TABLE memory_consolidation_candidates (
    scope_key          text   NOT NULL,
    pair_key           text   COLLATE "C" NOT NULL,
    tenant_id          text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    scope_no           bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED,
    low_id             uuid   NOT NULL,
    high_id            uuid   NOT NULL,
    type               text   NOT NULL,
    -- What both said when they were compared.
    low_digest         bytea  NOT NULL CHECK (length(low_digest) = 32),
    high_digest        bytea  NOT NULL CHECK (length(high_digest) = 32),
    score              float8 NOT NULL,
    vector_similarity  float8 NOT NULL,
    lexical_similarity float8 NOT NULL,
    conflict_kind      text,
    conflict_score     float8,
    shared_tokens      bigint,
    state              text   NOT NULL,
    created_at         bigint NOT NULL,
    updated_at         bigint NOT NULL,
    PRIMARY KEY (scope_key, pair_key)
);
CREATE INDEX memory_consolidation_candidates_queue ON memory_consolidation_candidates (scope_no, score DESC, pair_key);
CREATE INDEX memory_consolidation_candidates_low ON memory_consolidation_candidates (low_id, scope_key);
CREATE INDEX memory_consolidation_candidates_high ON memory_consolidation_candidates (high_id, scope_key);

-- Nodes that were made aliases, with the notes both had before: what is needed to take it back.
CREATE TABLE memory_merges (
    scope_key       text   NOT NULL,
    id              uuid   NOT NULL,
    tenant_id       text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    scope_no        bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED,
    run_id          uuid   NOT NULL,
    ordinal         bigint NOT NULL,
    -- The merge that took an alias along to another node.
    cause_id        uuid,
    canonical_id    uuid   NOT NULL,
    duplicate_id    uuid   NOT NULL,
    pair_key        text,
    score           float8,
    prior_duplicate jsonb,
    prior_canonical jsonb,
    applied_seq     bigint NOT NULL,
    applied_at      bigint NOT NULL,
    undone_seq      bigint,
    PRIMARY KEY (scope_key, id)
);
CREATE INDEX memory_merges_run ON memory_merges (run_id, scope_key);
CREATE INDEX memory_merges_cause ON memory_merges (cause_id, scope_key);
CREATE INDEX memory_merges_duplicate ON memory_merges (duplicate_id, scope_key);
CREATE INDEX memory_merges_canonical ON memory_merges (canonical_id, scope_key);
CREATE INDEX memory_merges_aliases ON memory_merges (scope_no, duplicate_id);

-- Edges that were moved or dropped by a job, as they were, and the edge they became part of with what that one was before.
-- change_no tells images of other processes.
CREATE TABLE memory_removed_edges (
    scope_key           text   NOT NULL,
    edge_id             uuid   NOT NULL,
    removed_seq         bigint NOT NULL,
    tenant_id           text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    scope_no            bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED,
    src_id              uuid   NOT NULL,
    type                text   NOT NULL,
    dst_id              uuid   NOT NULL,
    weight              float8 NOT NULL,
    confidence          float8 NOT NULL,
    decay_rate          float8 NOT NULL,
    last_activated      bigint,
    created_at          bigint NOT NULL,
    commit_seq          bigint NOT NULL,
    role                text   NOT NULL,
    target_id           uuid,
    base_weight         float8,
    base_confidence     float8,
    base_decay_rate     float8,
    base_last_activated bigint,
    restored_seq        bigint,
    change_no           bigint NOT NULL,
    PRIMARY KEY (scope_key, edge_id, removed_seq)
);
CREATE INDEX memory_removed_edges_src ON memory_removed_edges (src_id, scope_key);
CREATE INDEX memory_removed_edges_dst ON memory_removed_edges (dst_id, scope_key);
CREATE INDEX memory_removed_edges_target ON memory_removed_edges (target_id, scope_key);
CREATE INDEX memory_removed_edges_change ON memory_removed_edges (scope_no, change_no);

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['memory_consolidation_candidates', 'memory_merges', 'memory_removed_edges']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (tenant_id = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'') '
            'WITH CHECK (split_part(scope_key, ''/'', 1) = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'')', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO aionis_runtime', name);
    END LOOP;
END
$$;
