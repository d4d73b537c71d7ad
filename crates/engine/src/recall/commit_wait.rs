//! Waiting for a commit (`min_commit`). It is done before a recall is admitted: who waits for a commit that never comes
//! holds no place that others could work at. How many wait is bounded on its own.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use aionis_core::error::{DomainError, ErrorKind};
use hashbrown::HashMap;
use serde_json::json;

use super::RecallRequest;
use crate::{Engine, admission::refused};

/// Recalls that wait for a commit: so many of all tenants, and of each at most half of them.
pub(crate) struct CommitWaiters {
    max: usize,
    by_tenant: Mutex<ByTenant>,
}

#[derive(Default)]
struct ByTenant {
    all: usize,
    /// Tenants of which somebody waits.
    waiting: HashMap<Arc<str>, usize>,
}

/// One that waits, until dropped.
struct Waiter<'a> {
    waiters: &'a CommitWaiters,
    tenant: Arc<str>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut by_tenant = self.waiters.lock();
        by_tenant.all = by_tenant.all.saturating_sub(1);
        if let Some(waiting) = by_tenant.waiting.get_mut(&self.tenant) {
            *waiting -= 1;
            if *waiting == 0 {
                by_tenant.waiting.remove(&self.tenant);
            }
        }
    }
}

impl CommitWaiters {
    pub(crate) fn new(max: usize) -> Self {
        Self { max, by_tenant: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, ByTenant> {
        self.by_tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().all
    }

    fn enter(&self, tenant: &str) -> Result<Waiter<'_>, DomainError> {
        let of_one = self.max.div_ceil(2);
        let mut by_tenant = self.lock();
        let own = by_tenant.waiting.get(tenant).copied().unwrap_or_default();
        let full = if by_tenant.all >= self.max {
            Some(("too many recalls wait for a commit", by_tenant.all, self.max))
        } else if own >= of_one {
            Some(("too many recalls of this tenant wait for a commit", own, of_one))
        } else {
            None
        };
        if let Some((what, waiting, max)) = full {
            drop(by_tenant);
            let message = format!("{what}; retry later, or ask without min_commit");
            let error = DomainError::new(ErrorKind::TooManyRequests, "commit_waiters_full", message);
            let details = json!({ "waiting": waiting, "max": max });
            return Err(refused(error.with_details(details).with_retry_after(Duration::from_secs(1))));
        }
        let tenant: Arc<str> = Arc::from(tenant);
        by_tenant.all += 1;
        *by_tenant.waiting.entry(Arc::clone(&tenant)).or_default() += 1;
        drop(by_tenant);
        Ok(Waiter { waiters: self, tenant })
    }
}

impl Engine {
    /// Waits until the commit a recall asks for is visible, at most as long as the recall says. Nothing is waited for, and
    /// no place among those who wait is needed, when that is known at once.
    ///
    /// # Errors
    /// `min_commit_not_reached`; `commit_waiters_full` when as many wait as may; a failure of storage.
    pub async fn wait_for_commit(&self, request: &RecallRequest) -> Result<(), DomainError> {
        let Some(min_commit) = request.min_commit else { return Ok(()) };
        let mut wait = self.store.wait_for_commit(&request.scope, min_commit);
        if let Poll::Ready(reached) = poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await {
            return Ok(reached?);
        }
        let waiter = self.commit_waiters.enter(request.scope.tenant())?;
        // It takes the wait with it: what that holds half-way must be free for the look at the head.
        let reached = tokio::time::timeout(request.max_wait, wait).await;
        drop(waiter);
        match reached {
            Ok(reached) => Ok(reached?),
            Err(_) => {
                let head = self.store.scope_status(&request.scope).await?.head_seq;
                if head >= min_commit {
                    return Ok(());
                }
                Err(DomainError::new(
                    ErrorKind::Conflict,
                    "min_commit_not_reached",
                    format!("commit {min_commit} is not visible in this scope; the newest is {head}"),
                )
                .with_details(json!({ "min_commit": min_commit, "as_of_commit": head })))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(entered: Result<Waiter<'_>, DomainError>) -> (String, u64) {
        let error = entered.err().unwrap();
        assert_eq!((error.kind, error.code), (ErrorKind::TooManyRequests, "commit_waiters_full"));
        assert!(error.retry_after.is_some());
        (error.message, error.details.unwrap()["max"].as_u64().unwrap())
    }

    #[test]
    fn one_tenant_has_half_of_the_places_and_all_together_have_all() {
        let waiters = CommitWaiters::new(4);
        let first = waiters.enter("a").unwrap();
        let _second = waiters.enter("a").unwrap();
        let (message, max) = refusal(waiters.enter("a"));
        assert!(message.contains("of this tenant") && max == 2, "{message} {max}");
        let _others = [waiters.enter("b").unwrap(), waiters.enter("c").unwrap()];
        let (message, max) = refusal(waiters.enter("d"));
        assert!(!message.contains("of this tenant") && max == 4, "{message} {max}");
        drop(first);
        let _again = waiters.enter("a").unwrap();
        assert_eq!(waiters.waiting(), 4);
    }

    #[test]
    fn a_tenant_of_which_nobody_waits_is_forgotten() {
        let waiters = CommitWaiters::new(1);
        for n in 0..100 {
            drop(waiters.enter(&n.to_string()).unwrap());
        }
        assert!(waiters.lock().waiting.is_empty());
        assert_eq!(waiters.waiting(), 0);
    }
}
