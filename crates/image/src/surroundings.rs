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

#[cfg(test)]
mod tests {
    use aionis_core::{
        ids::{EdgeId, ScopeKey},
        model::{EdgeType, Viewer},
        ports::store::EdgeQuery,
        recall::EdgeView,
    };

    use super::*;
    use crate::{NodeFacts, tests::facts};

    fn id(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    #[test]
    fn neighbours_are_ordered_by_id_and_every_edge_ends_at_its_own() {
        let mut image = ScopeImage::empty(1, 0);
        // Held in the order of ids and the other way round, with ids that differ in their first and in their last bytes.
        let neighbours = [7, 9 << 100, 3, 1 << 100, 8, 5 << 64, 4];
        for n in [1, 2].into_iter().chain(neighbours) {
            image.put_facts(&NodeFacts { name_key: (n == 3).then_some("ada lovelac"), ..facts(n) });
        }
        // An alias of a neighbour, by whose title that one is named.
        image.put_facts(&NodeFacts { name_key: Some("countess"), alias_of: Some(id(8).0), ..facts(100) });
        let edge = |(n, between): (u128, (u128, u128))| EdgeView {
            id: EdgeId(Uuid::from_u128(n)),
            edge_type: EdgeType::RelatedTo,
            src: id(between.0),
            dst: id(between.1),
            // By which it is known again.
            weight: n as f64 / 100.0,
            confidence: 1.0,
            commit_seq: 1,
        };
        let between = neighbours.iter().zip([1, 2].into_iter().cycle()).map(|(far, near)| (near, *far));
        let back = neighbours.iter().map(|far| (*far, 1));
        let edges: Vec<EdgeView> = (1..).zip(between.chain(back).chain([(1, 2)])).map(edge).collect();
        edges.iter().for_each(|edge| image.put_edge(*edge));
        let found = image.surroundings(&SurroundingsQuery {
            edges: EdgeQuery {
                scope: ScopeKey::from_stored("acme/one").unwrap(),
                viewer: Viewer::default(),
                // One that is not there keeps its place.
                around: vec![id(1), id(2), id(50)],
                min_weight: 0.0,
                min_confidence: 0.0,
                limit: 100,
            },
            names: vec!["ada lovelac".to_owned(), "countess".to_owned()],
        });
        assert_eq!((found.candidates, &found.nodes[..3]), (3, &[id(1), id(2), id(50)][..]));
        let mut ordered = neighbours.map(id);
        ordered.sort_unstable();
        assert_eq!(found.nodes[3..], ordered);
        assert_eq!(found.links.len(), edges.len());
        for link in &found.links {
            let edge = edges.iter().find(|edge| edge.weight == link.weight).unwrap();
            assert_eq!([found.nodes[link.src as usize], found.nodes[link.dst as usize]], [edge.src, edge.dst]);
        }
        let named: Vec<NodeId> =
            found.nodes.iter().zip(&found.is_named).filter(|(_, named)| **named).map(|(id, _)| *id).collect();
        assert_eq!(named, [id(3), id(8)]);
    }
}
