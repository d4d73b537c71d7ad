//! Short codes of vectors, for an image that does not hold the vectors themselves.
//!
//! A vector of few dimensions is coded as 8-bit integers with one factor. A longer one is rotated by a random orthogonal
//! matrix and coded with three bits per coordinate, which count its level from below; the highest is its sign. The signs of
//! the first 512 coordinates are compared with all vectors, the other signs with those that may be near by the first, and
//! what may be near by all signs is estimated by all bits: as the rotation is random, some coordinates are a fair sample of
//! all. The inner product of a rotated question with the coded vector, divided by that of the vector with its own code,
//! estimates the cosine without bias, with an error that shrinks with the square root of the dimension (Gao and Long,
//! "RaBitQ", SIGMOD 2024; Gao and others, "Practical and asymptotically optimal quantization", SIGMOD 2025). Either way
//! candidates are scored again from the vectors themselves.

use std::cell::RefCell;

use multiversion::multiversion;

/// Most dimensions that are coded as integers: up to here they take no more room than three bits of usual models' dimensions.
const INTEGER_DIM_MAX: usize = 512;
/// Bits a coordinate of a long vector is coded with.
const BITS: usize = 3;
/// The middle of the levels.
const MIDDLE: f32 = 3.5;

/// How vectors of a dimension are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Integers, then the factor.
    Integers { dim: usize },
    /// Signs, then the other two bits of each level, 64 coordinates to a word, then the inner product with what they stand for.
    Bits { dim: usize, words: usize },
}

impl Coding {
    pub(crate) fn of(dim: usize) -> Self {
        if dim <= INTEGER_DIM_MAX { Self::Integers { dim } } else { Self::Bits { dim, words: dim.div_ceil(64) } }
    }

    /// Bytes of a code.
    pub(crate) const fn len(self) -> usize {
        4 + match self {
            Self::Integers { dim } => dim,
            Self::Bits { words, .. } => 8 * BITS * words,
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
            Self::Bits { words, .. } => {
                let rotated = rotate(vector, words);
                let step = step(words);
                let levels: Vec<u8> = rotated.iter().map(|x| level(*x, step)).collect();
                let mut code = Vec::with_capacity(self.len());
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

/// The unit vector in a rotated space of so many words of 64 coordinates: random signs, then Hadamard transforms of parts
/// that overlap from one round to the next, so that every coordinate is mixed with every other.
fn rotate(vector: &[f32], words: usize) -> Vec<f32> {
    let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    #[expect(clippy::cast_possible_truncation, reason = "a coordinate of a unit vector")]
    let scale = if norm > 0.0 { (1.0 / norm) as f32 } else { 0.0 };
    let mut rotated: Vec<f32> = vector.iter().map(|x| x * scale).collect();
    rotated.resize(64 * words, 0.0);
    let mut state = 0x5eed_u64;
    for round in 0..3 {
        for chunk in rotated.chunks_mut(64) {
            // SplitMix64 (Steele, Lea and Flood, 2014): the same signs everywhere and for ever.
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            let bits = z ^ (z >> 31);
            for (at, x) in chunk.iter_mut().enumerate() {
                *x = f32::from_bits(x.to_bits() ^ (((bits >> at & 1) as u32) << 31));
            }
        }
        // Powers of two from the left, then from the right, then from the left again.
        let mut rest: &mut [f32] = &mut rotated;
        while !rest.is_empty() {
            let part = 1 << rest.len().ilog2();
            let (now, later) = match round % 2 {
                0 => rest.split_at_mut(part),
                _ => {
                    let (later, now) = rest.split_at_mut(rest.len() - part);
                    (now, later)
                }
            };
            hadamard(now);
            rest = later;
        }
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
    #[expect(clippy::cast_precision_loss, reason = "a dimension is far below 2^24")]
    let scale = 1.0 / (values.len() as f32).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
}

/// Deviation of an estimate by all bits times the root of the dimension, for vectors at right angles:
/// `sqrt(1 / (1 - d) - 1)` with the distortion `d = 0.0374` of eight levels.
const ERROR: f32 = 0.197;
/// How many deviations below the best a code may be and still be looked at: by the first signs, by all signs, by all bits.
const ERRORS_OF_FIRST: f32 = 4.0;
const ERRORS_OF_SIGNS: f32 = 3.0;
const ERRORS: f32 = 2.5;
/// Best ones that must not be missed; what comes after them is chosen by estimate alone.
const SURE: usize = 20;
/// Words of signs that are compared with all codes: a cache line of each.
const FIRST: usize = 8;
/// Share of the codes whose other signs are compared too, at most.
const COMPARED_SHARE: usize = 2;
/// Codes that are estimated by all bits, at least.
const ESTIMATED_MIN: usize = 512;
/// Share of the codes that are estimated by all bits, at most: where so many are about equally far, the question has no
/// near ones.
const ESTIMATED_SHARE: usize = 16;
/// Candidates beyond the limit, at least.
const MORE_MIN: usize = 16;
/// Candidates at most, unless the limit is higher: each costs the database some microseconds.
const CANDIDATES_MAX: usize = 320;
/// Codes that are brought into the cache before they are estimated: some kilobytes.
const AHEAD: usize = 16;
/// Bits a coordinate of a question is rounded to.
const QUESTION_BITS: usize = 5;
/// Words that are worked on at once.
const LANES: usize = 4;

/// Signs that are compared with all codes.
type First = [u64; FIRST];
/// Words of one kind that are worked on at once.
type Group = [u64; LANES];

/// Codes that are stored together. Pages never move, so that a growing image needs no room for a second copy.
const PAGE: usize = 64;

/// Codes side by side.
struct Page {
    /// First signs, word by word, so that those of all codes are compared at once: by code, a compiler was seen to gather
    /// single words.
    first: Box<[[u64; PAGE]; FIRST]>,
    /// The signs that are not among the first, code by code.
    others: Box<[Group]>,
    /// The other two bits of each level, code by code.
    rest: Box<[[Group; BITS - 1]]>,
}

impl Page {
    fn new(groups: usize) -> Self {
        Self {
            first: Box::new([[0; PAGE]; FIRST]),
            others: vec![[0; LANES]; PAGE * (groups - FIRST / LANES)].into(),
            rest: vec![[[0; LANES]; BITS - 1]; PAGE * groups].into(),
        }
    }
}

/// One code.
#[derive(Clone, Copy)]
struct Code<'a> {
    first: First,
    others: &'a [Group],
    rest: &'a [[Group; BITS - 1]],
}

/// How many of the first signs of each code differ from the question's.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn count_first(pages: &[Page], question: &First, differing: &mut [[u16; PAGE]]) {
    for (page, counts) in pages.iter().zip(differing) {
        let mut bits = [0_u64; PAGE];
        for (codes, word) in page.first.iter().zip(question) {
            for (code, bits) in codes.iter().zip(&mut bits) {
                *bits += u64::from((code ^ word).count_ones());
            }
        }
        for (bits, count) in bits.iter().zip(counts) {
            #[expect(clippy::cast_possible_truncation, reason = "at most 512")]
            let bits = *bits as u16;
            *count = bits;
        }
    }
}

/// Adds how many of the other signs of picked codes differ to their counts.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn count_others(codes: &BitCodes, question: &[Group], picked: &[u32], differing: &mut [u16]) {
    for at in picked {
        let (page, at) = (&codes.pages[*at as usize / PAGE], *at as usize);
        let code = &page.others[at % PAGE * question.len()..][..question.len()];
        let mut bits = [0_u64; LANES];
        for (a, b) in code.iter().zip(question) {
            for (bits, (a, b)) in bits.iter_mut().zip(a.iter().zip(b)) {
                *bits += u64::from((a ^ b).count_ones());
            }
        }
        #[expect(clippy::cast_possible_truncation, reason = "a code has at most some thousand signs")]
        let bits = bits.iter().sum::<u64>() as u16;
        differing[at] += bits;
    }
}

/// Of each picked code the sum of the question's rounded coordinates, weighed by the code's levels, and the sum of the
/// levels.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "x86_64+popcnt",
    "aarch64+neon",
))]
fn weigh(codes: &BitCodes, picked: &[u32], planes: &[Group], weights: &mut Vec<(u64, u64)>) {
    for at in picked {
        let code = codes.code(*at as usize);
        let (first, _) = code.first.as_chunks::<LANES>();
        // Sums per lane, so that a processor with wide registers adds them up only once at the end.
        let (mut total, mut levels) = ([0_u64; LANES], [0_u64; LANES]);
        for ((high, [middle, low]), planes) in
            first.iter().chain(code.others).zip(code.rest).zip(planes.chunks_exact(QUESTION_BITS))
        {
            let weighed = |lane: usize, mask: u64| {
                4 * u64::from((high[lane] & mask).count_ones())
                    + 2 * u64::from((middle[lane] & mask).count_ones())
                    + u64::from((low[lane] & mask).count_ones())
            };
            for (lane, levels) in levels.iter_mut().enumerate() {
                *levels += weighed(lane, u64::MAX);
            }
            for (power, plane) in planes.iter().enumerate() {
                for (lane, total) in total.iter_mut().enumerate() {
                    *total += weighed(lane, plane[lane]) << power;
                }
            }
        }
        weights.push((total.iter().sum(), levels.iter().sum()));
    }
}

/// Codes of many vectors, three bits per coordinate.
pub(super) struct BitCodes {
    words: usize,
    /// Groups of words of one code; the last may be filled up with zeros.
    groups: usize,
    pages: Vec<Page>,
    /// Inner product of each vector with what its code stands for.
    own: Vec<f32>,
    owners: Vec<super::Slot>,
}

/// A question in the form the codes are compared with.
struct BitQuestion {
    first: First,
    others: Vec<Group>,
    /// Rounded coordinates, bit by bit: for each group of words one after the other.
    planes: Vec<Group>,
    /// A coordinate is `low + width · rounded`.
    low: f32,
    width: f32,
    /// Sum of all coordinates.
    sum: f32,
    step: f32,
}

/// Words in groups, filled up with zeros.
fn grouped(words: &[u64]) -> Vec<Group> {
    let mut groups = vec![[0; LANES]; words.len().div_ceil(LANES)];
    groups.as_flattened_mut()[..words.len()].copy_from_slice(words);
    groups
}

/// Signs in the two parts that are compared one after the other.
fn parted(signs: &[u64]) -> (First, Vec<Group>) {
    let mut first = [0; FIRST];
    let (head, others) = signs.split_at(FIRST.min(signs.len()));
    first[..head.len()].copy_from_slice(head);
    (first, grouped(others))
}

impl BitQuestion {
    fn new(vector: &[f32], words: usize) -> Self {
        let rotated = rotate(vector, words);
        let (low, high) = rotated.iter().fold((0.0_f32, 0.0_f32), |(low, high), x| (low.min(*x), high.max(*x)));
        let levels = (1_u32 << QUESTION_BITS) - 1;
        #[expect(clippy::cast_precision_loss, reason = "a few hundred levels")]
        let width = ((high - low) / levels as f32).max(f32::MIN_POSITIVE);
        let mut planes = vec![[0_u64; LANES]; QUESTION_BITS * words.div_ceil(LANES)];
        let mut signs = Vec::with_capacity(words);
        for (word, coordinates) in rotated.chunks(64).enumerate() {
            signs.push(coordinates.iter().enumerate().fold(0, |bits, (at, x)| bits | (u64::from(*x >= 0.0) << at)));
            for (at, x) in coordinates.iter().enumerate() {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 31 by construction")]
                let rounded = (((x - low) / width).round() as u32).min(levels);
                for power in 0..QUESTION_BITS {
                    planes[word / LANES * QUESTION_BITS + power][word % LANES] |= u64::from(rounded >> power & 1) << at;
                }
            }
        }
        let (first, others) = parted(&signs);
        Self { first, others, planes, low, width, sum: rotated.iter().sum(), step: step(words) }
    }

    /// Estimated cosine with a coded vector. A level stands for `step · (level - 7/2)`, and a coordinate of the question is
    /// `low + width · rounded`, so that their products sum up to counts of bits.
    fn estimate(&self, (rounded, levels): (u64, u64), own: f32) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "counts of some thousand bits, weighed by at most 217")]
        let weighed = self.low * levels as f32 + self.width * rounded as f32;
        self.step * (weighed - MIDDLE * self.sum) / own.max(f32::MIN_POSITIVE)
    }
}

thread_local! {
    /// Kept from question to question: among many codes it is some hundred kilobytes.
    static ROOM: RefCell<Room> = const { RefCell::new(Room { differing: Vec::new(), picked: Vec::new(), weights: Vec::new() }) };
}

/// Room for what is known of each code while a question is answered.
struct Room {
    /// How many signs differ.
    differing: Vec<[u16; PAGE]>,
    /// Codes that are not ruled out.
    picked: Vec<u32>,
    /// What their estimates are made of.
    weights: Vec<(u64, u64)>,
}

impl BitCodes {
    pub(super) const fn new(words: usize) -> Self {
        Self { words, groups: words.div_ceil(LANES), pages: Vec::new(), own: Vec::new(), owners: Vec::new() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages.len() * PAGE * 8 * LANES * BITS * self.groups
            + (self.own.capacity() + self.owners.capacity()) * 4
            + self.pages.capacity() * size_of::<Page>()
    }

    /// Makes room for so many codes; their pages are made as they come.
    pub(super) fn reserve(&mut self, more: usize) {
        self.pages.reserve_exact(more.div_ceil(PAGE));
        self.own.reserve_exact(more);
        self.owners.reserve_exact(more);
    }

    /// Gives back what growing took too much.
    pub(super) fn shrink(&mut self) {
        self.own.shrink_to_fit();
        self.owners.shrink_to_fit();
    }

    /// Groups of the signs that are not among the first.
    const fn other_groups(&self) -> usize {
        self.groups - FIRST / LANES
    }

    fn code(&self, at: usize) -> Code<'_> {
        let (page, at, others) = (&self.pages[at / PAGE], at % PAGE, self.other_groups());
        Code {
            first: page.first.each_ref().map(|word| word[at]),
            others: &page.others[at * others..][..others],
            rest: &page.rest[at * self.groups..][..self.groups],
        }
    }

    fn set(&mut self, at: usize, code: Code<'_>) {
        if at / PAGE == self.pages.len() {
            self.pages.push(Page::new(self.groups));
        }
        let (others, groups) = (self.other_groups(), self.groups);
        let (page, at) = (&mut self.pages[at / PAGE], at % PAGE);
        for (codes, word) in page.first.iter_mut().zip(code.first) {
            codes[at] = word;
        }
        page.others[at * others..][..others].copy_from_slice(code.others);
        page.rest[at * groups..][..groups].copy_from_slice(code.rest);
    }

    /// Stores a code in place of the one at `held`, if there is one; returns its position. A code of another length is
    /// damage and left out.
    pub(super) fn put(&mut self, held: Option<u32>, code: &[u8], owner: super::Slot) -> Option<u32> {
        let (bits, own) = code.split_last_chunk::<4>().filter(|(bits, _)| bits.len() == self.words * 8 * BITS)?;
        let words: Vec<u64> = bits.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let (signs, rest) = words.split_at(self.words);
        let (first, others) = parted(signs);
        let (middle, low) = rest.split_at(self.words);
        let rest: Vec<_> = grouped(middle).into_iter().zip(grouped(low)).map(|(middle, low)| [middle, low]).collect();
        let at = held.map_or(self.owners.len(), |held| held as usize);
        self.set(at, Code { first, others: &others, rest: &rest });
        let own = f32::from_le_bytes(*own);
        if held.is_some() {
            self.own[at] = own;
        } else {
            self.own.push(own);
            self.owners.push(owner);
        }
        u32::try_from(at).ok()
    }

    /// Takes a code out; the last one moves to its place. Returns the moved code's owner, if one moved.
    pub(super) fn remove(&mut self, at: u32) -> Option<super::Slot> {
        let at = at as usize;
        let last = self.owners.len() - 1;
        if at != last {
            let code = self.code(last);
            let (first, others, rest) = (code.first, code.others.to_vec(), code.rest.to_vec());
            self.set(at, Code { first, others: &others, rest: &rest });
        }
        self.pages.truncate(last.div_ceil(PAGE));
        self.own.swap_remove(at);
        self.owners.swap_remove(at);
        (at != last).then(|| self.owners[at])
    }

    /// Reads something of each cache line of a code, so that all come into the cache at once.
    fn touch(&self, at: usize) -> u64 {
        const PER_LINE: usize = 64 / size_of::<Group>();
        let code = self.code(at);
        let first = code.first.iter().fold(0_u64, |sum, word| sum.wrapping_add(*word));
        let rest = code.rest.iter().fold(first, |sum, group| sum.wrapping_add(group[0][0]));
        code.others.iter().step_by(PER_LINE).fold(rest, |sum, group| sum.wrapping_add(group[0]))
    }

    /// Estimated cosines of picked codes.
    fn estimates(&self, question: &BitQuestion, picked: &[u32], weights: &mut Vec<(u64, u64)>) -> Vec<(f32, u32)> {
        weights.clear();
        for picked in picked.chunks(AHEAD) {
            // Picked codes lie apart: read one after the other, each would be waited for.
            std::hint::black_box(picked.iter().map(|at| self.touch(*at as usize)).fold(0, u64::wrapping_add));
            weigh(self, picked, &question.planes, weights);
        }
        let estimate = |(at, weight): (&u32, &(u64, u64))| (question.estimate(*weight, self.own[*at as usize]), *at);
        picked.iter().zip(&*weights).map(estimate).collect()
    }

    /// Owners of codes among those that pass, in no order, so chosen that the nearest are most likely among them: at
    /// least `limit` and some, and all whose estimate is less than the likely error below that of the best [`SURE`].
    pub(super) fn nearest(
        &self,
        vector: &[f32],
        limit: usize,
        passes: impl Fn(super::Slot) -> bool,
    ) -> Vec<super::Slot> {
        if limit == 0 || self.owners.is_empty() {
            return Vec::new();
        }
        let question = BitQuestion::new(vector, self.words);
        let mut scored = ROOM.with_borrow_mut(|room| {
            room.differing.resize(self.pages.len(), [0; PAGE]);
            count_first(&self.pages, &question.first, &mut room.differing);
            self.estimated(&question, room, limit, passes)
        });
        if scored.len() > limit {
            scored.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            let least = scored[limit.min(SURE) - 1].0;
            let error = ERROR / root(self.words) * (1.0 - least * least).max(0.0).sqrt();
            let likely = scored.partition_point(|entry| entry.0 >= least - ERRORS * error);
            let least_many = limit + MORE_MIN;
            scored.truncate(likely.clamp(least_many, CANDIDATES_MAX.max(least_many)).min(scored.len()));
        }
        scored.into_iter().map(|(_, at)| self.owners[at as usize]).collect()
    }

    /// Estimates of those codes whose signs do not rule them out. `room` holds how many of the first signs differ.
    fn estimated(
        &self,
        question: &BitQuestion,
        room: &mut Room,
        limit: usize,
        passes: impl Fn(super::Slot) -> bool,
    ) -> Vec<(f32, u32)> {
        let Room { differing, picked, weights } = room;
        let differing = &mut differing.as_flattened_mut()[..self.owners.len()];
        let mut tally = Tally::new(64 * FIRST);
        for (bits, owner) in differing.iter_mut().zip(&self.owners) {
            if passes(*owner) {
                tally.count(*bits);
            } else {
                *bits = u16::MAX;
            }
        }
        let (sure, least) = (limit.min(SURE), ESTIMATED_MIN.max(4 * limit));
        let most = tally.likely(sure, ERRORS_OF_FIRST, 4 * least, self.owners.len() / COMPARED_SHARE);
        picked.clear();
        picked.reserve(tally.up_to(most));
        for (at, bits) in differing.iter().enumerate() {
            if *bits <= most {
                picked.push(u32::try_from(at).unwrap_or(u32::MAX));
            }
        }
        count_others(self, &question.others, picked, differing);
        let mut tally = Tally::new(64 * self.words);
        picked.iter().for_each(|at| tally.count(differing[*at as usize]));
        let most = tally.likely(sure, ERRORS_OF_SIGNS, least, self.owners.len() / ESTIMATED_SHARE);
        picked.retain(|at| differing[*at as usize] <= most);
        self.estimates(question, picked, weights)
    }
}

/// How many codes differ from a question in how many signs.
struct Tally(Vec<u32>);

impl Tally {
    fn new(signs: usize) -> Self {
        Self(vec![0; signs + 1])
    }

    fn count(&mut self, differing: u16) {
        self.0[usize::from(differing)] += 1;
    }

    /// How many codes differ in so many signs or fewer.
    fn up_to(&self, most: u16) -> usize {
        self.0[..=usize::from(most)].iter().map(|count| *count as usize).sum()
    }

    /// The fewest differing signs that so many codes are within.
    fn reach(&self, wanted: usize) -> usize {
        let mut counted = 0;
        let reached = self.0.iter().position(|count| {
            counted += *count as usize;
            counted >= wanted
        });
        reached.unwrap_or(self.0.len() - 1)
    }

    /// In how many signs a code may differ and still be one of the best: so many deviations more than the `sure` best, but
    /// so that at least `least` and, if more, at most `most` codes are within. Signs differ as often as the angle is
    /// large; each is a chance of its own.
    fn likely(&self, sure: usize, errors: f32, least: usize, most: usize) -> u16 {
        let signs = self.0.len() - 1;
        let sure = self.reach(sure);
        #[expect(clippy::cast_precision_loss, reason = "some thousand signs")]
        let (sure_signs, all_signs) = (sure as f32, signs as f32);
        let deviation = (sure_signs * (1.0 - sure_signs / all_signs)).max(1.0).sqrt();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousand signs")]
        let likely = (sure_signs + errors * deviation) as usize;
        let within = likely.min(self.reach(most)).max(self.reach(least)).min(signs);
        u16::try_from(within).unwrap_or(u16::MAX - 1)
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
            let Coding::Bits { words, .. } = coding else { panic!("{coding:?}") };
            let question = BitQuestion::new(&vectors[0], words);
            for vector in &vectors {
                let code = coding.encode(vector);
                assert_eq!(code.len(), coding.len());
                let mut codes = BitCodes::new(words);
                codes.put(None, &code, 0);
                let estimate = codes.estimates(&question, &[0], &mut Vec::new())[0].0;
                let cosine = super::super::quantised::cosine(&vectors[0], vector);
                assert!((f64::from(estimate) - cosine).abs() < 0.03, "{dim}: {estimate} {cosine}");
            }
        }
    }

    #[test]
    fn a_rotation_keeps_lengths_and_angles() {
        let vectors = vectors(3, 700);
        let rotated: Vec<Vec<f32>> = vectors.iter().map(|vector| rotate(vector, 11)).collect();
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
        let mut codes = BitCodes::new(24);
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

    /// Not a check: prints how many of the exact best ten the candidates hold, by how crowded the vectors lie.
    #[test]
    #[ignore = "takes minutes; for whoever changes the constants"]
    #[expect(clippy::print_stderr, reason = "printing is all it does")]
    fn candidates_by_crowding() {
        let (dim, count, asked) = (1536, 40_000, 60);
        let mut state = 5_u64;
        let mut normal = move || {
            let mut sum = 0.0_f32;
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                sum += (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
            }
            sum
        };
        for (clusters, spread) in [(0, 1.0), (1, 1.0), (10, 1.0), (40, 1.0), (40, 0.5), (300, 1.0), (300, 0.5)] {
            let centres: Vec<Vec<f32>> = (0..clusters).map(|_| (0..dim).map(|_| normal()).collect()).collect();
            let mut vector = |n: usize| -> Vec<f32> {
                (0..dim)
                    .map(|at| if clusters == 0 { normal() } else { centres[n % clusters][at] + spread * normal() })
                    .collect()
            };
            let vectors: Vec<Vec<f32>> = (0..count).map(&mut vector).collect();
            let coding = Coding::of(dim);
            let mut codes = BitCodes::new(dim / 64);
            for (owner, vector) in vectors.iter().enumerate() {
                codes.put(None, &coding.encode(vector), owner as u32);
            }
            let (mut found, mut candidates, mut estimated, mut took) = (0, 0, 0, std::time::Duration::ZERO);
            for n in 0..asked {
                let question = vector(n * 7);
                let mut exact: Vec<(f64, u32)> = vectors
                    .iter()
                    .enumerate()
                    .map(|(at, vector)| (super::super::quantised::cosine(&question, vector), at as u32))
                    .collect();
                exact.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
                let started = std::time::Instant::now();
                let near = codes.nearest(&question, 30, |_| true);
                took += started.elapsed();
                candidates += near.len();
                let differing = vec![[0; PAGE]; codes.pages.len()];
                let mut room = Room { differing, picked: Vec::new(), weights: Vec::new() };
                let asked = BitQuestion::new(&question, dim / 64);
                count_first(&codes.pages, &asked.first, &mut room.differing);
                estimated += codes.estimated(&asked, &mut room, 30, |_| true).len();
                found += exact[..10].iter().filter(|(_, at)| near.contains(at)).count();
            }
            eprintln!(
                "{clusters} clusters, spread {spread}: recall {:.3}, {} estimated, {} candidates, {:?}",
                found as f64 / (10 * asked) as f64,
                estimated / asked,
                candidates / asked,
                took / asked as u32
            );
        }
    }
}
