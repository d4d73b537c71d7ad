-- A scope that is being purged is not there for readers, and refuses writers, until its last row is gone. purge says how
-- far it is. The number of a scope that was purged is never given again: terms in the inverted index carry it.
CREATE TABLE memory_scopes_anew (
    scope_no   INTEGER PRIMARY KEY AUTOINCREMENT,
    scope_key  TEXT    NOT NULL UNIQUE,
    head_seq   INTEGER NOT NULL CHECK (head_seq >= 0),
    head_hash  BLOB    NOT NULL CHECK (length(head_hash) = 32),
    node_count INTEGER NOT NULL CHECK (node_count >= 0),
    edge_count INTEGER NOT NULL CHECK (edge_count >= 0),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    state      TEXT    NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'importing', 'purging')),
    purge      TEXT
) STRICT;
INSERT INTO memory_scopes_anew (scope_no, scope_key, head_seq, head_hash, node_count, edge_count, created_at, updated_at, state)
    SELECT scope_no, scope_key, head_seq, head_hash, node_count, edge_count, created_at, updated_at, state FROM memory_scopes;
DROP TABLE memory_scopes;
ALTER TABLE memory_scopes_anew RENAME TO memory_scopes;

-- Purges that ended. Each record names the digest of the one before, of whatever scope; aionis_meta holds the newest.
CREATE TABLE memory_purges (
    seq           INTEGER NOT NULL PRIMARY KEY CHECK (seq > 0),
    scope_key     TEXT    NOT NULL,
    plan_sha256   BLOB    NOT NULL CHECK (length(plan_sha256) = 32),
    head_seq      INTEGER NOT NULL,
    head_hash     BLOB    NOT NULL CHECK (length(head_hash) = 32),
    mode          TEXT    NOT NULL,
    -- Rows removed, by table.
    row_counts    TEXT    NOT NULL,
    purged_by     TEXT    NOT NULL,
    began_at      INTEGER NOT NULL,
    purged_at     INTEGER NOT NULL,
    parent_digest BLOB    NOT NULL CHECK (length(parent_digest) = 32),
    digest        BLOB    NOT NULL CHECK (length(digest) = 32)
) STRICT;
CREATE INDEX memory_purges_scope ON memory_purges (scope_key, seq);
