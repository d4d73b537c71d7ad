//! The readiness checks: what is observed, and the verdict over it. Nothing is changed by them.

use aionis_core::{
    partition::{Check, CutoverState, Readiness, Step, inconclusive, judged},
    ports::store::StoreError,
};
use serde::Serialize;
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::{
    Done, PartitionAdmin, PartitionError, catalogue,
    compare::{GapReport, TableComparison, VerifyOptions, compare_all, gaps, pairs},
    execute,
    indexes::invalid,
    mirror, partitioned_tables,
    plan::lock_sizes,
    progress::{self, Noted, note},
    shadow::{ShadowOptions, ShadowReport, ask_both},
    swap::{mark_differs, mirror_names},
};
use crate::postgres::migrate::RUNTIME_ROLE;

/// How readiness is checked.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadinessOptions {
    /// How rows are compared.
    pub verify: VerifyOptions,
    /// What both layouts are asked.
    pub shadow: ShadowOptions,
    /// Whether checks without anything to judge them by count as passed; for a database without memories.
    pub accept_inconclusive: bool,
}

/// The verdict, with what it stands on.
#[derive(Clone, Debug, Serialize)]
pub struct ReadinessReport {
    /// How far the change is.
    pub state: CutoverState,
    /// The verdict.
    #[serde(flatten)]
    pub readiness: Readiness,
    /// How the definitions of the layouts differ, one fact a line.
    #[serde(skip)]
    pub definitions: Vec<String>,
    /// The comparison row by row.
    #[serde(skip)]
    pub verify: Vec<TableComparison>,
    /// The comparison by numbers of rows.
    #[serde(skip)]
    pub gap: Option<GapReport>,
    /// What both layouts answered.
    #[serde(skip)]
    pub shadow: Option<ShadowReport>,
}

impl ReadinessReport {
    /// A verdict that stands on nothing but its checks.
    pub fn without_evidence(state: CutoverState, readiness: Readiness) -> Self {
        let (definitions, verify) = (Vec::new(), Vec::new());
        Self { state, readiness, definitions, verify, gap: None, shadow: None }
    }
}

/// What is gathered on the way.
struct Gathered {
    checks: Vec<Check>,
    report: ReadinessReport,
}

async fn definitions(connection: &mut PgConnection, pairs: &[(String, String)]) -> Done<(Vec<String>, Vec<String>)> {
    let (mut differ, mut invalid_indexes) = (Vec::new(), Vec::new());
    for (table, other) in pairs {
        differ.extend(catalogue::differences(connection, table, other).await?);
        invalid_indexes.extend(invalid(connection, table).await?);
        invalid_indexes.extend(invalid(connection, other).await?);
    }
    Ok((differ, invalid_indexes))
}

fn is_access(fact: &str) -> bool {
    ["policy ", "grant ", "row level security ", "owner "].iter().any(|kind| fact.contains(&format!(": {kind}")))
}

async fn layouts(connection: &mut PgConnection, state: CutoverState, pairs: &[(String, String)]) -> Done<Gathered> {
    let expected = partitioned_tables().count();
    let mut flat = 0;
    for table in partitioned_tables() {
        flat += usize::from(catalogue::is_partitioned(connection, table).await? == Some(false));
    }
    // In later rounds only tables that were added since have twins.
    let wanted = if state == CutoverState::CutOver { pairs.len().max(1) } else { flat.max(1) };
    let (differ, invalid_indexes) = definitions(connection, pairs).await?;
    let (access, others): (Vec<String>, Vec<String>) = differ.iter().cloned().partition(|fact| is_access(fact));
    let (capacity, relations) = lock_sizes(connection).await?;
    let first = |facts: &[String]| facts.first().cloned().unwrap_or_default();
    let checks = vec![
        judged(
            "twins_exist",
            pairs.len() == wanted,
            json!({ "tables": expected, "twins": pairs.len() }),
            format!("a twin of each of {wanted} table(s)"),
            format!("{} of {wanted} tables have a twin; run `aionis partition ensure`", pairs.len()),
        ),
        judged("twins_match", others.is_empty(), others.len(), "no difference", first(&others)),
        judged("indexes_valid", invalid_indexes.is_empty(), json!(invalid_indexes), "none invalid", {
            format!("{} index(es) are not valid, the first: {}", invalid_indexes.len(), first(&invalid_indexes))
        }),
        judged("rls_and_grants", access.is_empty(), access.len(), "no difference", first(&access)),
        judged(
            "lock_table_size",
            capacity >= relations,
            json!({ "capacity": capacity, "relations": relations }),
            "capacity >= relations",
            format!(
                "{relations} relations may be locked at once, and {capacity} locks fit: raise max_locks_per_transaction"
            ),
        ),
    ];
    let mut report = ReadinessReport::without_evidence(state, Readiness::of(Vec::new()));
    report.definitions = differ;
    Ok(Gathered { checks, report })
}

/// Whether a row that the program's role writes, changes and removes is so in the other layout at once. Taken back.
async fn probe(connection: &mut PgConnection, other: &str) -> Done<Option<String>> {
    let key = "aionis-probe/readiness";
    let as_runtime = format!("SET LOCAL ROLE {RUNTIME_ROLE}; SET LOCAL aionis.tenant = 'aionis-probe'");
    let steps = [
        (
            "insert",
            format!(
                "INSERT INTO memory_requests (scope_key, request_key, request_sha256, outcome, created_at) \
                 VALUES ('{key}', 'probe', '', 'one', 0)"
            ),
            Some("one"),
        ),
        ("update", format!("UPDATE memory_requests SET outcome = 'two' WHERE scope_key = '{key}'"), Some("two")),
        ("delete", format!("DELETE FROM memory_requests WHERE scope_key = '{key}'"), None),
    ];
    execute(connection, "BEGIN").await?;
    let probed = async {
        for (name, sql, wanted) in steps {
            execute(connection, &format!("{as_runtime}; {sql}; SET LOCAL ROLE NONE")).await?;
            let asked = format!("SELECT outcome FROM {other} WHERE scope_key = '{key}'");
            let row = sqlx::query(sqlx::AssertSqlSafe(asked)).fetch_optional(&mut *connection).await?;
            let seen: Option<String> = row.map(|row| row.try_get(0)).transpose()?;
            if seen.as_deref() != wanted {
                return Ok(Some(format!("a mirrored {name} left {seen:?} in {other} where {wanted:?} was expected")));
            }
        }
        Ok(None)
    };
    let probed = probed.await;
    execute(connection, "ROLLBACK").await?;
    probed
}

async fn mirrors(connection: &mut PgConnection, state: CutoverState, pairs: &[(String, String)]) -> Done<Vec<Check>> {
    let tables: Vec<&str> = pairs.iter().map(|(table, _)| table.as_str()).collect();
    let mut lacking = Vec::new();
    for (table, name) in tables.iter().zip(mirror_names(&tables, state)) {
        let active = mirror::active(connection, &name, table).await?;
        if active != mirror::ACTIVE {
            lacking.push(format!("{table} ({active} of {} triggers)", mirror::ACTIVE));
        }
    }
    let active = lacking.is_empty() && !tables.is_empty();
    let touched = mark_differs(connection, state, &tables).await?;
    let mut checks = vec![
        judged(
            "mirror_active",
            active,
            json!({ "tables": tables.len(), "lacking": lacking }),
            "every trigger enabled always on every table",
            format!("the server says that the mirror is not active on: {}", lacking.join(", ")),
        ),
        judged(
            "mirror_uninterrupted",
            !touched,
            !touched,
            "as it was set up",
            "triggers or functions of the mirror were made anew or switched since it was set up: changes may be missing",
        ),
    ];
    if let Some((_, other)) = pairs.iter().find(|(table, _)| table == "memory_requests") {
        checks.push(match probe(connection, other).await {
            Ok(None) => judged("mirror_probe", true, true, "written, changed and removed rows are mirrored", ""),
            Ok(Some(why)) => {
                judged("mirror_probe", false, false, "written, changed and removed rows are mirrored", why)
            }
            Err(e) => {
                judged("mirror_probe", false, false, "written, changed and removed rows are mirrored", e.to_string())
            }
        });
    } else {
        checks.push(judged("mirror_probe", true, "not among the tables of this round", "mirrored if it is", ""));
    }
    Ok(checks)
}

fn of_verify(tables: &[TableComparison]) -> Check {
    let differing: Vec<&TableComparison> = tables.iter().filter(|t| !t.differing_buckets.is_empty()).collect();
    let rows: u64 = tables.iter().map(|table| table.source_rows).sum();
    let reason = differing.first().map(|table| {
        let sample = table.samples.first();
        let row = sample.map(|s| format!(", such as {} ({})", s.key.join(" "), s.difference)).unwrap_or_default();
        format!("{} of {} tables differ, the first: {}{row}", differing.len(), tables.len(), table.table)
    });
    let observed = json!({ "tables": tables.len(), "rows": rows, "differing": differing.len() });
    let holds = reason.is_none() && !tables.is_empty();
    judged(
        "verify",
        holds,
        observed,
        "every row equal",
        reason.unwrap_or_else(|| "there is nothing to compare".to_owned()),
    )
}

fn of_gap(gap: &GapReport) -> Check {
    let first = gap
        .rows
        .first()
        .map(|r| format!("{} of {}: {} and {} rows", r.table, r.scope_key, r.source_rows, r.target_rows));
    let observed = json!({ "compared": gap.compared, "differing": gap.rows.len() });
    judged("gap", gap.ok, observed, "equal numbers of rows in every table and scope", first.unwrap_or_default())
}

fn of_shadow(shadow: &ShadowReport) -> Check {
    let expected = format!("overlap_min >= {}", shadow.min_overlap);
    let Some(summary) = &shadow.summary else {
        return inconclusive("shadow_read", expected, "no vector is stored that could be asked for");
    };
    let observed = json!({
        "source": shadow.source, "queries": summary.queries, "scopes": shadow.scopes, "overlap_min": summary.overlap_min,
        "same_order": summary.same_order, "flat_p95_us": summary.flat_p95_us,
        "partitioned_p95_us": summary.partitioned_p95_us,
    });
    let reason = format!("a question got only {} of the answers from both layouts", summary.overlap_min);
    judged("shadow_read", shadow.ok, observed, expected, reason)
}

/// A statement the server refuses says something about the layouts; a server that is away says nothing.
fn made<T>(done: Done<T>) -> Done<Result<T, String>> {
    match done {
        Ok(done) => Ok(Ok(done)),
        Err(PartitionError::Store(StoreError::Driver(why))) => Ok(Err(why)),
        Err(error) => Err(error),
    }
}

/// What is left to check once the flat tables are gone.
async fn finalized(connection: &mut PgConnection) -> Done<ReadinessReport> {
    let (mut flat, mut invalid_indexes) = (Vec::new(), Vec::new());
    for table in partitioned_tables() {
        if catalogue::is_partitioned(connection, table).await? != Some(true) {
            flat.push(table);
        }
        invalid_indexes.extend(invalid(connection, table).await?);
    }
    let mut checks = reached();
    for name in Readiness::NAMES.into_iter().skip(2) {
        checks.push(match name {
            "twins_exist" => judged(
                name,
                flat.is_empty(),
                json!({ "flat": flat }),
                "every table partitioned",
                format!("{} table(s) are flat: {}; run `aionis partition ensure`", flat.len(), flat.join(", ")),
            ),
            "indexes_valid" => judged(name, invalid_indexes.is_empty(), json!(invalid_indexes), "none invalid", {
                format!("{} index(es) are not valid", invalid_indexes.len())
            }),
            _ => judged(name, true, "finalized", "nothing is mirrored any more", ""),
        });
    }
    Ok(ReadinessReport::without_evidence(CutoverState::Finalized, Readiness::of(checks)))
}

/// What stands once the connection does: connecting checks it.
fn reached() -> Vec<Check> {
    vec![
        judged("db_reachable", true, true, "true", ""),
        judged("migrations_applied", true, true, "all migrations of this program", ""),
    ]
}

impl PartitionAdmin {
    /// Makes all readiness checks and judges them. Nothing is changed, whatever the state.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn check_readiness(&mut self, options: &ReadinessOptions) -> Result<ReadinessReport, PartitionError> {
        let connection = &mut self.connection;
        let state = progress::state(connection).await?;
        if state == CutoverState::Finalized {
            return finalized(connection).await;
        }
        let pairs = pairs(connection, state).await?;
        let Gathered { checks, mut report } = layouts(connection, state, &pairs).await?;
        let mut all = reached();
        all.extend(checks);
        if !pairs.is_empty() {
            all.extend(mirrors(connection, state, &pairs).await?);
            let complete = state.is_mirrored() && state != CutoverState::Mirroring;
            let reason = format!("the state is {state}; run `aionis partition backfill` to its end");
            all.push(judged("backfill_complete", complete, state.as_str(), "every older row copied", reason));
            self.compare(options, &mut all, &mut report).await?;
        }
        report.readiness = Readiness::of(all);
        Ok(report)
    }

    /// The checks that look at rows. One that cannot be made, because the layouts differ so much, does not hold.
    async fn compare(
        &mut self,
        options: &ReadinessOptions,
        all: &mut Vec<Check>,
        report: &mut ReadinessReport,
    ) -> Done<()> {
        let (connection, state) = (&mut self.connection, report.state);
        match made(compare_all(connection, state, &options.verify).await)? {
            Ok(verify) => {
                report.verify = verify;
                all.push(of_verify(&report.verify));
            }
            Err(why) => all.push(judged("verify", false, false, "every row equal", why)),
        }
        match made(gaps(connection, state).await)? {
            Ok(gap) => {
                all.push(of_gap(&gap));
                report.gap = Some(gap);
            }
            Err(why) => all.push(judged("gap", false, false, "equal numbers of rows", why)),
        }
        match made(ask_both(connection, state, &options.shadow).await)? {
            Ok(shadow) => {
                all.push(of_shadow(&shadow));
                report.shadow = Some(shadow);
            }
            Err(why) => all.push(judged("shadow_read", false, false, "equal answers", why)),
        }
        Ok(())
    }

    /// Makes all readiness checks and, if they pass, notes it: the layouts may be exchanged for an hour. If they do not,
    /// that may no longer be done.
    ///
    /// # Errors
    /// It is out of order; a failure of storage.
    pub async fn readiness(
        &mut self,
        options: &ReadinessOptions,
        run: &str,
    ) -> Result<ReadinessReport, PartitionError> {
        let from = self.begin(Step::Readiness).await?;
        let done = self.note_readiness(options, run, from).await;
        self.end().await?;
        done
    }

    async fn note_readiness(
        &mut self,
        options: &ReadinessOptions,
        run: &str,
        from: CutoverState,
    ) -> Done<ReadinessReport> {
        let mut report = self.check_readiness(options).await?;
        let verified = report.verify.iter().all(|table| table.differing_buckets.is_empty());
        let accepted = options.accept_inconclusive && report.readiness.is_nothing_failed();
        let to = match (report.readiness.ok || accepted, verified) {
            (true, _) => CutoverState::Ready,
            (false, true) => CutoverState::Verified,
            (false, false) => CutoverState::Backfilled,
        };
        let detail = json!({ "ok": report.readiness.ok, "run_id": run, "fail_reasons": report.readiness.fail_reasons });
        let now = self.clock.now();
        execute(&mut self.connection, "BEGIN").await?;
        note(&mut self.connection, &Noted { command: "readiness", from, to, detail }, now).await?;
        let ready = (to == CutoverState::Ready).then_some(now.0);
        let sql = "UPDATE partition_cutover SET ready_at = $1, ready_run = $2";
        sqlx::query(sql).bind(ready).bind(ready.map(|_| run)).execute(&mut self.connection).await?;
        execute(&mut self.connection, "COMMIT").await?;
        report.state = to;
        Ok(report)
    }
}
