//! Loops beside the requests: worker and scheduler, and what measures.

use std::{collections::HashMap, time::Duration};

use tokio::{
    task::{Id, JoinError, JoinSet},
    time::Instant,
};

/// How long they may go on once they are told to stop: the batch or step they are in, unless storage does not answer.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Loops that go round until they are told to stop, by name; none ends by itself. Dropped, they are cut off.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Loops {
    /// Starts one.
    pub(crate) fn start(&mut self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(work).id();
        self.names.insert(id, name);
    }

    /// Waits for one that ends although nobody told it to, and tells why. A process that went on without it would look
    /// healthy and do nothing: who waits for this ends the process, and what started it starts it again.
    pub(crate) async fn lost(&mut self) -> String {
        match self.tasks.join_next_with_id().await {
            Some(Ok((id, ()))) => format!("the loop {} ended by itself", self.name(id)),
            Some(Err(e)) => self.failed(&e),
            None => std::future::pending().await,
        }
    }

    /// Waits until all have ended, for so long altogether, and cuts off the rest. What a loop had claimed is free again when
    /// its lease is over, as if the process had been killed.
    ///
    /// # Errors
    /// A loop panicked.
    pub(crate) async fn ended(mut self, most: Duration) -> Result<(), String> {
        let until = Instant::now() + most;
        let mut failed = None;
        loop {
            let ended = match tokio::time::timeout_at(until, self.tasks.join_next()).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!("work in the background did not end in time and is cut off");
                    self.tasks.abort_all();
                    self.tasks.join_next().await
                }
            };
            match ended {
                Some(Err(e)) if e.is_panic() => failed = Some(self.failed(&e)),
                Some(_) => {}
                None => return failed.map_or(Ok(()), Err),
            }
        }
    }

    fn name(&self, id: Id) -> &'static str {
        self.names.get(&id).copied().unwrap_or_default()
    }

    fn failed(&self, error: &JoinError) -> String {
        format!("the loop {} failed: {error}", self.name(error.id()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::{mpsc, oneshot, watch};

    use super::*;

    #[tokio::test]
    async fn what_does_not_end_is_cut_off_and_what_it_held_is_let_go() {
        let (held, mut seen) = mpsc::channel::<()>(1);
        let mut loops = Loops::default();
        loops.start("stalled", async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        loops.start("quick", async {});
        loops.ended(Duration::from_millis(50)).await.unwrap();
        assert_eq!(seen.recv().await, None);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_the_others_are_waited_for() {
        let (done, seen) = oneshot::channel();
        let mut loops = Loops::default();
        loops.start("outbox", async { panic!("planted") });
        loops.start("slow", async move {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        });
        let error = loops.ended(Duration::from_secs(30)).await.unwrap_err();
        assert!(error.contains("outbox") && error.contains("planted"), "{error}");
        seen.await.unwrap();
    }

    #[tokio::test]
    async fn a_loop_that_panics_or_ends_by_itself_is_told_at_once() {
        let (stop, stopped) = watch::channel(false);
        let sound = |mut stopped: watch::Receiver<bool>| async move {
            stopped.wait_for(|stop| *stop).await.unwrap();
        };
        let mut loops = Loops::default();
        loops.start("scheduler", sound(stopped.clone()));
        loops.start("outbox", async { panic!("planted") });
        let lost = loops.lost().await;
        assert!(lost.contains("the loop outbox failed") && lost.contains("planted"), "{lost}");
        loops.start("sampler", async {});
        assert_eq!(loops.lost().await, "the loop sampler ended by itself");
        // What goes round is not lost, and ends when it is told to.
        assert!(tokio::time::timeout(Duration::from_millis(50), loops.lost()).await.is_err());
        stop.send_replace(true);
        loops.ended(Duration::from_secs(30)).await.unwrap();
    }

    #[tokio::test]
    async fn without_loops_none_is_lost() {
        assert!(tokio::time::timeout(Duration::from_millis(20), Loops::default().lost()).await.is_err());
        Loops::default().ended(Duration::ZERO).await.unwrap();
    }
}
