//! Which codes are likely nearest to a question.

use std::sync::{Mutex, PoisonError};

use multiversion::multiversion;

use super::{
    BITS,
    common::{Common, Moves},
    pages::{Adding, BLOCK, FIRST, OUT, Pages, Sums, least},
    pick::{keep, keep_within, pick_codes},
    question::{Apart, BitQuestion, Known},
    root,
    tally::Tally,
};
use crate::Slot;

/// Deviation of an estimate by all bits times the root of the dimension, for vectors at right angles:
/// `sqrt(1 / (1 - d) - 1)` with the distortion `d = 0.0374` of eight levels.
const ERROR: f32 = 0.197;
/// By how much more the estimates differ of vectors that are near each other, as what their codes miss is alike, and with
/// how many of them that shows: measured.
const CROWDED: f32 = 1.2;
const CROWD: f32 = 2_048.0;
/// Most of a question that is taken to lie in what all have in common, when it is said how near the rest is.
const SHARED_MAX: f32 = 0.98;
/// How many deviations below the best a code may be and still be looked at: by the first signs, by all signs, by all bits.
// The last was chosen with SCORED_SURE: a larger one brings more of what is far down the list, each at the price of a row.
const ERRORS_OF_FIRST: f32 = 4.0;
const ERRORS_OF_SIGNS: f32 = 2.25;
const ERRORS: f32 = 2.2;
/// Best ones that must not be missed by their signs, and by all bits; what comes after them is chosen by estimate alone.
const SURE: usize = 20;
const SCORED_SURE: usize = 16;
/// Codes that are estimated by all bits, at least.
const ESTIMATED_MIN: usize = 512;
/// Codes that are estimated by all bits, at most, by the root of how many there are: where so many are about equally far,
/// the question has no near ones. If vectors lie at random, about one in a hundred of the best ten is not among so many by
/// its signs, from some thousand to some hundred thousand vectors: the more there are, the further off are the best.
const ESTIMATED_BY_ROOT: f32 = 14.0;
/// How many times as many are estimated, and scored, at most, in addition, if the best were the question itself: where vectors
/// gather closely around few centres, their codes hardly differ. It counts by the fourth power of how near the best are.
const MORE_WHERE_CLOSE: f32 = 5.0;
/// Blocks of which one is looked at to tell what the sums of all are like.
const SAMPLED: usize = 32;
/// Blocks from which on that is worth it.
const SAMPLED_FROM: usize = 1_024;
/// Codes from which on it is looked for what vectors have in common, how many times as many it is looked for again with,
/// and how many are looked at, about.
const SETTLES_FROM: usize = 1_024;
const SETTLES_AGAIN: usize = 8;
const SETTLED_BY: usize = 4_096;
/// How many codes ahead memory is asked for those that will be estimated again.
const REFINED_AHEAD: usize = 2;
/// Candidates beyond the limit, at least.
const MORE_MIN: usize = 16;
/// Candidates at most, unless the limit is higher: each costs the database some microseconds.
const CANDIDATES_MAX: usize = 480;

/// Kept from question to question: among many codes it is some hundred kilobytes. There are as many as questions that were
/// ever answered at the same time.
static ROOMS: Mutex<Vec<Room>> = Mutex::new(Vec::new());

/// Room for what is known of each code while a question is answered.
#[derive(Default)]
struct Room {
    /// What its differing signs add up to, block by block.
    sums: Vec<Sums>,
    /// The least of each block.
    leasts: Vec<u32>,
    /// Blocks in which a code may be near by the first signs.
    blocks: Vec<u32>,
    /// Of those, the ones that are counted code by code.
    near: Vec<u32>,
    /// Codes that are not ruled out.
    picked: Vec<u32>,
    /// What the differing bits of those add up to that are no signs.
    rest: Vec<u32>,
}

impl Room {
    /// Gives back what a question took that found few by its first bound: all codes were picked then.
    fn tidy(&mut self) {
        self.picked.clear();
        self.picked.shrink_to(2 * self.leasts.len());
    }
}

/// A question to codes.
pub(crate) struct Asked<'a, F> {
    pub vector: &'a [f32],
    /// How many are wanted, and how many of the best have to be scored from their vectors.
    pub limit: usize,
    pub scored: usize,
    /// Whose codes may be found.
    pub passes: F,
}

/// A question on its way through the steps.
struct Search<'a, F> {
    asked: &'a Asked<'a, F>,
    question: BitQuestion,
    room: Room,
    /// How many times as many codes are looked at because the best are near.
    close: f32,
}

/// What is known of a code that its signs do not rule out.
struct Estimate {
    cosine: f32,
    at: u32,
    /// What its differing bits add up to.
    sum: u32,
}

/// Owners of the codes a question is likely near, best first.
#[derive(Debug, Default)]
pub(crate) struct Nearest {
    /// Those whose vectors are still to be compared.
    pub candidates: Vec<Slot>,
    /// Those after them, with their estimated cosines.
    pub estimated: Vec<(Slot, f32)>,
}

/// Codes of many vectors, three bits per coordinate.
pub(crate) struct BitCodes {
    pages: Pages,
    /// What the vectors have in common, how a code is moved by that, and it as a question.
    common: Common,
    moves: Moves,
    direction: BitQuestion,
    /// With how many codes that is looked for next.
    settles_at: usize,
    /// Inner product of each vector with what its code stands for, and with the direction that all have in common.
    own: Vec<f32>,
    along: Vec<f32>,
    owners: Vec<Slot>,
}

impl BitCodes {
    pub(crate) fn new(words: usize) -> Self {
        let common = Common::nothing(words);
        Self {
            pages: Pages::new(words),
            moves: common.moves(),
            direction: BitQuestion::along(&common),
            common,
            settles_at: SETTLES_FROM,
            own: Vec::new(),
            along: Vec::new(),
            owners: Vec::new(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pages.bytes() + 4 * (self.own.capacity() + self.along.capacity() + self.owners.capacity())
    }

    /// Makes room for so many codes; their pages are made as they come.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.pages.reserve(more);
        self.own.reserve_exact(more);
        self.along.reserve_exact(more);
        self.owners.reserve_exact(more);
    }

    /// Gives back what growing took too much.
    pub(crate) fn shrink(&mut self) {
        self.own.shrink_to_fit();
        self.along.shrink_to_fit();
        self.owners.shrink_to_fit();
    }

    /// Stores a code in place of the one at `held`, if there is one; returns its position. A code of another length is
    /// damage and left out.
    pub(crate) fn put(&mut self, held: Option<u32>, code: &[u8], owner: Slot) -> Option<u32> {
        let (bits, own) =
            code.split_last_chunk::<4>().filter(|(bits, _)| bits.len() == self.pages.words() * 8 * BITS)?;
        let (bits, words) = (bits.as_chunks::<8>().0, self.pages.words());
        let at = held.map_or(self.owners.len(), |held| held as usize);
        self.pages.set(at, |word| {
            let levels = [0, 1, 2].map(|bit| u64::from_le_bytes(bits[bit * words + word]));
            self.moves.apply(word, levels)
        });
        let own = f32::from_le_bytes(*own);
        let along = self.find_along(at, own);
        if held.is_some() {
            (self.own[at], self.along[at]) = (own, along);
        } else {
            self.own.push(own);
            self.along.push(along);
            self.owners.push(owner);
            if self.owners.len() == self.settles_at {
                self.settle();
            }
        }
        u32::try_from(at).ok()
    }

    /// Counts levels from where most of them lie now. What was cut off at the outermost level by middles that turn out
    /// not to be it stays cut off: a level or two of few coordinates.
    fn settle(&mut self) {
        let count = self.owners.len();
        self.settles_at = count * SETTLES_AGAIN;
        let sample = (0..count).step_by((count / SETTLED_BY).max(1));
        let common = self.common.of(sample.map(|at| self.pages.code(at)));
        if common == self.common {
            return;
        }
        self.pages.shift(&common.moves_since(&self.common));
        (self.moves, self.direction, self.common) = (common.moves(), BitQuestion::along(&common), common);
        for at in 0..count {
            self.along[at] = self.find_along(at, self.own[at]);
        }
    }

    /// Estimated cosine of a coded vector with the direction that all have in common, if there is one.
    fn find_along(&self, at: usize, own: f32) -> f32 {
        if self.common.share() <= 0.0 {
            return 0.0;
        }
        let (sum, fine) = (self.pages.sum_code(&self.direction, at), self.pages.sum_fine(&self.direction, at));
        self.direction.refined(sum, fine, Known { own, along: 0.0 }).clamp(-1.0, 1.0)
    }

    /// What a question is told of a code. What the vector has in common with all is not read if that was not taken out of it.
    fn known(&self, question: &BitQuestion, at: u32) -> Known {
        let along = if question.is_partial() { self.along[at as usize] } else { 0.0 };
        Known { own: self.own[at as usize], along }
    }

    /// Takes a code out; the last one moves to its place. Returns the moved code's owner, if one moved.
    pub(crate) fn remove(&mut self, at: u32) -> Option<Slot> {
        let at = at as usize;
        self.pages.swap_remove(at);
        self.own.swap_remove(at);
        self.along.swap_remove(at);
        self.owners.swap_remove(at);
        self.owners.get(at).copied()
    }

    /// By question, codes among those that pass, so chosen that the nearest are most likely among them: at least `limit` and
    /// some, and all whose estimate is less than the likely error below that of the best [`SURE`]. If fewer than `limit` have to
    /// be scored, those and some are, and the others keep their estimates.
    ///
    /// Several questions at once find the same as each by itself, in less time: signs are read from memory once for all.
    pub(crate) fn nearest<F: Fn(Slot) -> bool>(&self, asked: &[Asked<'_, F>]) -> Vec<Nearest> {
        if self.owners.is_empty() {
            return asked.iter().map(|_| Nearest::default()).collect();
        }
        let mut searches = self.begin(asked);
        self.look_at_signs(&mut searches);
        let found = searches.iter_mut().map(|search| {
            let estimated = self.estimated(search);
            self.best(search, estimated)
        });
        let found = found.collect();
        let mut rooms: Vec<Room> = searches.into_iter().map(|search| search.room).collect();
        rooms.iter_mut().for_each(Room::tidy);
        ROOMS.lock().unwrap_or_else(PoisonError::into_inner).extend(rooms);
        found
    }

    fn begin<'a, F>(&self, asked: &'a [Asked<'a, F>]) -> Vec<Search<'a, F>> {
        let mut rooms = {
            let mut rooms = ROOMS.lock().unwrap_or_else(PoisonError::into_inner);
            let kept = rooms.len().saturating_sub(asked.len());
            rooms.split_off(kept)
        };
        let search = |asked: &'a Asked<'a, F>| {
            let question = BitQuestion::new(asked.vector, self.pages.words(), &self.common);
            Search { asked, question, room: rooms.pop().unwrap_or_default(), close: 1.0 }
        };
        asked.iter().map(search).collect()
    }

    /// Adds up what the signs differ in, of those codes that the first signs do not rule out.
    fn look_at_signs<F: Fn(Slot) -> bool>(&self, searches: &mut [Search<'_, F>]) {
        let blocks = self.pages.blocks();
        let adding = |search| {
            let Search { question, room, .. }: &mut Search<'_, F> = search;
            room.sums.resize(blocks, [OUT; BLOCK]);
            room.leasts.resize(blocks, OUT);
            Adding { planes: question.signs().0, blocks: &[], sums: &mut room.sums, leasts: &mut room.leasts }
        };
        self.pages.sum_first(&mut searches.iter_mut().map(adding).collect::<Vec<_>>());
        for search in &mut *searches {
            self.rule_out(search);
        }
        let adding = |search| {
            let Search { question, room, .. }: &mut Search<'_, F> = search;
            let Room { sums, leasts, blocks, .. } = room;
            Adding { planes: question.signs().1, blocks, sums, leasts }
        };
        self.pages.sum_others(&mut searches.iter_mut().map(adding).collect::<Vec<_>>());
    }

    /// Finds the blocks in which a code may be near by its first signs.
    fn rule_out<F: Fn(Slot) -> bool>(&self, search: &mut Search<'_, F>) {
        let Search { asked, question, room, close } = search;
        if question.is_partial() {
            let all = 0..room.leasts.len();
            add_apart(question.apart(FIRST), &self.along, all, &mut room.sums, &mut room.leasts);
        }
        let (sure, least) = (asked.limit.min(SURE), least_estimated(asked.limit));
        room.blocks.clear();
        room.blocks.extend((0..).take(room.leasts.len()));
        let (tally, _) = self.tally(question.most(FIRST), room, 2 * least, &asked.passes);
        *close = 1.0 + MORE_WHERE_CLOSE * question.near(tally.reach(sure), FIRST).powi(4);
        let most = tally.likely(sure, ERRORS_OF_FIRST * question.deviation(FIRST), 2 * least, self.owners.len());
        let Room { blocks, leasts, .. } = room;
        let all = (0..).take(leasts.len()).zip(&*leasts);
        keep(all, leasts.len(), most, blocks);
    }

    /// Estimates of those codes whose signs do not rule them out.
    fn estimated<F: Fn(Slot) -> bool>(&self, search: &mut Search<'_, F>) -> Vec<Estimate> {
        let Search { asked, question, room, close } = search;
        let (sure, least, words) = (asked.limit.min(SURE), least_estimated(asked.limit), self.pages.words());
        let share = (ESTIMATED_BY_ROOT * *close * (self.owners.len() as f32).sqrt()) as usize;
        let (first_apart, others_apart) = (question.apart(FIRST), question.apart(words - FIRST));
        if question.is_partial() {
            let swept = room.blocks.iter().map(|block| *block as usize);
            add_apart(others_apart, &self.along, swept, &mut room.sums, &mut room.leasts);
        }
        let (tally, bound) = self.tally(question.most(words), room, share.max(least), &asked.passes);
        // Beyond the bound nothing was picked.
        let most = tally.likely(sure, ERRORS_OF_SIGNS * question.deviation(words), least, share).min(bound);
        let Room { sums, picked, rest, .. } = room;
        keep_within(picked, sums.as_flattened(), most);
        self.pages.sum_rest(question, picked, rest);
        let estimate = |(at, rest): (&u32, &u32)| {
            let (known, sum) = (self.known(question, *at), sums.as_flattened()[*at as usize]);
            let apart =
                if question.is_partial() { first_apart.of(known.along) + others_apart.of(known.along) } else { 0 };
            let sum = 4 * (sum - apart) + rest;
            Estimate { cosine: question.estimate(sum, known), at: *at, sum }
        };
        picked.iter().zip(&*rest).map(estimate).collect()
    }

    /// The likely best of the estimated codes, estimated again with a question that is rounded less.
    fn best<F>(&self, search: &Search<'_, F>, mut found: Vec<Estimate>) -> Nearest {
        let Search { asked: Asked { limit, scored, .. }, question, close, .. } = search;
        if *limit == 0 {
            return Nearest::default();
        }
        let crowd = (found.len() as f32 / CROWD).min(1.0);
        let least_many = limit + MORE_MIN;
        let most_many = ((CANDIDATES_MAX as f32 * close) as usize).max(least_many);
        let best_first = |a: &Estimate, b: &Estimate| b.cosine.total_cmp(&a.cosine).then(a.at.cmp(&b.at));
        if found.len() > most_many {
            found.select_nth_unstable_by(most_many, best_first);
            found.truncate(most_many);
        }
        for number in 0..found.len() {
            if let Some(ahead) = found.get(number + REFINED_AHEAD) {
                self.pages.fetch(ahead.at as usize);
            }
            let code = &mut found[number];
            let fine = self.pages.sum_fine(question, code.at as usize);
            code.cosine = question.refined(code.sum, fine, self.known(question, code.at));
        }
        found.sort_unstable_by(best_first);
        let owner = |code: Estimate| self.owners[code.at as usize];
        if scored < limit {
            found.truncate(least_many);
            let estimated = found.split_off(found.len().min(scored + MORE_MIN));
            return Nearest {
                candidates: found.into_iter().map(owner).collect(),
                estimated: estimated.into_iter().map(|code| (self.owners[code.at as usize], code.cosine)).collect(),
            };
        }
        if found.len() > *limit {
            let least = found[(2 * limit).min(SCORED_SURE).min(found.len()) - 1].cosine;
            let shared = (question.taken() * question.taken()).min(SHARED_MAX);
            let left = ((least - shared) / (1.0 - shared)).max(0.0);
            let error = ERROR / root(self.pages.words()) * (1.0 - least * least).max(0.0).sqrt();
            let error = error * (1.0 + CROWDED * crowd * left.powi(4));
            let likely = found.partition_point(|code| code.cosine >= least - ERRORS * error);
            found.truncate(likely.clamp(least_many, most_many));
        }
        Nearest { candidates: found.into_iter().map(owner).collect(), estimated: Vec::new() }
    }

    /// How the sums, none above `most`, of those codes of the room's blocks are spread that pass, as far as the `wanted` least of
    /// them; up to which sum that is. Up to there they are picked, and the others put out of question; beyond, all are as they
    /// were.
    fn tally(&self, most: u32, room: &mut Room, wanted: usize, passes: impl Fn(Slot) -> bool) -> (Tally, u32) {
        let Room { sums, leasts, blocks, near, picked, .. } = room;
        let mut bound = most;
        if blocks.len() >= SAMPLED_FROM {
            near.clear();
            near.extend(blocks.iter().step_by(SAMPLED));
            pick_codes(near, sums, most, picked);
            // Half as many more, so that the sample seldom misleads.
            bound = self.count(most, (picked, sums, leasts), &passes).reach(wanted.div_ceil(SAMPLED) * 3 / 2);
        }
        loop {
            // Whose code is further is not asked: to look that up is waited for.
            keep(blocks.iter().map(|block| (*block, &leasts[*block as usize])), blocks.len(), bound, near);
            pick_codes(near, sums, bound, picked);
            let tally = self.count(most, (picked, sums, leasts), &passes);
            if bound >= most || tally.within(bound) >= wanted {
                return (tally, bound);
            }
            bound = most;
        }
    }

    /// How the sums of picked codes are spread, none above `most`, of those that pass. The others are put out of question.
    fn count(
        &self,
        most: u32,
        (picked, sums, leasts): (&[u32], &mut [Sums], &mut [u32]),
        passes: impl Fn(Slot) -> bool,
    ) -> Tally {
        let mut tally = Tally::new(most);
        for at in picked {
            let (at, block) = (*at as usize, *at as usize / BLOCK);
            // Nobody is at some places of the last block.
            if self.owners.get(at).is_some_and(|owner| passes(*owner)) {
                tally.count(sums.as_flattened()[at]);
            } else {
                sums[block][at % BLOCK] = OUT;
                leasts[block] = least(&sums[block]);
            }
        }
        tally
    }
}

/// How many codes are estimated by all bits at least, if so many are wanted.
fn least_estimated(limit: usize) -> usize {
    ESTIMATED_MIN.max(4 * limit)
}

/// Adds to the sums of some blocks what was taken out of the question.
#[multiversion(targets(
    "x86_64+avx+avx2+bmi1+bmi2+popcnt+avx512f+avx512bw+avx512vl+avx512dq+avx512vpopcntdq",
    "x86_64+avx+avx2+bmi1+bmi2+popcnt",
    "aarch64+neon",
))]
fn add_apart<I: Iterator<Item = usize>>(apart: Apart, along: &[f32], blocks: I, sums: &mut [Sums], leasts: &mut [u32]) {
    for block in blocks {
        // Where nobody is, all is out of question already.
        let along = along.get(block * BLOCK..).unwrap_or_default();
        let sums = &mut sums[block];
        if let Some(along) = along.first_chunk::<BLOCK>() {
            for code in 0..BLOCK {
                sums[code] = sums[code].saturating_add(apart.of(along[code]));
            }
        } else {
            for (sum, along) in sums.iter_mut().zip(along) {
                *sum = sum.saturating_add(apart.of(*along));
            }
        }
        leasts[block] = least(sums);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Coding,
            tests::{clustered, spread_out, vectors},
        },
        *,
    };
    use crate::quantised::cosine;

    #[test]
    fn estimates_are_close_to_the_cosine() {
        for dim in [700, 768, 1536] {
            let vectors = vectors(200, dim);
            let coding = Coding::of(dim);
            let Coding::Bits { words, .. } = coding else { panic!("{coding:?}") };
            let mut squares = [0.0, 0.0];
            for vector in &vectors {
                let mut codes = BitCodes::new(words);
                let question = BitQuestion::new(&vectors[0], words, &codes.common);
                codes.put(None, &coding.encode(vector), 0);
                let found = &estimates(&codes, &vectors[0], 1)[0];
                let refined =
                    question.refined(found.sum, codes.pages.sum_fine(&question, 0), codes.known(&question, 0));
                let cosine = cosine(&vectors[0], vector);
                for (estimate, squares) in [found.cosine, refined].into_iter().zip(&mut squares) {
                    let error = f64::from(estimate) - cosine;
                    assert!(error.abs() < 0.03, "{dim}: {estimate} {cosine}");
                    *squares += error * error;
                }
            }
            assert!(squares[1] < 0.9 * squares[0], "the fine bits tell more: {squares:?}");
        }
    }

    #[test]
    fn codes_are_found_replaced_and_removed() {
        let (dim, vectors) = (1536, vectors(400, 1536));
        let (coding, mut codes) = (Coding::of(dim), coded(&vectors));
        let nearest_to =
            |codes: &BitCodes, at: usize, limit: usize| nearest(codes, &vectors[at], limit, limit, |_| true).candidates;
        for at in [0, 7, 399] {
            assert!(nearest_to(&codes, at, 5).contains(&(at as u32)));
            assert_eq!(nearest(&codes, &vectors[at], 5, 5, |owner| owner == 3).candidates, [3]);
            assert!(nearest_to(&codes, at, 5).len() < 400, "not all");
        }
        assert_eq!(codes.remove(0), Some(399));
        assert_eq!(codes.put(Some(0), &coding.encode(&vectors[1]), 399), Some(0));
        assert!(nearest_to(&codes, 1, 2).contains(&399));
        assert_eq!(codes.put(None, &[0; 10], 1), None, "a code of another length is none");
    }

    /// So many codes that only some are asked whether they pass.
    #[test]
    fn among_many_codes_none_is_found_that_does_not_pass_and_enough_that_do() {
        let (dim, count) = (640, (SAMPLED_FROM * BLOCK + 100) as u32);
        let vectors = vectors(500, dim);
        let coding = Coding::of(dim);
        let mut codes = BitCodes::new(dim / 64);
        for owner in 0..count {
            codes.put(None, &coding.encode(&vectors[owner as usize % vectors.len()]), owner);
        }
        for every in [1, 3, 50, 4_000] {
            for question in vectors.iter().step_by(50) {
                let found = nearest(&codes, question, 100, 100, |owner| owner.is_multiple_of(every)).candidates;
                assert!(found.iter().all(|owner| owner.is_multiple_of(every)), "{every}");
                assert!(found.len() >= 100.min(count.div_ceil(every) as usize), "{every}: {}", found.len());
            }
        }
        // Those that pass are all in the blocks that are looked at first: the others hold fewer than these make believe.
        let sampled = |owner: Slot| (owner as usize / BLOCK).is_multiple_of(SAMPLED);
        let found = nearest(&codes, &vectors[0], 100, 100, sampled).candidates;
        assert!(found.len() >= 100 && found.iter().all(|owner| sampled(*owner)), "{}", found.len());
    }

    /// What one question finds.
    fn nearest(
        codes: &BitCodes,
        vector: &[f32],
        limit: usize,
        scored: usize,
        passes: impl Fn(Slot) -> bool,
    ) -> Nearest {
        codes.nearest(&[Asked { vector, limit, scored, passes }]).remove(0)
    }

    /// What is estimated by all bits of one question.
    fn estimates(codes: &BitCodes, vector: &[f32], limit: usize) -> Vec<Estimate> {
        let asked = [Asked { vector, limit, scored: limit, passes: |_| true }];
        let mut searches = codes.begin(&asked);
        codes.look_at_signs(&mut searches);
        codes.estimated(&mut searches[0])
    }

    /// Codes of these vectors, in their order.
    fn coded(vectors: &[Vec<f32>]) -> BitCodes {
        let mut codes = BitCodes::new(vectors[0].len() / 64);
        put_all(&mut codes, vectors);
        codes
    }

    fn put_all(codes: &mut BitCodes, vectors: &[Vec<f32>]) {
        let coding = Coding::of(vectors[0].len());
        for (owner, vector) in vectors.iter().enumerate() {
            codes.put(None, &coding.encode(vector), owner as u32);
        }
    }

    /// Share of the exact best ten among the candidates for ten.
    fn recall(codes: &BitCodes, vectors: &[Vec<f32>], questions: &[Vec<f32>]) -> f64 {
        let found = |question: &Vec<f32>| {
            let mut exact: Vec<(f64, u32)> =
                vectors.iter().zip(0..).map(|(vector, at)| (cosine(question, vector), at)).collect();
            exact.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
            let near = nearest(codes, question, 10, 10, |_| true).candidates;
            exact[..10].iter().filter(|(_, at)| near.contains(at)).count()
        };
        questions.iter().map(found).sum::<usize>() as f64 / (10 * questions.len()) as f64
    }

    #[test]
    fn vectors_that_share_a_direction_are_told_apart_by_the_rest() {
        let all = clustered(20_030, 768, 1);
        let (vectors, questions) = all.split_at(20_000);
        let (settled, mut unsettled) = (coded(vectors), BitCodes::new(12));
        unsettled.settles_at = usize::MAX;
        put_all(&mut unsettled, vectors);
        let found = [&settled, &unsettled].map(|codes| recall(codes, vectors, questions));
        // What is not known to be shared looks like nearness: much more is looked at then.
        let looked_at = [&settled, &unsettled]
            .map(|codes| -> usize { questions.iter().map(|question| estimates(codes, question, 10).len()).sum() });
        assert!(found[0] > 0.96 && looked_at[1] > 2 * looked_at[0], "{found:?} by {looked_at:?}");
    }

    /// Within a cluster cosines are 0.83, and 0.92: what sets vectors apart is less than a level of most coordinates.
    #[test]
    fn vectors_that_gather_closely_around_few_centres_are_told_apart() {
        for (clusters, spread, least) in [(4, 0.45, 0.96), (10, 0.3, 0.98)] {
            let all = spread_out(20_030, 768, clusters, spread);
            let (vectors, questions) = all.split_at(20_000);
            let found = recall(&coded(vectors), vectors, questions);
            assert!(found >= least, "{clusters} clusters: {found}");
        }
    }

    #[test]
    fn codes_are_the_same_whether_put_before_or_after_it_is_known_what_they_share() {
        let (dim, count) = (640, SETTLES_FROM);
        let vectors = clustered(2 * count, dim, 1);
        let codes = coded(&vectors);
        assert!((0.6..0.8).contains(&codes.common.share()), "{}", codes.common.share());
        let coding = Coding::of(dim);
        let mut replaced = coded(&vectors[..count + 1]);
        for (at, vector) in (0..).zip(&vectors[..=count]) {
            replaced.put(Some(at), &coding.encode(vector), at);
        }
        let question = BitQuestion::new(&vectors[7], dim / 64, &codes.common);
        assert!(question.is_partial());
        for at in 0..=count {
            assert!(codes.pages.code(at).eq(replaced.pages.code(at)), "{at}");
            assert!((codes.along[at] - replaced.along[at]).abs() < f32::EPSILON, "{at}");
        }
        for (at, vector) in vectors.iter().enumerate() {
            let sum = codes.pages.sum_code(&question, at);
            let refined = question.refined(sum, codes.pages.sum_fine(&question, at), codes.known(&question, at as u32));
            let cosine = cosine(&vectors[7], vector);
            assert!((f64::from(refined) - cosine).abs() < 0.03, "{at}: {refined} {cosine}");
        }
        let estimated = estimates(&codes, &vectors[7], 10);
        for code in estimated {
            assert_eq!(
                code.sum,
                codes.pages.sum_code(&question, code.at as usize),
                "nothing is left of what was added"
            );
        }
    }

    #[test]
    fn the_few_that_may_be_seen_are_found_wherever_they_lie() {
        // The last block is not full.
        let mut vectors = clustered(3_003, 640, 1);
        // On the other side of zero, where most vectors are not.
        for vector in vectors.iter_mut().skip(2_950) {
            vector.iter_mut().for_each(|x| *x = -*x);
        }
        let codes = coded(&vectors);
        assert!(codes.common.share() > 0.6);
        let mean: Vec<f32> = (0..640).map(|at| vectors[..2_950].iter().map(|vector| vector[at]).sum()).collect();
        for question in [&vectors[0], &vectors[2_970], &mean, &vec![0.0; 640]] {
            let mut found = nearest(&codes, question, 53, 53, |owner| owner >= 2_950).candidates;
            found.sort_unstable();
            assert_eq!(found, (2_950..3_003).collect::<Vec<_>>());
        }
    }

    #[test]
    fn several_questions_find_what_each_finds_by_itself() {
        // Some that rule out most blocks and some that rule out none; vectors with something in common, and without.
        for clusters in [1, 40] {
            let all = clustered(6_003, 768, clusters);
            let (vectors, apart) = all.split_at(5_995);
            let codes = coded(vectors);
            let far: Vec<Vec<f32>> = apart.iter().map(|vector| vector.iter().map(|x| -x).collect()).collect();
            let asked: Vec<_> = (0_u32..)
                .zip(vectors.iter().step_by(1_000).chain(&far))
                .map(|(n, vector)| {
                    let limit = [10, 0, 200, 33, 1][n as usize % 5];
                    let passes = move |owner: Slot| owner.is_multiple_of(n % 4 + 1);
                    Asked { vector, limit, scored: [limit, limit / 2][n as usize % 2], passes }
                })
                .collect();
            let together = codes.nearest(&asked);
            assert_eq!(together.len(), asked.len());
            for (n, (asked, found)) in asked.iter().zip(together).enumerate() {
                let alone = nearest(&codes, asked.vector, asked.limit, asked.scored, asked.passes);
                assert_eq!(
                    (found.candidates.len() >= asked.limit.min(asked.scored), asked.limit == 0),
                    (true, found.candidates.is_empty())
                );
                assert_eq!((found.candidates, found.estimated), (alone.candidates, alone.estimated), "{clusters}: {n}");
            }
        }
        let rooms = ROOMS.lock().unwrap();
        assert!(rooms.len() >= 14, "room is kept for the next ones");
        for room in &*rooms {
            assert!(room.picked.capacity() <= 2 * room.leasts.len(), "but not what few questions need");
        }
    }

    #[test]
    fn what_need_not_be_scored_comes_after_what_is_with_good_estimates() {
        let vectors = vectors(1_000, 768);
        let codes = coded(&vectors);
        let all = nearest(&codes, &vectors[5], 200, 200, |_| true);
        assert!(all.candidates.len() >= 200 + MORE_MIN && all.estimated.is_empty());
        let some = nearest(&codes, &vectors[5], 200, 30, |_| true);
        assert_eq!((some.candidates.len(), some.estimated.len()), (30 + MORE_MIN, 200 - 30));
        let owners: Vec<Slot> = some.candidates.iter().copied().chain(some.estimated.iter().map(|of| of.0)).collect();
        assert_eq!(owners, all.candidates[..200 + MORE_MIN], "the same ones in the same order");
        for (owner, estimate) in some.estimated {
            let cosine = cosine(&vectors[5], &vectors[owner as usize]);
            assert!((f64::from(estimate) - cosine).abs() < 0.03, "{owner}: {estimate} {cosine}");
        }
    }

    /// Not a check: prints how many of the exact best ten the candidates hold, by how crowded the vectors lie.
    #[test]
    #[ignore = "takes minutes; for whoever changes the constants"]
    #[expect(clippy::print_stderr, reason = "printing is all it does")]
    fn candidates_by_crowding() {
        let (dim, count, asked) = (1536, 40_000, 40);
        // Clusters, how far vectors are from the middle of theirs, how far all are from zero, and the power of their
        // place by which coordinates are smaller.
        for (clusters, spread, common, power) in [
            (1, 1.0, 0.0, 0.0),
            (1, 1.0, 0.5, 0.0),
            (1, 1.0, 1.0, 0.0),
            (1, 1.0, 2.0, 0.0),
            (1, 1.0, 0.0, 0.5),
            (1, 1.0, 2.0, 0.5),
            (10, 1.0, 0.0, 0.0),
            (10, 1.0, 2.0, 0.0),
            (40, 1.0, 0.0, 0.0),
            (40, 0.5, 0.0, 0.0),
            (40, 1.0, 2.0, 0.0),
            (300, 1.0, 0.0, 0.0),
            (300, 0.5, 0.0, 0.0),
            (300, 1.0, 2.0, 0.5),
        ] {
            let mut state = 5_u64;
            let mut normal = move || {
                let mut sum = 0.0_f32;
                for _ in 0..4 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    sum += (state >> 40) as f32 / (1_u64 << 24) as f32 - 0.5;
                }
                sum
            };
            let scales: Vec<f32> = (0..dim).map(|at| (1.0 + at as f32).powf(-power)).collect();
            let energy = (scales.iter().map(|scale| scale * scale).sum::<f32>() / dim as f32).sqrt();
            let everyones: Vec<f32> = (0..dim).map(|_| common * energy * normal()).collect();
            let centres: Vec<Vec<f32>> = (0..clusters)
                .map(|_| scales.iter().map(|scale| if clusters > 1 { scale * normal() } else { 0.0 }).collect())
                .collect();
            let mut vector = |n: usize| -> Vec<f32> {
                (0..dim).map(|at| everyones[at] + centres[n % clusters][at] + spread * scales[at] * normal()).collect()
            };
            let vectors: Vec<Vec<f32>> = (0..count).map(&mut vector).collect();
            let codes = coded(&vectors);
            let (mut found, mut candidates, mut estimated, mut took) = ([0; 2], [0; 2], 0, std::time::Duration::ZERO);
            for n in 0..asked {
                let question = vector(n * 7);
                let mut exact: Vec<(f64, u32)> =
                    vectors.iter().enumerate().map(|(at, vector)| (cosine(&question, vector), at as u32)).collect();
                exact.sort_unstable_by(|a, b| b.0.total_cmp(&a.0));
                for (at, limit) in [10, 30].into_iter().enumerate() {
                    let started = std::time::Instant::now();
                    let near = nearest(&codes, &question, limit, limit, |_| true).candidates;
                    took += started.elapsed();
                    candidates[at] += near.len();
                    found[at] += exact[..10].iter().filter(|(_, at)| near.contains(at)).count();
                }
                estimated += estimates(&codes, &question, 30).len();
            }
            let recall = found.map(|found| found as f64 / (10 * asked) as f64);
            eprintln!(
                "{clusters} clusters, spread {spread}, common {common}, power {power}: of the best ten {:.3} by 10 and \
                 {:.3} by 30, {estimated} estimated, {:?} candidates, {:?}",
                recall[0],
                recall[1],
                candidates.map(|candidates| candidates / asked),
                took / (2 * asked) as u32,
                estimated = estimated / asked,
            );
        }
    }
}
