-- Nodes tier by tier: a job that moves them goes through a tier page by page.
CREATE INDEX memory_nodes_tier ON memory_nodes (scope_key, tier, id);
-- Nodes that moved to a colder tier, by when they did: so many a day may.
CREATE INDEX memory_nodes_moved ON memory_nodes (scope_key, json_extract(activity, '$.last_tier_transition_ms'))
    WHERE json_extract(activity, '$.last_tier_transition_ms') IS NOT NULL;
