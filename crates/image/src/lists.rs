//! The vectors of a scope: one list that is scanned whole, or, for a large scope, many lists of which a question visits
//! those near it.

use std::{num::NonZeroU32, sync::Arc};

use hashbrown::HashSet;

use super::{
    Slot,
    quantised::{Codes, Question, Scan},
    router::{Router, Trained},
};

/// Owners looked at to estimate how much of a list passes a filter.
const FILTER_SAMPLE: usize = 32;

/// Where a vector is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    list: u16,
    /// One more than the position, so that no place takes no more room than a place.
    after: NonZeroU32,
}

impl Place {
    /// A place outside the lists, by position alone.
    pub(super) const fn single(at: u32) -> Self {
        Self::of(0, at)
    }

    const fn of(list: u16, at: u32) -> Self {
        Self { list, after: NonZeroU32::MIN.saturating_add(at) }
    }

    pub(super) const fn at(self) -> u32 {
        self.after.get() - 1
    }

    pub(super) const fn list(self) -> u16 {
        self.list
    }
}

/// Vectors by place.
pub(super) struct Vectors {
    lists: Vec<Codes>,
    router: Option<Arc<Router>>,
    len: usize,
    exact_bytes_max: usize,
    /// While a router is trained: whose vectors changed since its snapshot.
    changed: Option<HashSet<Slot>>,
    /// Number of vectors when the router was put in, or when training found none.
    routed_at: usize,
}

/// A vector that moved because another one left its list.
pub(super) type Moved = Option<(Slot, Place)>;

impl Vectors {
    /// None yet; full precision is kept up to `exact_bytes_max`.
    pub(super) fn new(dim: usize, exact_bytes_max: usize) -> Self {
        Self { lists: vec![Codes::new(dim, true)], router: None, len: 0, exact_bytes_max, changed: None, routed_at: 0 }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn bytes(&self) -> usize {
        self.lists.iter().map(Codes::bytes).sum::<usize>() + self.router.as_ref().map_or(0, |router| router.bytes())
    }

    /// The router, when there is one.
    pub(super) fn router(&self) -> Option<&Router> {
        self.router.as_deref()
    }

    pub(super) fn reserve(&mut self, more: usize) {
        if self.exact_bytes(self.len + more) > self.exact_bytes_max {
            self.lists.iter_mut().for_each(Codes::drop_exact);
        }
        if let [only] = self.lists.as_mut_slice() {
            only.reserve(more);
        }
    }

    fn exact_bytes(&self, vectors: usize) -> usize {
        vectors * self.lists[0].dim() * 4
    }

    /// A vector in full precision, if those are in memory.
    pub(super) fn exact(&self, place: Place) -> Option<&[f32]> {
        self.lists[usize::from(place.list)].exact(place.at())
    }

    /// Stores a vector, in place of the one at `held` if there is one.
    pub(super) fn put(&mut self, held: Option<Place>, vector: &[f32], owner: Slot) -> (Place, Moved) {
        if let Some(changed) = &mut self.changed {
            changed.insert(owner);
        }
        let list = self.router.as_ref().map_or(0, |router| router.list_of(vector));
        let list = u16::try_from(list).unwrap_or(0);
        if let Some(held) = held.filter(|held| held.list == list) {
            self.lists[usize::from(list)].replace(held.at(), vector);
            return (held, None);
        }
        let moved = held.and_then(|held| self.remove(held));
        (self.push(list, vector, owner), moved)
    }

    /// Stores a vector in the list it is known to belong to.
    pub(super) fn put_in(&mut self, list: u16, vector: &[f32], owner: Slot) -> Place {
        let list = if usize::from(list) < self.lists.len() { list } else { 0 };
        self.push(list, vector, owner)
    }

    fn push(&mut self, list: u16, vector: &[f32], owner: Slot) -> Place {
        self.len += 1;
        if self.exact_bytes(self.len) > self.exact_bytes_max {
            self.lists.iter_mut().for_each(Codes::drop_exact);
        }
        Place::of(list, self.lists[usize::from(list)].push(vector, owner))
    }

    /// Stores the integer code of a vector, in place of the one at `held` if there is one. None when it is damaged.
    pub(super) fn put_code(&mut self, held: Option<Place>, code: &[u8], owner: Slot) -> Option<Place> {
        let (codes, factor) = code.split_last_chunk::<4>().filter(|(codes, _)| codes.len() == self.lists[0].dim())?;
        let factor = f32::from_le_bytes(*factor);
        if let Some(held) = held {
            self.lists[usize::from(held.list)].replace_code(held.at(), codes, factor);
            return Some(held);
        }
        self.len += 1;
        Some(Place::single(self.lists[0].push_code(codes, factor, owner)))
    }

    /// Takes a vector out.
    pub(super) fn remove(&mut self, place: Place) -> Moved {
        self.len -= 1;
        let moved = self.lists[usize::from(place.list)].remove(place.at());
        moved.map(|owner| (owner, place))
    }

    /// Calls `hit` with place, owner and approximate cosine of the vectors whose owner passes, as [`Codes::scan`] does:
    /// of all of them when `everywhere`, else of the lists near the question. With a filter more lists are visited, so
    /// that as many passing vectors are looked at as without; and as long as `full` says that there are too few
    /// candidates, the search goes on to the last list.
    pub(super) fn search(
        &self,
        question: &Question,
        everywhere: bool,
        passes: &impl Fn(Slot) -> bool,
        mut hit: impl FnMut(Place, Slot, f32) -> f32,
        full: impl Fn() -> bool,
    ) {
        let mut state = Scan::new();
        let mut visit = |list: u16| {
            let codes = &self.lists[usize::from(list)];
            codes.scan(question, &mut state, passes, &mut |at, owner, score| hit(Place::of(list, at), owner, score));
        };
        let Some(router) = self.router.as_ref().filter(|_| !everywhere) else {
            (0..=u16::MAX).take(self.lists.len()).for_each(visit);
            return;
        };
        let mut visited = 0.0;
        #[expect(clippy::cast_precision_loss, reason = "a count of lists")]
        let enough = router.probes() as f64;
        for list in router.order(question) {
            if visited >= enough && full() {
                return;
            }
            visit(list);
            visited += passing_share(self.lists[usize::from(list)].owners(), passes);
        }
    }

    /// From now on what changes is written down.
    pub(super) fn begin_training(&mut self) {
        self.changed = Some(HashSet::new());
    }

    /// The codes as they are now, for training.
    pub(super) fn snapshot(&self) -> Codes {
        let mut all = self.lists[0].snapshot();
        self.lists[1..].iter().for_each(|list| all.append(list.snapshot()));
        all
    }

    /// Whether the vectors have become so many, or so many more, that a router should be trained.
    pub(super) fn is_due_for_router(&self, from: usize) -> bool {
        let again = match self.router {
            Some(_) => self.routed_at + self.routed_at / 2,
            None => self.routed_at * 2,
        };
        from > 0 && self.len >= from.max(again) && self.changed.is_none()
    }

    /// Nothing came of training.
    pub(super) fn training_failed(&mut self) {
        self.changed = None;
        self.routed_at = self.len;
    }

    /// Puts a trained router in and sorts the vectors into its lists; returns every vector's new place.
    pub(super) fn install(&mut self, trained: Trained, snapshot: &Codes) -> Vec<(Slot, Place)> {
        let changed = self.changed.take().unwrap_or_default();
        let dim = snapshot.dim();
        let keep_exact = self.lists.iter().all(|list| list.len() == 0 || list.exact(0).is_some());
        let lists_of: hashbrown::HashMap<Slot, u16> = snapshot
            .owners()
            .iter()
            .copied()
            .zip(trained.lists)
            .filter(|(owner, _)| !changed.contains(owner))
            .collect();
        let router = trained.router;
        let mut lists: Vec<Codes> = (0..router.lists()).map(|_| Codes::new(dim, keep_exact)).collect();
        let mut places = Vec::with_capacity(self.len);
        for old in &self.lists {
            for (at, owner) in old.owners().iter().enumerate() {
                let list = lists_of
                    .get(owner)
                    .map_or_else(|| router.list_of(&old.unit(at).collect::<Vec<_>>()), |list| usize::from(*list));
                let target = &mut lists[list];
                let at_target = u32::try_from(target.len()).unwrap_or(u32::MAX);
                let place = Place::of(u16::try_from(list).unwrap_or(u16::MAX), at_target);
                target.push_from(old, at);
                places.push((*owner, place));
            }
        }
        self.lists = lists;
        self.router = Some(Arc::new(router));
        self.routed_at = self.len;
        places
    }

    /// Takes a stored router over, before any vector is in.
    pub(super) fn adopt(&mut self, router: Router, routed_at: usize) {
        let (dim, keep_exact) = (self.lists[0].dim(), true);
        self.lists = (0..router.lists()).map(|_| Codes::new(dim, keep_exact)).collect();
        self.router = Some(Arc::new(router));
        self.routed_at = routed_at;
    }
}

/// Estimate of the share of a list that passes; an empty list counts as passing.
fn passing_share(owners: &[Slot], passes: &impl Fn(Slot) -> bool) -> f64 {
    let step = owners.len().div_ceil(FILTER_SAMPLE).max(1);
    let (mut looked_at, mut passing) = (0_u32, 0_u32);
    for owner in owners.iter().step_by(step) {
        looked_at += 1;
        passing += u32::from(passes(*owner));
    }
    if looked_at == 0 { 1.0 } else { f64::from(passing) / f64::from(looked_at) }
}
