//! What is removed when it is old: rows that are kept for a while only, and that no commit binds.

use serde::Serialize;
use uuid::Uuid;

use crate::{clock::Timestamp, ids::ScopeKey, model::text_enum};

text_enum!(
    /// A kind of rows that are kept for a while.
    Expiring {
        /// Derived work that is done.
        Outbox = "outbox_rows",
        /// What is noted of recalls.
        RecallAudit = "recall_audits",
        /// Decisions of tool selection that no feedback names and that no feedback made.
        Decisions = "decisions",
        /// Runs of jobs that ended.
        JobRuns = "job_runs",
    }
);

/// Days each kind is kept; 0 for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct RetentionDays {
    /// Derived work that is done, since it was.
    pub outbox_days: u32,
    /// What is noted of recalls.
    pub audit_days: u32,
    /// Decisions without feedback.
    pub decision_days: u32,
    /// Runs of jobs, since they ended.
    pub run_days: u32,
}

impl Default for RetentionDays {
    fn default() -> Self {
        Self { outbox_days: 7, audit_days: 90, decision_days: 365, run_days: 90 }
    }
}

impl RetentionDays {
    /// Rows of a kind from before this time are removed; nothing when they are kept for ever.
    pub fn before(&self, kind: Expiring, now: Timestamp) -> Option<Timestamp> {
        let days = match kind {
            Expiring::Outbox => self.outbox_days,
            Expiring::RecallAudit => self.audit_days,
            Expiring::Decisions => self.decision_days,
            Expiring::JobRuns => self.run_days,
        };
        (days > 0).then(|| Timestamp(now.0.saturating_sub(i64::from(days) * 86_400_000_000)))
    }
}

/// A place in the order of all decisions: age, scope, id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct DecisionPlace {
    /// When it was made.
    pub at: Timestamp,
    /// Its scope's key.
    pub scope_key: String,
    /// Its id.
    pub id: Uuid,
}

impl DecisionPlace {
    /// Its scope.
    ///
    /// # Errors
    /// The key is none.
    pub fn scope(&self) -> Result<ScopeKey, crate::error::DomainError> {
        ScopeKey::from_stored(&self.scope_key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_period_and_zero_is_for_ever() {
        let (days, now) = (RetentionDays::default(), Timestamp(400 * 86_400_000_000));
        let kept = |kind| days.before(kind, now).map(|before| (now.0 - before.0) / 86_400_000_000);
        assert_eq!(Expiring::ALL.iter().map(|kind| kept(*kind)).collect::<Vec<_>>(), [7, 90, 365, 90].map(Some));
        let forever = RetentionDays { outbox_days: 0, audit_days: 0, decision_days: 0, run_days: 0 };
        assert!(Expiring::ALL.iter().all(|kind| forever.before(*kind, now).is_none()));
    }
}
