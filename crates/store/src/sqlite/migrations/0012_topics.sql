-- Topics are few among the nodes, and jobs go over all of a scope's.
CREATE INDEX memory_nodes_topics ON memory_nodes (scope_key, id) WHERE type = 'topic';
