//! The readiness checks: what is observed, and the verdict over it. Nothing is changed by them.

use std::collections::BTreeSet;

use aionis_core::{
    partition::{Check, CutoverState, Readiness, Step, inconclusive, judged, not_applicable},
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
    replication::replicated,
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

/// Kinds of facts that say who may read and write what.
const ACCESS: [&str; 4] = ["policy ", "grant ", "row level security ", "owner "];
/// A table that is in neither layout, with the same policy, grants and owner as those that are.
const FLAT_ALWAYS: &str = "memory_scopes";

fn is_access(fact: &str) -> bool {
    ACCESS.iter().any(|kind| fact.contains(&format!(": {kind}")))
}

/// The tables that have to be there in both layouts: those whose copy was recorded and, as long as the flat ones are in use,
/// all that are not partitioned. In later rounds these are the ones that were added since.
async fn wanted(connection: &mut PgConnection, state: CutoverState) -> Done<Vec<&'static str>> {
    let recorded = progress::tables(connection).await?;
    let mut wanted = Vec::new();
    for table in partitioned_tables() {
        let is_flat =
            state != CutoverState::CutOver && catalogue::is_partitioned(connection, table).await? != Some(true);
        if is_flat || recorded.iter().any(|known| known.table == table) {
            wanted.push(table);
        }
    }
    Ok(wanted)
}

/// Those of them that have no second layout.
fn lacking_pairs(wanted: &[&'static str], pairs: &[(String, String)]) -> Vec<&'static str> {
    wanted.iter().copied().filter(|table| !pairs.iter().any(|(known, _)| known == table)).collect()
}

async fn layouts(
    connection: &mut PgConnection,
    state: CutoverState,
    wanted: &[&'static str],
    pairs: &[(String, String)],
) -> Done<Gathered> {
    let lacking = lacking_pairs(wanted, pairs);
    let (capacity, relations) = lock_sizes(connection).await?;
    let mut checks = vec![judged(
        "twins_exist",
        lacking.is_empty() && !wanted.is_empty(),
        json!({ "tables": wanted.len(), "twins": pairs.len(), "lacking": lacking }),
        format!("both layouts of each of {} table(s)", wanted.len()),
        format!(
            "{} of {} tables are there in one layout alone: {}; {}",
            lacking.len(),
            wanted.len(),
            lacking.join(", "),
            match state {
                CutoverState::CutOver => "there is no way back to them, and `aionis partition finalize` ends it",
                _ => "run `aionis partition ensure`",
            }
        ),
    )];
    let mut report = ReadinessReport::without_evidence(state, Readiness::of(Vec::new()));
    match made(definitions(connection, pairs).await)? {
        Ok((differ, invalid_indexes)) => {
            checks.extend(of_definitions(&differ, &invalid_indexes));
            report.definitions = differ;
        }
        Err(why) => checks.push(judged("twins_match", false, false, "no difference", why)),
    }
    checks.push(of_locks(capacity, relations));
    let replication = replicated(connection).await?;
    checks.push(judged(
        "not_replicated",
        replication.is_none(),
        json!(replication),
        "no table in logical replication",
        format!("logical replication goes past the mirror: {}", replication.as_deref().unwrap_or_default()),
    ));
    Ok(Gathered { checks, report })
}

fn of_locks(capacity: u64, relations: u64) -> Check {
    judged(
        "lock_table_size",
        capacity >= relations,
        json!({ "capacity": capacity, "relations": relations }),
        "capacity >= relations",
        format!(
            "{relations} relations may be locked at once, and {capacity} locks fit: raise max_locks_per_transaction"
        ),
    )
}

fn of_definitions(differ: &[String], invalid_indexes: &[String]) -> [Check; 3] {
    let (access, others): (Vec<String>, Vec<String>) = differ.iter().cloned().partition(|fact| is_access(fact));
    let first = |facts: &[String]| facts.first().cloned().unwrap_or_default();
    [
        judged("twins_match", others.is_empty(), others.len(), "no difference", first(&others)),
        judged("indexes_valid", invalid_indexes.is_empty(), json!(invalid_indexes), "none invalid", {
            format!("{} index(es) are not valid, the first: {}", invalid_indexes.len(), first(invalid_indexes))
        }),
        judged("rls_and_grants", access.is_empty(), access.len(), "no difference", first(&access)),
    ]
}

/// Who may read and write a table.
async fn access_of(connection: &mut PgConnection, table: &str) -> Done<BTreeSet<String>> {
    let facts = catalogue::facts(connection, table).await?;
    Ok(facts.into_iter().filter(|fact| ACCESS.iter().any(|kind| fact.starts_with(kind))).collect())
}

/// Partitions of a table that let anybody but the owner in when they are named themselves: they have a policy or a grant, or
/// no row-level security.
async fn open_partitions(connection: &mut PgConnection, table: &str) -> Done<Vec<String>> {
    let sql = "SELECT c.oid::regclass::text FROM pg_partition_tree(to_regclass($1)) t JOIN pg_class c ON c.oid = t.relid \
               WHERE t.level > 0 AND (NOT c.relrowsecurity OR EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid) \
                   OR EXISTS (SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee <> c.relowner)) ORDER BY 1";
    let rows = sqlx::query(sql).bind(table).fetch_all(connection).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// Whether the partitioned tables let in whom the tables that were never partitioned let in, and nobody by another way.
async fn access_alone(connection: &mut PgConnection) -> Done<Check> {
    let wanted = access_of(connection, FLAT_ALWAYS).await?;
    let mut wrong = Vec::new();
    for table in partitioned_tables() {
        if !catalogue::exists(connection, table).await? {
            wrong.push(format!("{table} is missing"));
            continue;
        }
        let own = access_of(connection, table).await?;
        wrong.extend(wanted.difference(&own).map(|fact| format!("{table} lacks: {fact}")));
        wrong.extend(own.difference(&wanted).map(|fact| format!("{table} has: {fact}")));
        let open = open_partitions(connection, table).await?;
        wrong.extend(open.iter().map(|partition| format!("{partition} can be had without its table")));
    }
    let holds = wrong.is_empty() && wanted.iter().any(|fact| fact.starts_with("policy "));
    let first = wrong.first().cloned().unwrap_or_else(|| format!("{FLAT_ALWAYS} has no policy to compare with"));
    Ok(judged("rls_and_grants", holds, wrong.len(), format!("those of {FLAT_ALWAYS}; partitions closed"), first))
}

/// The table whose mirror is tried out.
const PROBED: &str = "memory_requests";

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

async fn mirrors(
    connection: &mut PgConnection,
    state: CutoverState,
    tables: &[&'static str],
    pairs: &[(String, String)],
) -> Done<Vec<Check>> {
    let mut lacking: Vec<String> =
        lacking_pairs(tables, pairs).into_iter().map(|table| format!("{table} (no other layout)")).collect();
    for (table, name) in tables.iter().zip(mirror_names(tables, state)) {
        let active = mirror::active(connection, &name, table).await?;
        if active != mirror::ACTIVE {
            lacking.push(format!("{table} ({active} of {} triggers)", mirror::ACTIVE));
        }
    }
    let active = lacking.is_empty() && !tables.is_empty();
    let touched = mark_differs(connection, state, tables).await?;
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
    let wanted = "written, changed and removed rows are mirrored";
    let other = pairs.iter().find(|(table, _)| table == PROBED).map(|(_, other)| other);
    checks.push(match other {
        None if !tables.contains(&PROBED) => {
            not_applicable("mirror_probe", format!("{PROBED} is not among the tables of this round"))
        }
        None => judged("mirror_probe", false, false, wanted, format!("{PROBED} has no other layout")),
        Some(other) => match probe(connection, other).await {
            Ok(None) => judged("mirror_probe", true, true, wanted, ""),
            Ok(Some(why)) => judged("mirror_probe", false, false, wanted, why),
            Err(e) => judged("mirror_probe", false, false, wanted, e.to_string()),
        },
    });
    Ok(checks)
}

/// The tables recalls are asked of.
const ASKED: [&str; 2] = ["memory_nodes", "memory_vectors"];

/// What is said of tables that have to be compared and cannot be.
fn not_compared(lacking: &[&str]) -> Option<String> {
    (!lacking.is_empty()).then(|| format!("{} has no other layout to be compared with", lacking.join(", ")))
}

fn of_verify(tables: &[TableComparison], wanted: &[&'static str]) -> Check {
    let differing: Vec<&TableComparison> = tables.iter().filter(|t| !t.differing_buckets.is_empty()).collect();
    let rows: u64 = tables.iter().map(|table| table.source_rows).sum();
    let reason = differing.first().map(|table| {
        let sample = table.samples.first();
        let row = sample.map(|s| format!(", such as {} ({})", s.key.join(" "), s.difference)).unwrap_or_default();
        format!("{} of {} tables differ, the first: {}{row}", differing.len(), tables.len(), table.table)
    });
    let is_compared = |table: &&'static str| tables.iter().any(|compared| compared.table == *table);
    let lacking: Vec<&str> = wanted.iter().copied().filter(|table| !is_compared(table)).collect();
    let reason = reason.or_else(|| not_compared(&lacking));
    let observed = json!({ "tables": tables.len(), "of": wanted.len(), "rows": rows, "differing": differing.len() });
    let holds = reason.is_none() && !tables.is_empty();
    judged(
        "verify",
        holds,
        observed,
        "every row equal",
        reason.unwrap_or_else(|| "there is nothing to compare".to_owned()),
    )
}

fn of_gap(gap: &GapReport, wanted: usize) -> Check {
    let first = gap
        .rows
        .first()
        .map(|r| format!("{} of {}: {} and {} rows", r.table, r.scope_key, r.source_rows, r.target_rows));
    let observed = json!({ "tables": gap.tables, "of": wanted, "compared": gap.compared, "differing": gap.rows.len() });
    let reason = first.unwrap_or_else(|| format!("{} of {wanted} tables could be compared", gap.tables));
    let holds = gap.ok && gap.tables == wanted;
    judged("gap", holds, observed, "equal numbers of rows in every table and scope", reason)
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
            self.compare(options, (&wanted, &pairs), &mut all, &mut report).await?;
        }
        report.readiness = Readiness::of(all);
        Ok(report)
    }

    /// The checks that look at rows. One that cannot be made, because the layouts differ so much, does not hold.
    async fn compare(
        &mut self,
        options: &ReadinessOptions,
        (wanted, pairs): (&[&'static str], &[(String, String)]),
        all: &mut Vec<Check>,
        report: &mut ReadinessReport,
    ) -> Done<()> {
        let (connection, state) = (&mut self.connection, report.state);
        match made(compare_all(connection, state, &options.verify).await)? {
            Ok(verify) => {
                report.verify = verify;
                all.push(of_verify(&report.verify, wanted));
            }
            Err(why) => all.push(judged("verify", false, false, "every row equal", why)),
        }
        match made(gaps(connection, state).await)? {
            Ok(gap) => {
                all.push(of_gap(&gap, wanted.len()));
                report.gap = Some(gap);
            }
            Err(why) => all.push(judged("gap", false, false, "equal numbers of rows", why)),
        }
        // Where a table has no other layout it would be compared with itself.
        let asked: Vec<&'static str> = ASKED.into_iter().filter(|table| wanted.contains(table)).collect();
        if asked.is_empty() {
            all.push(not_applicable("shadow_read", "no table with vectors is among those of this round"));
            return Ok(());
        }
        if let Some(why) = not_compared(&lacking_pairs(&asked, pairs)) {
            all.push(judged("shadow_read", false, false, "equal answers", why));
            return Ok(());
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
