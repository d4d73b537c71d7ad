-- Where a job stands in a scope: who runs it, and where the next run goes on. The scope '' is the deployment as a whole.
CREATE TABLE job_states (
    scope_key       text   COLLATE "C" NOT NULL,
    tenant_id       text   NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    job             text   COLLATE "C" NOT NULL,
    holder          text,
    -- Grows with every holder; a holder that was overtaken stores nothing any more.
    fence           bigint NOT NULL,
    lease_until     bigint,
    cursor          jsonb,
    last_started_at bigint NOT NULL,
    PRIMARY KEY (scope_key, job)
);

-- Runs of jobs: counts and ids of what they did, no text of a memory.
CREATE TABLE job_runs (
    scope_key   text    COLLATE "C" NOT NULL,
    tenant_id   text    NOT NULL GENERATED ALWAYS AS (split_part(scope_key, '/', 1)) STORED,
    id          uuid    NOT NULL,
    job         text    COLLATE "C" NOT NULL,
    holder      text    NOT NULL,
    dry_run     boolean NOT NULL,
    status      text    NOT NULL,
    params      jsonb   NOT NULL,
    result      jsonb,
    error       text,
    started_at  bigint  NOT NULL,
    finished_at bigint,
    PRIMARY KEY (scope_key, id)
);
-- The order in which runs are listed.
CREATE INDEX job_runs_started ON job_runs (started_at, id);
CREATE INDEX job_runs_running ON job_runs (scope_key, job) WHERE status = 'running';

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['job_states', 'job_runs']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY tenant ON %I USING (tenant_id = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'') '
            'WITH CHECK (split_part(scope_key, ''/'', 1) = (SELECT current_setting(''aionis.tenant'', true)) '
            'OR (SELECT current_setting(''aionis.tenant'', true)) = ''*'')', name);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %I TO aionis_runtime', name);
    END LOOP;
END
$$;
