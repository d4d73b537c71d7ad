//! Forgetting: nodes that are faint and unused move to a colder tier, a few a day.

use std::{collections::HashSet, time::Duration};

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    ids::ScopeKey,
    jobs::{
        JobInfo, Over, Schedule,
        salience_decay::{COMMIT_KIND, PAGE_MAX, Plan, Shift},
    },
    lifecycle::{DAY, TierPolicy},
    operate::{TierMove, prepare_maintenance},
    ports::store::TierPage,
};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Job, Report, Step, Stepped};

pub(super) const INFO: JobInfo = JobInfo {
    name: "salience-decay",
    about: "Move what is faint and unused to a colder tier",
    changes: true,
    over: Over::Scopes,
    schedule: Some(Schedule { every: Duration::from_secs(86_400), only_changed: false }),
};

/// Moves nodes between tiers. A step reads one page of one tier, and makes at most one commit.
#[derive(Debug)]
pub struct SalienceDecay {
    policy: TierPolicy,
    page_max: usize,
}

impl SalienceDecay {
    /// The job with a policy.
    pub const fn new(policy: TierPolicy) -> Self {
        Self { policy, page_max: PAGE_MAX }
    }

    /// With smaller pages, so that tests see many of them.
    #[cfg(test)]
    pub(super) const fn with_pages_of(policy: TierPolicy, page_max: usize) -> Self {
        Self { policy, page_max }
    }

    /// The plan to go on with, or a new one.
    async fn plan(&self, on: &Step<'_>, scope: &ScopeKey) -> Result<Plan, DomainError> {
        match on.cursor.map(|cursor| serde_json::from_value::<Plan>(cursor.clone())) {
            Some(Ok(plan)) if !plan.is_stale(on.now) => return Ok(plan),
            Some(Err(e)) => tracing::warn!(error = %e, "the plan of an earlier run cannot be read; it is made anew"),
            Some(Ok(_)) | None => {}
        }
        let found = on.store.scopes(Some(scope.tenant()), Some(scope.scope())).await?;
        let nodes = found.iter().find(|one| one.scope_key == scope.as_str()).map_or(0, |one| one.nodes);
        // Stored in whole milliseconds, of which the one a day ago counts no more.
        let since = Timestamp(on.now.0.saturating_sub(DAY).saturating_add(1_000));
        Ok(Plan::new(nodes, on.store.moved_since(scope, since).await?, on.now))
    }

    /// Makes planned moves, and takes those back that could not be made.
    async fn apply(
        &self,
        on: &Step<'_>,
        scope: &ScopeKey,
        plan: &mut Plan,
        moves: &[(Shift, TierMove)],
        report: &mut Report,
    ) -> Result<(), DomainError> {
        let planned = moves.iter().map(|(_, one)| one.clone()).collect();
        let operation = prepare_maintenance(scope.clone(), COMMIT_KIND, plan.at(), planned);
        let outcome = on.store.operate(operation).await?;
        let made: HashSet<_> = outcome.changed.into_iter().collect();
        for (shift, one) in moves {
            if made.contains(&one.id) {
                tell(report, *shift);
            } else {
                plan.unmade(*shift);
                report.count("changed_meanwhile", 1);
            }
        }
        if let Some(commit) = outcome.commit {
            report.count("commits", 1);
            report.set("commit_id", commit.id.to_string());
            report.set("commit_hash", commit.hash);
        }
        Ok(())
    }

    /// What is known at the end.
    fn conclude(&self, plan: &Plan, report: &mut Report) {
        let (survey, budget) = plan.surveyed();
        let (before, after) = plan.counts();
        let moved: u64 = plan.moved().map(|(_, moved)| moved).sum();
        let (hot, active) = (self.policy.hot_node_budget, self.policy.active_node_budget);
        let over = |count: u64, budget: u64| if budget > 0 { count.saturating_sub(budget) } else { 0 };
        for (name, count) in [
            ("adaptive_recent_nodes", survey.recent),
            ("adaptive_feedback_positive_nodes", survey.positive),
            ("adaptive_feedback_negative_nodes", survey.negative),
            ("total_mutable", survey.total_mutable),
            ("used_today", budget.used),
            ("max_daily_mutations", budget.max),
            ("initial_remaining_budget", budget.remaining()),
            ("remaining_budget", budget.remaining().saturating_sub(moved)),
        ] {
            report.count(name, count);
        }
        #[expect(clippy::cast_precision_loss, reason = "a mean over nodes")]
        let mean = survey.scale_sum / survey.total_mutable.max(1) as f64;
        report.set("adaptive_decay_enabled", self.policy.decay.adaptive);
        report.set("adaptive_decay_scale_avg", mean);
        report.set("adaptive_decay_scale_min", json!(survey.scale_min));
        report.set("adaptive_decay_scale_max", json!(survey.scale_max));
        report.set("budgets_enabled", hot > 0 || active > 0);
        report.set(
            "scope_budget",
            json!({
                "hot_node_budget": hot,
                "active_node_budget": active,
                "overflow_hot_before": over(before.hot, hot),
                "overflow_active_before": over(before.active(), active),
                "overflow_hot_after": over(after.hot, hot),
                "overflow_active_after": over(after.active(), active),
            }),
        );
        report.set("tier_counts", json!(after));
    }
}

/// Counts a move.
fn tell(report: &mut Report, shift: Shift) {
    report.count(shift.name(), 1);
    report.count("transitions_total", 1);
    report.count("updated_salience", 1);
    report.count(if shift.is_budget() { "transitions_budget_total" } else { "transitions_policy_total" }, 1);
}

/// Every count a report has, so that a run that moved nothing says so.
fn zeros() -> Report {
    let mut report = Report::default();
    let names = ["transitions_total", "transitions_policy_total", "transitions_budget_total", "updated_salience"];
    names.into_iter().chain(Shift::ALL.map(Shift::name)).for_each(|name| report.count(name, 0));
    report
}

#[async_trait]
impl Job for SalienceDecay {
    fn info(&self) -> &'static JobInfo {
        &INFO
    }

    fn params(&self) -> Value {
        json!(self.policy)
    }

    async fn step(&self, on: &Step<'_>) -> Result<Stepped, DomainError> {
        let scope = on.scope()?;
        let mut plan = self.plan(on, scope).await?;
        let asked = plan.asks_for();
        let page = TierPage { scope: scope.clone(), tier: asked.tier, after: asked.after, limit: self.page_max };
        let nodes = on.store.tier_page(page).await?;
        let moves = plan.page(&nodes, &self.policy);
        let mut report = zeros();
        if on.dry_run {
            for (shift, one) in &moves {
                tell(&mut report, *shift);
                let sample = json!({ "node_id": one.id, "from": one.from, "to": one.to, "salience": one.salience });
                report.list("would_move", sample);
            }
        } else if !moves.is_empty() {
            self.apply(on, scope, &mut plan, &moves, &mut report).await?;
        }
        let full = nodes.len() >= self.page_max;
        if plan.advance(nodes.last().map(|node| node.id), full, &self.policy) {
            return Ok(Stepped { report, next: Some(json!(plan)) });
        }
        self.conclude(&plan, &mut report);
        Ok(Stepped { report, next: None })
    }
}

#[cfg(test)]
#[path = "salience_decay_tests.rs"]
mod tests;
