//! The weekly report as a page: one file, no script, nothing loaded from anywhere; charts are drawn inline.

use std::fmt::Write as _;

use super::{GovernanceReport, number, percent};
use crate::jobs::checks::Check;

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;max-width:60rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d8dee6}\
table{border-collapse:collapse;width:100%}th,td{padding:.3rem .6rem;text-align:left;border-bottom:1px solid #e5e9ef}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}\
.pass,.green{color:#176b3a}.fail,.red{color:#a3161f}.inconclusive,.yellow{color:#7a5200}\
.light{display:inline-block;padding:.15rem .7rem;border-radius:1rem;border:1px solid currentColor;font-weight:600}\
svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#1c2430}";

/// Width of the drawings.
const WIDTH: f64 = 720.0;
/// Where bars begin, after their names.
const LEFT: f64 = 200.0;
/// Longest bar.
const BAR: f64 = 420.0;
/// Height of a bar with its gap.
const STEP: f64 = 26.0;

const BLUE: &str = "#2f6fb3";
const RED: &str = "#b3394a";
const GREEN: &str = "#2f8f5b";
const GREY: &str = "#8a94a3";

/// A text as content or attribute of HTML.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

/// A bar of a chart.
struct Bar {
    name: String,
    /// Its length; none where there is no data.
    value: Option<f64>,
    label: String,
    color: &'static str,
}

/// Bars side by side, with a mark where their bound is.
struct Chart<'a> {
    title: &'a str,
    bars: Vec<(Bar, Option<f64>)>,
    /// The value of a full bar; none takes the largest.
    full: Option<f64>,
}

impl Chart<'_> {
    fn draw(&self, out: &mut String) -> std::fmt::Result {
        let largest = self.bars.iter().filter_map(|(bar, _)| bar.value).fold(0.0, f64::max);
        let full = self.full.unwrap_or(largest).max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_precision_loss, reason = "a few bars")]
        let height = STEP * self.bars.len() as f64 + 6.0;
        let title = escaped(self.title);
        write!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>"
        )?;
        for (at, (bar, bound)) in self.bars.iter().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "a few bars")]
            let y = STEP * at as f64 + 4.0;
            let (base, name) = (y + 14.0, escaped(&bar.name));
            let end = LEFT - 10.0;
            write!(out, "<text x=\"{end}\" y=\"{base}\" text-anchor=\"end\">{name}</text>")?;
            let width = bar.value.map_or(0.0, |value| (value / full).clamp(0.0, 1.0) * BAR);
            write!(out, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{BAR}\" height=\"18\" fill=\"#eef1f5\"/>")?;
            write!(out, "<rect x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{}\"/>", bar.color)?;
            if let Some(bound) = bound {
                let x = LEFT + (bound / full).clamp(0.0, 1.0) * BAR;
                write!(out, "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"2\" height=\"22\" fill=\"#1c2430\"/>", y - 2.0)?;
            }
            let after = LEFT + BAR + 10.0;
            write!(out, "<text x=\"{after}\" y=\"{base}\">{}</text>", escaped(&bar.label))?;
        }
        write!(out, "</svg>")
    }
}

/// The report as an HTML page.
pub fn page(report: &GovernanceReport) -> String {
    let mut out = String::new();
    // Writing to a text cannot fail.
    let _ = write_all(report, &mut out);
    out
}

fn write_all(r: &GovernanceReport, out: &mut String) -> std::fmt::Result {
    let (week, light) = (escaped(&r.report_week), r.overall.as_str());
    write!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>Governance {week}</title><style>{STYLE}</style></head><body><main>"
    )?;
    write!(out, "<h1>Governance, week {week}</h1>")?;
    write!(
        out,
        "<p>Tenant <b>{}</b>, scope <b>{}</b>; {} hours up to {}; run {}.</p>",
        escaped(&r.tenant_id),
        escaped(&r.scope),
        r.window_hours,
        escaped(&r.generated_at),
        escaped(&r.run_id)
    )?;
    let verdict = if r.ok { "The verdict holds." } else { "The verdict does not hold." };
    write!(out, "<p><span class=\"light {light}\">{light}</span> {verdict}</p>")?;
    checks(&r.checks, out)?;
    scope(r, out)?;
    tenants(r, out)?;
    write!(out, "<h2>Recommendations</h2>")?;
    if r.recommendations.is_empty() {
        write!(out, "<p>Nothing: every check passes.</p>")?;
    } else {
        write!(out, "<ul>")?;
        r.recommendations.iter().try_for_each(|text| write!(out, "<li>{}</li>", escaped(text)))?;
        write!(out, "</ul>")?;
    }
    write!(out, "</main></body></html>")
}

fn checks(checks: &[Check], out: &mut String) -> std::fmt::Result {
    write!(
        out,
        "<h2>Checks</h2><table><thead><tr><th>Check</th><th>Severity</th><th>State</th><th class=\"n\">Value</th>\
         <th class=\"n\">Bound</th><th class=\"n\">Sample</th></tr></thead><tbody>"
    )?;
    for check in checks {
        let state = check.state;
        write!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"{state}\">{state}</td><td class=\"n\">{}</td><td class=\"n\">{} {}</td>\
             <td class=\"n\">{}</td></tr>",
            escaped(check.name),
            check.severity,
            escaped(&number(check.value)),
            escaped(check.threshold.op),
            check.threshold.value,
            check.sample
        )?;
    }
    write!(out, "</tbody></table>")
}

fn scope(r: &GovernanceReport, out: &mut String) -> std::fmt::Result {
    let (s, t) = (&r.scope_snapshot, &r.thresholds);
    let cover = |name: &str, value: Option<f64>, bound: Option<f64>| {
        let short = value.zip(bound).is_some_and(|(value, bound)| value < bound);
        let color = if short { RED } else { BLUE };
        (Bar { name: name.to_owned(), value, label: percent(value), color }, bound)
    };
    write!(out, "<h2>Coverage of the scope</h2><p>The mark is the bound of a check.</p>")?;
    let bars = vec![
        cover("private nodes with owner", s.lane.private_owner_coverage, Some(t.min_private_owner_coverage)),
        cover("feedback with decision", s.decision.link_coverage, Some(t.min_decision_link_coverage)),
        cover("recalls with identity", s.recall.identity_coverage, Some(t.min_recall_identity_coverage)),
        cover("feedback with run", s.feedback.run_id_coverage, None),
    ];
    Chart { title: "Coverage of the scope", bars, full: Some(1.0) }.draw(out)?;
    let (f, rules) = (&s.feedback, &s.rules);
    for (title, counts) in [
        (
            "Feedback by outcome",
            [("positive", f.positive, GREEN), ("negative", f.negative, RED), ("neutral", f.neutral, GREY)].to_vec(),
        ),
        (
            "Rules by state",
            vec![
                ("active", rules.active, GREEN),
                ("shadow", rules.shadow, BLUE),
                ("draft", rules.draft, GREY),
                ("disabled", rules.disabled, RED),
            ],
        ),
    ] {
        write!(out, "<h2>{title}</h2>")?;
        let bars = counts.into_iter().map(|(name, count, color)| (counted(name.to_owned(), count, color), None));
        Chart { title, bars: bars.collect(), full: None }.draw(out)?;
    }
    Ok(())
}

fn counted(name: String, count: u64, color: &'static str) -> Bar {
    #[expect(clippy::cast_precision_loss, reason = "the length of a bar")]
    let value = Some(count as f64);
    Bar { name, value, label: count.to_string(), color }
}

fn tenants(r: &GovernanceReport, out: &mut String) -> std::fmt::Result {
    let (rows, drift) = (&r.cross_tenant.top_tenants, &r.cross_tenant.drift);
    let rules = drift.active_rule_count_drift.map_or_else(|| "no data".to_owned(), |drift| drift.to_string());
    write!(
        out,
        "<h2>Tenants</h2><p>{} tenants, {} with enough feedback. Difference in active rules: {rules}; in negative \
         feedback: {}.</p>",
        drift.tenant_count,
        drift.tenants_with_feedback_floor,
        escaped(&number(drift.negative_ratio_drift))
    )?;
    if rows.is_empty() {
        return Ok(());
    }
    write!(out, "<h3>Active rules</h3>")?;
    let bars = rows.iter().map(|row| (counted(row.tenant_id.clone(), row.active_rules, BLUE), None)).collect();
    Chart { title: "Active rules by tenant", bars, full: None }.draw(out)?;
    write!(out, "<h3>Negative feedback</h3>")?;
    let bars = rows
        .iter()
        .map(|row| {
            let (value, label) = (row.feedback_negative_ratio, percent(row.feedback_negative_ratio));
            (Bar { name: row.tenant_id.clone(), value, label, color: RED }, None)
        })
        .collect();
    Chart { title: "Part of feedback that is negative, by tenant", bars, full: Some(1.0) }.draw(out)
}
