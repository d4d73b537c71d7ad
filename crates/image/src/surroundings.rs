//! Candidates and what is around them, by position.

use aionis_core::{
    ids::NodeId,
    ports::store::SurroundingsQuery,
    recall::{Link, Surroundings},
};
use hashbrown::{HashMap, HashSet};
use uuid::Uuid;

use super::{ScopeImage, Slot, digests::Digest, fetch::fetch};

/// What an edge of a candidate leads to.
struct Neighbour {
    /// Ordered as ids are.
    id: u128,
    slot: Slot,
    /// How many there were before it.
    number: usize,
}

impl ScopeImage {
    /// Candidates with the strongest edges around them, what those lead to, and which of all are named.
    pub fn surroundings(&self, query: &SurroundingsQuery) -> Surroundings {
        let candidates = &query.edges.around;
        debug_assert!(candidates.is_sorted(), "candidates are looked for by halves");
        let slots = self.slots_of(candidates);
        let edges = self.strongest(&query.edges, slots.iter().flatten().copied().collect());
        let mut position: HashMap<Slot, usize> = HashMap::with_capacity(candidates.len() + edges.len());
        position.extend(slots.iter().enumerate().filter_map(|(at, slot)| Some(((*slot)?, at))));
        // Neighbours are numbered as they are met, while they are on their way from memory, and get their places by their ids.
        let mut met: Vec<Slot> = Vec::with_capacity(edges.len());
        let mut end = |slot| {
            *position.entry(slot).or_insert_with(|| {
                fetch(&self.nodes, slot);
                met.push(slot);
                candidates.len() + met.len() - 1
            })
        };
        let ends: Vec<[usize; 2]> = edges.iter().map(|at| self.edges[*at as usize].between().map(&mut end)).collect();
        let neighbour = |(number, slot)| Neighbour { id: self.nodes[slot as usize].id.as_u128(), slot, number };
        let mut neighbours: Vec<Neighbour> = met.into_iter().enumerate().map(neighbour).collect();
        neighbours.sort_unstable_by_key(|of| of.id);
        let mut places = vec![0; neighbours.len()];
        for (place, of) in neighbours.iter().enumerate() {
            places[of.number] = candidates.len() + place;
        }
        let place = |met: usize| met.checked_sub(candidates.len()).map_or(met, |number| places[number]);
        let slots: Vec<Option<Slot>> = slots.into_iter().chain(neighbours.iter().map(|of| Some(of.slot))).collect();
        let links = edges.iter().zip(ends).map(|(at, ends)| {
            let edge = &self.edges[*at as usize];
            let [src, dst] = ends.map(|met| u32::try_from(place(met)).unwrap_or(u32::MAX));
            Link { edge_type: edge.edge_type(), src, dst, weight: edge.weight() }
        });
        let links = links.collect();
        let names: HashSet<Digest> = query.names.iter().map(|name| self.digests.of(name)).collect();
        let is_named = |slot: Slot| self.nodes[slot as usize].name.is_some_and(|name| names.contains(&name));
        let mut surroundings = Surroundings {
            nodes: candidates
                .iter()
                .copied()
                .chain(neighbours.iter().map(|of| NodeId(Uuid::from_u128(of.id))))
                .collect(),
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
            if let Some(met) = position.get(&slot) {
                surroundings.is_named[place(*met)] = true;
            }
        }
        surroundings
    }
}
