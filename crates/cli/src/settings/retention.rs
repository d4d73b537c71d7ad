//! How long rows are kept that are kept for a while only.

use aionis_core::jobs::retention::RetentionDays;
use clap::Args;

/// Periods in days; 0 for ever.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Jobs")]
pub(crate) struct RetentionSettings {
    /// Days derived work is kept after it was done; 0 for ever.
    #[arg(long, env = "AIONIS_RETENTION_OUTBOX_DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) retention_outbox_days: u32,
    /// Days the audit of recalls is kept; 0 for ever.
    #[arg(long, env = "AIONIS_RETENTION_AUDIT_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) retention_audit_days: u32,
    /// Days decisions of tool selection are kept that no feedback names; 0 for ever.
    #[arg(long, env = "AIONIS_RETENTION_DECISION_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) retention_decision_days: u32,
    /// Days the history of jobs is kept; 0 for ever.
    #[arg(long, env = "AIONIS_RETENTION_RUN_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) retention_run_days: u32,
}

impl RetentionSettings {
    /// The periods.
    pub(crate) fn days(&self) -> RetentionDays {
        RetentionDays {
            outbox_days: self.retention_outbox_days,
            audit_days: self.retention_audit_days,
            decision_days: self.retention_decision_days,
            run_days: self.retention_run_days,
        }
    }
}
