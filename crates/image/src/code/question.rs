//! A question in the form codes are compared with.

use super::{MIDDLE, common::Common, pages::FIRST, rotation::rotate, step};

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
/// Mean size of a coordinate of a normal distribution, in deviations: `sqrt(2 / π)`.
const SIZE: f32 = 0.798;
/// Most of what was taken out of a question counts, in sums of signs that all differ.
const APART_MAX: u32 = 8;
/// Least of the squares of vectors that is counted as what they do not have in common.
const REST_MIN: f32 = 1.0 / 64.0;
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
    /// Its inner product with what codes were moved by, as rounded to the planes and to the fine ones.
    moved: [i64; 2],
    /// How much of what the vectors have in common was taken out of it.
    taken: f32,
    /// What that makes of the sums, by word.
    taken_by_word: f32,
}

impl BitQuestion {
    /// A question to codes of so many words whose vectors have something in common.
    pub(super) fn new(vector: &[f32], words: usize, common: &Common) -> Self {
        let mut rotated = rotate(vector, words);
        let taken = common.take_from(&mut rotated);
        let question = Self::of(&rotated, common);
        // A sign stands for so much of the rest of a unit vector.
        let sign = (1.0 - common.share()).max(REST_MIN).sqrt() / (SIZE * super::root(words));
        let taken_by_word = taken.abs() / (sign * question.width * words as f32);
        Self { taken, taken_by_word, ..question }
    }

    /// The direction that the vectors have in common as a question.
    pub(super) fn along(common: &Common) -> Self {
        Self::of(common.direction(), common)
    }

    fn of(rotated: &[f32], common: &Common) -> Self {
        let words = rotated.len() / 64;
        let length = rotated.iter().map(|x| x * x).sum::<f32>().sqrt();
        let width = WIDTH * length.max(f32::MIN_POSITIVE) / super::root(words);
        let (mut by_word, mut rest) = (vec![[0; PLANES]; words], vec![[[0; 2 * HALF]; PLANES]; words.div_ceil(HALF)]);
        let (mut fine, mut moved, mut by) = (vec![[0; FINE]; words], [0, 0], common.moved());
        #[expect(clippy::cast_precision_loss, reason = "a few levels")]
        let (middle, most) = (FINE_LEVELS as f32 / 2.0, FINE_LEVELS as f32);
        let fine_width = width / (1 << FINE) as f32;
        for ((at, coordinates), planes) in rotated.chunks(64).enumerate().zip(&mut by_word) {
            for (bit, x) in coordinates.iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 63 by construction")]
                let rounded = (x / fine_width + middle).round().clamp(0.0, most) as u64;
                let by = by.next().unwrap_or(0);
                moved[0] += by * odd(rounded >> FINE, LEVELS);
                moved[1] += by * odd(rounded, FINE_LEVELS);
                for (power, plane) in fine[at].iter_mut().chain(planes.iter_mut()).enumerate() {
                    *plane |= (rounded >> power & 1) << bit;
                }
            }
            for (both, plane) in rest[at / HALF].iter_mut().zip(planes) {
                both[at % HALF] = *plane;
                both[HALF + at % HALF] = *plane;
            }
        }
        Self { words: by_word, rest, fine, width, step: step(words), moved, taken: 0.0, taken_by_word: 0.0 }
    }

    /// How much of what the vectors have in common was taken out of it.
    pub(super) const fn taken(&self) -> f32 {
        self.taken
    }

    /// Its planes, word by word.
    pub(super) fn planes(&self) -> &[Planes] {
        &self.words
    }

    /// The planes of the first words, and of the others.
    pub(super) fn signs(&self) -> (&[Planes], &[Planes]) {
        self.words.split_at(FIRST.min(self.words.len()))
    }

    /// The most a sum over so many words can be, with what was taken out.
    pub(super) fn most(&self, words: usize) -> u32 {
        most(words) + self.apart(words).of(-self.taken.signum())
    }

    /// Whether something was taken out of it.
    pub(super) fn is_partial(&self) -> bool {
        self.taken_by_word > 0.0
    }

    /// What is to be added to sums over so many words for what was taken out.
    pub(super) fn apart(&self, words: usize) -> Apart {
        let by_cosine = self.taken_by_word * words as f32;
        Apart { by_cosine: by_cosine * self.taken.signum(), whole: by_cosine, most: (APART_MAX * most(words)) as f32 }
    }

    /// Which cosine a sum over the signs of so many words tells of, about, and from 0: that of what is left of the question
    /// with what is left of a vector that had as much taken out.
    pub(super) fn near(&self, sum: u32, words: usize) -> f32 {
        let sum = sum.saturating_sub(self.apart(words).of(self.taken));
        let agreeing = most(words) as f32 - 2.0 * sum as f32;
        (agreeing * WIDTH / (2.0 * SIZE * (64 * words) as f32)).clamp(0.0, 1.0)
    }

    /// Deviation of the sum over the first so many words for vectors at right angles.
    pub(super) fn deviation(&self, words: usize) -> f32 {
        let squares: f32 = self.squares(words);
        squares.sqrt()
    }

    /// A quarter of the sum of the squares of the coordinates of the first words, in units of a sum.
    fn squares(&self, words: usize) -> f32 {
        let mut sum = 0;
        for planes in &self.words[..words.min(self.words.len())] {
            for bit in 0..64 {
                let rounded: u64 = planes.iter().enumerate().map(|(power, plane)| (plane >> bit & 1) << power).sum();
                let odd = odd(rounded, LEVELS);
                sum += odd * odd;
            }
        }
        sum as f32 / 4.0
    }

    /// Estimated cosine with a coded vector, from the sums over its signs, its middle and its low bits, weighed 4 : 2 : 1,
    /// and what is known of it. A level stands for `step · (level - 7/2)`, plus what its coordinate was moved by.
    pub(super) fn estimate(&self, sum: u32, of: Known) -> f32 {
        self.cosine(LEVELS, self.width, self.moved[0], sum, of)
    }

    /// The same from the sum of [`estimate`](Self::estimate) and that of the fine bits, weighed likewise.
    pub(super) fn refined(&self, sum: u32, fine: u32, of: Known) -> f32 {
        self.cosine(FINE_LEVELS, self.width / (1 << FINE) as f32, self.moved[1], (sum << FINE) + fine, of)
    }

    fn cosine(&self, levels: u32, width: f32, moved: i64, sum: u32, of: Known) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "sums of some thousand bits, weighed by at most 441")]
        let agreeing = MIDDLE * (levels * 64 * self.words.len() as u32) as f32 - sum as f32 + moved as f32;
        self.step * width / 2.0 * agreeing / of.own.max(f32::MIN_POSITIVE) + self.taken * of.along
    }
}

/// What is to be added to a sum for what was taken out of a question: in units of a sum, as much as signs that tell of the
/// same distance would on average. Where next to nothing of the question is left that is very much, so it has a bound.
#[derive(Clone, Copy)]
pub(super) struct Apart {
    by_cosine: f32,
    whole: f32,
    most: f32,
}

impl Apart {
    /// That of a vector by its inner product with the common direction.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most some hundred thousand")]
    pub(super) const fn of(self, along: f32) -> u32 {
        // By way of a signed number, which all processors make of eight at once.
        (self.whole - self.by_cosine * along).clamp(0.0, self.most) as i32 as u32
    }
}

/// What is known of a coded vector besides its code.
#[derive(Clone, Copy)]
pub(super) struct Known {
    /// Its inner product with what its code stands for.
    pub own: f32,
    /// With the direction that all have in common.
    pub along: f32,
}

/// The most that the differing signs of so many words add up to.
const fn most(words: usize) -> u32 {
    LEVELS * 64 * words as u32
}

/// What a rounded coordinate's bits add up to if each counts its power of two up or down, in units of half a level.
const fn odd(rounded: u64, levels: u32) -> i64 {
    2 * rounded.cast_signed() - levels as i64
}
