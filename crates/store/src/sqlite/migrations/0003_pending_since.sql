-- Since when a node waits for its vector. Its last change says something else: touching a node must not make it look
-- as if it had only now begun to wait.
ALTER TABLE memory_nodes ADD COLUMN embedding_pending_at INTEGER;
UPDATE memory_nodes SET embedding_pending_at = updated_at WHERE embedding_status = 'pending';
DROP INDEX memory_nodes_pending;
CREATE INDEX memory_nodes_pending ON memory_nodes (scope_key, embedding_pending_at) WHERE embedding_status = 'pending';
