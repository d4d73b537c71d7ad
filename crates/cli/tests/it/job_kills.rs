//! Jobs that are killed with `kill -9`, again and again: the next run goes on, and in the end everything is as if none had
//! been killed.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use aionis_engine::jobs::ALL;
use aionis_testkit::postgres::PrivateServer;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::support::{
    db,
    place::Place,
    program::{aionis, ends, fake, run},
    rng::Rng,
    server::Server,
    until,
};

const SEED: u64 = 0x00a1_0416_2026;
/// A scope no job is asked for.
const BESIDE: &str = "beside";
const WRITES: u64 = 6;
const NODES: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(60);

/// How many runs are killed, each in a scope of its own. `AIONIS_TEST_JOB_KILL_ROUNDS=50` for the full show.
fn rounds() -> u64 {
    std::env::var("AIONIS_TEST_JOB_KILL_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(6)
}

/// The scopes jobs are killed in.
fn scopes() -> Vec<String> {
    (0..rounds()).map(|round| format!("s{round}")).collect()
}

/// Tenant and scope of a name like `acme/s0`; one without a tenant is of the default one.
fn place_of(scope: &str) -> [&str; 2] {
    scope.split_once('/').map_or(["default", scope], |(tenant, scope)| [tenant, scope])
}

/// A job that is killed.
pub(crate) struct Case {
    pub(crate) job: &'static str,
    /// Whether vectors are derived before, so that the job finds the same in every store.
    derived: bool,
    /// What each scope is written.
    body: fn(&str, u64) -> Value,
    /// Commands that are run before, for all scopes.
    before: &'static [&'static [&'static str]],
    /// What is done to the stored rows before, so that it has something to do.
    spoil: &'static str,
    /// Whether how many commits there are depends on nothing but the job: the schedulers run some, too, and a job that
    /// changes memory commits once per batch.
    same_commits: bool,
    /// Whether it is asked for in a scope.
    pub(crate) scoped: bool,
    /// Its flags, beside those of all jobs.
    pub(crate) flags: fn(&Home, &str) -> Vec<String>,
}

const PLAIN: Case = Case {
    job: "",
    derived: true,
    body,
    before: &[],
    spoil: "",
    same_commits: true,
    scoped: true,
    flags: |_, _| Vec::new(),
};

const FIND: &[&str] = &["job", "consolidation-candidates", "--all"];
const MERGE: &[&str] = &["job", "consolidation-apply", "--all", "--apply", "--limit-apply", "500"];
const CLUSTER: &[&str] = &["job", "topic-cluster", "--all"];
const MOVE: &[&str] = &["job", "consolidation-redirect-edges", "--all", "--apply"];

/// Jobs that are killed; one each.
pub(crate) const CASES: &[Case] = &[
    Case {
        job: "compression-rollup",
        body: tens,
        before: &[CLUSTER],
        flags: |_, _| flags(&["--compression-max-topics-per-run=3"]),
        ..PLAIN
    },
    Case { job: "consistency-check", flags: |_, _| flags(&["--check-set=all", "--strict"]), ..PLAIN },
    Case {
        job: "consolidation-apply",
        body: twins,
        before: &[FIND],
        same_commits: false,
        flags: |_, _| flags(&["--apply", "--limit-apply=500"]),
        ..PLAIN
    },
    Case { job: "consolidation-candidates", body: twins, flags: |_, _| flags(&["--max-anchors=30"]), ..PLAIN },
    Case {
        job: "consolidation-redirect-edges",
        body: twins,
        before: &[FIND, MERGE],
        same_commits: false,
        flags: |_, _| flags(&["--apply", "--max-aliases=10"]),
        ..PLAIN
    },
    Case {
        job: "consolidation-undo",
        body: twins,
        before: &[FIND, MERGE, MOVE],
        same_commits: false,
        flags: of_the_merging_run,
        ..PLAIN
    },
    Case { job: "embedding-backfill", derived: false, spoil: NO_VECTORS, ..PLAIN },
    // Its files lie in a directory of their own each time.
    Case { job: "governance-weekly-report", ..PLAIN },
    Case { job: "outbox-replay", derived: false, spoil: DEAD_LETTERS, ..PLAIN },
    Case {
        job: "owner-review",
        body: ownerless,
        flags: |_, _| flags(&["--assign-agent=ada", "--all-listed", "--apply"]),
        ..PLAIN
    },
    Case { job: "retention", spoil: PUBLISHED_LONG_AGO, scoped: false, ..PLAIN },
    Case {
        job: "salience-decay",
        spoil: FAINT,
        same_commits: false,
        flags: |_, _| flags(&["--tier-max-daily-mutation-ratio=1"]),
        ..PLAIN
    },
    Case { job: "scope-purge", flags: by_plan, ..PLAIN },
    Case {
        job: "topic-cluster",
        same_commits: false,
        // Each event begins a topic: what joins what depends on where steps begin, and with it on the kills.
        flags: |_, _| flags(&["--topic-sim-threshold=1", "--topic-cluster-batch-size=20"]),
        ..PLAIN
    },
];

/// Jobs that only look and judge, and do it in one step: there is nothing a kill could leave half done.
const IN_ONE_LOOK: &[&str] = &[
    "consistency-check-cross-tenant",
    "execution-loop",
    "policy-adaptation",
    "quality-eval",
    "rule-promotion-suggest",
];

fn flags(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|&flag| flag.to_owned()).collect()
}

const DEAD_LETTERS: &str = "UPDATE memory_outbox SET failed_at = 1, failed_reason = 'max_attempts_exceeded', attempts = 25; \
                            UPDATE memory_nodes SET embedding_status = 'failed'";

const FAINT: &str = "UPDATE memory_nodes SET salience = 0.1, last_activated = 1";

const NO_VECTORS: &str = "DELETE FROM memory_outbox; UPDATE memory_nodes SET embedding_status = 'failed'";

const PUBLISHED_LONG_AGO: &str = "UPDATE memory_outbox SET published_at = 1; \
                                  UPDATE job_runs SET started_at = 1, finished_at = 1 WHERE finished_at IS NOT NULL";

fn of_the_merging_run(home: &Home, scope: &str) -> Vec<String> {
    let [tenant, scope] = place_of(scope);
    let look = ["job", "runs", "--job", "consolidation-apply", "--tenant", tenant, "--scope", scope, "--json"];
    let runs = run(&mut home.command(&look)).exits(0).json();
    vec!["--all-of".to_owned(), runs["runs"][0]["run_id"].as_str().unwrap().to_owned()]
}

fn by_plan(home: &Home, scope: &str) -> Vec<String> {
    let [tenant, scope] = place_of(scope);
    let look = ["job", "scope-purge", "--tenant", tenant, "--scope", scope, "--json"];
    let planned = run(&mut home.command(&look)).exits(0).json();
    let hash = planned["targets"][0]["plan_hash"].as_str().unwrap().to_owned();
    ["--apply", "--by", "ops", "--batch-size", "100", "--plan"].map(str::to_owned).into_iter().chain([hash]).collect()
}

/// A store, whichever engine.
pub(crate) struct Home {
    place: Place,
    pub(crate) postgres: Option<PrivateServer>,
}

impl Home {
    pub(crate) fn new(on_postgres: bool) -> Self {
        Self { place: Place::new(), postgres: on_postgres.then(|| PrivateServer::start(false)) }
    }

    fn set(&self, command: &mut Command) {
        fake(command).env("AIONIS_JOBS_POLL_INTERVAL_MS", "50").env("OUTBOX_CLAIM_TIMEOUT_MS", "500");
        // How much these have made, and this has removed, depends on when the workers come by.
        command.env("AIONIS_JOBS_DISABLED", "topic-cluster,compression-rollup,retention");
        match &self.postgres {
            Some(server) => command.env("DATABASE_URL", server.url("postgres")),
            None => command.env("AIONIS_DATA_DIR", self.place.data()),
        };
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = aionis(self.place.path());
        self.set(command.args(args));
        command
    }

    fn execute(&self, sql: &str) {
        match &self.postgres {
            Some(server) => server.execute(sql),
            None => db::writable(&self.place.data()).execute_batch(sql).unwrap(),
        }
    }

    pub(crate) fn lines(&self, sql: &str) -> Vec<String> {
        match &self.postgres {
            Some(server) => server.lines(sql),
            None => texts(&db::read_only(&self.place.data()), sql),
        }
    }

    /// Writes every scope, and leaves it as the case wants it.
    fn fill(&self, case: &Case) {
        let scopes = scopes();
        self.fill_scopes(case, scopes.iter().map(String::as_str).chain([BESIDE]));
    }

    /// Writes some scopes, and leaves all as the case wants them.
    pub(crate) fn fill_scopes<'s>(&self, case: &Case, scopes: impl Iterator<Item = &'s str>) {
        let server = Server::start_with(&self.place.data(), |command| {
            self.set(command.arg("--no-worker"));
        });
        for scope in scopes {
            let [tenant, scope] = place_of(scope);
            for write in 0..WRITES {
                let mut body = (case.body)(scope, write);
                body["tenant_id"] = json!(tenant);
                server.write(&body);
            }
        }
        server.stop();
        if case.derived {
            run(&mut self.command(&["worker", "--once"])).exits(0);
        }
        for command in case.before {
            run(&mut self.command(command)).exits(0);
        }
        if !case.spoil.is_empty() {
            self.execute(case.spoil);
        }
    }

    /// Two workers with schedulers where several processes may work; where one owns the data, nobody.
    fn workers(&self) -> Workers<'_> {
        let count = if self.postgres.is_some() { 2 } else { 0 };
        Workers { home: self, running: (0..count).map(|_| self.worker()).collect() }
    }

    fn worker(&self) -> Child {
        self.command(&["worker"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// The job in a scope, with a lease so short that the next run need not wait.
    fn job(&self, case: &Case, scope: &str, flags: &[String]) -> Command {
        let mut command = self.command(&["job", case.job, "--lease-ms", "300", "--json"]);
        if case.scoped {
            let [tenant, scope] = place_of(scope);
            command.args(["--tenant", tenant, "--scope", scope]);
        }
        command.args(flags);
        command
    }

    /// Runs the job to its end; a run that was killed may hold the lease a moment longer.
    pub(crate) fn finish(&self, case: &Case, scope: &str, flags: &[String]) -> Value {
        until("the job comes to its end", PATIENCE, || {
            let ended = run(&mut self.job(case, scope, flags));
            match ended.code {
                Some(0) => Some(ended.json()),
                _ => {
                    // The lease is so short that a moment without the processor loses it to a worker.
                    let is_busy = ["is at it", "another process took"].iter().any(|why| ended.stderr.contains(why));
                    assert!(is_busy, "{}: {ended:#?}", case.job);
                    None
                }
            }
        })
    }

    fn verify(&self) {
        until("nobody owns the data any more", PATIENCE, || {
            let ended = run(&mut self.command(&["verify", "--json"]));
            if ended.stderr.contains("owns the data directory") {
                return None;
            }
            assert_eq!(ended.exits(0).json()["ok"], json!(true));
            Some(())
        });
    }

    /// What a job may change, without what differs from run to run: times, ids of runs, hashes made of times.
    fn state(&self, case: &Case) -> Vec<String> {
        if self.postgres.is_none() {
            run(&mut self.command(&["worker", "--once"])).exits(0);
        }
        let open = "SELECT count(*) || '' FROM memory_outbox WHERE published_at IS NULL AND failed_at IS NULL";
        until("all work is done", PATIENCE, || (self.lines(open) == ["0"]).then_some(()));
        let states = [
            "SELECT scope_key || ' ' || state || ' ' || node_count || ' ' || edge_count FROM memory_scopes ORDER BY 1",
            "SELECT scope_key || ' ' || embedding_status || ' ' || tier || ' ' || count(*) FROM memory_nodes \
             WHERE scope_key <> 'default/beside' GROUP BY scope_key, embedding_status, tier ORDER BY 1",
            "SELECT scope_key || ' lanes ' || memory_lane || ' ' || coalesce(owner_agent_id, '-') || ' ' || type || ' ' || count(*) \
             FROM memory_nodes GROUP BY scope_key, memory_lane, owner_agent_id, type ORDER BY 1",
            "SELECT scope_key || ' ' || pair_key || ' ' || state || ' ' || score FROM memory_consolidation_candidates ORDER BY 1",
            "SELECT scope_key || ' aliases ' || count(*) FROM memory_nodes WHERE activity ->> 'alias_of' IS NOT NULL \
             GROUP BY scope_key ORDER BY 1",
            "SELECT s.scope_key || ' ' || coalesce(s.client_id, s.type) || ' ' || e.type || ' ' || coalesce(d.client_id, d.type) || ' ' || \
                e.weight || ' ' || count(*) FROM memory_edges e \
             JOIN memory_nodes s ON s.scope_key = e.scope_key AND s.id = e.src_id \
             JOIN memory_nodes d ON d.scope_key = e.scope_key AND d.id = e.dst_id \
             GROUP BY s.scope_key, coalesce(s.client_id, s.type), e.type, coalesce(d.client_id, d.type), e.weight ORDER BY 1",
            "SELECT scope_key || ' merges ' || count(*) || ' ' || count(undone_seq) FROM memory_merges GROUP BY scope_key ORDER BY 1",
            "SELECT scope_key || ' vectors ' || count(*) FROM memory_vectors GROUP BY scope_key ORDER BY 1",
            "SELECT scope_key || ' work ' || count(*) || ' ' || sum(CASE WHEN failed_at IS NULL THEN 0 ELSE 1 END) \
             FROM memory_outbox GROUP BY scope_key ORDER BY 1",
        ];
        let commits = "SELECT scope_key || ' commits ' || count(*) FROM memory_commits GROUP BY scope_key ORDER BY 1";
        let commits = case.same_commits.then_some(commits);
        let mut state: Vec<String> = states.into_iter().chain(commits).flat_map(|sql| self.lines(sql)).collect();
        let purges =
            "SELECT scope_key || ' ' || mode || ' ' || purged_by || ' ' || row_counts FROM memory_purges ORDER BY 1";
        state.extend(self.lines(purges).iter().map(|line| {
            // What else was run in a scope before it was purged is up to the schedulers.
            let (record, counts) = line.split_at(line.find('{').unwrap());
            let mut counts: Value = serde_json::from_str(counts).unwrap();
            counts.as_object_mut().unwrap().remove("job_states");
            format!("{record}{counts}")
        }));
        state
    }
}

fn texts(connection: &Connection, sql: &str) -> Vec<String> {
    connection.prepare(sql).unwrap().query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

/// Ids and texts, and what ties nodes together.
fn body(scope: &str, write: u64) -> Value {
    body_of(scope, write, "event", |node| node)
}

/// Two and two say the same.
fn twins(scope: &str, write: u64) -> Value {
    body_of(scope, write, "concept", |node| node - node % 2)
}

/// Ten and ten say the same.
fn tens(scope: &str, write: u64) -> Value {
    body_of(scope, write, "event", |node| node - node % 10)
}

/// Nobody sees them.
fn ownerless(scope: &str, write: u64) -> Value {
    let mut body = body(scope, write);
    body["memory_lane"] = json!("private");
    body
}

fn body_of(scope: &str, write: u64, of_type: &str, says: fn(u64) -> u64) -> Value {
    let name = |node: u64| format!("n{write}-{node}");
    let nodes: Vec<Value> = (0..NODES)
        .map(|node| {
            let text = format!("the surveyor noted {} in {scope}", name(says(node)));
            json!({ "client_id": name(node), "type": of_type, "text_summary": text })
        })
        .collect();
    let edges: Vec<Value> = (1..NODES)
        .map(|node| {
            let end = |node: u64| json!({ "client_id": name(node) });
            json!({ "type": "related_to", "src": end(node - 1), "dst": end(node) })
        })
        .collect();
    let input = format!("{scope} {write}");
    json!({ "scope": scope, "memory_lane": "shared", "input_text": input, "nodes": nodes, "edges": edges })
}

/// Workers; killed when dropped.
struct Workers<'a> {
    home: &'a Home,
    running: Vec<Child>,
}

impl Workers<'_> {
    /// Kills one and starts another one in its place.
    fn replace(&mut self, at: usize) {
        if let Some(worker) = self.running.get_mut(at) {
            let _ = worker.kill();
            worker.wait().unwrap();
            *worker = self.home.worker();
        }
    }
}

impl Drop for Workers<'_> {
    fn drop(&mut self) {
        for worker in &mut self.running {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

/// What undisturbed runs leave, and how long the quickest one takes.
fn undisturbed(case: &Case, on_postgres: bool) -> (Vec<String>, Duration) {
    let home = Home::new(on_postgres);
    home.fill(case);
    let before = home.state(case);
    let workers = home.workers();
    let mut took = Duration::MAX;
    for scope in scopes() {
        let flags = (case.flags)(&home, &scope);
        let started = Instant::now();
        home.finish(case, &scope, &flags);
        took = took.min(started.elapsed());
    }
    let state = home.state(case);
    let changes = ALL.iter().any(|info| info.name == case.job && info.changes);
    assert_eq!(before != state, changes, "{}: there is something to do for who changes memory", case.job);
    drop(workers);
    home.verify();
    (state, took)
}

fn killed_runs_converge(case: &Case, on_postgres: bool) {
    let (wanted, took) = undisturbed(case, on_postgres);
    let home = Home::new(on_postgres);
    home.fill(case);
    let mut workers = home.workers();
    let mut rng = Rng(SEED);
    let flags: Vec<(String, Vec<String>)> =
        scopes().into_iter().map(|scope| (scope.clone(), (case.flags)(&home, &scope))).collect();
    let mut killed = 0;
    let mut most = u64::try_from(took.as_micros()).unwrap();
    for (round, (scope, flags)) in flags.iter().enumerate() {
        let mut child = home.job(case, scope, flags).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        // Not to wait for anything: to hit another place each time.
        std::thread::sleep(Duration::from_micros(rng.between(most / 8, most)));
        let _ = child.kill();
        let status = ends(&mut child, PATIENCE);
        let under_way = status.code().is_none();
        killed += u64::from(under_way);
        // How long a run takes depends on what else the machine does: the span follows it.
        most = if under_way { most * 5 / 4 } else { most / 3 };
        if round % 3 == 2 {
            workers.replace(round % 2);
        }
        home.verify();
    }
    println!("{}: {killed} of {} runs were killed under way", case.job, rounds());
    assert!(killed * 3 >= rounds(), "too few were killed under way to show anything");
    for (scope, flags) in &flags {
        home.finish(case, scope, flags);
    }
    assert_eq!(home.state(case), wanted, "{}", case.job);
    drop(workers);
    home.verify();
    let check = run(&mut home.command(&["job", "consistency-check", "--all", "--strict", "--json"]));
    assert!(check.code == Some(0), "{}: {check:#?}", case.job);
}

/// The tests of a job, on both engines.
macro_rules! killed {
    ($($name:ident: $job:literal),* $(,)?) => {
        const KILLED: &[&str] = &[$($job),*];
        $(mod $name {
            use super::{CASES, killed_runs_converge};

            #[test]
            fn killed_on_the_embedded_engine_it_converges() {
                killed_runs_converge(CASES.iter().find(|case| case.job == $job).unwrap(), false);
            }

            #[test]
            fn killed_beside_two_workers_on_postgres_it_converges() {
                killed_runs_converge(CASES.iter().find(|case| case.job == $job).unwrap(), true);
            }
        })*
    };
}

killed! {
    compression_rollup: "compression-rollup",
    consistency_check: "consistency-check",
    consolidation_apply: "consolidation-apply",
    consolidation_candidates: "consolidation-candidates",
    consolidation_redirect_edges: "consolidation-redirect-edges",
    consolidation_undo: "consolidation-undo",
    embedding_backfill: "embedding-backfill",
    governance_weekly_report: "governance-weekly-report",
    outbox_replay: "outbox-replay",
    owner_review: "owner-review",
    retention: "retention",
    salience_decay: "salience-decay",
    scope_purge: "scope-purge",
    topic_cluster: "topic-cluster",
}

#[test]
fn every_job_is_killed_or_leaves_nothing_half_done() {
    let home = Home::new(false);
    let known = run(&mut home.command(&["job", "list", "--json"])).exits(0).json();
    let known: Vec<&str> = known["jobs"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    let mut here: Vec<&str> = KILLED.iter().chain(IN_ONE_LOOK).copied().collect();
    here.sort_unstable();
    assert_eq!(here, known);
}
