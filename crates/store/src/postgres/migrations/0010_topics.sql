-- Topics are few among the nodes, and jobs go over all of a scope's. By the number of the order of listing: see 0004.
CREATE INDEX memory_nodes_topics ON memory_nodes (listing_no, id) WHERE type = 'topic';
