//! Images of scopes in memory, brought up to date from the database.
//!
//! Another process may write at any time, so an image is only as good as the last question for what has changed. Every
//! change of a scope has a number; a refresh reads what has a larger one than the image has seen. What this process
//! committed itself is known, and waited for, without asking.

mod changes;
mod together;

use std::sync::{
    Arc, Mutex, PoisonError, RwLock,
    atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

use aionis_core::{
    clock::Timestamp,
    ids::{NodeId, ScopeKey},
    ports::store::{DenseQuery, HeldState, StoreError},
};
use futures_util::TryStreamExt;
use hashbrown::HashMap;
use uuid::Uuid;

use self::{
    changes::{Fresh, Head, incarnation, is_head, is_purged, refresh},
    together::Together,
};
use super::{
    Shared,
    error::driver,
    rows::get,
    session::{For, begin},
};
use crate::gauges::{evicted, looked_up};
use aionis_image::{Candidates, Coding, ScopeImage};

/// Images by scope.
pub(crate) struct Images {
    entries: Mutex<HashMap<ScopeKey, Arc<Entry>>>,
    bytes_max: usize,
    bytes: AtomicUsize,
    tick: AtomicU64,
}

/// One scope's image.
pub(crate) struct Entry {
    image: RwLock<ScopeImage>,
    together: Together,
    /// Which scope of this name it is of; none if there is none, or it is being purged.
    incarnation: Mutex<Option<Uuid>>,
    /// Held by the one who refreshes.
    refreshing: tokio::sync::Mutex<()>,
    loaded: AtomicBool,
    /// How many looks in a row, the last ones, found no change.
    quiet_looks: AtomicU32,
    /// Change the image has seen.
    seen: AtomicI64,
    /// Newest change this process knows of.
    known: AtomicI64,
    /// Number of the last refresh that began, and of the last that succeeded.
    begun: AtomicU64,
    succeeded: AtomicU64,
    vectors: AtomicU64,
    used: AtomicU64,
    weight: AtomicUsize,
}

/// How fresh an image has to be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// It has seen every change this process knows of.
    Known,
    /// It has seen every change there was when this was asked.
    Now,
}

/// What a refresh found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refreshed {
    /// The image is up to date.
    Current,
    /// The scope was purged, or written again after that: the image is of one that is no more.
    Replaced,
}

/// Changed rows that are held at once: after many writes without a question there are as many as nodes.
const ROWS_AT_ONCE: usize = 2_000;
/// Looks in a row that found no change, after which none is expected: a look that is spared and found to have been needed
/// costs a search.
const LIKELY_QUIET_AFTER: u32 = 4;
/// Nodes that room is made for before they come.
const RESERVED_MAX: usize = 1 << 20;

impl Images {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { entries: Mutex::default(), bytes_max, bytes: AtomicUsize::new(0), tick: AtomicU64::new(0) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// This process has committed a change.
    pub(crate) fn note(&self, scope: &ScopeKey, change_no: i64) {
        if let Some(entry) = self.held(scope) {
            entry.known.fetch_max(change_no, Ordering::AcqRel);
        }
    }

    /// Nodes were used; an image that is held learns it. It is no change that others would have to be told.
    pub(crate) fn used(&self, scope: &ScopeKey, ids: &[NodeId], at: Timestamp) {
        if let Some(entry) = self.held(scope) {
            entry.image.write().unwrap_or_else(PoisonError::into_inner).used(ids, at);
        }
    }

    /// The image of a scope as it is, if it is held.
    pub(crate) fn held(&self, scope: &ScopeKey) -> Option<Arc<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).get(scope).cloned()
    }

    /// The image of a scope, as fresh as asked. One of a scope that was purged is let go, and another one is loaded.
    pub(crate) async fn get(
        &self,
        shared: &Shared,
        scope: &ScopeKey,
        freshness: Freshness,
    ) -> Result<Arc<Entry>, StoreError> {
        loop {
            let entry = self.entry(shared, scope);
            match self.refreshed(shared, scope, &entry, freshness).await? {
                Refreshed::Current => return Ok(entry),
                Refreshed::Replaced => self.forget(scope, &entry),
            }
        }
    }

    fn entry(&self, shared: &Shared, scope: &ScopeKey) -> Arc<Entry> {
        let entry = {
            let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(entries.entry_ref(scope).or_insert_with(|| Arc::new(Entry::new(shared.space.dim))))
        };
        entry.used.store(self.tick.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        entry
    }

    /// Lets an image go, if it is still the one that is kept.
    fn forget(&self, scope: &ScopeKey, entry: &Arc<Entry>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.get(scope).is_some_and(|kept| Arc::ptr_eq(kept, entry)) {
            entries.remove(scope);
            self.bytes.fetch_sub(entry.weight.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    async fn refreshed(
        &self,
        shared: &Shared,
        scope: &ScopeKey,
        entry: &Entry,
        freshness: Freshness,
    ) -> Result<Refreshed, StoreError> {
        // A refresh that begins from now on will do.
        let arrived = entry.begun.load(Ordering::Acquire);
        let fresh_enough = |entry: &Entry| {
            entry.has_seen_what_is_known()
                && (freshness == Freshness::Known || entry.succeeded.load(Ordering::Acquire) > arrived)
        };
        if fresh_enough(entry) {
            looked_up("hit");
            return Ok(Refreshed::Current);
        }
        let guard = entry.refreshing.lock().await;
        let is_loaded = entry.loaded.load(Ordering::Acquire);
        looked_up(if is_loaded { "hit" } else { "load" });
        if !fresh_enough(entry) {
            let before = is_loaded.then(|| entry.seen());
            // In a place of its own, so that those who find the image fresh, nearly all, carry no room for it.
            let refreshed = shared.patience.bounded(Box::pin(entry.refresh(shared, scope))).await?;
            if refreshed == Refreshed::Replaced {
                return Ok(refreshed);
            }
            if before != Some(entry.seen()) {
                self.weigh(entry);
                self.evict(scope);
            }
        }
        drop(guard);
        Ok(Refreshed::Current)
    }

    fn weigh(&self, entry: &Entry) {
        let bytes = entry.image.read().unwrap_or_else(PoisonError::into_inner).bytes();
        let before = entry.weight.swap(bytes, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Drops the images used least recently until the rest fits; never the one just asked for.
    fn evict(&self, keep: &ScopeKey) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        while self.bytes() > self.bytes_max {
            let oldest = entries
                .iter()
                .filter(|(scope, entry)| *scope != keep && entry.weight.load(Ordering::Relaxed) > 0)
                .min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed))
                .map(|(scope, _)| scope.clone());
            let Some(oldest) = oldest else { return };
            if let Some(entry) = entries.remove(&oldest) {
                self.bytes.fetch_sub(entry.weight.swap(0, Ordering::Relaxed), Ordering::Relaxed);
                evicted();
            }
        }
    }
}

impl Entry {
    fn new(dim: usize) -> Self {
        Self {
            image: RwLock::new(ScopeImage::empty(dim, 0)),
            together: Together::new(dim),
            incarnation: Mutex::new(None),
            refreshing: tokio::sync::Mutex::new(()),
            loaded: AtomicBool::new(false),
            quiet_looks: AtomicU32::new(0),
            seen: AtomicI64::new(0),
            known: AtomicI64::new(0),
            begun: AtomicU64::new(0),
            succeeded: AtomicU64::new(0),
            vectors: AtomicU64::new(0),
            used: AtomicU64::new(0),
            weight: AtomicUsize::new(0),
        }
    }

    /// Reads the image.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&ScopeImage) -> T) -> T {
        work(&self.image.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The nodes whose vectors are likely nearest ([`ScopeImage::candidates`]), by a search that others may share.
    pub(crate) async fn candidates(self: &Arc<Self>, query: &Arc<DenseQuery>) -> Result<Candidates, StoreError> {
        let entry = Arc::clone(self);
        let search = move |asked: &[&DenseQuery]| entry.read(|image| image.candidates(asked));
        self.together.ask(query, self.vectors(), search).await
    }

    /// The change the image has seen at least.
    pub(crate) fn seen(&self) -> i64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Whether it has seen every change this process knows of, and another one is unlikely.
    pub(crate) fn is_likely_current(&self) -> bool {
        self.quiet_looks.load(Ordering::Relaxed) >= LIKELY_QUIET_AFTER && self.has_seen_what_is_known()
    }

    /// The scope was not found in its state: where something has changed more will.
    pub(crate) fn expect_changes(&self) {
        self.quiet_looks.store(0, Ordering::Relaxed);
    }

    fn has_seen_what_is_known(&self) -> bool {
        self.loaded.load(Ordering::Acquire) && self.seen() >= self.known.load(Ordering::Acquire)
    }

    /// The state it is at least in; none if there is no scope of this name.
    pub(crate) fn state(&self) -> Option<HeldState> {
        Some(HeldState { change_no: self.seen(), incarnation: self.incarnation()? })
    }

    fn incarnation(&self) -> Option<Uuid> {
        *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Vectors stored in the scope.
    pub(crate) fn vectors(&self) -> u64 {
        self.vectors.load(Ordering::Relaxed)
    }

    async fn refresh(&self, shared: &Shared, scope: &ScopeKey) -> Result<Refreshed, StoreError> {
        let number = self.begun.fetch_add(1, Ordering::AcqRel) + 1;
        let seen = if self.loaded.load(Ordering::Acquire) { self.seen.load(Ordering::Acquire) } else { -1 };
        // Where the last refresh found changes the next one will likely too, and two round trips would be one too many.
        if seen >= 0
            && self.quiet_looks.load(Ordering::Relaxed) > 0
            && let Some(head) = self.unchanged(shared, scope, seen).await?
        {
            self.quiet_looks.fetch_add(1, Ordering::Relaxed);
            self.refreshed(head, number);
            return Ok(Refreshed::Current);
        }
        let timeout = shared.options.statement_timeout;
        let mut tx = begin(&shared.pool, For::Tenant(scope.tenant()), timeout, "").await?;
        let head = if seen < 0 {
            // The first time rows are read as they come, into an image nobody reads yet.
            let mut image = ScopeImage::empty(shared.space.dim, 0);
            image.hold_all_postings();
            image.hold_codes(Coding::of(shared.space.dim));
            image.hold_row_places();
            let mut fresh = Fresh::default();
            let mut rows = refresh(shared, scope, seen).fetch(&mut *tx);
            let mut is_purging = false;
            while let Some(row) = rows.try_next().await.map_err(driver)? {
                if is_head(&row)? && is_purged(&row)? {
                    is_purging = true;
                    fresh.head.change_no = get(&row, 5)?;
                    break;
                }
                if is_head(&row)? {
                    let nodes = usize::try_from(get::<i64>(&row, 6)?).unwrap_or(0);
                    image.reserve(nodes.min(RESERVED_MAX));
                }
                fresh.take(&mut image, &row)?;
            }
            drop(rows);
            if is_purging {
                // What has come of it is let go: to readers it is not there.
                image = ScopeImage::empty(shared.space.dim, 0);
                image.hold_all_postings();
                image.hold_codes(Coding::of(shared.space.dim));
                image.hold_row_places();
                (fresh.waiting, fresh.head) = (Vec::new(), Head { change_no: fresh.head.change_no, ..Head::default() });
            }
            let head = fresh.finish(&mut image);
            image.shrink();
            *self.incarnation.lock().unwrap_or_else(PoisonError::into_inner) = head.incarnation;
            *self.image.write().unwrap_or_else(PoisonError::into_inner) = image;
            head
        } else {
            let mut rows = refresh(shared, scope, seen).fetch(&mut *tx);
            let mut fresh = Fresh::default();
            let mut is_first = true;
            loop {
                let mut some = Vec::new();
                while some.len() < ROWS_AT_ONCE
                    && let Some(row) = rows.try_next().await.map_err(driver)?
                {
                    some.push(row);
                }
                // Whoever reads in between sees part of the changes; that all are in is known only at the end. Should the
                // rest fail to arrive, applying the same changes once more does no harm.
                let is_last = some.len() < ROWS_AT_ONCE;
                // The head comes first. Before anything is applied it has to be that of the same scope.
                if std::mem::take(&mut is_first) && incarnation(&some)? != self.incarnation() {
                    return Ok(Refreshed::Replaced);
                }
                if let [row] = &some[..]
                    && get::<i16>(row, 0)? == 0
                    && get::<i64>(row, 5)? == seen
                {
                    break Head::read(row)?;
                }
                let mut image = self.image.write().unwrap_or_else(PoisonError::into_inner);
                fresh.apply(&mut image, &some)?;
                if is_last {
                    break fresh.finish(&mut image);
                }
            }
        };
        // Nothing was changed: dropping the transaction ends it without waiting for the server.
        drop(tx);
        self.quiet_looks.store(u32::from(seen < 0 || head.change_no == seen), Ordering::Relaxed);
        self.refreshed(head, number);
        Ok(Refreshed::Current)
    }

    /// The head, if it tells that nothing has changed.
    async fn unchanged(&self, shared: &Shared, scope: &ScopeKey, seen: i64) -> Result<Option<Head>, StoreError> {
        let rows = changes::head(shared, scope).await?;
        if incarnation(&rows)? != self.incarnation() {
            return Ok(None);
        }
        let head = rows.first().map_or(Ok(Head::default()), Head::read)?;
        Ok((head.change_no == seen).then_some(head))
    }

    /// A refresh has succeeded.
    fn refreshed(&self, head: Head, number: u64) {
        self.vectors.store(head.vectors, Ordering::Relaxed);
        self.seen.fetch_max(head.change_no, Ordering::AcqRel);
        self.known.fetch_max(head.change_no, Ordering::AcqRel);
        self.loaded.store(true, Ordering::Release);
        self.succeeded.fetch_max(number, Ordering::AcqRel);
    }
}
