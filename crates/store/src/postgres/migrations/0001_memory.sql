-- Every key leads with scope_key, a plain text column "<tenant>/<scope>" that never changes. tenant_id is generated from
-- it, for row-level security and reports. Times are microseconds since 1970, so that they equal what commits bind.
--
-- change_no numbers the changes of one scope in the order they became visible: whoever changes a row of the scope holds
-- the lock on its memory_scopes row. Readers that keep an image of a scope ask for what is newer than they have.

CREATE TABLE memory_scopes (
    scope_key    text   NOT NULL PRIMARY KEY CHECK (scope_key LIKE '_%/_%'),
    tenant_id    text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    head_seq     bigint NOT NULL CHECK (head_seq >= 0),
    head_hash    bytea  NOT NULL CHECK (length(head_hash) = 32),
    node_count   bigint NOT NULL CHECK (node_count >= 0),
    edge_count   bigint NOT NULL CHECK (edge_count >= 0),
    vector_count bigint NOT NULL CHECK (vector_count >= 0),
    change_no    bigint NOT NULL CHECK (change_no >= 0),
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL
) WITH (fillfactor = 50);

-- The chain. Rows are appended, never changed.
CREATE TABLE memory_commits (
    scope_key      text   NOT NULL,
    seq            bigint NOT NULL CHECK (seq > 0),
    id             uuid   NOT NULL,
    tenant_id      text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    parent_hash    bytea  NOT NULL,
    hash           bytea  NOT NULL,
    kind           text   NOT NULL,
    actor          text   NOT NULL,
    model_version  text,
    prompt_version text,
    input_sha256   text   NOT NULL,
    request_sha256 bytea  NOT NULL,
    changes        text   NOT NULL,
    created_at     bigint NOT NULL,
    PRIMARY KEY (scope_key, seq),
    UNIQUE (scope_key, id)
);
CREATE INDEX memory_commits_request ON memory_commits (scope_key, request_sha256, seq);

CREATE TABLE memory_nodes (
    scope_key                 text     NOT NULL,
    id                        uuid     NOT NULL,
    tenant_id                 text     NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    client_id                 text,
    type                      text     NOT NULL,
    title                     text,
    text_summary              text,
    slots                     jsonb    NOT NULL,
    raw_ref                   text,
    evidence_ref              text,
    memory_lane               text     NOT NULL,
    producer_agent_id         text,
    owner_agent_id            text,
    owner_team_id             text,
    tier                      text     NOT NULL,
    salience                  float8   NOT NULL CHECK (salience BETWEEN 0 AND 1),
    salience_at               bigint   NOT NULL,
    importance                float8   NOT NULL CHECK (importance BETWEEN 0 AND 1),
    confidence                float8   NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    last_activated            bigint,
    version                   bigint   NOT NULL,
    digest                    bytea    NOT NULL CHECK (length(digest) = 32),
    -- The commit that made this content, and the last one that touched the node.
    content_seq               bigint   NOT NULL,
    commit_seq                bigint   NOT NULL,
    commit_id                 uuid     NOT NULL,
    created_at                bigint   NOT NULL,
    updated_at                bigint   NOT NULL,
    embedding_status          text     NOT NULL,
    embedding_model           text,
    embedding_attempts        integer  NOT NULL DEFAULT 0,
    embedding_last_error      text,
    embedding_last_attempt_at bigint,
    embedding_ready_at        bigint,
    embedding_pending_at      bigint,
    -- What recall filters and scores by, derived from the content when it is written. lexical_terms is
    -- "term count term count …": analysed terms hold no white space.
    recall_flags              smallint NOT NULL,
    term_count                integer  NOT NULL,
    lexical_terms             text     NOT NULL,
    name_key                  text,
    change_no                 bigint   NOT NULL,
    PRIMARY KEY (scope_key, id)
) WITH (fillfactor = 90);
CREATE UNIQUE INDEX memory_nodes_client ON memory_nodes (scope_key, client_id) WHERE client_id IS NOT NULL;
CREATE INDEX memory_nodes_change ON memory_nodes (scope_key, change_no);
CREATE INDEX memory_nodes_pending ON memory_nodes (scope_key, embedding_pending_at) WHERE embedding_status = 'pending';

-- Earlier contents of nodes: exactly the text their digest was taken of.
CREATE TABLE memory_node_versions (
    scope_key text   NOT NULL,
    node_id   uuid   NOT NULL,
    version   bigint NOT NULL,
    tenant_id text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    from_seq  bigint NOT NULL,
    to_seq    bigint NOT NULL,
    content   text   NOT NULL,
    PRIMARY KEY (scope_key, node_id, version)
);

CREATE TABLE memory_edges (
    scope_key      text   NOT NULL,
    src_id         uuid   NOT NULL,
    type           text   NOT NULL,
    dst_id         uuid   NOT NULL,
    id             uuid   NOT NULL,
    tenant_id      text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    weight         float8 NOT NULL CHECK (weight BETWEEN 0 AND 1),
    confidence     float8 NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    decay_rate     float8 NOT NULL CHECK (decay_rate BETWEEN 0 AND 1),
    last_activated bigint,
    created_at     bigint NOT NULL,
    commit_seq     bigint NOT NULL,
    change_no      bigint NOT NULL,
    PRIMARY KEY (scope_key, src_id, type, dst_id),
    UNIQUE (scope_key, id),
    CHECK (src_id <> dst_id)
);
CREATE INDEX memory_edges_change ON memory_edges (scope_key, change_no);

-- Vectors, apart from the nodes so that other changes never touch them; one per node and embedding model. Who may find a
-- vector stands beside it, so that a search filters while it searches. code is what images of a scope hold of a vector.
-- With AIONIS_VECTOR_SEARCH=hnsw each embedding model gets a partial HNSW index of its own.
CREATE TABLE memory_vectors (
    scope_key      text     NOT NULL,
    model          text     NOT NULL,
    node_id        uuid     NOT NULL,
    tenant_id      text     NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    dim            integer  NOT NULL,
    source_digest  bytea    NOT NULL,
    origin         text     NOT NULL CHECK (origin IN ('client', 'derived')),
    gate           smallint NOT NULL,
    owner_agent_id text,
    owner_team_id  text,
    created_at     bigint   NOT NULL,
    code           bytea    NOT NULL,
    embedding      vector   NOT NULL,
    PRIMARY KEY (scope_key, node_id, model),
    CHECK (vector_dims(embedding) = dim)
) WITH (toast_tuple_target = 8160, fillfactor = 95);
-- Inline up to two thousand dimensions: a search scores rows, not pointers to them.
ALTER TABLE memory_vectors ALTER COLUMN embedding SET STORAGE MAIN, ALTER COLUMN code SET STORAGE MAIN;

CREATE TABLE memory_rule_defs (
    scope_key         text   NOT NULL,
    rule_node_id      uuid   NOT NULL,
    tenant_id         text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    state             text   NOT NULL,
    if_json           jsonb  NOT NULL,
    then_json         jsonb  NOT NULL,
    exceptions_json   jsonb  NOT NULL,
    rule_scope        text   NOT NULL,
    target_agent_id   text,
    target_team_id    text,
    positive_count    bigint NOT NULL DEFAULT 0,
    negative_count    bigint NOT NULL DEFAULT 0,
    last_evaluated_at bigint,
    commit_seq        bigint NOT NULL,
    created_at        bigint NOT NULL,
    updated_at        bigint NOT NULL,
    PRIMARY KEY (scope_key, rule_node_id)
);

-- Derived work. Payloads name nodes, never hold their text.
CREATE TABLE memory_outbox (
    scope_key     text    NOT NULL,
    id            uuid    NOT NULL,
    tenant_id     text    NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    event_type    text    NOT NULL,
    job_key       text    NOT NULL,
    commit_seq    bigint  NOT NULL,
    payload       text    NOT NULL,
    created_at    bigint  NOT NULL,
    available_at  bigint  NOT NULL,
    claimed_by    text,
    lease_until   bigint,
    fence         bigint  NOT NULL DEFAULT 0,
    attempts      integer NOT NULL DEFAULT 0,
    last_error    text,
    failed_at     bigint,
    failed_reason text,
    published_at  bigint,
    PRIMARY KEY (scope_key, id),
    UNIQUE (scope_key, event_type, job_key)
) WITH (fillfactor = 70);
CREATE INDEX memory_outbox_open ON memory_outbox (tenant_id, available_at)
    WHERE published_at IS NULL AND failed_at IS NULL;
CREATE INDEX memory_outbox_dead ON memory_outbox (failed_at) WHERE failed_at IS NOT NULL;

-- Answers kept for repeated requests.
CREATE TABLE memory_requests (
    scope_key      text   NOT NULL,
    request_key    text   NOT NULL,
    tenant_id      text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    request_sha256 bytea  NOT NULL,
    outcome        text   NOT NULL,
    created_at     bigint NOT NULL,
    PRIMARY KEY (scope_key, request_key)
);
CREATE INDEX memory_requests_age ON memory_requests (created_at);

CREATE TABLE memory_recall_audit (
    scope_key         text    NOT NULL,
    id                uuid    NOT NULL,
    tenant_id         text    NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    endpoint          text    NOT NULL,
    consumer_agent_id text,
    consumer_team_id  text,
    query_sha256      text    NOT NULL,
    seed_count        integer NOT NULL,
    node_count        integer NOT NULL,
    edge_count        integer NOT NULL,
    created_at        bigint  NOT NULL,
    PRIMARY KEY (scope_key, id)
);
CREATE INDEX memory_recall_audit_age ON memory_recall_audit (scope_key, created_at);

-- Facts about the store itself: the embedding space of its vectors, the key of redaction tokens.
CREATE TABLE aionis_meta (
    key   text NOT NULL PRIMARY KEY,
    value text NOT NULL
);

-- The program works as aionis_runtime, which owns nothing: row-level security holds for it. A transaction names the
-- tenant it works for; one that names none sees nothing. '*' is what workers and verification name.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['memory_scopes', 'memory_commits', 'memory_nodes', 'memory_node_versions', 'memory_edges',
        'memory_vectors', 'memory_rule_defs', 'memory_outbox', 'memory_requests', 'memory_recall_audit']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        -- A setting inside a SELECT is read once per statement, not once per row.
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (tenant_id = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'') '
            'WITH CHECK (split_part(scope_key, ''/'', 1) = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'')', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO aionis_runtime', name);
    END LOOP;
END
$$;
GRANT SELECT, INSERT, UPDATE ON aionis_meta TO aionis_runtime;
GRANT SELECT ON schema_migrations TO aionis_runtime;
