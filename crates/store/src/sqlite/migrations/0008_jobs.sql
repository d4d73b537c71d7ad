-- Where a job stands in a scope: who runs it, and where the next run goes on. The scope '' is the deployment as a whole.
CREATE TABLE job_states (
    scope_key       TEXT    NOT NULL,
    job             TEXT    NOT NULL,
    holder          TEXT,
    -- Grows with every holder; a holder that was overtaken stores nothing any more.
    fence           INTEGER NOT NULL,
    lease_until     INTEGER,
    cursor          TEXT,
    last_started_at INTEGER NOT NULL,
    PRIMARY KEY (scope_key, job)
) STRICT, WITHOUT ROWID;

-- Runs of jobs: counts and ids of what they did, no text of a memory.
CREATE TABLE job_runs (
    scope_key   TEXT    NOT NULL,
    id          BLOB    NOT NULL CHECK (length(id) = 16),
    job         TEXT    NOT NULL,
    holder      TEXT    NOT NULL,
    dry_run     INTEGER NOT NULL CHECK (dry_run IN (0, 1)),
    status      TEXT    NOT NULL,
    params      TEXT    NOT NULL,
    result      TEXT,
    error       TEXT,
    started_at  INTEGER NOT NULL,
    finished_at INTEGER,
    PRIMARY KEY (scope_key, id)
) STRICT, WITHOUT ROWID;
-- The order in which runs are listed.
CREATE INDEX job_runs_started ON job_runs (started_at, id);
CREATE INDEX job_runs_running ON job_runs (scope_key, job) WHERE status = 'running';
