//! Whether both layouts hold the same rows and answer alike.

use aionis_core::partition::{Check, inconclusive, judged, not_applicable};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    super::{
        Done,
        compare::{GapReport, TableComparison, compare_all, gaps},
        shadow::{ShadowReport, ask_both},
    },
    ReadinessOptions, ReadinessReport,
    layouts::lacking_pairs,
    made,
};

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

/// The checks that look at rows. One that cannot be made, because the layouts differ so much, does not hold.
pub(super) async fn compare(
    connection: &mut PgConnection,
    options: &ReadinessOptions,
    (wanted, pairs): (&[&'static str], &[(String, String)]),
    all: &mut Vec<Check>,
    report: &mut ReadinessReport,
) -> Done<()> {
    let state = report.state;
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
