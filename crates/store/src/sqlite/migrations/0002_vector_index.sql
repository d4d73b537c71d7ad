-- Inverted-file index over the vectors of a large scope. Derived: a row that is missing, damaged or of another model
-- costs the time to build it anew, nothing else.
CREATE TABLE memory_vector_index (
    scope_key  TEXT    NOT NULL,
    model      TEXT    NOT NULL,
    dim        INTEGER NOT NULL,
    probes     INTEGER NOT NULL,
    recall     REAL    NOT NULL,
    vectors    INTEGER NOT NULL,
    built_at   INTEGER NOT NULL,
    -- Centroids as 32-bit floats, one after the other.
    centroids  BLOB    NOT NULL,
    -- (vector_no as 64 bits, list as 16 bits) in little endian, ordered by vector_no.
    members    BLOB    NOT NULL,
    -- SHA-256 of centroids and members.
    sha256     BLOB    NOT NULL CHECK (length(sha256) = 32),
    PRIMARY KEY (scope_key, model)
) STRICT;
