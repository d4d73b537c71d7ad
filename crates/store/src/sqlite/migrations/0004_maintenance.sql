-- A scope that is being copied in is neither read nor written until its copy is complete.
ALTER TABLE memory_scopes ADD COLUMN state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'importing'));

-- What was given up is looked for by scope.
CREATE INDEX memory_nodes_failed ON memory_nodes (scope_key, id) WHERE embedding_status = 'failed';
DROP INDEX memory_outbox_dead;
CREATE INDEX memory_outbox_dead ON memory_outbox (scope_key, failed_at) WHERE failed_at IS NOT NULL;
