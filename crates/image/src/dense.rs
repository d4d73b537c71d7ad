//! Nearest vectors of a scope.

use std::{cell::RefCell, cmp::Reverse, collections::BinaryHeap};

use aionis_core::{
    ids::NodeId,
    ports::store::{DenseHit, DenseQuery, NodeFilter},
};
use uuid::Uuid;

use super::{
    ScopeImage, Slot,
    code::{Asked, BitCodes, Coding, Nearest},
    lists::Place,
    quantised::{Codes, Question, cosine},
    router::{StoredRouter, Trained},
    stored_index::StoredIndex,
};

/// A candidate with its approximate cosine, ordered by it and then by id like the hits: of more equal vectors than there
/// are candidates the lowest ids are kept.
#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    approximate: f32,
    id: Uuid,
    slot: Slot,
    place: Place,
}

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.approximate.total_cmp(&other.approximate).then(other.id.cmp(&self.id))
    }
}

/// What a scan found.
pub enum Near {
    /// Candidates with exact cosines, in no order.
    Scored(Vec<DenseHit>),
    /// Candidates with the row numbers of their stored vectors, still to be scored.
    Candidates(Vec<(NodeId, i64)>),
}

/// What the codes found.
#[derive(Debug)]
pub struct Candidates {
    /// Nodes whose stored vectors are still to be compared, with where their rows were seen last.
    pub unscored: Vec<(NodeId, u64)>,
    /// Nodes that are no nearer than those, with estimated cosines.
    pub estimated: Vec<DenseHit>,
}

impl ScopeImage {
    /// The best candidates by their quantised vectors, with the number of their stored vector: a quarter and fifty more than
    /// asked, so that scoring them exactly finds the exact best.
    pub fn near(&self, filter: &NodeFilter, vector: &[f32], limit: usize, exact: bool) -> Near {
        let filter = self.filter(filter);
        let keep = if exact { self.vectors.len() } else { limit + limit / 4 + 50 };
        if keep == 0 || limit == 0 {
            return Near::Scored(Vec::new());
        }
        let best: RefCell<BinaryHeap<Reverse<Candidate>>> = RefCell::new(BinaryHeap::with_capacity(keep.min(4096) + 1));
        self.vectors.search(
            &Question::new(vector),
            exact,
            &|slot| filter.seeds(&self.gates, slot),
            |place, slot, approximate| {
                let mut best = best.borrow_mut();
                best.push(Reverse(Candidate { approximate, id: self.nodes[slot as usize].id, slot, place }));
                if best.len() > keep {
                    best.pop();
                }
                if best.len() < keep {
                    return f32::NEG_INFINITY;
                }
                best.peek().map_or(f32::NEG_INFINITY, |least| least.0.approximate)
            },
            || best.borrow().len() >= keep,
        );
        let best = best.into_inner();
        let scored: Option<Vec<DenseHit>> = best
            .iter()
            .map(|Reverse(candidate)| {
                let stored = self.vectors.exact(candidate.place)?;
                Some(DenseHit { id: NodeId(candidate.id), similarity: cosine(vector, stored) })
            })
            .collect();
        match scored {
            Some(hits) => Near::Scored(hits),
            None => Near::Candidates(
                best.into_iter()
                    .map(|Reverse(candidate)| (NodeId(candidate.id), self.vector_no(candidate.slot)))
                    .collect(),
            ),
        }
    }

    /// Row number of a node's vector; zero where rows have none.
    fn vector_no(&self, slot: Slot) -> i64 {
        self.rows.get(slot as usize).map_or(0, |rows| rows.vector_no)
    }

    /// Whether an index should be built for the vectors there are.
    pub fn is_due_for_index(&self, from: usize) -> bool {
        self.vectors.is_due_for_router(from)
    }

    /// Lists of the index, and how many of them a question visits; none without one.
    pub fn index_shape(&self) -> Option<(usize, usize)> {
        self.vectors.router().map(|router| (router.lists(), router.probes()))
    }

    /// Notes which vectors change from now on, as an index that is being trained knows only those of now.
    pub fn begin_training(&mut self) {
        self.vectors.begin_training();
    }

    /// A copy of the codes, to train an index on.
    pub fn vector_codes(&self) -> Codes {
        self.vectors.snapshot()
    }

    /// Says that the trained index did not pass its test, or that there was none.
    pub fn training_failed(&mut self) {
        self.vectors.training_failed();
    }

    /// Puts a trained index in; returns what is to be stored of it.
    pub fn install_index(
        &mut self,
        trained: Trained,
        centroids: Vec<f32>,
        snapshot: &Codes,
        built_at: i64,
    ) -> StoredIndex {
        let (probes, recall) = (trained.router.probes(), trained.recall);
        let mut members = Vec::with_capacity(self.vectors.len());
        for (slot, place) in self.vectors.install(trained, snapshot) {
            self.nodes[slot as usize].vector = Some(place);
            members.push((self.vector_no(slot), place.list()));
        }
        members.sort_unstable();
        StoredIndex { router: StoredRouter { centroids, probes }, members, recall, built_at }
    }

    /// From now on the image holds codes of vectors, not vectors.
    pub fn hold_codes(&mut self, coding: Coding) {
        if let Coding::Bits { words, .. } = coding {
            self.bits = Some(BitCodes::new(words));
        }
    }

    /// Stores the code of a node's vector, or takes it out.
    pub fn put_code(&mut self, slot: Slot, code: Option<&[u8]>) {
        let held = self.nodes[slot as usize].vector;
        match (&mut self.bits, code) {
            (Some(bits), Some(code)) => {
                let place = bits.put(held.map(Place::at), code, slot).map(Place::single);
                self.nodes[slot as usize].vector = place.or(held);
            }
            (None, Some(code)) => {
                let place = self.vectors.put_code(held, code, slot);
                self.nodes[slot as usize].vector = place.or(held);
            }
            (bits, None) => {
                let Some(held) = held else { return };
                let moved = match bits {
                    Some(bits) => bits.remove(held.at()).map(|owner| (owner, held)),
                    None => self.vectors.remove(held),
                };
                self.nodes[slot as usize].vector = None;
                if let Some((owner, place)) = moved {
                    self.nodes[owner as usize].vector = Some(place);
                }
            }
        }
    }

    /// By question, the nodes whose vectors are likely nearest, so many more than asked that the exact best are among them. Those
    /// that need not be scored may come with an estimate instead. Several questions at once get the same answers as each by
    /// itself, but of long vectors the codes are read from memory only once.
    pub fn candidates(&self, asked: &[&DenseQuery]) -> Vec<Candidates> {
        let Some(codes) = &self.bits else {
            return asked.iter().map(|query| self.candidates_of_integers(query)).collect();
        };
        let asked: Vec<_> = asked
            .iter()
            .map(|query| {
                let filter = self.filter(&query.filter);
                let passes = move |slot: Slot| filter.seeds(&self.gates, slot);
                Asked { vector: &query.vector, limit: query.limit, scored: query.scored, passes }
            })
            .collect();
        let id = |slot: Slot| NodeId(self.nodes[slot as usize].id);
        let hit = |(slot, estimate): (Slot, f32)| DenseHit { id: id(slot), similarity: f64::from(estimate) };
        let found = |Nearest { candidates, estimated }| Candidates {
            unscored: candidates.into_iter().map(|slot| (id(slot), self.vector_place(slot))).collect(),
            estimated: estimated.into_iter().map(hit).collect(),
        };
        codes.nearest(&asked).into_iter().map(found).collect()
    }

    fn candidates_of_integers(&self, query: &DenseQuery) -> Candidates {
        let seen = |id: NodeId| (id, self.slot_of(id.0).map_or(0, |slot| self.vector_place(slot)));
        let unscored = match self.near(&query.filter, &query.vector, query.limit, false) {
            Near::Candidates(found) => found.into_iter().map(|(id, _)| seen(id)).collect(),
            Near::Scored(found) => found.into_iter().map(|hit| seen(hit.id)).collect(),
        };
        Candidates { unscored, estimated: Vec::new() }
    }
}
