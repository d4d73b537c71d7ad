//! The thread that builds vector indexes: for scopes that have become large enough, beside reads and writes.

use std::{
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Instant,
};

use aionis_core::ports::store::StoreError;

use super::{Shared, images::ImageRef, vector_index, writer::WriterQueue};

/// Scopes that may wait for their index; one more is asked for again with its next write.
const QUEUE_MAX: usize = 256;

/// Handle of the thread. It holds a sender of the writer's queue, so it has to end before the writer.
pub(crate) struct Indexer {
    stop: Arc<AtomicBool>,
    thread: std::sync::Mutex<Option<thread::JoinHandle<()>>>,
    shared: Arc<Shared>,
}

/// Asks for an index of a scope. False when nothing can be asked now.
#[derive(Clone)]
pub(crate) struct IndexRequests(SyncSender<String>);

impl IndexRequests {
    pub(crate) fn ask(&self, scope: &str) -> bool {
        self.0.try_send(scope.to_owned()).is_ok()
    }
}

/// The two ends of the queue of scopes.
pub(crate) fn queue() -> (IndexRequests, Receiver<String>) {
    let (sender, receiver) = sync_channel(QUEUE_MAX);
    (IndexRequests(sender), receiver)
}

impl Indexer {
    pub(crate) fn start(
        scopes: Receiver<String>,
        shared: Arc<Shared>,
        writer: WriterQueue,
    ) -> Result<Self, StoreError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, of_thread) = (Arc::clone(&stop), Arc::clone(&shared));
        let thread = thread::Builder::new()
            .name("aionis-indexer".to_owned())
            .spawn(move || {
                while let Ok(scope) = scopes.recv() {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    if let Some(image) = of_thread.images.peek(&scope) {
                        build(&scope, &image, &of_thread, &writer, &stopped);
                        image.index_done();
                    }
                }
            })
            .map_err(|e| StoreError::Unavailable(format!("cannot start the indexing thread: {e}")))?;
        Ok(Self { stop, thread: std::sync::Mutex::new(Some(thread)), shared })
    }

    /// Ends the thread; an index that is being built is given up.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without requests the thread's queue ends.
        self.shared.images.ask_no_more();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A thread that panicked has nothing left to finish.
            let _ = thread.join();
        }
    }
}

impl Drop for Indexer {
    fn drop(&mut self) {
        self.end();
    }
}

fn build(scope: &str, image: &ImageRef, shared: &Shared, writer: &WriterQueue, stop: &Arc<AtomicBool>) {
    let started = Instant::now();
    let built_at = shared.clock.now().0;
    let stopped = || stop.load(Ordering::Relaxed);
    let built = match image.build_index(built_at, stopped) {
        Ok(built) => built,
        Err(e) => {
            tracing::warn!(scope, error = %e, "no vector index could be built; the scope is scanned");
            return;
        }
    };
    let Some(index) = built else {
        if !stopped() {
            tracing::info!(scope, "no vector index finds what the scan finds; the scope is scanned");
        }
        return;
    };
    shared.images.reweigh(image, scope);
    tracing::info!(
        scope,
        vectors = index.members.len(),
        lists = index.router.centroids.len() / shared.space.dim.max(1),
        probes = index.router.probes,
        recall_at_10 = index.recall,
        took_ms = started.elapsed().as_millis(),
        "vector index built"
    );
    let (key, space) = (scope.to_owned(), shared.space.clone());
    let stored = writer.submit_blocking(move |connection, _| vector_index::store(connection, &key, &space, &index));
    if let Err(e) = stored {
        tracing::warn!(scope, error = %e, "the vector index could not be stored; it will be built again after a restart");
    }
}
