//! The weekly report as Markdown.

use std::fmt::Write as _;

use super::{GovernanceReport, TenantRow, number, percent};

/// A text as the content of a table cell or a line: nothing of it is taken for markup.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '{' | '}' | '[' | ']' | '(' | ')' | '#' | '+' | '!' | '|' | '~' => {
                out.push('\\');
                out.push(c);
            }
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// The report as Markdown.
pub fn markdown(report: &GovernanceReport) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    let _ = write_all(report, &mut out);
    out
}

fn write_all(r: &GovernanceReport, out: &mut String) -> std::fmt::Result {
    writeln!(out, "# Governance, week {}\n", plain(&r.report_week))?;
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(out, "| tenant | {} |\n| scope | {} |", plain(&r.tenant_id), plain(&r.scope))?;
    writeln!(out, "| window | {} hours |\n| made at | {} |", r.window_hours, plain(&r.generated_at))?;
    writeln!(out, "| run | {} |\n", plain(&r.run_id))?;
    writeln!(out, "## Executive Summary\n")?;
    writeln!(
        out,
        "Overall: **{}**. Verdict: **{}**.\n",
        r.overall.as_str(),
        if r.ok { "holds" } else { "does not hold" }
    )?;
    let s = &r.summary;
    writeln!(
        out,
        "Errors that fail: {}. Warnings that fail: {}. Inconclusive: {}.\n",
        s.failed_errors.len(),
        s.failed_warnings.len(),
        s.inconclusive.len()
    )?;
    scope(r, out)?;
    writeln!(out, "## Cross-Tenant Drift\n")?;
    let d = &r.cross_tenant.drift;
    writeln!(out, "| | |\n|---|---:|\n| tenants | {} |", d.tenant_count)?;
    writeln!(out, "| with enough feedback | {} |", d.tenants_with_feedback_floor)?;
    let rules = d.active_rule_count_drift.map_or_else(|| "no data".to_owned(), |drift| drift.to_string());
    writeln!(out, "| difference in active rules | {rules} |")?;
    writeln!(out, "| difference in negative feedback | {} |\n", number(d.negative_ratio_drift))?;
    writeln!(out, "## Gate Checks\n\n| check | severity | state | value | bound |\n|---|---|---|---:|---:|")?;
    for check in &r.checks {
        let (op, bound) = (plain(check.threshold.op), check.threshold.value);
        let (severity, state, value) = (check.severity, check.state, number(check.value));
        writeln!(out, "| {} | {severity} | {state} | {value} | {op} {bound} |", plain(check.name))?;
    }
    tenants(&r.cross_tenant.top_tenants, out)?;
    writeln!(out, "\n## Recommendations\n")?;
    if r.recommendations.is_empty() {
        writeln!(out, "Nothing: every check passes.")?;
    }
    r.recommendations.iter().try_for_each(|text| writeln!(out, "* {text}"))
}

fn scope(r: &GovernanceReport, out: &mut String) -> std::fmt::Result {
    let s = &r.scope_snapshot;
    writeln!(out, "## Scope Snapshot\n\n| | |\n|---|---:|")?;
    writeln!(out, "| feedback | {} |", s.feedback.total)?;
    writeln!(
        out,
        "| positive / negative / neutral | {} / {} / {} |",
        s.feedback.positive, s.feedback.negative, s.feedback.neutral
    )?;
    writeln!(out, "| that names its run | {} |", percent(s.feedback.run_id_coverage))?;
    writeln!(
        out,
        "| rules: active / shadow / draft / disabled | {} / {} / {} / {} |",
        s.rules.active, s.rules.shadow, s.rules.draft, s.rules.disabled
    )?;
    writeln!(out, "| tool feedback with its decision | {} |", percent(s.decision.link_coverage))?;
    writeln!(out, "| recalls | {} |\n| with identity | {} |", s.recall.total, percent(s.recall.identity_coverage))?;
    writeln!(out, "| private nodes | {} |", s.lane.private_total)?;
    writeln!(
        out,
        "| with an owner | {} |\n| shared nodes | {} |\n",
        percent(s.lane.private_owner_coverage),
        s.lane.shared_total
    )
}

fn tenants(rows: &[TenantRow], out: &mut String) -> std::fmt::Result {
    writeln!(out, "\n## Top Tenants\n")?;
    writeln!(out, "| tenant | active rules | feedback | negative | decision link | recall identity | private owner |")?;
    writeln!(out, "|---|---:|---:|---:|---:|---:|---:|")?;
    rows.iter().try_for_each(|t| {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            plain(&t.tenant_id),
            t.active_rules,
            t.feedback_total,
            percent(t.feedback_negative_ratio),
            percent(t.decision_link_coverage),
            percent(t.recall_identity_coverage),
            percent(t.private_owner_coverage)
        )
    })
}
