//! The readiness checks: what is observed, and the verdict over it. Nothing is changed by them.

mod access;
mod layouts;
mod mirrors;
mod rows;

use aionis_core::{
    partition::{Check, CutoverState, Readiness, Step, judged, not_applicable},
    ports::store::StoreError,
};
use serde::Serialize;
use serde_json::json;
use sqlx::PgConnection;

use self::{
    access::access_alone,
    layouts::{layouts, of_locks, wanted},
    mirrors::mirrors,
    rows::compare,
};
use super::{
    Done, PartitionAdmin, PartitionError, catalogue,
    compare::{GapReport, TableComparison, VerifyOptions, pairs},
    execute,
    indexes::invalid,
    partitioned_tables,
    plan::lock_sizes,
    progress::{self, Noted, note},
    shadow::{ShadowOptions, ShadowReport},
};

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
            "rls_and_grants" => access_alone(connection).await?,
            "lock_table_size" => {
                let (capacity, relations) = lock_sizes(connection).await?;
                of_locks(capacity, relations)
            }
            _ => not_applicable(name, "the flat tables are gone: there is nothing to compare or mirror"),
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
        let wanted = wanted(connection, state).await?;
        let Gathered { checks, mut report } = layouts(connection, state, &wanted, &pairs).await?;
        let mut all = reached();
        all.extend(checks);
        if !pairs.is_empty() {
            all.extend(mirrors(connection, state, &wanted, &pairs).await?);
            let complete = state.is_mirrored() && state != CutoverState::Mirroring;
            let reason = format!("the state is {state}; run `aionis partition backfill` to its end");
            all.push(judged("backfill_complete", complete, state.as_str(), "every older row copied", reason));
            compare(connection, options, (&wanted, &pairs), &mut all, &mut report).await?;
        }
        report.readiness = Readiness::of(all);
        Ok(report)
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
