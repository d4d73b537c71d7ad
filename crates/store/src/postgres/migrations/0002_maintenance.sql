-- A scope that is being copied in is neither read nor written until its copy is complete.
ALTER TABLE memory_scopes ADD COLUMN state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'importing'));
GRANT DELETE ON aionis_meta TO aionis_runtime;

-- Statements are planned once per connection, perhaps while a table is empty, when every index that begins with scope_key
-- looks as good as the key itself. So no index but the keys begins with it where rows are looked up by their key: what a
-- refresh of an image asks for is found by a number made of the scope instead.
ALTER TABLE memory_nodes ADD COLUMN scope_no bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED;
ALTER TABLE memory_edges ADD COLUMN scope_no bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 0)) STORED;
DROP INDEX memory_nodes_change;
CREATE INDEX memory_nodes_change ON memory_nodes (scope_no, change_no);
DROP INDEX memory_edges_change;
CREATE INDEX memory_edges_change ON memory_edges (scope_no, change_no);
ALTER TABLE memory_commits DROP CONSTRAINT memory_commits_scope_key_id_key;
CREATE UNIQUE INDEX memory_commits_id ON memory_commits (id, scope_key);
DROP INDEX memory_commits_request;
CREATE INDEX memory_commits_request ON memory_commits (request_sha256, scope_key, seq);
-- The id is made of scope and job key, so that the primary key says the same.
ALTER TABLE memory_outbox DROP CONSTRAINT memory_outbox_scope_key_event_type_job_key_key;

-- What was given up is looked for by scope.
CREATE INDEX memory_nodes_failed ON memory_nodes (scope_key, id) WHERE embedding_status = 'failed';
DROP INDEX memory_outbox_dead;
CREATE INDEX memory_outbox_dead ON memory_outbox (scope_key, failed_at) WHERE failed_at IS NOT NULL;
