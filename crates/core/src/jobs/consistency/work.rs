//! Checks of other rows by themselves: rules, decisions, feedback, vectors, work, scope keys.

use serde_json::{Value, json};

use super::{Known, RawRow, Told, catalogue::Found};
use crate::ids::ScopeKey;

/// A row as the checks see it.
pub(super) struct RowView<'a> {
    pub(super) row: &'a RawRow,
    pub(super) known: &'a Known,
}

fn violation(is_one: bool, sample: impl FnOnce() -> Told<Value>) -> Found {
    if is_one { sample().map(Some) } else { Ok(None) }
}

/// Whether a text is missing or blank.
fn blank(text: Option<&str>) -> bool {
    text.is_none_or(|text| text.trim().is_empty())
}

pub(super) fn tenant_scope_key_malformed(view: &RowView<'_>) -> Found {
    let (table, key) = (view.row.needed_text("table_name")?, view.row.needed_text("scope_key")?);
    let well_formed = ScopeKey::from_stored(key).is_ok_and(|read| read.as_str() == key);
    violation(!well_formed, || Ok(json!({ "table": table, "scope_key": crate::ids::clip(key, 400) })))
}

pub(super) fn cross_tenant_outbox_scope_mismatch(view: &RowView<'_>) -> Found {
    let (key, tenant) = (view.row.needed_text("scope_key")?, view.row.needed_text("tenant_id")?);
    let same = key.split_once('/').is_some_and(|(of, _)| of == tenant);
    violation(!same, || Ok(json!({ "id": view.row.needed_id("id")?, "scope_key": key, "tenant_id": tenant })))
}

pub(super) fn lexical_rows_without_node(view: &RowView<'_>) -> Found {
    violation(view.row.int("node_no")?.is_none(), || Ok(json!({ "id": view.row.int("id")? })))
}

pub(super) fn embedding_dim_mismatch(view: &RowView<'_>) -> Found {
    let (model, dim) = &view.known.space;
    let differs = view.row.needed_text("model")? == model && view.row.count("dim")? != *dim as u64;
    violation(differs, || {
        Ok(json!({ "node_id": view.row.needed_id("node_id")?, "model": model, "dim": view.row.count("dim")? }))
    })
}

pub(super) fn rule_scope_target_missing(view: &RowView<'_>) -> Found {
    let scope = view.row.needed_text("rule_scope")?;
    let missing = match scope {
        "agent" => blank(view.row.text("target_agent_id")?),
        "team" => blank(view.row.text("target_team_id")?),
        "global" => false,
        _ => return Err("rule_scope is unknown".to_owned()),
    };
    violation(missing, || Ok(json!({ "id": view.row.needed_id("rule_node_id")?, "rule_scope": scope })))
}

pub(super) fn tools_feedback_missing_decision_id(view: &RowView<'_>) -> Found {
    let missing = view.row.needed_text("source")? == "tools_feedback" && view.row.id("decision_id")?.is_none();
    violation(missing, || {
        Ok(json!({ "id": view.row.needed_id("id")?, "rule_node_id": view.row.needed_id("rule_node_id")? }))
    })
}

pub(super) fn tools_decision_missing_run_id(view: &RowView<'_>) -> Found {
    violation(blank(view.row.text("run_id")?), || {
        Ok(json!({ "id": view.row.needed_id("id")?, "created_at": view.row.int("created_at")? }))
    })
}

fn work(view: &RowView<'_>, since: Option<i64>) -> Told<Value> {
    let age_s = since.map(|since| view.known.now.0.saturating_sub(since) / 1_000_000);
    Ok(json!({
        "id": view.row.needed_id("id")?,
        "event_type": view.row.text("event_type")?,
        "attempts": view.row.int("attempts")?,
        "age_s": age_s,
    }))
}

pub(super) fn outbox_should_be_failed(view: &RowView<'_>) -> Found {
    let open = view.row.int("failed_at")?.is_none();
    let exhausted = view.row.count("attempts")? >= u64::from(view.known.thresholds.attempts_max);
    let lease = view.row.int("lease_until")?;
    // Whoever holds the last attempt may still bring it to its end.
    let held = lease.is_some_and(|until| until > view.known.now.0);
    violation(open && exhausted && !held, || work(view, lease))
}

pub(super) fn outbox_claimed_too_old(view: &RowView<'_>) -> Found {
    let open = view.row.int("failed_at")?.is_none();
    let lease = view.row.int("lease_until")?.filter(|_| open);
    let before = view.known.ago(view.known.thresholds.claim_timeout).0;
    violation(lease.is_some_and(|until| until < before), || work(view, lease))
}

pub(super) fn outbox_dead_letters(view: &RowView<'_>) -> Found {
    let failed = view.row.int("failed_at")?;
    violation(failed.is_some(), || {
        let mut sample = work(view, failed)?;
        sample["reason"] = json!(view.row.text("failed_reason")?);
        Ok(sample)
    })
}
