//! Short codes of vectors, for an image that does not hold the vectors themselves.
//!
//! A vector of few dimensions is coded as 8-bit integers with one factor. A longer one is rotated by a random orthogonal
//! matrix and coded by the signs of its coordinates: one bit each. The inner product of a rotated question with the signs,
//! divided by that of the vector with its own signs, estimates the cosine without bias, with an error of about one over the
//! square root of the dimension (Gao and Long, "RaBitQ", SIGMOD 2024). Either way candidates are scored again from the
//! vectors themselves.

use multiversion::multiversion;

/// Most dimensions that are coded as integers: up to here they take no more room than sign codes of usual models.
const INTEGER_DIM_MAX: usize = 512;

/// How vectors of a dimension are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Integers, then the factor.
    Integers { dim: usize },
    /// Signs, then the inner product with them.
    Signs { dim: usize, padded: usize },
}

impl Coding {
    pub(crate) fn of(dim: usize) -> Self {
        if dim <= INTEGER_DIM_MAX {
            Self::Integers { dim }
        } else {
            Self::Signs { dim, padded: dim.next_power_of_two() }
        }
    }

    /// Bytes of a code.
    pub(crate) const fn len(self) -> usize {
        4 + match self {
            Self::Integers { dim } => dim,
            Self::Signs { padded, .. } => padded / 8,
        }
    }

    /// Codes a vector of the coding's dimension.
    pub(crate) fn encode(self, vector: &[f32]) -> Vec<u8> {
        match self {
            Self::Integers { .. } => {
                let (codes, factor) = super::quantised::quantise(vector);
                let mut code: Vec<u8> = codes.map(i8::cast_unsigned).collect();
                code.extend(factor.to_le_bytes());
                code
            }
            Self::Signs { padded, .. } => {
                let rotated = rotate(vector, padded);
                let mut code = Vec::with_capacity(self.len());
                for word in rotated.chunks(64) {
                    code.extend(signs(word).to_le_bytes());
                }
                let total: f32 = rotated.iter().map(|x| x.abs()).sum();
                code.extend((total / root(padded)).to_le_bytes());
                code
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a dimension is far below 2^24")]
fn root(padded: usize) -> f32 {
    (padded as f32).sqrt()
}

/// One bit per coordinate: set where it is not negative.
fn signs(coordinates: &[f32]) -> u64 {
    coordinates.iter().enumerate().fold(0, |word, (at, x)| word | (u64::from(*x >= 0.0) << at))
}

/// The unit vector in a rotated space: random signs, then a Hadamard transform, twice.
fn rotate(vector: &[f32], padded: usize) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "a coordinate of a unit vector")]
    let mut rotated: Vec<f32> =
        vector.iter().map(|x| if norm > 0.0 { (f64::from(*x) / norm) as f32 } else { 0.0 }).collect();
    rotated.resize(padded, 0.0);
    let mut state = 0x5eed_u64;
    for _ in 0..2 {
        for chunk in rotated.chunks_mut(64) {
            // SplitMix64 (Steele, Lea and Flood, 2014): the same signs everywhere and for ever.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let bits = z ^ (z >> 31);
            for (at, x) in chunk.iter_mut().enumerate() {
                if bits >> at & 1 == 1 {
                    *x = -*x;
                }
            }
        }
        hadamard(&mut rotated);
    }
    rotated
}

fn hadamard(values: &mut [f32]) {
    let mut half = 1;
    while half < values.len() {
        for block in values.chunks_mut(2 * half) {
            let (low, high) = block.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / root(values.len());
    values.iter_mut().for_each(|x| *x *= scale);
}

/// Codes that are told apart by differing bits alone before the better estimate.
const FIRST_BY_BITS: usize = 1_024;
/// Deviation of an estimate times the root of the dimension, for vectors at right angles: `sqrt(π/2 - 1)`.
const ERROR: f32 = 0.755;
/// How many deviations below the best a candidate may be estimated.
const ERRORS: f32 = 4.0;
/// Best ones that must not be missed; what comes after them is chosen by estimate alone.
const SURE: usize = 20;
/// Candidates beyond the limit, at least.
const MORE_MIN: usize = 16;
/// Candidates at most, unless the limit is higher: each costs the database some microseconds.
const CANDIDATES_MAX: usize = 320;

/// How many bits of each code differ from the question's.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn count_differing(codes: &[u64], question: &[u64], differing: &mut [u16]) {
    for (code, count) in codes.chunks_exact(question.len()).zip(differing) {
        let bits: u64 = code.iter().zip(question).map(|(a, b)| u64::from((a ^ b).count_ones())).sum();
        #[expect(clippy::cast_possible_truncation, reason = "a code has at most some thousand bits")]
        let bits = bits as u16;
        *count = bits;
    }
}

/// Sign codes of many vectors.
pub(super) struct SignCodes {
    words: usize,
    bits: Vec<u64>,
    alignments: Vec<f32>,
    owners: Vec<super::Slot>,
}

/// A question in the form the codes are compared with.
struct SignQuestion {
    bits: Vec<u64>,
    /// Per four coordinates the sum for each pattern of their signs.
    sums: Vec<[f32; 16]>,
}

impl SignQuestion {
    fn new(vector: &[f32], padded: usize) -> Self {
        let rotated = rotate(vector, padded);
        let scale = 1.0 / root(padded);
        let sums = rotated
            .chunks(4)
            .map(|four| {
                std::array::from_fn(|pattern| {
                    let signed = four.iter().enumerate().map(|(at, x)| if pattern >> at & 1 == 1 { *x } else { -*x });
                    signed.sum::<f32>() * scale
                })
            })
            .collect();
        Self { bits: rotated.chunks(64).map(signs).collect(), sums }
    }

    fn estimate(&self, code: &[u64]) -> f32 {
        let mut total = 0.0;
        for (word, sums) in code.iter().zip(self.sums.chunks_exact(16)) {
            for (at, table) in sums.iter().enumerate() {
                total += table[(word >> (4 * at) & 15) as usize];
            }
        }
        total
    }
}

impl SignCodes {
    pub(super) const fn new(padded: usize) -> Self {
        Self { words: padded / 64, bits: Vec::new(), alignments: Vec::new(), owners: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bits.capacity() * 8 + self.alignments.capacity() * 4 + self.owners.capacity() * 4
    }

    /// Stores a code in place of the one at `held`, if there is one; returns its position. A code of another length is
    /// damage and left out.
    pub(super) fn put(&mut self, held: Option<u32>, code: &[u8], owner: super::Slot) -> Option<u32> {
        let (bits, alignment) = code.split_last_chunk::<4>().filter(|(bits, _)| bits.len() == self.words * 8)?;
        let words = bits.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word));
        let alignment = f32::from_le_bytes(*alignment);
        match held {
            Some(held) => {
                let at = held as usize;
                self.bits[at * self.words..(at + 1) * self.words]
                    .iter_mut()
                    .zip(words)
                    .for_each(|(old, new)| *old = new);
                self.alignments[at] = alignment;
                Some(held)
            }
            None => {
                self.bits.extend(words);
                self.alignments.push(alignment);
                self.owners.push(owner);
                u32::try_from(self.owners.len() - 1).ok()
            }
        }
    }

    /// Takes a code out; the last one moves to its place. Returns the moved code's owner, if one moved.
    pub(super) fn remove(&mut self, at: u32) -> Option<super::Slot> {
        let at = at as usize;
        let last = self.owners.len() - 1;
        self.bits.copy_within(last * self.words.., at * self.words);
        self.bits.truncate(last * self.words);
        self.alignments.swap_remove(at);
        self.owners.swap_remove(at);
        (at != last).then(|| self.owners[at])
    }

    /// Owners of codes among those that pass, in no order, so chosen that the nearest are most likely among them: at
    /// least `limit` and some, and all whose estimate is less than the likely error below that of the best [`SURE`].
    pub(super) fn nearest(
        &self,
        vector: &[f32],
        limit: usize,
        passes: impl Fn(super::Slot) -> bool,
    ) -> Vec<super::Slot> {
        if limit == 0 {
            return Vec::new();
        }
        let question = SignQuestion::new(vector, self.words * 64);
        // First by differing bits, which costs next to nothing, then the best of them by the better estimate.
        let mut differing = vec![0_u16; self.owners.len()];
        count_differing(&self.bits, &question.bits, &mut differing);
        let mut tally = vec![0_u32; self.words * 64 + 1];
        for (bits, owner) in differing.iter_mut().zip(&self.owners) {
            if passes(*owner) {
                tally[usize::from(*bits)] += 1;
            } else {
                *bits = u16::MAX;
            }
        }
        let first = FIRST_BY_BITS.max(4 * limit);
        let (mut counted, mut most) = (0, 0);
        while most < tally.len() - 1 && counted + tally[most] as usize <= first {
            counted += tally[most] as usize;
            most += 1;
        }
        let near = differing.iter().enumerate().filter(|(_, bits)| usize::from(**bits) <= most).map(|(at, _)| at);
        let mut scored: Vec<(f32, u32)> = near
            .map(|at| {
                let code = &self.bits[at * self.words..(at + 1) * self.words];
                let estimate = question.estimate(code) / self.alignments[at].max(f32::MIN_POSITIVE);
                (estimate, u32::try_from(at).unwrap_or(u32::MAX))
            })
            .collect();
        if scored.len() > limit {
            scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let least = scored[limit.min(SURE) - 1].0;
            let error = ERROR / root(self.words * 64) * (1.0 - least * least).max(0.0).sqrt();
            let likely = scored.partition_point(|entry| entry.0 >= least - ERRORS * error);
            let least_many = limit + MORE_MIN;
            scored.truncate(likely.clamp(least_many, CANDIDATES_MAX.max(least_many)).min(scored.len()));
        }
        scored.into_iter().map(|(_, at)| self.owners[at as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors(count: usize, dim: usize) -> Vec<Vec<f32>> {
        let mut state = 11_u64;
        let mut unit = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        let centres: Vec<Vec<f32>> = (0..20).map(|_| (0..dim).map(|_| unit()).collect()).collect();
        (0..count).map(|n| centres[n % 20].iter().map(|x| x + 0.6 * unit()).collect()).collect()
    }

    #[test]
    fn estimates_are_close_to_the_cosine() {
        for dim in [768, 1536] {
            let vectors = vectors(200, dim);
            let coding = Coding::of(dim);
            let Coding::Signs { padded, .. } = coding else { panic!("{coding:?}") };
            let question = SignQuestion::new(&vectors[0], padded);
            for vector in &vectors {
                let code = coding.encode(vector);
                assert_eq!(code.len(), coding.len());
                let mut codes = SignCodes::new(padded);
                codes.put(None, &code, 0);
                let estimate = question.estimate(&codes.bits) / codes.alignments[0];
                let cosine = super::super::quantised::cosine(&vectors[0], vector);
                assert!((f64::from(estimate) - cosine).abs() < 0.12, "{dim}: {estimate} {cosine}");
            }
        }
    }

    #[test]
    fn a_rotation_keeps_lengths_and_angles() {
        let vectors = vectors(3, 700);
        let rotated: Vec<Vec<f32>> = vectors.iter().map(|vector| rotate(vector, 1024)).collect();
        for (vector, turned) in vectors.iter().zip(&rotated) {
            let norm: f32 = turned.iter().map(|x| x * x).sum();
            assert!((norm - 1.0).abs() < 1e-4, "{norm}");
            let before = super::super::quantised::cosine(&vectors[0], vector);
            let after = super::super::quantised::cosine(&rotated[0], turned);
            assert!((before - after).abs() < 1e-5, "{before} {after}");
        }
    }

    #[test]
    fn codes_are_found_replaced_and_removed() {
        let (dim, vectors) = (1536, vectors(400, 1536));
        let coding = Coding::of(dim);
        let mut codes = SignCodes::new(2048);
        for (owner, vector) in vectors.iter().enumerate() {
            codes.put(None, &coding.encode(vector), owner as u32);
        }
        for at in [0, 7, 399] {
            assert!(codes.nearest(&vectors[at], 5, |_| true).contains(&(at as u32)));
            assert_eq!(codes.nearest(&vectors[at], 5, |owner| owner == 3), [3]);
            assert!(codes.nearest(&vectors[at], 5, |_| true).len() < 400, "not all");
        }
        assert_eq!(codes.remove(0), Some(399));
        assert_eq!(codes.put(Some(0), &coding.encode(&vectors[1]), 399), Some(0));
        assert!(codes.nearest(&vectors[1], 2, |_| true).contains(&399));
        assert_eq!(codes.put(None, &[0; 10], 1), None, "a code of another length is none");
    }
}
