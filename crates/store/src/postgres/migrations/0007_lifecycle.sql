-- Nodes tier by tier: a job that moves them goes through a tier page by page. By a number made of the scope of its own, for
-- the reason given in 0002. When a node was last used stands in no index, so that noting it rewrites none.
ALTER TABLE memory_nodes
    ADD COLUMN tier_no bigint NOT NULL GENERATED ALWAYS AS (hashtextextended(scope_key, 2)) STORED,
    -- When a node last moved to a colder tier, out of its notes, and its scope's number; nothing for most nodes. Columns,
    -- because row-level security lets no index be searched by what a function says.
    ADD COLUMN moved_no bigint GENERATED ALWAYS AS (
        CASE WHEN activity ? 'last_tier_transition_ms' THEN hashtextextended(scope_key, 3) END) STORED,
    ADD COLUMN moved_ms bigint GENERATED ALWAYS AS ((activity ->> 'last_tier_transition_ms')::bigint) STORED;
CREATE INDEX memory_nodes_tier ON memory_nodes (tier_no, tier, id);
CREATE INDEX memory_nodes_moved ON memory_nodes (moved_no, moved_ms) WHERE moved_no IS NOT NULL;
