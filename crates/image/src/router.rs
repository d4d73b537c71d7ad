//! The inverted-file index of a large scope: its vectors are divided into lists around centroids, and a question is
//! compared only with the lists whose centroids are nearest to it.
//!
//! A router is derived data. It is trained on the vectors in memory (spherical k-means over a sample), tested against
//! the exact scan on questions it was not trained for, and thrown away unless it finds what the exact scan finds. How
//! many lists a question visits is not a setting but the outcome of that test.

use super::quantised::{Codes, Question};
use aionis_core::ports::embed::EmbeddingSpace;

/// Share of the exact scan's best ten that a router has to find.
const RECALL_AT_10_MIN: f64 = 0.995;
/// Share of the exact scan's best hundred.
const RECALL_AT_100_MIN: f64 = 0.97;
/// Questions the test asks.
const PROBE_QUESTIONS: usize = 128;
/// Vectors per list that training looks at.
const SAMPLE_PER_LIST: usize = 24;
const TRAINING_PASSES: usize = 5;
/// Lists visited at least, whatever the test says: its questions are few.
const PROBES_MIN: usize = 4;
/// A router that has to visit more than this share of its lists is not worth having.
const PROBED_SHARE_MAX: f64 = 0.4;

/// Centroids, and how many of their lists a question visits.
pub struct Router {
    centroids: Codes,
    probes: usize,
}

/// What training was given and what came of it.
pub struct Trained {
    /// The index, which passed its test.
    pub router: Router,
    /// List of every vector, in the order of the snapshot.
    pub lists: Vec<u16>,
    /// Recall@10 against the exact scan in the test.
    pub recall: f64,
}

/// The centroids as they are stored.
pub struct StoredRouter {
    /// One after the other, each of the space's dimension.
    pub centroids: Vec<f32>,
    /// How many lists a question visits.
    pub probes: usize,
}

impl Router {
    /// Builds a router from stored centroids; nothing when they do not fit the space.
    pub fn from_stored(stored: &StoredRouter, space: &EmbeddingSpace) -> Option<Self> {
        let count = stored.centroids.len() / space.dim.max(1);
        let fits = count > 1 && count * space.dim == stored.centroids.len() && count <= usize::from(u16::MAX);
        if !fits || stored.probes == 0 || stored.probes > count || stored.centroids.iter().any(|x| !x.is_finite()) {
            return None;
        }
        Some(Self { centroids: codes_of(&stored.centroids, space.dim), probes: stored.probes })
    }

    /// Lists there are.
    pub fn lists(&self) -> usize {
        self.centroids.len()
    }

    /// Lists a question without filter visits.
    pub const fn probes(&self) -> usize {
        self.probes
    }

    pub(super) fn bytes(&self) -> usize {
        self.centroids.bytes()
    }

    /// The list a vector belongs to.
    pub(super) fn list_of(&self, vector: &[f32]) -> usize {
        let mut products = vec![0.0; self.lists()];
        self.nearest(&Question::new(vector), &mut products)
    }

    fn nearest(&self, question: &Question, products: &mut [f32]) -> usize {
        self.centroids.products(question, products);
        let mut best = (0, f32::NEG_INFINITY);
        for (list, product) in products.iter().enumerate() {
            if *product > best.1 {
                best = (list, *product);
            }
        }
        best.0
    }

    /// All lists, nearest first; ties by number.
    pub(super) fn order(&self, question: &Question) -> Vec<u16> {
        let mut products = vec![0.0; self.lists()];
        self.centroids.products(question, &mut products);
        let mut order: Vec<u16> = (0..=u16::MAX).take(products.len()).collect();
        order.sort_unstable_by(|a, b| products[usize::from(*b)].total_cmp(&products[usize::from(*a)]).then(a.cmp(b)));
        order
    }

    /// Trains and tests a router for the vectors of a snapshot. Nothing when no number of visited lists finds what the
    /// exact scan finds, or when `stop` says so.
    pub fn train(vectors: &Codes, stop: impl Fn() -> bool) -> Option<(Trained, Vec<f32>)> {
        let count = list_count(vectors.len());
        let centroids = centroids(vectors, count, &stop)?;
        let mut router = Self { centroids: codes_of(&centroids, vectors.dim()), probes: 1 };
        let mut products = vec![0.0; count];
        let mut lists = Vec::with_capacity(vectors.len());
        for at in 0..vectors.len() {
            if at % 4_096 == 0 && stop() {
                return None;
            }
            lists.push(u16::try_from(router.nearest(&vectors.question(at), &mut products)).ok()?);
        }
        let (probes, recall) = test(&router, vectors, &lists, &stop)?;
        router.probes = probes;
        Some((Trained { router, lists, recall }, centroids))
    }
}

/// How many lists for so many vectors: about one and a half times the square root, where visiting the centroids and
/// visiting the lists cost about the same.
fn list_count(vectors: usize) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rough size"
    )]
    let count = (1.5 * (vectors as f64).sqrt()) as usize;
    count.clamp(2, 8_192).min(vectors)
}

fn codes_of(flat: &[f32], dim: usize) -> Codes {
    let mut codes = Codes::new(dim, false);
    for vector in flat.chunks_exact(dim) {
        codes.push(vector, 0);
    }
    codes
}

/// Spherical k-means over an evenly spaced sample. A list that gets nothing takes the sample's next vector.
fn centroids(vectors: &Codes, count: usize, stop: &impl Fn() -> bool) -> Option<Vec<f32>> {
    let dim = vectors.dim();
    let wanted = (count * SAMPLE_PER_LIST).min(vectors.len());
    let sample: Vec<usize> = (0..wanted).map(|n| n * vectors.len() / wanted).collect();
    let mut centroids: Vec<f32> =
        (0..count).flat_map(|list| vectors.unit(sample[list * wanted / count]).collect::<Vec<_>>()).collect();
    for pass in 0..TRAINING_PASSES {
        let router = Router { centroids: codes_of(&centroids, dim), probes: 1 };
        let mut sums = vec![0.0_f32; count * dim];
        let mut sizes = vec![0_u32; count];
        let mut products = vec![0.0; count];
        for (n, &at) in sample.iter().enumerate() {
            if n % 1_024 == 0 && stop() {
                return None;
            }
            let list = router.nearest(&vectors.question(at), &mut products);
            sizes[list] += 1;
            sums[list * dim..(list + 1) * dim].iter_mut().zip(vectors.unit(at)).for_each(|(sum, x)| *sum += x);
        }
        for list in 0..count {
            let place = &mut centroids[list * dim..(list + 1) * dim];
            if sizes[list] == 0 {
                let other = sample[(list * 7_919 + pass * 104_729) % sample.len()];
                place.iter_mut().zip(vectors.unit(other)).for_each(|(x, new)| *x = new);
                continue;
            }
            let sum = &sums[list * dim..(list + 1) * dim];
            let norm = sum.iter().map(|x| x * x).sum::<f32>().sqrt();
            if norm > 0.0 {
                place.iter_mut().zip(sum).for_each(|(x, new)| *x = new / norm);
            }
        }
    }
    Some(centroids)
}

/// The fewest visited lists with which the test finds enough of what the exact scan finds, and the recall@10 it had.
fn test(router: &Router, vectors: &Codes, lists: &[u16], stop: &impl Fn() -> bool) -> Option<(usize, f64)> {
    let most = share_of(router.lists(), PROBED_SHARE_MAX);
    // Hits of the best ten and hundred by how many lists had to be visited for them.
    let (mut tens, mut hundreds) = (vec![0_u64; most + 1], vec![0_u64; most + 1]);
    let mut rank_of = vec![0_usize; router.lists()];
    let mut products = vec![0.0_f32; vectors.len()];
    let mut asked = 0_u64;
    for n in 0..PROBE_QUESTIONS {
        if stop() {
            return None;
        }
        let question = Question::new(&probe(vectors, n));
        for (rank, list) in router.order(&question).into_iter().enumerate() {
            rank_of[usize::from(list)] = rank + 1;
        }
        vectors.products(&question, &mut products);
        let mut best: Vec<usize> = (0..vectors.len()).collect();
        let keep = best.len().min(100);
        if keep < best.len() {
            best.select_nth_unstable_by(keep - 1, |a, b| products[*b].total_cmp(&products[*a]));
            best.truncate(keep);
        }
        best.sort_unstable_by(|a, b| products[*b].total_cmp(&products[*a]).then(a.cmp(b)));
        for (place, at) in best.into_iter().enumerate() {
            let visits = rank_of[usize::from(lists[at])];
            if visits <= most {
                tens[visits] += u64::from(place < 10);
                hundreds[visits] += 1;
            }
        }
        asked += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "counts of some thousand")]
    let share = |found: u64, of: u64| found as f64 / of.max(1) as f64;
    let (mut ten, mut hundred) = (0, 0);
    for probes in 1..=most {
        ten += tens[probes];
        hundred += hundreds[probes];
        let (at_10, at_100) = (share(ten, asked * 10), share(hundred, asked * 100));
        if at_10 >= RECALL_AT_10_MIN && at_100 >= RECALL_AT_100_MIN {
            return Some((probes.max(PROBES_MIN).min(router.lists()), at_10));
        }
    }
    None
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rough share"
)]
fn share_of(count: usize, share: f64) -> usize {
    (count as f64 * share) as usize
}

/// A question for the test: stored vectors lie near the middle of their lists, real questions do not, so most are
/// mixtures of two vectors.
fn probe(vectors: &Codes, n: usize) -> Vec<f32> {
    let at = (n * 2 + 1) * vectors.len() / (2 * PROBE_QUESTIONS);
    let other = (at + vectors.len() / 3 + n) % vectors.len();
    let share = [0.0_f32, 0.35, 0.5, 0.7][n % 4];
    vectors.unit(at).zip(vectors.unit(other)).map(|(a, b)| a + share * b).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clustered(count: usize, dim: usize, clusters: usize) -> Codes {
        let mut state = 7_u64;
        let mut unit = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        let centres: Vec<Vec<f32>> = (0..clusters).map(|_| (0..dim).map(|_| unit()).collect()).collect();
        let mut codes = Codes::new(dim, false);
        for n in 0..count {
            let vector: Vec<f32> = centres[n % clusters].iter().map(|x| x + 0.6 * unit()).collect();
            codes.push(&vector, 0);
        }
        codes
    }

    #[test]
    fn a_trained_router_finds_what_the_scan_finds_in_few_lists() {
        let vectors = clustered(6_000, 48, 40);
        let (trained, centroids) = Router::train(&vectors, || false).unwrap();
        assert!(trained.recall >= RECALL_AT_10_MIN, "{}", trained.recall);
        assert!(trained.router.probes() * 2 < trained.router.lists(), "{}", trained.router.probes());
        assert_eq!(centroids.len(), trained.router.lists() * 48);
        assert_eq!(trained.lists.len(), 6_000);
    }

    #[test]
    fn vectors_without_structure_get_no_router() {
        // In 256 dimensions independent random vectors are all about equally far from each other: no list is near.
        let mut state = 3_u64;
        let mut codes = Codes::new(256, false);
        for _ in 0..3_000 {
            let vector: Vec<f32> = (0..256)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
                })
                .collect();
            codes.push(&vector, 0);
        }
        assert!(Router::train(&codes, || false).is_none());
    }

    #[test]
    fn training_stops_when_told_to() {
        assert!(Router::train(&clustered(2_000, 16, 10), || true).is_none());
    }

    #[test]
    fn stored_centroids_that_do_not_fit_are_refused() {
        let space = EmbeddingSpace { name: "m".to_owned(), dim: 4 };
        let stored = |centroids: Vec<f32>, probes| StoredRouter { centroids, probes };
        assert!(Router::from_stored(&stored(vec![1.0; 12], 2), &space).is_some());
        for (centroids, probes) in
            [(vec![1.0; 13], 2), (vec![1.0; 4], 1), (vec![1.0; 12], 0), (vec![1.0; 12], 4), (vec![f32::NAN; 12], 1)]
        {
            assert!(Router::from_stored(&stored(centroids, probes), &space).is_none());
        }
    }
}
