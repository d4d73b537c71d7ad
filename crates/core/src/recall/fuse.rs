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

use hashbrown::{HashMap, HashSet};

use super::{EdgeView, Seed, bm25::LexicalHits};
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
pub struct Arms<'a> {
    /// Lexical candidates with statistics.
    pub lexical: LexicalHits,
    /// Dense candidates with cosine; none when the arm could not run.
    pub dense: Option<Vec<(NodeId, f64)>>,
    /// Nodes whose title the question names.
    pub named: HashSet<NodeId>,
    /// Nodes whose id or client id the question quotes.
    pub quoted: HashSet<NodeId>,
    /// Edges around the candidates.
    pub edges: &'a [EdgeView],
    /// Candidates and neighbours the viewer may see.
    pub allowed: HashSet<NodeId>,
}

/// Counts per candidate while they spread, one row of `terms` numbers each, in one block of memory.
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

    /// Adds a share of another state's candidate to one of this.
    fn add(&mut self, to: usize, before: &Self, from: usize, share: f64) {
        let row = &mut self.counts[to * self.terms..(to + 1) * self.terms];
        row.iter_mut().zip(before.counts(from)).for_each(|(t, s)| *t += share * s);
        self.len[to] += share * before.len[from];
        self.mass[to] += share * before.mass[from];
    }
}

/// Scores every candidate and every allowed neighbour of one; returns the best so many, best first, ties by id. Similarities
/// lie in 0…1.
pub fn fuse(arms: &Arms<'_>, limit: usize) -> Vec<Seed> {
    let candidates = Candidates::new(arms);
    let own = candidates.scores();
    let groups = candidates.groups();
    let mut best_of_group: HashMap<NodeId, f64> = HashMap::new();
    for (id, score) in &own {
        for group in groups.get(id).into_iter().flatten() {
            let best = best_of_group.entry(*group).or_insert(0.0);
            *best = best.max(*score);
        }
    }
    let mut seeds: Vec<Seed> = own
        .into_iter()
        .map(|(id, score)| {
            let of_groups = groups.get(&id).into_iter().flatten().filter_map(|group| best_of_group.get(group));
            let best = of_groups.fold(score, |best, other| best.max(*other));
            let fused = (score + GROUP * best) / (1.0 + GROUP) / (1.0 + NAME);
            Seed { id, similarity: fused.clamp(0.0, 1.0) }
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

struct Candidates<'a> {
    arms: &'a Arms<'a>,
    ids: Vec<NodeId>,
    at: HashMap<NodeId, usize>,
    idfs: Vec<f64>,
    idf_mass: f64,
}

impl<'a> Candidates<'a> {
    fn new(arms: &'a Arms<'a>) -> Self {
        let lexical = arms.lexical.docs.iter().map(|doc| doc.id);
        let dense = arms.dense.iter().flatten().map(|(id, _)| *id);
        let exact = arms.named.iter().chain(&arms.quoted).copied();
        let mut ids: Vec<NodeId> = lexical.chain(dense).chain(exact).filter(|id| arms.allowed.contains(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        let found: HashSet<NodeId> = ids.iter().copied().collect();
        let mut entering: Vec<NodeId> = arms
            .edges
            .iter()
            .filter(|edge| is_window(edge.edge_type))
            .flat_map(|edge| [(edge.src, edge.dst), (edge.dst, edge.src)])
            .filter(|(from, to)| found.contains(from) && !found.contains(to) && arms.allowed.contains(to))
            .map(|(_, to)| to)
            .collect();
        entering.sort_unstable();
        entering.dedup();
        ids.extend(entering);
        let at = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let idfs = arms.lexical.idfs();
        let idf_mass = idfs.iter().sum();
        Self { arms, ids, at, idfs, idf_mass }
    }

    /// Score of every candidate before its group is looked at.
    fn scores(&self) -> Vec<(NodeId, f64)> {
        let words = self.words();
        let floor = self.arms.dense.iter().flatten().map(|(_, cosine)| *cosine).fold(f64::INFINITY, f64::min);
        let floor = if floor.is_finite() { floor.clamp(0.0, 1.0) } else { 0.0 };
        let cosines: HashMap<NodeId, f64> =
            self.arms.dense.iter().flatten().map(|(id, cosine)| (*id, cosine.clamp(0.0, 1.0))).collect();
        let dense_weight = if self.arms.lexical.docs.is_empty() { 1.0 } else { DENSE };
        self.ids
            .iter()
            .zip(words)
            .map(|(id, words)| {
                let cosine = cosines.get(id).copied().unwrap_or(floor);
                let mut score = 1.0 - (1.0 - words) * (1.0 - dense_weight * cosine);
                if self.arms.named.contains(id) {
                    score += NAME;
                }
                if self.arms.quoted.contains(id) {
                    score += QUOTED;
                }
                (*id, score)
            })
            .collect()
    }

    /// Share of the question's idf mass that a node and its window cover, 0…1.
    fn words(&self) -> Vec<f64> {
        if self.idf_mass <= 0.0 {
            return vec![0.0; self.ids.len()];
        }
        let own = self.own_counts();
        let windows = self.spread(&own);
        let coverage = |state: &Windows, at: usize, len: f64| {
            // Saturation without its factor k1 + 1 lies below one, so coverage does too.
            let score = self.arms.lexical.score(&self.idfs, state.counts(at).iter().copied(), len);
            score / (super::bm25::K1 + 1.0) / self.idf_mass
        };
        (0..self.ids.len())
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
        let mut own = Windows::new(self.ids.len(), terms);
        for doc in &self.arms.lexical.docs {
            if let Some(&at) = self.at.get(&doc.id) {
                let row = &mut own.counts[at * terms..(at + 1) * terms];
                row.iter_mut().zip(&doc.counts).for_each(|(held, count)| *held = f64::from(*count));
                (own.len[at], own.mass[at]) = (f64::from(doc.len), 1.0);
            }
        }
        own
    }

    fn spread(&self, own: &Windows) -> Windows {
        let links = self.links();
        let mut windows = own.clone();
        for _ in 0..WINDOW_PASSES {
            let before = windows.clone();
            for &(a, b, share) in &links {
                for (from, to) in [(a, b), (b, a)] {
                    if before.mass[from] > 0.0 {
                        windows.add(to, &before, from, share);
                    }
                }
            }
        }
        windows
    }

    /// Pairs of neighbours among the candidates with the share that passes between them: less, the more neighbours the
    /// busier one has, so that a hub does not mix everything with everything; less for an edge of low weight.
    fn links(&self) -> Vec<(usize, usize, f64)> {
        let mut links: Vec<(usize, usize, f64)> = self
            .arms
            .edges
            .iter()
            .filter(|edge| is_window(edge.edge_type))
            .filter_map(|edge| {
                let (a, b) = (*self.at.get(&edge.src)?, *self.at.get(&edge.dst)?);
                Some((a.min(b), a.max(b), (2.0 * edge.weight).min(1.0)))
            })
            .collect();
        // Of several edges between the same two the strongest counts.
        links.sort_unstable_by(|x, y| (x.0, x.1).cmp(&(y.0, y.1)).then(y.2.total_cmp(&x.2)));
        links.dedup_by_key(|link| (link.0, link.1));
        let mut degree = vec![0_u32; self.ids.len()];
        for (a, b, _) in &links {
            degree[*a] += 1;
            degree[*b] += 1;
        }
        for (a, b, share) in &mut links {
            *share *= EDGE * 2.0 / f64::from(degree[*a].max(degree[*b]).max(2));
        }
        links
    }

    /// Per node its groups.
    fn groups(&self) -> HashMap<NodeId, Vec<NodeId>> {
        let mut groups: HashMap<NodeId, Vec<NodeId>> = HashMap::new();
        for edge in self.arms.edges.iter().filter(|edge| edge.edge_type == EdgeType::PartOf) {
            if self.at.contains_key(&edge.src) {
                groups.entry(edge.src).or_default().push(edge.dst);
            }
        }
        groups
    }
}

const fn is_window(edge_type: EdgeType) -> bool {
    matches!(edge_type, EdgeType::RelatedTo | EdgeType::DerivedFrom)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::{ids::EdgeId, recall::bm25::LexicalDoc};

    fn fuse(arms: &Arms<'_>) -> Vec<Seed> {
        super::fuse(arms, usize::MAX)
    }

    fn id(n: u128) -> NodeId {
        NodeId(Uuid::from_u128(n))
    }

    fn edge(n: u128, edge_type: EdgeType, src: u128, dst: u128) -> EdgeView {
        let (src, dst) = (id(src), id(dst));
        EdgeView { id: EdgeId(Uuid::from_u128(n)), edge_type, src, dst, weight: 0.5, confidence: 0.5, commit_seq: 1 }
    }

    fn lexical(docs: &[(u128, &[u16])]) -> LexicalHits {
        let terms = docs.first().map_or(0, |d| d.1.len());
        LexicalHits {
            total_docs: 100,
            mean_len: 10.0,
            doc_freq: vec![3; terms],
            docs: docs.iter().map(|(n, c)| LexicalDoc { id: id(*n), len: 10, counts: c.to_vec() }).collect(),
        }
    }

    fn arms<'a>(lexical: LexicalHits, dense: Option<&[(u128, f64)]>, edges: &'a [EdgeView]) -> Arms<'a> {
        Arms {
            lexical,
            dense: dense.map(|list| list.iter().map(|(n, c)| (id(*n), *c)).collect()),
            edges,
            allowed: (0..100).map(id).collect(),
            ..Arms::default()
        }
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
        let edges = [edge(1, EdgeType::RelatedTo, 1, 2)];
        let seeds = fuse(&arms(lexical(&docs), None, &edges));
        assert!(similarity(&seeds, 1) > similarity(&seeds, 3) * 1.2);
    }

    #[test]
    fn a_neighbour_without_words_enters_and_a_hub_lends_little() {
        let docs: [(u128, &[u16]); 1] = [(1, &[1])];
        let chain = [edge(1, EdgeType::RelatedTo, 1, 2)];
        let near = similarity(&fuse(&arms(lexical(&docs), None, &chain)), 2);
        assert!(near > 0.0);
        let hub: Vec<_> = (2..42).map(|n| edge(n, EdgeType::RelatedTo, 1, n)).collect();
        assert!(similarity(&fuse(&arms(lexical(&docs), None, &hub)), 2) < near / 2.0);
    }

    #[test]
    fn a_strong_member_lifts_its_group() {
        let docs: [(u128, &[u16]); 3] = [(1, &[3, 3]), (2, &[1, 0]), (3, &[1, 0])];
        let edges = [edge(1, EdgeType::PartOf, 1, 50), edge(2, EdgeType::PartOf, 2, 50)];
        let seeds = fuse(&arms(lexical(&docs), None, &edges));
        assert!(similarity(&seeds, 2) > similarity(&seeds, 3));
    }

    #[test]
    fn names_and_quoted_ids_are_preferred() {
        let mut input = arms(lexical(&[(1, &[1]), (2, &[1]), (3, &[1])]), None, &[]);
        input.named.insert(id(2));
        input.quoted.insert(id(3));
        let order: Vec<_> = fuse(&input).into_iter().map(|s| s.id).collect();
        assert_eq!(order, [id(3), id(2), id(1)]);
    }

    #[test]
    fn what_may_not_be_seen_never_enters() {
        let edges = [edge(1, EdgeType::RelatedTo, 1, 2)];
        let mut input = arms(lexical(&[(1, &[1])]), None, &edges);
        input.allowed = HashSet::from([id(1)]);
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
            let edges: Vec<_> = links.iter().enumerate().filter(|(_, l)| l.0 != l.1)
                .map(|(n, l)| edge(n as u128, EdgeType::ALL[l.2], l.0, l.1)).collect();
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
