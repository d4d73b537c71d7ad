//! Runs the periodic jobs by itself, for all tenants.
//!
//! Any number of schedulers may run: leases keep two from one scope, and who comes second finds the job done. A job that
//! was due while nothing ran is run once, not once per time it was missed; what jobs compute is a function of time.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    clock::Timestamp,
    error::DomainError,
    jobs::{Over, Target},
};
use tokio::sync::watch;

use super::{Job, RunOptions, Runner, STEP_MAX, TargetStatus};
use crate::{backoff, pulse::Pulse};

/// Settings of a scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerSettings {
    /// Name of this scheduler, for leases.
    pub holder: String,
    /// Time between two looks for what is due; each is lengthened or shortened by up to half of it, so that several
    /// schedulers spread out.
    pub poll_interval: Duration,
    /// Scopes one look takes per job; the others come with the next looks, those that wait longest first.
    pub scopes_max: usize,
    /// How long a lease holds without a sign of life.
    pub lease: Duration,
}

/// A scheduler of jobs.
pub struct Scheduler {
    runner: Runner,
    jobs: Vec<Arc<dyn Job>>,
    settings: SchedulerSettings,
    pulse: Pulse,
}

/// What one look did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Runs that came to their end.
    pub done: usize,
    /// Runs that did not: failed, or what they judged does not hold.
    pub bad: usize,
    /// Targets another scheduler was faster with.
    pub taken: usize,
}

impl Scheduler {
    /// A scheduler of jobs; those without a schedule are never run.
    pub fn new(runner: Runner, jobs: Vec<Arc<dyn Job>>, settings: SchedulerSettings) -> Self {
        let pulse = Pulse::new(runner.clock());
        Self { runner, jobs, settings, pulse }
    }

    /// Signs of life of [`Self::run`].
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// Runs what is due until `stop` turns true. A failure of storage is logged and tried again.
    pub async fn run(&self, mut stop: watch::Receiver<bool>) {
        while !*stop.borrow() {
            match self.round(&stop).await {
                Ok(_) => self.pulse.well(),
                Err(e) => {
                    self.pulse.trouble(e.to_string());
                    tracing::warn!(error = %e, "the scheduler of jobs could not use the store; it will try again");
                }
            }
            let pause = self.settings.poll_interval.mul_f64(0.5 + backoff::jitter());
            self.pulse.within(pause + STEP_MAX);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Runs what is due now.
    ///
    /// # Errors
    /// What is due cannot be found out.
    pub async fn round(&self, stop: &watch::Receiver<bool>) -> Result<Round, DomainError> {
        let mut round = Round::default();
        for job in &self.jobs {
            self.pulse.within(STEP_MAX);
            let Some(schedule) = job.info().schedule else { continue };
            let now = self.runner.now();
            let every = i64::try_from(schedule.every.as_micros()).unwrap_or(i64::MAX);
            let before = Timestamp(now.0.saturating_sub(every));
            let options = RunOptions {
                holder: self.settings.holder.clone(),
                lease: self.settings.lease,
                // A run that begins at this moment is not before it.
                due_before: Some(Timestamp(before.0.saturating_add(1))),
                stop: Some(stop.clone()),
                pulse: Some(self.pulse.clone()),
                ..RunOptions::default()
            };
            for target in self.due(job.as_ref(), before, now, schedule.only_changed).await? {
                if *stop.borrow() {
                    return Ok(round);
                }
                let done = self.runner.run_target(job.as_ref(), &target, &options, None).await;
                match done.status {
                    TargetStatus::Done | TargetStatus::Stopped => round.done += 1,
                    TargetStatus::Busy | TargetStatus::NotDue | TargetStatus::Lost => round.taken += 1,
                    TargetStatus::Failed | TargetStatus::Negative => {
                        round.bad += 1;
                        tracing::warn!(
                            job = job.info().name, status = done.status.as_str(), scope_key = target.key(),
                            error = done.error.unwrap_or_default(), run_id = %done.run_id, "a job did not go well"
                        );
                    }
                }
            }
        }
        Ok(round)
    }

    async fn due(
        &self,
        job: &dyn Job,
        before: Timestamp,
        now: Timestamp,
        only_changed: bool,
    ) -> Result<Vec<Target>, DomainError> {
        let (store, info) = (self.runner.store(), job.info());
        let at = Timestamp(before.0.saturating_add(1));
        Ok(match info.over {
            Over::Deployment => {
                let last = store.last_deployment_run(info.name).await?;
                if last.is_none_or(|last| last < at) { vec![Target::Deployment] } else { Vec::new() }
            }
            Over::Scopes => {
                let due = store.due_scopes(info.name, at, now, only_changed, self.settings.scopes_max).await?;
                due.into_iter().map(Target::Scope).collect()
            }
        })
    }
}
