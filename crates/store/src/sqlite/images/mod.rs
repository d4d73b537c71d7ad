//! The images in memory: loaded once however many ask, bounded in bytes.

mod load;

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use aionis_core::ports::store::StoreError;
use hashbrown::HashMap;
use rusqlite::Connection;

use super::indexer::IndexRequests;
use crate::{
    gauges::{evicted, looked_up},
    space::EmbeddingSpace,
};
use aionis_image::{Delta, Router, ScopeImage, StoredIndex};

/// Images by scope key.
pub(crate) struct ImageCache {
    entries: Mutex<HashMap<String, Arc<Entry>>>,
    bytes_max: usize,
    bytes: AtomicUsize,
    tick: AtomicU64,
    /// Number of vectors from which on a scope gets an index.
    index_from: usize,
    index_requests: Mutex<Option<IndexRequests>>,
}

struct Entry {
    state: RwLock<State>,
    /// Held by the one who loads.
    loading: Mutex<()>,
    used: AtomicU64,
    bytes: AtomicUsize,
    /// Whether an index was asked for and is not there yet.
    indexing: AtomicBool,
}

enum State {
    /// Not loaded; what was written since the load began waits here.
    Loading(Vec<Arc<Delta>>),
    Ready(Box<ScopeImage>),
}

/// An image for reading and for keeping posting lists.
pub(crate) struct ImageRef(Arc<Entry>);

impl ImageCache {
    pub(crate) fn new(bytes_max: usize, index_from: usize, index_requests: IndexRequests) -> Self {
        Self {
            entries: Mutex::default(),
            bytes_max,
            bytes: AtomicUsize::new(0),
            tick: AtomicU64::new(0),
            index_from,
            index_requests: Mutex::new(Some(index_requests)),
        }
    }

    /// No more indexes are asked for.
    pub(crate) fn ask_no_more(&self) {
        self.index_requests.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Asks for an index if the image is due for one.
    fn ask_for_index(&self, scope: &str, entry: &Entry, image: &ScopeImage) {
        if image.is_due_for_index(self.index_from) && !entry.indexing.swap(true, Ordering::Relaxed) {
            let requests = self.index_requests.lock().unwrap_or_else(PoisonError::into_inner);
            if !requests.as_ref().is_some_and(|requests| requests.ask(scope)) {
                entry.indexing.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Weighs an image that has grown, and makes room if it must.
    pub(crate) fn reweigh(&self, image: &ImageRef, scope: &str) {
        self.weigh(&image.0);
        self.evict(scope);
    }

    /// Drops the image of a scope whose rows were changed past it.
    pub(crate) fn forget(&self, scope: &str) {
        if let Some(entry) = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(scope) {
            self.bytes.fetch_sub(entry.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The image of a scope if it is in memory.
    pub(crate) fn peek(&self, scope: &str) -> Option<ImageRef> {
        let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()?;
        entry.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        entry.is_ready().then(|| {
            looked_up("hit");
            ImageRef(entry)
        })
    }

    /// The image of a scope, loaded now if it is not in memory.
    pub(crate) fn get(
        &self,
        scope: &str,
        connection: &Connection,
        space: &EmbeddingSpace,
    ) -> Result<ImageRef, StoreError> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = entries.get(scope) {
                Arc::clone(entry)
            } else {
                let entry = Arc::new(Entry {
                    state: RwLock::new(State::Loading(Vec::new())),
                    loading: Mutex::new(()),
                    used: AtomicU64::new(0),
                    bytes: AtomicUsize::new(0),
                    indexing: AtomicBool::new(false),
                });
                entries.insert(scope.to_owned(), Arc::clone(&entry));
                entry
            }
        };
        entry.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        if entry.is_ready() {
            looked_up("hit");
            return Ok(ImageRef(entry));
        }
        let _loading = entry.loading.lock().unwrap_or_else(PoisonError::into_inner);
        if entry.is_ready() {
            looked_up("hit");
        } else {
            looked_up("load");
            match load::load(connection, scope, space, self.bytes_max / 4) {
                Ok(image) => entry.finish(image),
                Err(e) => {
                    self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(scope);
                    return Err(e);
                }
            }
            self.weigh(&entry);
            self.evict(scope);
            if let State::Ready(image) = &*entry.state.read().unwrap_or_else(PoisonError::into_inner) {
                self.ask_for_index(scope, &entry, image);
            }
        }
        drop(_loading);
        Ok(ImageRef(entry))
    }

    /// Brings loaded and loading images up to date.
    pub(crate) fn apply(&self, deltas: Vec<Delta>) {
        let mut by_scope: HashMap<String, Vec<Arc<Delta>>> = HashMap::new();
        for delta in deltas {
            if let Some(list) = by_scope.get_mut(delta.scope()) {
                list.push(Arc::new(delta));
            } else {
                by_scope.insert(delta.scope().to_owned(), vec![Arc::new(delta)]);
            }
        }
        for (scope, deltas) in by_scope {
            if deltas.iter().any(|delta| matches!(**delta, Delta::Purged { .. })) {
                self.forget(&scope);
                continue;
            }
            let entry = self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(&scope).cloned();
            let Some(entry) = entry else { continue };
            let mut state = entry.state.write().unwrap_or_else(PoisonError::into_inner);
            match &mut *state {
                State::Loading(waiting) => waiting.extend(deltas),
                State::Ready(image) => {
                    deltas.iter().for_each(|delta| image.apply(delta));
                    self.ask_for_index(&scope, &entry, image);
                    if image.version() % 1024 < deltas.len() as u64 {
                        entry.record_bytes(image, &self.bytes);
                    }
                }
            }
        }
    }

    fn weigh(&self, entry: &Entry) {
        if let State::Ready(image) = &*entry.state.read().unwrap_or_else(PoisonError::into_inner) {
            entry.record_bytes(image, &self.bytes);
        }
    }

    /// Drops the images used least recently until the rest fits; never the one just asked for.
    fn evict(&self, keep: &str) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        while self.bytes() > self.bytes_max {
            let oldest = entries
                .iter()
                .filter(|(scope, entry)| *scope != keep && entry.bytes.load(Ordering::Relaxed) > 0)
                .min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed))
                .map(|(scope, _)| scope.clone());
            let Some(oldest) = oldest else { return };
            if let Some(entry) = entries.remove(&oldest) {
                self.bytes.fetch_sub(entry.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
                evicted();
            }
        }
    }
}

impl Entry {
    fn is_ready(&self) -> bool {
        matches!(&*self.state.read().unwrap_or_else(PoisonError::into_inner), State::Ready(_))
    }

    fn finish(&self, mut image: ScopeImage) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if let State::Loading(waiting) = &*state {
            waiting.iter().for_each(|delta| image.apply(delta));
        }
        *state = State::Ready(Box::new(image));
    }

    fn record_bytes(&self, image: &ScopeImage, total: &AtomicUsize) {
        let now = image.bytes();
        let before = self.bytes.swap(now, Ordering::Relaxed);
        if now >= before {
            total.fetch_add(now - before, Ordering::Relaxed);
        } else {
            total.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

impl ImageRef {
    /// Reads the image.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&ScopeImage) -> T) -> Result<T, StoreError> {
        match &*self.0.state.read().unwrap_or_else(PoisonError::into_inner) {
            State::Ready(image) => Ok(work(image)),
            State::Loading(_) => Err(StoreError::Driver("an image was handed out before it was loaded".to_owned())),
        }
    }

    /// Changes what the image caches.
    pub(crate) fn change<T>(&self, work: impl FnOnce(&mut ScopeImage) -> T) -> Result<T, StoreError> {
        match &mut *self.0.state.write().unwrap_or_else(PoisonError::into_inner) {
            State::Ready(image) => Ok(work(image)),
            State::Loading(_) => Err(StoreError::Driver("an image was handed out before it was loaded".to_owned())),
        }
    }

    /// What was asked of the indexer is done, one way or the other.
    pub(crate) fn index_done(&self) {
        self.0.indexing.store(false, Ordering::Relaxed);
    }

    /// Trains an index on the vectors as they are now, while they are read and written, and puts it in. Nothing when
    /// none is good enough, or `stop` says so.
    pub(crate) fn build_index(
        &self,
        built_at: i64,
        stop: impl Fn() -> bool,
    ) -> Result<Option<StoredIndex>, StoreError> {
        self.change(ScopeImage::begin_training)?;
        let snapshot = self.read(ScopeImage::vector_codes)?;
        let trained = Router::train(&snapshot, &stop);
        self.change(|image| match trained {
            Some((trained, centroids)) => Some(image.install_index(trained, centroids, &snapshot, built_at)),
            None => {
                image.training_failed();
                None
            }
        })
    }
}
