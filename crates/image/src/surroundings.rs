//! Candidates and what is around them, by position.

use aionis_core::{
    ids::NodeId,
    ports::store::SurroundingsQuery,
    recall::{Link, Surroundings},
};
use hashbrown::{HashMap, HashSet};
use uuid::Uuid;

use super::{
    ScopeImage, Slot,
    fetch::{AHEAD, fetch},
};

/// Analysed titles a question may name nodes by.
struct Names<'a> {
    names: HashSet<&'a str>,
    /// The lengths that occur, a bit each: most titles are of another, and need not be read.
    lengths: u128,
}

impl<'a> Names<'a> {
    fn new(names: &'a [String]) -> Self {
        let lengths = names.iter().fold(0, |lengths, name| lengths | Self::length(name));
        Self { names: names.iter().map(String::as_str).collect(), lengths }
    }

    /// The bit of a name's length; all long ones have the same.
    fn length(name: &str) -> u128 {
        1 << name.len().min(127)
    }

    fn hold(&self, name: &str) -> bool {
        self.lengths & Self::length(name) != 0 && self.names.contains(name)
    }
}

impl ScopeImage {
    /// Candidates with the strongest edges around them, what those lead to, and which of all are named.
    pub fn surroundings(&self, query: &SurroundingsQuery) -> Surroundings {
        let candidates = &query.edges.around;
        debug_assert!(candidates.is_sorted(), "candidates are looked for by halves");
        let slots = self.slots_of(candidates);
        let edges = self.strongest(&query.edges, slots.iter().flatten().copied().collect());
        let mut position: HashMap<Slot, u32> = HashMap::with_capacity(candidates.len() + edges.len());
        position.extend(slots.iter().zip(0..).filter_map(|(slot, at)| Some(((*slot)?, at))));
        let mut neighbours: Vec<(Uuid, Slot)> = Vec::new();
        let ends: Vec<Slot> = edges.iter().flat_map(|at| self.edges[*at as usize].between()).collect();
        for (number, slot) in ends.iter().copied().enumerate() {
            if let Some(ahead) = ends.get(number + AHEAD) {
                fetch(&self.nodes, *ahead);
            }
            position.entry(slot).or_insert_with(|| {
                neighbours.push((self.nodes[slot as usize].id, slot));
                u32::MAX
            });
        }
        neighbours.sort_unstable();
        let slots: Vec<Option<Slot>> =
            slots.into_iter().chain(neighbours.iter().map(|(_, slot)| Some(*slot))).collect();
        let beyond = slots.iter().zip(0..).skip(candidates.len());
        position.extend(beyond.filter_map(|(slot, at)| Some(((*slot)?, at))));
        let links = edges.iter().map(|at| {
            let edge = &self.edges[*at as usize];
            let [src, dst] = edge.between().map(|slot| position[&slot]);
            Link { edge_type: edge.edge_type(), src, dst, weight: edge.weight() }
        });
        let links = links.collect();
        let names = Names::new(&query.names);
        let is_named = |slot: Slot| self.nodes[slot as usize].name.as_ref().is_some_and(|name| names.hold(name));
        let mut surroundings = Surroundings {
            nodes: candidates.iter().copied().chain(neighbours.iter().map(|(id, _)| NodeId(*id))).collect(),
            candidates: candidates.len(),
            // What an edge leads to is shown to the viewer, but may be a draft.
            is_open: slots
                .iter()
                .enumerate()
                .map(|(at, slot)| at < candidates.len() || slot.is_some_and(|slot| self.gates.may_be_seed(slot)))
                .collect(),
            is_named: slots.iter().map(|slot| slot.is_some_and(is_named)).collect(),
            links,
        };
        for slot in self.named_by_alias(is_named) {
            if let Some(at) = position.get(&slot) {
                surroundings.is_named[*at as usize] = true;
            }
        }
        surroundings
    }
}
