//! Waking other processes: LISTEN and NOTIFY, as a hint only. A lost hint costs a poll, never a commit.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{connections::Connections, error::driver, layout::Layout};

const CHANNEL: &str = "aionis_work";
/// What is told when flat and partitioned tables were exchanged.
const LAYOUT: &str = "layout";
/// Hints are sent at most this often: NOTIFY takes a lock that all databases of a server share.
const HINT_INTERVAL: Duration = Duration::from_millis(50);
/// How long to wait before listening again after the connection was lost.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Wakes workers and those who wait for a commit.
pub(crate) struct Wake {
    work: Arc<Notify>,
    hint: Arc<Notify>,
    /// Changes with every commit of this process and every hint of another.
    commits: watch::Sender<u64>,
    tasks: Vec<JoinHandle<()>>,
}

impl Wake {
    pub(crate) fn start(connections: Connections, layout: Arc<Layout>) -> Self {
        let (work, hint) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let commits = watch::Sender::new(0);
        let tasks = vec![
            tokio::spawn(tell(connections.clone(), Arc::clone(&hint))),
            tokio::spawn(listen(connections, Arc::clone(&work), commits.clone(), layout)),
        ];
        Self { work, hint, commits, tasks }
    }

    /// Something was committed here, with or without work for the queue.
    pub(crate) fn committed(&self, has_work: bool) {
        self.commits.send_modify(|n| *n += 1);
        if has_work {
            self.work.notify_one();
        }
        self.hint.notify_one();
    }

    pub(crate) fn commits(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    pub(crate) async fn work_arrived(&self) {
        self.work.notified().await;
    }

    pub(crate) fn stop(&self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Passes hints on to other processes; many at once become one.
async fn tell(connections: Connections, hint: Arc<Notify>) {
    loop {
        hint.notified().await;
        let told = async {
            let mut connection = connections.acquire().await.map_err(driver)?;
            sqlx::query("SELECT pg_notify('aionis_work', '')").execute(&mut *connection).await.map_err(driver)?;
            connection.keep();
            Ok(())
        };
        if let Err(e) = connections.patience.bounded(told).await {
            tracing::debug!(error = %e, "other processes could not be woken; they poll");
        }
        tokio::time::sleep(HINT_INTERVAL).await;
    }
}

async fn listen(connections: Connections, work: Arc<Notify>, commits: watch::Sender<u64>, layout: Arc<Layout>) {
    loop {
        let listened = async {
            let (mut listener, _place) = connections.listener().await?;
            listener.listen(CHANNEL).await?;
            // What was said before anybody listened, or while the connection was lost, nobody has heard.
            layout.changed();
            loop {
                // Nothing when the connection was lost; the next call makes another one.
                if listener.try_recv().await?.is_none_or(|heard| heard.payload() == LAYOUT) {
                    layout.changed();
                }
                work.notify_one();
                commits.send_modify(|n| *n += 1);
            }
        };
        let ended: Result<(), sqlx::Error> = listened.await;
        if let Err(e) = ended {
            tracing::debug!(error = %e, "listening for work of other processes ended; it starts again");
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}
