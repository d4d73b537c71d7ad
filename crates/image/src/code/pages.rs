//! Where codes lie, and how many are compared at once.

use multiversion::multiversion;

use super::{
    Levels,
    common::Moves,
    question::{BitQuestion, HALF, PLANES, Planes},
};
use crate::fetch::{fetch_all, fetch_once};

/// Words of signs that are compared with all codes: a cache line of each.
pub(super) const FIRST: usize = 8;
/// Codes side by side, as many as a wide register holds words.
pub(super) const BLOCK: usize = 8;
/// Codes that are stored together. Pages never move, so that a growing image needs no room for a second copy.
pub(super) const PAGE: usize = 64;
/// Blocks of a page.
const BLOCKS: usize = PAGE / BLOCK;
/// How far ahead memory is asked for what will be read: at some hundred cycles from being asked to having it, the processor
/// does not look ahead as far by itself. Pages of first signs, blocks of the others, picked codes. The first signs are kept in
/// the caches from question to question if they fit there, the rest is too much for that.
const PAGES_AHEAD: usize = 2;
const BLOCKS_AHEAD: usize = 8;
const CODES_AHEAD: usize = 8;

/// One word of each code of a block: a line of the cache, read in one go.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Lanes([u64; BLOCK]);
/// Middle bits of some words of a code, then their low bits.
type Rest = [u64; 2 * HALF];
/// By code of a block, what its differing bits add up to; [`OUT`] if it is out of question.
pub(super) type Sums = [u32; BLOCK];

/// The sum of a code that is out of question.
pub(super) const OUT: u32 = u32::MAX;

/// Codes side by side.
struct Page {
    /// First signs, block by block, in each word by word.
    first: Box<[[Lanes; FIRST]; BLOCKS]>,
    /// The signs that are not among the first, likewise.
    others: Box<[Lanes]>,
    /// The other two bits of each level, code by code.
    rest: Box<[Rest]>,
}

/// A question whose sums are added up.
pub(super) struct Adding<'a> {
    /// Of the words that are compared.
    pub planes: &'a [Planes],
    /// Blocks that are looked at, lowest first, where not all are.
    pub blocks: &'a [u32],
    /// By block, those of its codes and the least of them.
    pub sums: &'a mut [Sums],
    pub leasts: &'a mut [u32],
}

/// Codes of many vectors, three bits per coordinate.
pub(super) struct Pages {
    words: usize,
    pages: Vec<Page>,
    len: usize,
}

/// What the differing bits of a block's codes add up to, by code.
///
/// Plain loops all the way: an iterator's adapter or a closure that the compiler decides not to inline here would take the
/// counts by reference, and so hold them in memory instead of in registers, at three times the cost.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "see above")]
fn differing(block: &[Lanes], planes: &[Planes]) -> Sums {
    let mut bits = [[0_u64; BLOCK]; PLANES];
    for (codes, planes) in block.iter().zip(planes) {
        // What is in here cannot be foretold, so it is not the words that are worked on side by side but the codes: the other
        // way round, each word is gathered and the sums are added up across, at three times the cost.
        let planes = std::hint::black_box(planes);
        for power in 0..PLANES {
            for at in 0..BLOCK {
                bits[power][at] += u64::from((codes.0[at] ^ planes[power]).count_ones());
            }
        }
    }
    let mut sums = [0; BLOCK];
    for power in 0..PLANES {
        for at in 0..BLOCK {
            #[expect(clippy::cast_possible_truncation, reason = "some thousand bits, weighed by at most 15")]
            let weighed = (bits[power][at] << power) as u32;
            sums[at] += weighed;
        }
    }
    sums
}

/// The least of a block's sums.
#[inline(always)]
pub(super) fn least(sums: &Sums) -> u32 {
    let mut least = OUT;
    for sum in sums {
        least = least.min(*sum);
    }
    least
}

/// Sums of the first signs of all codes, and the least of each block.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn sum_first<'a>(pages: &[Page], asked: &mut [Adding<'a>]) {
    for (at, page) in pages.iter().enumerate() {
        let mut ahead = pages.get(at + PAGES_AHEAD);
        // All questions while the page is in the cache.
        for of in &mut *asked {
            let blocks = at * BLOCKS..(at + 1) * BLOCKS;
            let of_blocks = of.sums[blocks.clone()].iter_mut().zip(&mut of.leasts[blocks]);
            let ahead = ahead.take();
            for (number, (block, (sums, of_block))) in page.first.iter().zip(of_blocks).enumerate() {
                if let Some(ahead) = ahead {
                    fetch_all(&ahead.first[number]);
                }
                *sums = differing(block, of.planes);
                *of_block = least(sums);
            }
        }
    }
}

/// Adds the sums of the other signs in some blocks.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn sum_others<'a>(pages: &[Page], asked: &mut [Adding<'a>]) {
    for (number, page) in pages.iter().enumerate() {
        for of in &mut *asked {
            let words = of.planes.len();
            while let Some((block, left)) = of.blocks.split_first() {
                let at = *block as usize;
                if at / BLOCKS > number {
                    break;
                }
                of.blocks = left;
                if let Some(ahead) = left.get(BLOCKS_AHEAD) {
                    let ahead = *ahead as usize;
                    fetch_once(&pages[ahead / BLOCKS].others[ahead % BLOCKS * words..][..words]);
                }
                let more = differing(&page.others[at % BLOCKS * words..][..words], of.planes);
                let sums = &mut of.sums[at];
                for code in 0..BLOCK {
                    sums[code] = sums[code].saturating_add(more[code]);
                }
                of.leasts[at] = least(sums);
            }
        }
    }
}

/// What the differing middle and low bits of picked codes add up to, weighed 2 : 1.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn sum_rest(pages: &[Page], picked: &[u32], planes: &[[Rest; PLANES]], sums: &mut Vec<u32>) {
    for (number, at) in picked.iter().enumerate() {
        if let Some(ahead) = picked.get(number + CODES_AHEAD) {
            fetch_once(rest_of(pages, *ahead as usize, planes.len()));
        }
        // Sums per lane, so that a processor with wide registers adds them up only once at the end.
        let mut total = [0_u64; 2 * HALF];
        for (code, planes) in rest_of(pages, *at as usize, planes.len()).iter().zip(planes) {
            for (power, plane) in planes.iter().enumerate() {
                for (total, (code, plane)) in total.iter_mut().zip(code.iter().zip(plane)) {
                    *total += u64::from((code ^ plane).count_ones()) << power;
                }
            }
        }
        let (middle, low) = total.split_at(HALF);
        #[expect(clippy::cast_possible_truncation, reason = "some thousand bits, weighed by at most 45")]
        sums.push((2 * middle.iter().sum::<u64>() + low.iter().sum::<u64>()) as u32);
    }
}

/// What the bits of one code add up to that differ from some bits of a question, weighed 4 : 2 : 1.
#[multiversion(targets("x86_64+popcnt", "aarch64+neon"))]
fn sum_code<const COUNT: usize>(pages: &Pages, at: usize, planes: &[[u64; COUNT]]) -> u32 {
    let mut sum = 0;
    for (bits, planes) in pages.code(at).zip(planes) {
        for (power, plane) in planes.iter().enumerate() {
            for (weight, bits) in bits.iter().rev().enumerate() {
                sum += (bits ^ plane).count_ones() << (weight + power);
            }
        }
    }
    sum
}

/// The bits of one code that are no signs.
#[inline(always)]
fn rest_of(pages: &[Page], at: usize, groups: usize) -> &[Rest] {
    &pages[at / PAGE].rest[at % PAGE * groups..][..groups]
}

impl Pages {
    pub(super) const fn new(words: usize) -> Self {
        Self { words, pages: Vec::new(), len: 0 }
    }

    pub(super) const fn words(&self) -> usize {
        self.words
    }

    /// Words of signs that are not among the first.
    const fn others(&self) -> usize {
        self.words.saturating_sub(FIRST)
    }

    /// Groups of words of the bits that are no signs.
    const fn groups(&self) -> usize {
        self.words.div_ceil(HALF)
    }

    pub(super) fn bytes(&self) -> usize {
        let code = 8 * (FIRST + self.others() + 2 * HALF * self.groups());
        self.pages.len() * PAGE * code + self.pages.capacity() * size_of::<Page>()
    }

    /// Makes room for so many codes; their pages are made as they come.
    pub(super) fn reserve(&mut self, more: usize) {
        self.pages.reserve_exact(more.div_ceil(PAGE));
    }

    /// Stores a code at a position that is held, or the next one; `levels` gives those of a word's coordinates.
    pub(super) fn set(&mut self, at: usize, levels: impl Fn(usize) -> Levels) {
        let (words, others, groups) = (self.words, self.others(), self.groups());
        if at / PAGE == self.pages.len() {
            self.pages.push(Page {
                first: Box::new([[Lanes([0; BLOCK]); FIRST]; BLOCKS]),
                others: vec![Lanes([0; BLOCK]); BLOCKS * others].into(),
                rest: vec![[0; 2 * HALF]; PAGE * groups].into(),
            });
        }
        self.len = self.len.max(at + 1);
        let (page, at) = (&mut self.pages[at / PAGE], at % PAGE);
        for word in 0..words {
            let [signs, middle, low] = levels(word);
            match word.checked_sub(FIRST) {
                None => page.first[at / BLOCK][word].0[at % BLOCK] = signs,
                Some(other) => page.others[at / BLOCK * others + other].0[at % BLOCK] = signs,
            }
            let rest = &mut page.rest[at * groups + word / HALF];
            (rest[word % HALF], rest[HALF + word % HALF]) = (middle, low);
        }
    }

    /// A code, word by word.
    #[inline(always)]
    pub(super) fn code(&self, at: usize) -> impl Iterator<Item = Levels> {
        let (others, groups) = (self.others(), self.groups());
        let (page, at) = (&self.pages[at / PAGE], at % PAGE);
        let (first, others) = (&page.first[at / BLOCK], &page.others[at / BLOCK * others..][..others]);
        let rest = &page.rest[at * groups..][..groups];
        first.iter().chain(others).take(self.words).enumerate().map(move |(word, signs)| {
            let group = &rest[word / HALF];
            [signs.0[at % BLOCK], group[word % HALF], group[HALF + word % HALF]]
        })
    }

    /// Moves the levels of all codes.
    pub(super) fn shift(&mut self, moves: &Moves) {
        let mut code = Vec::with_capacity(self.words);
        for at in 0..self.len {
            code.clear();
            code.extend(self.code(at));
            self.set(at, |word| moves.apply(word, code[word]));
        }
    }

    /// Takes a code out; the last one moves to its place.
    pub(super) fn swap_remove(&mut self, at: usize) {
        let last = self.len - 1;
        if at != last {
            let code: Vec<Levels> = self.code(last).collect();
            self.set(at, |word| code[word]);
        }
        self.len = last;
        self.pages.truncate(last.div_ceil(PAGE));
    }

    /// How many blocks there are; the last may not be full.
    pub(super) fn blocks(&self) -> usize {
        self.pages.len() * BLOCKS
    }

    /// Sums of the first signs of all codes, and the least of each block, for several questions.
    pub(super) fn sum_first(&self, asked: &mut [Adding<'_>]) {
        sum_first(&self.pages, asked);
        for of in asked {
            // Places of the last page that no code is at.
            of.sums.as_flattened_mut()[self.len..].fill(OUT);
            for at in self.len / BLOCK..self.blocks() {
                of.leasts[at] = least(&of.sums[at]);
            }
        }
    }

    /// Adds the sums of the other signs in some blocks, for several questions.
    pub(super) fn sum_others(&self, asked: &mut [Adding<'_>]) {
        sum_others(&self.pages, asked);
    }

    /// Asks memory for a code that will be read.
    pub(super) fn fetch(&self, at: usize) {
        let others = self.others();
        let (page, place) = (&self.pages[at / PAGE], at % PAGE);
        fetch_all(&page.first[place / BLOCK]);
        fetch_all(&page.others[place / BLOCK * others..][..others]);
        fetch_all(rest_of(&self.pages, at, self.groups()));
    }

    /// What the bits of a code add up to that differ from the fine bits of a question, weighed 4 : 2 : 1.
    pub(super) fn sum_fine(&self, question: &BitQuestion, at: usize) -> u32 {
        sum_code(self, at, &question.fine)
    }

    /// What all bits of a code add up to that differ from those of a question but the fine ones, weighed 4 : 2 : 1.
    pub(super) fn sum_code(&self, question: &BitQuestion, at: usize) -> u32 {
        sum_code(self, at, question.planes())
    }

    /// Sums of the bits of picked codes that are no signs, the middle ones weighed twice.
    pub(super) fn sum_rest(&self, question: &BitQuestion, picked: &[u32], sums: &mut Vec<u32>) {
        sums.clear();
        sums.reserve(picked.len());
        sum_rest(&self.pages, picked, &question.rest, sums);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{BITS, common::Common, question::FINE},
        *,
    };

    fn adding<'a>(planes: &'a [Planes], blocks: &'a [u32], sums: &'a mut [Sums], leasts: &'a mut [u32]) -> Adding<'a> {
        Adding { planes, blocks, sums, leasts }
    }

    /// Words in no order, the same every time.
    fn words(count: usize) -> Vec<u64> {
        let mut state = 3_u64;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state ^ state.rotate_left(29)
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    /// What the differing bits of some words of a code add up to, one by one.
    fn one_by_one(code: &[u64], planes: &[Planes]) -> u32 {
        code.iter()
            .zip(planes)
            .map(|(code, planes)| (0..PLANES).map(|power| (code ^ planes[power]).count_ones() << power).sum::<u32>())
            .sum()
    }

    /// A word's levels in a code of all signs, then all middle bits, then all low ones.
    fn levels(code: &[u64], word: usize) -> Levels {
        [0, 1, 2].map(|bit| code[bit * code.len() / BITS + word])
    }

    #[test]
    fn sums_are_those_of_the_bits_one_by_one() {
        // Lengths that fill blocks and groups, and some that do not.
        for (of, count) in [(9, 1), (11, 70), (16, 64), (24, 129), (48, 200)] {
            let all = words(count * BITS * of);
            let codes: Vec<&[u64]> = all.chunks(BITS * of).collect();
            let mut pages = Pages::new(of);
            pages.reserve(count);
            for (at, code) in codes.iter().enumerate() {
                pages.set(at, |word| levels(code, word));
            }
            assert_eq!(pages.len, count);
            let vector: Vec<f32> = (0..of * 64).map(|at| ((at * at) as f32).sin()).collect();
            let question = BitQuestion::new(&vector, of, &Common::nothing(of));
            let (first, others) = question.signs();
            let planes = [first, others].concat();
            let (mut sums, mut leasts) = (vec![[0; BLOCK]; pages.blocks()], vec![0; pages.blocks()]);
            // Several questions are each added up as if alone.
            let other = BitQuestion::new(&vector.iter().map(|x| 0.3 - x).collect::<Vec<_>>(), of, &Common::nothing(of));
            let (mut other_sums, mut other_leasts) = (sums.clone(), leasts.clone());
            pages.sum_first(&mut [
                adding(first, &[], &mut sums, &mut leasts),
                adding(other.signs().0, &[], &mut other_sums, &mut other_leasts),
            ]);
            let expected = |part: std::ops::Range<usize>, planes: &[Planes]| -> Vec<u32> {
                codes.iter().map(|code| one_by_one(&code[part.clone()], planes)).collect()
            };
            assert_eq!(sums.as_flattened()[..count], expected(0..FIRST, first), "{of}");
            assert!(sums.as_flattened()[count..].iter().all(|sum| *sum == OUT));
            let least_of = |sums: &[Sums]| -> Vec<u32> { sums.iter().map(|of| *of.iter().min().unwrap()).collect() };
            assert_eq!(leasts, least_of(&sums), "{of}");
            let before = sums.clone();
            let blocks: Vec<u32> = (0..sums.len() as u32).step_by(3).collect();
            let other_blocks: Vec<u32> = (0..sums.len() as u32).skip(1).step_by(2).collect();
            pages.sum_others(&mut [
                adding(other.signs().1, &other_blocks, &mut other_sums, &mut other_leasts),
                adding(others, &blocks, &mut sums, &mut leasts),
            ]);
            let of_other = [other.signs().0, other.signs().1].concat();
            let (first_of_other, all_of_other) = (expected(0..FIRST, other.signs().0), expected(0..of, &of_other));
            for (at, (first, all)) in first_of_other.into_iter().zip(all_of_other).enumerate() {
                let expected = if other_blocks.contains(&((at / BLOCK) as u32)) { all } else { first };
                assert_eq!(other_sums.as_flattened()[at], expected, "{of}: {at}");
            }
            assert_eq!(other_leasts, least_of(&other_sums), "{of}");
            assert_eq!(leasts, least_of(&sums), "{of}");
            for (at, sum) in expected(0..of, &planes).into_iter().enumerate() {
                let summed = blocks.contains(&((at / BLOCK) as u32));
                let expected = if summed { sum } else { before.as_flattened()[at] };
                assert_eq!(sums.as_flattened()[at], expected, "{of}: {at}");
            }
            assert!(sums.as_flattened()[count..].iter().all(|sum| *sum == OUT), "nobody is there");
            let picked: Vec<u32> = (0..count as u32).rev().step_by(3).collect();
            let mut rest = Vec::new();
            pages.sum_rest(&question, &picked, &mut rest);
            let (middle, low) = (expected(of..2 * of, &planes), expected(2 * of..3 * of, &planes));
            let weighed: Vec<u32> = picked.iter().map(|at| 2 * middle[*at as usize] + low[*at as usize]).collect();
            assert_eq!(rest, weighed, "{of}");
            for (at, code) in codes.iter().enumerate() {
                let differing = |bits: &[u64]| -> u32 {
                    let fine = |(code, planes): (&u64, &[u64; FINE])| -> u32 {
                        (0..FINE).map(|power| (code ^ planes[power]).count_ones() << power).sum()
                    };
                    bits.iter().zip(&question.fine).map(fine).sum()
                };
                let [signs, middle, low] = [0, 1, 2].map(|bit| differing(&code[bit * of..][..of]));
                assert_eq!(pages.sum_fine(&question, at), 4 * signs + 2 * middle + low, "{of}: {at}");
            }
        }
    }

    #[test]
    fn a_code_taken_out_is_replaced_by_the_last() {
        let (of, count) = (11, 2 * PAGE + 1);
        let all = words(count * BITS * of);
        let codes: Vec<&[u64]> = all.chunks(BITS * of).collect();
        let mut pages = Pages::new(of);
        for (at, code) in codes.iter().enumerate() {
            pages.set(at, |word| levels(code, word));
        }
        let get = |pages: &Pages, at: usize| -> Vec<u64> {
            (0..BITS).flat_map(|bit| pages.code(at).map(move |levels| levels[bit])).collect()
        };
        pages.swap_remove(3);
        assert_eq!((pages.len, pages.pages.len()), (count - 1, 2), "the page that is empty now is gone");
        assert_eq!((get(&pages, 3), get(&pages, 4)), (codes[count - 1].to_vec(), codes[4].to_vec()));
        pages.swap_remove(count - 2);
        assert_eq!((pages.len, get(&pages, 3)), (count - 2, codes[count - 1].to_vec()), "the last one just goes");
    }
}
