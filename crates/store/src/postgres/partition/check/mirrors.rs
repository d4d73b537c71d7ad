//! Whether what is written reaches the other layout.

use aionis_core::partition::{Check, CutoverState, judged, not_applicable};
use serde_json::json;
use sqlx::{PgConnection, Row};

use super::{
    super::{
        Done, execute, mirror,
        swap::{mark_differs, mirror_names},
    },
    layouts::lacking_pairs,
};
use crate::postgres::migrate::RUNTIME_ROLE;

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

pub(super) async fn mirrors(
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
