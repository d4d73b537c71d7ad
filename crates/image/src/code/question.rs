//! A question in the form codes are compared with.

use super::{MIDDLE, pages::FIRST, rotation::rotate, step};

/// Bits a coordinate of a question is rounded to.
pub(super) const PLANES: usize = 4;
/// Further bits of a coordinate, for the few codes that are left in the end.
pub(super) const FINE: usize = 2;
/// What the planes of a coordinate add up to.
const LEVELS: u32 = (1 << PLANES) - 1;
/// The same with the fine ones.
const FINE_LEVELS: u32 = (1 << (PLANES + FINE)) - 1;
/// Distance of the question's levels in deviations of its coordinates: the best one for sixteen levels of a normal
/// distribution (Max, 1960).
const WIDTH: f32 = 0.3352;
/// Words of a code's middle bits, and as many of its low ones, that lie side by side.
pub(super) const HALF: usize = 4;

/// Bits of a word's coordinates, from the lowest of each.
pub(super) type Planes = [u64; PLANES];

/// A question, rotated and rounded.
///
/// A coordinate is `width / 2` times the sum of its bits' powers of two, a bit counting 1 when set and else -1. A code's
/// bits count likewise; the fine bits halve it twice. So the inner product of the question with one bit of each of a code's coordinates is what all bits
/// would add up to if they agreed, less twice the powers of those that differ.
pub(super) struct BitQuestion {
    /// Bits by word.
    words: Vec<Planes>,
    /// The same for the code's other two bits: of [`HALF`] words, once for the middle bits and once for the low ones.
    pub(super) rest: Vec<[[u64; 2 * HALF]; PLANES]>,
    /// The fine bits by word.
    pub(super) fine: Vec<[u64; FINE]>,
    width: f32,
    step: f32,
}

impl BitQuestion {
    pub(super) fn new(vector: &[f32], words: usize) -> Self {
        let rotated = rotate(vector, words);
        let width = WIDTH / super::root(words);
        let (mut by_word, mut rest) = (vec![[0; PLANES]; words], vec![[[0; 2 * HALF]; PLANES]; words.div_ceil(HALF)]);
        let mut fine = vec![[0; FINE]; words];
        #[expect(clippy::cast_precision_loss, reason = "a few levels")]
        let (middle, most) = (FINE_LEVELS as f32 / 2.0, FINE_LEVELS as f32);
        let fine_width = width / (1 << FINE) as f32;
        for ((at, coordinates), planes) in rotated.chunks(64).enumerate().zip(&mut by_word) {
            for (bit, x) in coordinates.iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 63 by construction")]
                let rounded = (x / fine_width + middle).round().clamp(0.0, most) as u64;
                for (power, plane) in fine[at].iter_mut().chain(planes.iter_mut()).enumerate() {
                    *plane |= (rounded >> power & 1) << bit;
                }
            }
            for (both, plane) in rest[at / HALF].iter_mut().zip(planes) {
                both[at % HALF] = *plane;
                both[HALF + at % HALF] = *plane;
            }
        }
        Self { words: by_word, rest, fine, width, step: step(words) }
    }

    /// The planes of the first words, and of the others.
    pub(super) fn signs(&self) -> (&[Planes], &[Planes]) {
        self.words.split_at(FIRST.min(self.words.len()))
    }

    /// The most a sum over so many words can be.
    pub(super) const fn most(words: usize) -> u32 {
        LEVELS * 64 * words as u32
    }

    /// Deviation of the sum over the first so many words for vectors at right angles.
    pub(super) fn deviation(&self, words: usize) -> f32 {
        let squares: f32 = self.squares(words);
        squares.sqrt()
    }

    /// A quarter of the sum of the squares of the coordinates of the first words, in units of a sum.
    fn squares(&self, words: usize) -> f32 {
        let mut sum = 0_u64;
        for planes in &self.words[..words.min(self.words.len())] {
            for bit in 0..64 {
                let rounded: u64 = planes.iter().enumerate().map(|(power, plane)| (plane >> bit & 1) << power).sum();
                let odd = (2 * rounded).abs_diff(u64::from(LEVELS));
                sum += odd * odd;
            }
        }
        sum as f32 / 4.0
    }

    /// Estimated cosine with a coded vector, from the sums over its signs, its middle and its low bits, weighed 4 : 2 : 1,
    /// and its inner product with what its code stands for. A level stands for `step · (level - 7/2)`.
    pub(super) fn estimate(&self, sum: u32, own: f32) -> f32 {
        self.cosine(LEVELS, self.width, sum, own)
    }

    /// The same from the sum of [`estimate`](Self::estimate) and that of the fine bits, weighed likewise.
    pub(super) fn refined(&self, sum: u32, fine: u32, own: f32) -> f32 {
        self.cosine(FINE_LEVELS, self.width / (1 << FINE) as f32, (sum << FINE) + fine, own)
    }

    fn cosine(&self, levels: u32, width: f32, sum: u32, own: f32) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "sums of some thousand bits, weighed by at most 441")]
        let agreeing = MIDDLE * (levels * 64 * self.words.len() as u32) as f32 - sum as f32;
        self.step * width / 2.0 * agreeing / own.max(f32::MIN_POSITIVE)
    }
}
