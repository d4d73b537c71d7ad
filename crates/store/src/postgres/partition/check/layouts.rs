//! Whether both layouts are there, with equal definitions, and may be exchanged.

use aionis_core::partition::{Check, CutoverState, Readiness, judged};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    super::{
        Done, catalogue, indexes::invalid, partitioned_tables, plan::lock_sizes, progress, replication::replicated,
    },
    Gathered, ReadinessReport,
    access::is_access,
    made,
};

async fn definitions(connection: &mut PgConnection, pairs: &[(String, String)]) -> Done<(Vec<String>, Vec<String>)> {
    let (mut differ, mut invalid_indexes) = (Vec::new(), Vec::new());
    for (table, other) in pairs {
        differ.extend(catalogue::differences(connection, table, other).await?);
        invalid_indexes.extend(invalid(connection, table).await?);
        invalid_indexes.extend(invalid(connection, other).await?);
    }
    Ok((differ, invalid_indexes))
}

/// The tables that have to be there in both layouts: those whose copy was recorded and, as long as the flat ones are in use,
/// all that are not partitioned. In later rounds these are the ones that were added since.
pub(super) async fn wanted(connection: &mut PgConnection, state: CutoverState) -> Done<Vec<&'static str>> {
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
pub(super) fn lacking_pairs(wanted: &[&'static str], pairs: &[(String, String)]) -> Vec<&'static str> {
    wanted.iter().copied().filter(|table| !pairs.iter().any(|(known, _)| known == table)).collect()
}

pub(super) async fn layouts(
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

pub(super) fn of_locks(capacity: u64, relations: u64) -> Check {
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
