//! Waking other processes: LISTEN and NOTIFY, as a hint only. A lost hint costs a poll, never a commit.

use std::{sync::Arc, time::Duration};

use sqlx::{PgPool, postgres::PgListener};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{error::driver, layout::Layout, patience::Patience};

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
    pub(crate) fn start(pool: PgPool, patience: Arc<Patience>, layout: Arc<Layout>) -> Self {
        let (work, hint) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let commits = watch::Sender::new(0);
        let tasks = vec![
            tokio::spawn(tell(pool.clone(), patience, Arc::clone(&hint))),
            tokio::spawn(listen(pool, Arc::clone(&work), commits.clone(), layout)),
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
async fn tell(pool: PgPool, patience: Arc<Patience>, hint: Arc<Notify>) {
    loop {
        hint.notified().await;
        let told = async { sqlx::query("SELECT pg_notify('aionis_work', '')").execute(&pool).await.map_err(driver) };
        if let Err(e) = patience.bounded(told).await {
            tracing::debug!(error = %e, "other processes could not be woken; they poll");
        }
        tokio::time::sleep(HINT_INTERVAL).await;
    }
}

async fn listen(pool: PgPool, work: Arc<Notify>, commits: watch::Sender<u64>, layout: Arc<Layout>) {
    loop {
        let listened = async {
            let mut listener = PgListener::connect_with(&pool).await?;
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
