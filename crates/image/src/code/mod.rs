//! Short codes of vectors, for an image that does not hold the vectors themselves.
//!
//! A vector of few dimensions is coded as 8-bit integers with one factor. A longer one is rotated by a random orthogonal
//! matrix and coded with three bits per coordinate, which count its level from below; the highest is its sign. The signs of
//! the first 512 coordinates are compared with all vectors, the other signs with those that may be near by the first, and
//! what may be near by all signs is estimated by all bits: as the rotation is random, some coordinates are a fair sample of
//! all. The best of those are estimated once more with a question that is rounded less. The inner product of a rotated
//! question with the coded vector, divided by that of the vector with its own code, estimates the cosine without bias, with
//! an error that shrinks with the square root of the dimension (Gao and Long, "RaBitQ", SIGMOD 2024; Gao and others,
//! "Practical and asymptotically optimal quantization", SIGMOD 2025). Either way candidates are scored again from the
//! vectors themselves, but those far down the list that the caller need not have scored.
//!
//! Where vectors have a direction in common, coordinates are counted from it (`common`).

mod common;
mod pages;
mod pick;
mod question;
mod rotation;
mod search;
mod tally;

use self::rotation::rotate;
pub(crate) use self::search::{Asked, BitCodes, Nearest};

/// Most dimensions that are coded as integers: up to here they take no more room than three bits of usual models' dimensions.
const INTEGER_DIM_MAX: usize = 512;
/// Bits a coordinate of a long vector is coded with.
const BITS: usize = 3;
/// The middle of the levels.
const MIDDLE: f32 = 3.5;

/// Levels of a word's coordinates: the highest bit of each, the middle one, the lowest.
type Levels = [u64; BITS];

/// How vectors of a dimension are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// Integers, then the factor.
    Integers { dim: usize },
    /// Signs, then the other two bits of each level, 64 coordinates to a word, then the inner product with what they stand for.
    Bits { dim: usize, words: usize },
}

impl Coding {
    /// That of vectors of a dimension.
    pub fn of(dim: usize) -> Self {
        if dim <= INTEGER_DIM_MAX { Self::Integers { dim } } else { Self::Bits { dim, words: dim.div_ceil(64) } }
    }

    /// Bytes of a code.
    pub const fn bytes(self) -> usize {
        4 + match self {
            Self::Integers { dim } => dim,
            Self::Bits { words, .. } => 8 * BITS * words,
        }
    }

    /// Codes a vector of the coding's dimension.
    pub fn encode(self, vector: &[f32]) -> Vec<u8> {
        match self {
            Self::Integers { .. } => {
                let (codes, factor) = super::quantised::quantise(vector);
                let mut code: Vec<u8> = codes.map(i8::cast_unsigned).collect();
                code.extend(factor.to_le_bytes());
                code
            }
            Self::Bits { words, .. } => {
                let rotated = rotate(vector, words);
                let step = step(words);
                let levels: Vec<u8> = rotated.iter().map(|x| level(*x, step)).collect();
                let mut code = Vec::with_capacity(self.bytes());
                for bit in (0..BITS).rev() {
                    for word in levels.chunks(64) {
                        let bits =
                            word.iter().enumerate().fold(0, |bits, (at, x)| bits | (u64::from(x >> bit & 1) << at));
                        code.extend(bits.to_le_bytes());
                    }
                }
                let own: f32 = rotated.iter().zip(levels).map(|(x, of)| x * step * (f32::from(of) - MIDDLE)).sum();
                code.extend(own.to_le_bytes());
                code
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a dimension is far below 2^24")]
fn root(words: usize) -> f32 {
    ((words * 64) as f32).sqrt()
}

/// Distance of the levels: the best one for eight levels of a normal distribution (Max, 1960), which is what a coordinate of
/// a rotated unit vector has.
fn step(words: usize) -> f32 {
    0.5860 / root(words)
}

/// The level a coordinate is coded as, counted from the lowest.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 7 by construction")]
fn level(x: f32, step: f32) -> u8 {
    (x / step + MIDDLE + 0.5).floor().clamp(0.0, 2.0 * MIDDLE) as u8
}

#[cfg(test)]
mod tests {
    pub(super) fn vectors(count: usize, dim: usize) -> Vec<Vec<f32>> {
        clustered(count, dim, 20)
    }

    /// Vectors around so many centres; within a cluster the mean cosine is about 0.74.
    pub(super) fn clustered(count: usize, dim: usize, clusters: usize) -> Vec<Vec<f32>> {
        spread_out(count, dim, clusters, 0.6)
    }

    /// Vectors around so many centres, so far from theirs, in units of its length.
    pub(super) fn spread_out(count: usize, dim: usize, clusters: usize, spread: f32) -> Vec<Vec<f32>> {
        let mut state = 11_u64;
        let mut unit = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        let centres: Vec<Vec<f32>> = (0..clusters).map(|_| (0..dim).map(|_| unit()).collect()).collect();
        (0..count).map(|n| centres[n % clusters].iter().map(|x| x + spread * unit()).collect()).collect()
    }

    #[test]
    fn a_code_has_its_length() {
        for dim in [384, 512, 513, 700, 1536] {
            let coding = super::Coding::of(dim);
            assert_eq!(coding.encode(&vectors(1, dim)[0]).len(), coding.bytes(), "{dim}");
        }
    }
}
