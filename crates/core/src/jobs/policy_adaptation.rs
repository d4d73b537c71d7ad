//! Which shadow rules should go live and which active ones should be switched off, with how much confidence.
//!
//! ```text
//! promote (shadow), votes of the window:
//!   quality = clamp01(1 - negative_ratio / max(max_neg_ratio, 1e-4))
//!   confidence = clamp01(0.45 quality + 0.35 clamp01(votes / canary_min) + 0.20 clamp01(runs / min_runs))
//! disable (active), votes of the window, or of the lifetime when the window has none:
//!   stale = last positive feedback over the lifetime (else the rule's first writing) is stale_active_hours old
//!   confidence = clamp01(0.55 clamp01(negative_ratio / max(min_neg_ratio, 1e-4))
//!                        + 0.25 clamp01(votes / (2 min_negatives)) + 0.20 [stale])
//!   disable = (negative >= min_negatives and negative_ratio >= min_neg_ratio, or stale and score < 0)
//!             and confidence >= min_confidence
//! ```
//!
//! Staleness is taken over the lifetime: taken over a window shorter than itself it could never be, and without it no
//! confidence reaches the bound of an urgent case.

use serde::Serialize;

use super::{
    checks::{Check, CheckSummary, Measured, Severity, Strictness, reaches, round4, within},
    counts::{RuleSignalPage, RuleSignals, Votes},
    rule_promotion::Scanned,
    state_change::{SUGGESTIONS_MAX, StateChange},
};
use crate::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    model::RuleState,
};

const HOUR_US: u64 = 3_600_000_000;
/// Confidence below which a promotion should be tried on a few first.
const PROMOTE_CANARY_BELOW: f64 = 0.8;

/// What promoting needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PromoteThresholds {
    /// Positive votes.
    pub min_positives: u64,
    /// Runs with a positive vote.
    pub min_distinct_runs: u64,
    /// Largest part of negative votes.
    pub max_neg_ratio: f64,
    /// Positive votes less negative ones.
    pub min_score: i64,
    /// Confidence, 0…1.
    pub min_confidence: f64,
}

/// What switching off needs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct DisableThresholds {
    /// Negative votes.
    pub min_negatives: u64,
    /// Part of negative votes.
    pub min_neg_ratio: f64,
    /// Confidence, 0…1.
    pub min_confidence: f64,
    /// Hours without positive feedback after which an active rule is stale.
    pub stale_active_hours: u64,
}

/// What a change needs to be made for everyone at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct CanaryThresholds {
    /// Votes.
    pub min_feedback: u64,
    /// Confidence from which on switching off is urgent.
    pub urgent_disable_confidence: f64,
}

/// Bounds of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct GateThresholds {
    /// Urgent cases there may be.
    pub max_urgent_disable_candidates: u64,
    /// Other cases there may be.
    pub max_canary_disable_candidates: u64,
}

/// Everything that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PolicyThresholds {
    /// Length of the window.
    pub window_hours: u64,
    /// Promoting.
    pub promote: PromoteThresholds,
    /// Switching off.
    pub disable: DisableThresholds,
    /// Trying on a few.
    pub canary: CanaryThresholds,
    /// The checks.
    pub gate: GateThresholds,
}

impl Default for PolicyThresholds {
    fn default() -> Self {
        Self {
            window_hours: 168,
            promote: PromoteThresholds {
                min_positives: 10,
                min_distinct_runs: 3,
                max_neg_ratio: 0.1,
                min_score: 9,
                min_confidence: 0.55,
            },
            disable: DisableThresholds {
                min_negatives: 5,
                min_neg_ratio: 0.6,
                min_confidence: 0.6,
                stale_active_hours: 336,
            },
            canary: CanaryThresholds { min_feedback: 20, urgent_disable_confidence: 0.85 },
            gate: GateThresholds { max_urgent_disable_candidates: 0, max_canary_disable_candidates: 3 },
        }
    }
}

fn clamp01(value: f64) -> f64 {
    value.clamp(0.0, 1.0)
}

#[expect(clippy::cast_precision_loss, reason = "counts of votes")]
fn share(part: u64, whole: u64) -> f64 {
    clamp01(part as f64 / whole.max(1) as f64)
}

/// Confidence in promoting a shadow rule, 0…1.
pub fn promote_confidence(votes: &Votes, t: &PolicyThresholds) -> f64 {
    let quality = clamp01(1.0 - votes.negative_ratio() / t.promote.max_neg_ratio.max(1e-4));
    let volume = share(votes.total(), t.canary.min_feedback);
    let runs = share(votes.runs, t.promote.min_distinct_runs);
    clamp01(0.45 * quality + 0.35 * volume + 0.20 * runs)
}

/// Confidence in switching an active rule off, 0…1.
pub fn disable_confidence(votes: &Votes, stale: bool, t: &PolicyThresholds) -> f64 {
    let pressure = clamp01(votes.negative_ratio() / t.disable.min_neg_ratio.max(1e-4));
    let volume = share(votes.total(), t.disable.min_negatives.saturating_mul(2));
    clamp01(0.55 * pressure + 0.25 * volume + if stale { 0.20 } else { 0.0 })
}

/// `low`, `medium` or `high`.
pub fn risk_level(risk: f64) -> &'static str {
    match risk {
        high if reaches(high, 0.67) => "high",
        medium if reaches(medium, 0.34) => "medium",
        _ => "low",
    }
}

/// What a suggestion was made of.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyMetrics {
    /// Positive votes less negative ones.
    pub score: i64,
    /// Positive feedback so far, as counted with the rule.
    pub positive_count: u64,
    /// Negative feedback so far, as counted with the rule.
    pub negative_count: u64,
    /// Whether the votes are those of the window; else the window has none, and they are those of the lifetime.
    pub in_window: bool,
    /// Votes.
    pub recent_total: u64,
    /// Positive votes.
    pub recent_positive: u64,
    /// Negative votes.
    pub recent_negative: u64,
    /// Runs that voted.
    pub recent_distinct_runs: u64,
    /// Part of the votes that are negative.
    pub recent_negative_ratio: f64,
    /// Hours since the newest feedback over the lifetime.
    pub recent_feedback_stale_hours: Option<f64>,
    /// Whether it is stale; of active rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stale: Option<bool>,
    /// Runs with a positive vote over the lifetime.
    pub all_positive_runs: u64,
    /// Runs with a negative vote over the lifetime.
    pub all_negative_runs: u64,
}

/// Where a suggestion comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyTrace {
    /// The commit that last changed the rule.
    pub commit_id: Option<CommitId>,
    /// When.
    pub updated_at: String,
    /// When it was last evaluated.
    pub last_evaluated_at: Option<String>,
    /// Newest feedback over the lifetime.
    pub recent_last_feedback_at: Option<String>,
}

/// A rule that should get another state.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicySuggestion {
    /// `promote_to_active` or `disable_rule`.
    pub action: &'static str,
    /// The rule.
    pub rule_node_id: NodeId,
    /// Its state.
    pub current_state: RuleState,
    /// The state it should get.
    pub target_state: RuleState,
    /// 0…1.
    pub confidence: f64,
    /// 0…1.
    pub risk_score: f64,
    /// `low`, `medium` or `high`.
    pub risk_level: &'static str,
    /// Whether it should be tried on a few first.
    pub canary_recommended: bool,
    /// What it was made of.
    pub metrics: PolicyMetrics,
    /// Why.
    pub reasons: Vec<String>,
    /// Where it comes from.
    pub trace: PolicyTrace,
    /// The request that does it.
    pub apply: StateChange,
    /// The request that takes it back.
    pub rollback: StateChange,
}

/// Suggestions by what they suggest, most confident first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PolicySuggestions {
    /// Shadow rules that should go live.
    pub promote_to_active: Vec<PolicySuggestion>,
    /// Active rules that should be switched off.
    pub disable_active: Vec<PolicySuggestion>,
}

/// What the report says in short.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicySummary {
    /// The checks.
    #[serde(flatten)]
    pub checks: CheckSummary,
    /// Rules that should go live.
    pub promote_candidates: u64,
    /// Rules that should be switched off.
    pub disable_candidates: u64,
    /// Those of them that are urgent.
    pub urgent_disable_candidates: u64,
    /// Those of them that should be tried on a few first.
    pub canary_disable_candidates: u64,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct NextStep {
    /// With a suggestion.
    pub note: &'static str,
    /// With one that should be tried on a few first.
    pub canary_hint: &'static str,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PolicyReport {
    /// The verdict.
    pub ok: bool,
    /// What this is.
    pub kind: &'static str,
    /// What was asked for.
    pub thresholds: PolicyThresholds,
    /// What was looked at.
    pub scanned: Scanned,
    /// The checks.
    pub checks: Vec<Check>,
    /// What it says in short.
    pub summary: PolicySummary,
    /// The first suggestions of each kind.
    pub suggestions: PolicySuggestions,
    /// What to do.
    pub next_step: NextStep,
}

/// The states rules are looked at in.
pub const ADAPTABLE: &[RuleState] = &[RuleState::Shadow, RuleState::Active];

/// Judges the rules of a scope.
pub fn adapt(
    scope: &ScopeKey,
    page: &RuleSignalPage,
    thresholds: PolicyThresholds,
    (limit, strictness): (u64, Strictness),
    now: Timestamp,
) -> PolicyReport {
    let of = |state| page.rules.iter().filter(move |rule| rule.state == state);
    let mut promote: Vec<PolicySuggestion> =
        of(RuleState::Shadow).filter_map(|rule| promotion(scope, rule, &thresholds, now)).collect();
    let mut disable: Vec<PolicySuggestion> =
        of(RuleState::Active).filter_map(|rule| switch_off(scope, rule, &thresholds, now)).collect();
    let bound = thresholds.canary.urgent_disable_confidence;
    let urgent = disable.iter().filter(|one| reaches(one.confidence, bound)).count() as u64;
    let canary = disable.iter().filter(|one| one.canary_recommended && !reaches(one.confidence, bound)).count() as u64;
    let judged = of(RuleState::Active).filter(|rule| evidence(rule).1.total() > 0).count() as u64;
    let checks = checks((urgent, canary), judged, page.left_out, &thresholds.gate);
    let summary = PolicySummary {
        checks: CheckSummary::of(&checks),
        promote_candidates: promote.len() as u64,
        disable_candidates: disable.len() as u64,
        urgent_disable_candidates: urgent,
        canary_disable_candidates: canary,
    };
    for list in [&mut promote, &mut disable] {
        list.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.rule_node_id.cmp(&b.rule_node_id)));
        list.truncate(SUGGESTIONS_MAX);
    }
    PolicyReport {
        ok: strictness.holds(&checks),
        kind: "policy_adaptation_gate",
        thresholds,
        scanned: Scanned::of(page, limit),
        checks,
        summary,
        suggestions: PolicySuggestions { promote_to_active: promote, disable_active: disable },
        next_step: NextStep {
            note: "send a suggestion's apply to its endpoint; rollback takes it back",
            canary_hint: "try what recommends a canary in one scope first",
        },
    }
}

/// A count of cases says something only where active rules got votes; a case too many is one whatever else there is.
fn checks((urgent, canary): (u64, u64), judged: u64, left_out: u64, gate: &GateThresholds) -> Vec<Check> {
    #[expect(clippy::cast_precision_loss, reason = "counts of rules")]
    let check = |name, severity, count: u64, max: u64| {
        Check::at_most(name, severity, Measured::number(count as f64, judged, 1), max as f64)
            .unless_left_out(left_out, "rules")
    };
    vec![
        check("urgent_disable_candidates_max", Severity::Error, urgent, gate.max_urgent_disable_candidates),
        check("canary_disable_candidates_max", Severity::Warning, canary, gate.max_canary_disable_candidates),
    ]
}

/// The votes an active rule is judged by, and whether they are those of the window.
fn evidence(rule: &RuleSignals) -> (bool, &Votes) {
    if rule.window.total() > 0 { (true, &rule.window) } else { (false, &rule.lifetime) }
}

/// Whether an active rule has had no positive feedback for so long.
pub fn is_stale(rule: &RuleSignals, stale_active_hours: u64, now: Timestamp) -> bool {
    let supported = rule.last_positive_at.unwrap_or(rule.created_at);
    now.micros_since(supported) >= stale_active_hours.saturating_mul(HOUR_US)
}

fn promotion(scope: &ScopeKey, rule: &RuleSignals, t: &PolicyThresholds, now: Timestamp) -> Option<PolicySuggestion> {
    let (votes, p) = (&rule.window, &t.promote);
    let confidence = promote_confidence(votes, t);
    let eligible = votes.positive >= p.min_positives
        && within(votes.negative_ratio(), p.max_neg_ratio)
        && votes.score() >= p.min_score
        && votes.positive_runs >= p.min_distinct_runs
        && reaches(confidence, p.min_confidence);
    eligible.then(|| {
        let reasons = vec![
            format!("{} positive votes >= {}", votes.positive, p.min_positives),
            format!("positive in {} different runs >= {}", votes.positive_runs, p.min_distinct_runs),
            format!("negative part {} <= {}", round4(votes.negative_ratio()), p.max_neg_ratio),
            format!("confidence {} >= {}", round4(confidence), p.min_confidence),
        ];
        let canary = !reaches(confidence, PROMOTE_CANARY_BELOW) || votes.total() < t.canary.min_feedback;
        let judged = Judged { rule, votes, in_window: true, stale: None, confidence, canary, reasons };
        judged.suggestion(scope, ("promote_to_active", RuleState::Active), 1.0 - confidence, now)
    })
}

fn switch_off(scope: &ScopeKey, rule: &RuleSignals, t: &PolicyThresholds, now: Timestamp) -> Option<PolicySuggestion> {
    let (in_window, votes) = evidence(rule);
    let (d, stale) = (&t.disable, is_stale(rule, t.disable.stale_active_hours, now));
    let confidence = disable_confidence(votes, stale, t);
    let refused = votes.negative >= d.min_negatives && reaches(votes.negative_ratio(), d.min_neg_ratio);
    let unloved = stale && votes.score() < 0;
    ((refused || unloved) && reaches(confidence, d.min_confidence)).then(|| {
        let mut reasons = vec![format!("confidence {} >= {}", round4(confidence), d.min_confidence)];
        if refused {
            reasons.push(format!("{} negative votes >= {}", votes.negative, d.min_negatives));
            reasons.push(format!("negative part {} >= {}", round4(votes.negative_ratio()), d.min_neg_ratio));
        }
        if stale {
            reasons.push(format!("no positive feedback for {} hours", d.stale_active_hours));
        }
        let canary = !reaches(confidence, t.canary.urgent_disable_confidence) || votes.total() < t.canary.min_feedback;
        let judged = Judged { rule, votes, in_window, stale: Some(stale), confidence, canary, reasons };
        judged.suggestion(scope, ("disable_rule", RuleState::Disabled), confidence, now)
    })
}

/// A rule that was judged, and by what.
struct Judged<'a> {
    rule: &'a RuleSignals,
    votes: &'a Votes,
    in_window: bool,
    stale: Option<bool>,
    confidence: f64,
    canary: bool,
    reasons: Vec<String>,
}

impl Judged<'_> {
    fn suggestion(
        self,
        scope: &ScopeKey,
        (action, to): (&'static str, RuleState),
        risk: f64,
        now: Timestamp,
    ) -> PolicySuggestion {
        let (rule, votes) = (self.rule, self.votes);
        let (apply, rollback) = StateChange::there_and_back(scope, rule.rule, (rule.state, to), "policy-adaptation");
        #[expect(clippy::cast_precision_loss, reason = "an age in hours, to four digits")]
        let age = |at: Timestamp| round4(now.micros_since(at) as f64 / HOUR_US as f64);
        PolicySuggestion {
            action,
            rule_node_id: rule.rule,
            current_state: rule.state,
            target_state: to,
            confidence: round4(self.confidence),
            risk_score: round4(risk),
            risk_level: risk_level(risk),
            canary_recommended: self.canary,
            metrics: PolicyMetrics {
                score: votes.score(),
                positive_count: rule.positive_count,
                negative_count: rule.negative_count,
                in_window: self.in_window,
                recent_total: votes.total(),
                recent_positive: votes.positive,
                recent_negative: votes.negative,
                recent_distinct_runs: votes.runs,
                recent_negative_ratio: round4(votes.negative_ratio()),
                recent_feedback_stale_hours: rule.last_feedback_at.map(age),
                stale: self.stale,
                all_positive_runs: rule.lifetime.positive_runs,
                all_negative_runs: rule.lifetime.negative_runs,
            },
            reasons: self.reasons,
            trace: PolicyTrace {
                commit_id: rule.commit_id,
                updated_at: rule.updated_at.to_iso(),
                last_evaluated_at: rule.last_evaluated_at.map(|at| at.to_iso()),
                recent_last_feedback_at: rule.last_feedback_at.map(|at| at.to_iso()),
            },
            apply,
            rollback,
        }
    }
}

#[cfg(test)]
#[path = "policy_adaptation_tests.rs"]
mod tests;
