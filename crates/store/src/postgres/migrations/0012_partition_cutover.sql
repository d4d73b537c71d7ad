-- How far the change to partitioned tables is: one row. Only the owner reads and changes these tables.
CREATE TABLE partition_cutover (
    id              smallint NOT NULL PRIMARY KEY CHECK (id = 1),
    state           text     NOT NULL,
    hash_partitions integer  NOT NULL,
    -- What the catalogue said of the mirror when it was set up: a mirror that was off for a while is another one.
    mirror_mark     text,
    -- The last transaction that copied rows. Whoever sees a state from before must not read the twins.
    copied_xact     bigint,
    ready_at        bigint,
    ready_run       text,
    cut_over_at     bigint,
    updated_at      bigint   NOT NULL
);

-- How far the copy of each table is.
CREATE TABLE partition_tables (
    table_name text   NOT NULL PRIMARY KEY,
    -- Key of the last row that was looked at.
    cursor     text[],
    seen       bigint NOT NULL DEFAULT 0,
    copied     bigint NOT NULL DEFAULT 0,
    done_at    bigint
);

-- What was done, in order.
CREATE TABLE partition_events (
    seq        bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         bigint NOT NULL,
    command    text   NOT NULL,
    from_state text   NOT NULL,
    to_state   text   NOT NULL,
    detail     jsonb  NOT NULL
);
