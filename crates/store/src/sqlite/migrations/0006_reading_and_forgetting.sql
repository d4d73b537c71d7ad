-- What is kept of nodes that were forgotten: that they were there, and whose they were; nothing of what they said.
CREATE TABLE memory_erasures (
    scope_key      TEXT    NOT NULL,
    id             BLOB    NOT NULL CHECK (length(id) = 16),
    digest         BLOB    NOT NULL CHECK (length(digest) = 32),
    memory_lane    TEXT    NOT NULL,
    owner_agent_id TEXT,
    owner_team_id  TEXT,
    commit_seq     INTEGER NOT NULL,
    erased_at      INTEGER NOT NULL,
    PRIMARY KEY (scope_key, id)
) STRICT, WITHOUT ROWID;

-- The order in which nodes are listed.
CREATE INDEX memory_nodes_created ON memory_nodes (scope_key, created_at, id);
