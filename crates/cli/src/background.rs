//! Tasks beside the requests: worker and scheduler.

use std::time::Duration;

use tokio::{task::JoinHandle, time::Instant};

/// How long they may go on once they are told to stop: the batch or step they are in, unless storage does not answer.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);

/// Waits until all have ended, for so long altogether, and cuts off the rest. What a task had claimed is free again when
/// its lease is over, as if the process had been killed.
///
/// # Errors
/// A task panicked.
pub(crate) async fn ended(tasks: Vec<JoinHandle<()>>, most: Duration) -> Result<(), String> {
    let until = Instant::now() + most;
    let mut failed = None;
    for mut task in tasks {
        let ended = match tokio::time::timeout_at(until, &mut task).await {
            Ok(ended) => ended,
            Err(_) => {
                tracing::warn!("work in the background did not end in time and is cut off");
                task.abort();
                task.await
            }
        };
        match ended {
            Err(e) if e.is_panic() => failed = Some(e.to_string()),
            _ => {}
        }
    }
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_does_not_end_is_cut_off_and_what_it_held_is_let_go() {
        let (held, mut seen) = tokio::sync::mpsc::channel::<()>(1);
        let stalled = tokio::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        ended(vec![stalled, tokio::spawn(async {})], Duration::from_millis(50)).await.unwrap();
        assert_eq!(seen.recv().await, None);
    }

    #[tokio::test]
    async fn a_panic_is_told_and_the_others_are_waited_for() {
        let (done, seen) = tokio::sync::oneshot::channel();
        let slow = tokio::spawn(async move {
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        });
        let error =
            ended(vec![tokio::spawn(async { panic!("planted") }), slow], Duration::from_secs(30)).await.unwrap_err();
        assert!(error.contains("planted"), "{error}");
        seen.await.unwrap();
    }
}
