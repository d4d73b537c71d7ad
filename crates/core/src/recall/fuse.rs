//! Fusion: what the words say, what the vectors say and what the graph around both says, as one score per node.
//!
//! Every part has an absolute anchor, so a lone weak hit stays weak: the lexical part is the share of the question's
//! idf mass a node covers (0…1), the dense part is the cosine. Nothing is scaled to the best hit of the day.
//!
//! * **Window.** A node is read together with its neighbours: per term, counts are summed over the node and, damped,
//!   its neighbours (two passes over `related_to` and `derived_from`, less the more neighbours a node has), before the
//!   BM25 saturation. A question's words are often spread over adjacent turns.
//! * **Group.** A node whose group (the target of its `part_of` edge) holds a strong candidate is lifted towards it.
//! * **Name.** A node whose whole title occurs in the question is preferred a little.
//!
//! Constants are round numbers from a flat optimum (each may move by 30 % for less than one point of recall@10).

use hashbrown::HashSet;

use super::{Link, Seed, Surroundings, bm25::LexicalHits};
use crate::{ids::NodeId, model::EdgeType};

/// How many lexical candidates a question brings.
pub const LEXICAL_CANDIDATES: usize = 400;
/// How many dense candidates a question brings.
pub const DENSE_CANDIDATES: usize = 200;
/// Share of a neighbour's counts, along a chain.
const EDGE: f64 = 0.5;
/// Weight of a node's own words beside those of its window.
const OWN: f64 = 0.5;
/// Weight of the cosine beside the words.
const DENSE: f64 = 0.5;
/// Bonus of a node whose title the question names.
const NAME: f64 = 0.05;
/// Bonus of a node whose id or client id the question quotes.
const QUOTED: f64 = 0.5;
/// Pull of the best candidate of the same group.
const GROUP: f64 = 0.3;
const WINDOW_PASSES: usize = 2;

/// What the arms found.
#[derive(Debug, Default)]
pub struct Arms {
    /// Lexical candidates with statistics.
    pub lexical: LexicalHits,
    /// Dense candidates with cosine; none when the arm could not run.
    pub dense: Option<Vec<(NodeId, f64)>>,
    /// Nodes whose id or client id the question quotes.
    pub quoted: HashSet<NodeId>,
    /// All of these, and what is around them.
    pub around: Surroundings,
}

/// Counts per node while they spread, one row of `terms` numbers each, in one block of memory.
#[derive(Clone)]
struct Windows {
    terms: usize,
    counts: Vec<f64>,
    len: Vec<f64>,
    mass: Vec<f64>,
}

impl Windows {
    fn new(candidates: usize, terms: usize) -> Self {
        let (len, mass) = (vec![0.0; candidates], vec![0.0; candidates]);
        Self { terms, counts: vec![0.0; candidates * terms], len, mass }
    }

    fn counts(&self, at: usize) -> &[f64] {
        &self.counts[at * self.terms..(at + 1) * self.terms]
    }

    /// Adds a share of another state's node to one of this.
    fn add(&mut self, to: usize, before: &Self, from: usize, share: f64) {
        let row = &mut self.counts[to * self.terms..(to + 1) * self.terms];
        row.iter_mut().zip(before.counts(from)).for_each(|(t, s)| *t += share * s);
        self.len[to] += share * before.len[from];
        self.mass[to] += share * before.mass[from];
    }
}

/// Scores every candidate and every open neighbour of one; returns the best so many, best first, ties by id. Similarities lie
/// in 0…1.
pub fn fuse(arms: &Arms, limit: usize) -> Vec<Seed> {
    let field = Field::new(arms);
    let own = field.scores();
    let best = field.best_of_groups(&own);
    let mut seeds: Vec<Seed> = (0..own.len())
        .filter(|at| field.is_in[*at])
        .map(|at| {
            let fused = (own[at] + GROUP * best[at]) / (1.0 + GROUP) / (1.0 + NAME);
            Seed { id: arms.around.nodes[at], similarity: fused.clamp(0.0, 1.0) }
        })
        .filter(|seed| seed.similarity > 0.0)
        .collect();
    let best_first = |a: &Seed, b: &Seed| b.similarity.total_cmp(&a.similarity).then(a.id.cmp(&b.id));
    if seeds.len() > limit {
        seeds.select_nth_unstable_by(limit, best_first);
        seeds.truncate(limit);
    }
    seeds.sort_unstable_by(best_first);
    seeds
}

/// The nodes that are scored. All lists are by their position among the surroundings.
struct Field<'a> {
    arms: &'a Arms,
    /// Whether a node is scored: a candidate, an open node that is named, or an open neighbour of either in its window.
    is_in: Vec<bool>,
    idfs: Vec<f64>,
    idf_mass: f64,
}

impl<'a> Field<'a> {
    fn new(arms: &'a Arms) -> Self {
        let around = &arms.around;
        let found = |at: usize| at < around.candidates || around.is_named[at] && around.is_open[at];
        let mut is_in: Vec<bool> = (0..around.nodes.len()).map(found).collect();
        for link in around.links.iter().filter(|link| is_window(link.edge_type)) {
            for (from, to) in [(link.src, link.dst), (link.dst, link.src)] {
                is_in[to as usize] |= found(from as usize) && around.is_open[to as usize];
            }
        }
        let idfs = arms.lexical.idfs();
        let idf_mass = idfs.iter().sum();
        Self { arms, is_in, idfs, idf_mass }
    }

    /// Scores before groups are looked at.
    fn scores(&self) -> Vec<f64> {
        let Arms { lexical, dense, quoted, around } = self.arms;
        let floor = dense.iter().flatten().map(|(_, cosine)| *cosine).fold(f64::INFINITY, f64::min);
        let floor = if floor.is_finite() { floor.clamp(0.0, 1.0) } else { 0.0 };
        let mut cosines = vec![floor; around.nodes.len()];
        for (id, cosine) in dense.iter().flatten() {
            if let Some(at) = around.candidate(*id) {
                cosines[at] = cosine.clamp(0.0, 1.0);
            }
        }
        let dense_weight = if lexical.docs.is_empty() { 1.0 } else { DENSE };
        let mut scores: Vec<f64> = self
            .words()
            .iter()
            .zip(cosines)
            .map(|(words, cosine)| 1.0 - (1.0 - words) * (1.0 - dense_weight * cosine))
            .collect();
        for (score, is_named) in scores.iter_mut().zip(&around.is_named) {
            if *is_named {
                *score += NAME;
            }
        }
        for at in quoted.iter().filter_map(|id| around.candidate(*id)) {
            scores[at] += QUOTED;
        }
        scores
    }

    /// Share of the question's idf mass that a node and its window cover, 0…1.
    fn words(&self) -> Vec<f64> {
        let nodes = self.is_in.len();
        if self.idf_mass <= 0.0 {
            return vec![0.0; nodes];
        }
        let own = self.own_counts();
        let windows = self.spread(&own);
        let coverage = |state: &Windows, at: usize, len: f64| {
            // Saturation without its factor k1 + 1 lies below one, so coverage does too.
            let score = self.arms.lexical.score(&self.idfs, state.counts(at).iter().copied(), len);
            score / (super::bm25::K1 + 1.0) / self.idf_mass
        };
        (0..nodes)
            .map(|at| {
                let mass = windows.mass[at];
                let by_window = if mass > 0.0 { coverage(&windows, at, windows.len[at] / mass) } else { 0.0 };
                let by_itself = if own.mass[at] > 0.0 { coverage(&own, at, own.len[at]) } else { 0.0 };
                (by_window + OWN * by_itself) / (1.0 + OWN)
            })
            .collect()
    }

    fn own_counts(&self) -> Windows {
        let terms = self.idfs.len();
        let mut own = Windows::new(self.is_in.len(), terms);
        for doc in &self.arms.lexical.docs {
            if let Some(at) = self.arms.around.candidate(doc.id) {
                let row = &mut own.counts[at * terms..(at + 1) * terms];
                row.iter_mut().zip(&doc.counts).for_each(|(held, count)| *held = f64::from(*count));
                (own.len[at], own.mass[at]) = (f64::from(doc.len), 1.0);
            }
        }
        own
    }

    fn spread(&self, own: &Windows) -> Windows {
        let links = self.links();
        let pass = |windows: &mut Windows, before: &Windows| {
            for &(a, b, share) in &links {
                for (from, to) in [(a, b), (b, a)] {
                    if before.mass[from] > 0.0 {
                        windows.add(to, before, from, share);
                    }
                }
            }
        };
        let mut windows = own.clone();
        pass(&mut windows, own);
        for _ in 1..WINDOW_PASSES {
            let before = windows.clone();
            pass(&mut windows, &before);
        }
        windows
    }

    /// Pairs of neighbours that are scored with the share that passes between them: less, the more neighbours the
    /// busier one has, so that a hub does not mix everything with everything; less for an edge of low weight.
    fn links(&self) -> Vec<(usize, usize, f64)> {
        let both_in = |link: &&Link| self.is_in[link.src as usize] && self.is_in[link.dst as usize];
        // Both ends as one number, the lower one first.
        let mut links: Vec<(u64, f64)> = self
            .arms
            .around
            .links
            .iter()
            .filter(|link| is_window(link.edge_type))
            .filter(both_in)
            .map(|link| {
                let ends = u64::from(link.src.min(link.dst)) << 32 | u64::from(link.src.max(link.dst));
                (ends, (2.0 * link.weight).min(1.0))
            })
            .collect();
        // Of several edges between the same two the strongest counts.
        links.sort_unstable_by(|x, y| x.0.cmp(&y.0).then(y.1.total_cmp(&x.1)));
        links.dedup_by_key(|link| link.0);
        let mut links: Vec<(usize, usize, f64)> = links
            .into_iter()
            .map(|(ends, share)| ((ends >> 32) as usize, (ends & u64::from(u32::MAX)) as usize, share))
            .collect();
        let mut degree = vec![0_u32; self.is_in.len()];
        for (a, b, _) in &links {
            degree[*a] += 1;
            degree[*b] += 1;
        }
        for (a, b, share) in &mut links {
            *share *= EDGE * 2.0 / f64::from(degree[*a].max(degree[*b]).max(2));
        }
        links
    }

    /// The best score of a node and of those it shares a group with.
    fn best_of_groups(&self, own: &[f64]) -> Vec<f64> {
        let of_scored = |link: &&Link| link.edge_type == EdgeType::PartOf && self.is_in[link.src as usize];
        let memberships =
            || self.arms.around.links.iter().filter(of_scored).map(|link| (link.src as usize, link.dst as usize));
        let mut of_group = vec![0.0_f64; own.len()];
        for (member, group) in memberships() {
            of_group[group] = of_group[group].max(own[member]);
        }
        let mut best = own.to_vec();
        for (member, group) in memberships() {
            best[member] = best[member].max(of_group[group]);
        }
        best
    }
}

const fn is_window(edge_type: EdgeType) -> bool {
    matches!(edge_type, EdgeType::RelatedTo | EdgeType::DerivedFrom)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::recall::bm25::LexicalDoc;

    fn fuse(arms: &Arms) -> Vec<Seed> {
        super::fuse(arms, usize::MAX)
    }

    fn id(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    /// An edge between nodes by their number.
    fn edge(edge_type: EdgeType, src: u128, dst: u128) -> (EdgeType, u128, u128) {
        (edge_type, src, dst)
    }

    fn lexical(docs: &[(u128, &[u16])]) -> LexicalHits {
        let terms = docs.first().map_or(0, |d| d.1.len());
        LexicalHits {
            total_docs: 100,
            mean_len: 10.0,
            doc_freq: vec![3; terms],
            docs: docs
                .iter()
                .map(|(n, c)| LexicalDoc { id: id(*n), len: 10, counts: c.iter().copied().collect() })
                .collect(),
        }
    }

    /// Everything is open, nothing is named.
    fn arms(lexical: LexicalHits, dense: Option<&[(u128, f64)]>, edges: &[(EdgeType, u128, u128)]) -> Arms {
        let dense: Option<Vec<(NodeId, f64)>> = dense.map(|list| list.iter().map(|(n, c)| (id(*n), *c)).collect());
        let docs = lexical.docs.iter().map(|doc| doc.id);
        let found: BTreeSet<NodeId> = docs.chain(dense.iter().flatten().map(|(id, _)| *id)).collect();
        let ends: BTreeSet<NodeId> = edges.iter().flat_map(|edge| [id(edge.1), id(edge.2)]).collect();
        let nodes: Vec<NodeId> = found.iter().chain(ends.difference(&found)).copied().collect();
        let at = |n: u128| nodes.iter().position(|node| *node == id(n)).unwrap() as u32;
        let link =
            |edge: &(EdgeType, u128, u128)| Link { edge_type: edge.0, src: at(edge.1), dst: at(edge.2), weight: 0.5 };
        let around = Surroundings {
            candidates: found.len(),
            is_open: vec![true; nodes.len()],
            is_named: vec![false; nodes.len()],
            links: edges.iter().map(link).collect(),
            nodes: nodes.clone(),
        };
        Arms { lexical, dense, quoted: HashSet::new(), around }
    }

    fn similarity(seeds: &[Seed], n: u128) -> f64 {
        seeds.iter().find(|s| s.id == id(n)).map_or(0.0, |s| s.similarity)
    }

    #[test]
    fn a_lone_weak_hit_stays_weak() {
        let seeds = fuse(&arms(lexical(&[]), Some(&[(1, 0.11)]), &[]));
        assert!(similarity(&seeds, 1) < 0.12);
        assert!(fuse(&arms(lexical(&[]), None, &[])).is_empty());
    }

    #[test]
    fn words_spread_over_neighbours_count_together() {
        let docs: [(u128, &[u16]); 3] = [(1, &[1, 0]), (2, &[0, 1]), (3, &[1, 0])];
        let edges = [edge(EdgeType::RelatedTo, 1, 2)];
        let seeds = fuse(&arms(lexical(&docs), None, &edges));
        assert!(similarity(&seeds, 1) > similarity(&seeds, 3) * 1.2);
    }

    #[test]
    fn a_neighbour_without_words_enters_and_a_hub_lends_little() {
        let docs: [(u128, &[u16]); 1] = [(1, &[1])];
        let chain = [edge(EdgeType::RelatedTo, 1, 2)];
        let near = similarity(&fuse(&arms(lexical(&docs), None, &chain)), 2);
        assert!(near > 0.0);
        let hub: Vec<_> = (2..42).map(|n| edge(EdgeType::RelatedTo, 1, n)).collect();
        assert!(similarity(&fuse(&arms(lexical(&docs), None, &hub)), 2) < near / 2.0);
    }

    #[test]
    fn a_strong_member_lifts_its_group() {
        let docs: [(u128, &[u16]); 3] = [(1, &[3, 3]), (2, &[1, 0]), (3, &[1, 0])];
        let edges = [edge(EdgeType::PartOf, 1, 50), edge(EdgeType::PartOf, 2, 50)];
        let seeds = fuse(&arms(lexical(&docs), None, &edges));
        assert!(similarity(&seeds, 2) > similarity(&seeds, 3));
    }

    #[test]
    fn names_and_quoted_ids_are_preferred() {
        let mut input = arms(lexical(&[(1, &[1]), (2, &[1]), (3, &[1])]), None, &[]);
        input.around.is_named[1] = true;
        input.quoted.insert(id(3));
        let order: Vec<_> = fuse(&input).into_iter().map(|s| s.id).collect();
        assert_eq!(order, [id(3), id(2), id(1)]);
    }

    #[test]
    fn a_neighbour_that_is_no_window_enters_by_its_name_alone() {
        let edges = [edge(EdgeType::PartOf, 1, 2)];
        let mut input = arms(lexical(&[(1, &[1])]), None, &edges);
        assert_eq!(fuse(&input).len(), 1);
        input.around.is_named[1] = true;
        assert!(similarity(&fuse(&input), 2) > 0.0);
        input.around.is_open[1] = false;
        assert_eq!(fuse(&input).len(), 1);
    }

    #[test]
    fn what_may_not_be_seen_never_enters() {
        let edges = [edge(EdgeType::RelatedTo, 1, 2)];
        let mut input = arms(lexical(&[(1, &[1])]), None, &edges);
        assert_eq!(fuse(&input).len(), 2);
        input.around.is_open[1] = false;
        assert_eq!(fuse(&input).len(), 1);
    }

    proptest! {
        #[test]
        fn scores_are_bounded_ordered_and_reproducible(
            docs in prop::collection::btree_map(0_u128..20, prop::collection::vec(0_u16..4, 3), 0..15),
            dense in prop::option::of(prop::collection::btree_map(0_u128..20, -1.0_f64..=1.0, 0..15)),
            links in prop::collection::vec((0_u128..20, 0_u128..20, 0_usize..3), 0..30),
        ) {
            let docs: Vec<(u128, Vec<u16>)> =
                docs.into_iter().filter(|(_, counts)| counts.iter().any(|c| *c > 0)).collect();
            let borrowed: Vec<(u128, &[u16])> = docs.iter().map(|(n, c)| (*n, c.as_slice())).collect();
            let edges: Vec<_> =
                links.iter().filter(|l| l.0 != l.1).map(|l| edge(EdgeType::ALL[l.2], l.0, l.1)).collect();
            let dense: Option<Vec<(u128, f64)>> = dense.map(|d| d.into_iter().collect());
            let seeds = fuse(&arms(lexical(&borrowed), dense.as_deref(), &edges));
            prop_assert!(seeds.iter().all(|s| (0.0..=1.0).contains(&s.similarity)));
            prop_assert!(seeds.windows(2).all(|w| (w[1].similarity, w[0].id) <= (w[0].similarity, w[1].id)
                || w[1].similarity < w[0].similarity));
            for limit in [0, 1, 7] {
                let best = super::fuse(&arms(lexical(&borrowed), dense.as_deref(), &edges), limit);
                prop_assert_eq!(&best, &seeds[..limit.min(seeds.len())]);
            }
            let reversed: Vec<_> = edges.iter().rev().copied().collect();
            let again = fuse(&arms(lexical(&borrowed), dense.as_deref(), &reversed));
            for (a, b) in seeds.iter().zip(&again) {
                prop_assert!((a.similarity - b.similarity).abs() < 1e-12);
            }
        }
    }
}
