//! Jobs that workers run by themselves.

use clap::Args;

use super::{boolean, retention::RetentionSettings};

/// Which jobs a worker runs by itself, and how often it looks for what is due.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Jobs")]
pub(crate) struct JobSettings {
    /// Whether workers run periodic jobs by themselves.
    #[arg(long, env = "AIONIS_JOBS_ENABLED", default_value_t = true, action = clap::ArgAction::Set, value_parser = boolean)]
    pub(crate) jobs_enabled: bool,
    /// Time between two looks for jobs that are due, in ms.
    #[arg(long, env = "AIONIS_JOBS_POLL_INTERVAL_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..=86_400_000))]
    pub(crate) jobs_poll_interval_ms: u64,
    /// Names of periodic jobs that are not run by themselves, with commas between.
    #[arg(long, env = "AIONIS_JOBS_DISABLED", default_value = "")]
    pub(crate) jobs_disabled: String,
    #[command(flatten)]
    pub(crate) retention: RetentionSettings,
}

impl JobSettings {
    /// The names in `AIONIS_JOBS_DISABLED`.
    pub(crate) fn disabled(&self) -> impl Iterator<Item = &str> {
        self.jobs_disabled.split(',').map(str::trim).filter(|name| !name.is_empty())
    }

    /// Names of jobs that are not there or never run by themselves: such a name switches nothing off.
    pub(crate) fn problem(&self) -> Option<String> {
        let all = aionis_engine::jobs::ALL.iter().filter(|info| info.schedule.is_some());
        let periodic: Vec<&str> = all.map(|info| info.name).collect();
        let unknown = self.disabled().find(|name| !periodic.contains(name))?;
        Some(format!("AIONIS_JOBS_DISABLED names {unknown:?}; periodic jobs are: {}", periodic.join(", ")))
    }
}
