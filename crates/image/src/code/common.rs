//! What the vectors of a scope have in common.
//!
//! Many models' vectors share a direction: any two of them have a cosine of 0.3 to 0.8, and what sets them apart is the
//! rest. Their rotated coordinates then lie around a middle other than zero, and signs tell little of the rest. So once
//! there are enough codes to tell, each coordinate's levels are moved by as many whole ones as its middle is away: its
//! "sign" then says on which side of its middle it is, and the inner product stays the same but for a constant of the
//! question. And the shared direction is taken out of the question: else what its part adds to the error of an estimate by
//! signs is as much as without any of this. That part is known better from each code's own share of the direction.

use super::{Levels, MIDDLE, step};

/// What vectors have in common, in the rotated space.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Common {
    /// By coordinate, how many levels its middle is above that of all levels: by so many it is moved down.
    moved: Vec<i8>,
    /// The direction of the mean, a unit vector; zero if nothing is known.
    direction: Vec<f32>,
    /// How much of the vectors lies in it: about the mean cosine of two.
    share: f32,
}

/// The least share that is worth anything: the error it would add is below a fiftieth.
const SHARE_MIN: f32 = 1.0 / 32.0;
/// Most levels a coordinate is moved by: so far is the middle from the outermost.
const MOVED_MAX: f32 = MIDDLE - 0.5;

impl Common {
    /// Nothing in common.
    pub(super) fn nothing(words: usize) -> Self {
        Self { moved: vec![0; words * 64], direction: vec![0.0; words * 64], share: 0.0 }
    }

    /// What some codes have in common that are moved as this says.
    pub(super) fn of(&self, codes: impl Iterator<Item: Iterator<Item = Levels>>) -> Self {
        let (mut sums, mut count) = (vec![0_u32; self.moved.len()], 0_u32);
        for code in codes {
            count += 1;
            for (levels, sums) in code.zip(sums.chunks_mut(64)) {
                for (at, sum) in sums.iter_mut().enumerate() {
                    let [high, middle, low] = levels.map(|bits| (bits >> at & 1) as u32);
                    *sum += 4 * high + 2 * middle + low;
                }
            }
        }
        if count == 0 {
            return self.clone();
        }
        let mean = |(sum, moved): (u32, &i8)| sum as f32 / count as f32 - MIDDLE + f32::from(*moved);
        let means: Vec<f32> = sums.into_iter().zip(&self.moved).map(mean).collect();
        let moved = means.iter().map(|mean| mean.round().clamp(-MOVED_MAX, MOVED_MAX) as i8).collect();
        let norm = means.iter().map(|mean| mean * mean).sum::<f32>().sqrt();
        let words = means.len() / 64;
        let share = (norm * step(words)).powi(2);
        if share < SHARE_MIN {
            return Self::nothing(words);
        }
        Self { moved, direction: means.into_iter().map(|mean| mean / norm).collect(), share }
    }

    /// What brings codes that are moved as `from` says to where this says.
    pub(super) fn moves_since(&self, from: &Self) -> Moves {
        let by: Vec<i8> = self.moved.iter().zip(&from.moved).map(|(to, from)| to - from).collect();
        let mut steps = Vec::new();
        // One level at a time, of all coordinates that have it still to go.
        for gone in 0.. {
            let ahead = |is_down: bool| -> Vec<u64> {
                let is_ahead = |by: &i8| by.unsigned_abs() > gone && (*by > 0) == is_down;
                by.chunks(64)
                    .map(|word| {
                        word.iter().enumerate().fold(0, |bits, (at, by)| bits | (u64::from(is_ahead(by)) << at))
                    })
                    .collect()
            };
            let step = Step { down: ahead(true), up: ahead(false) };
            if step.down.iter().chain(&step.up).all(|word| *word == 0) {
                break;
            }
            steps.push(step);
        }
        Moves { steps }
    }

    /// What brings a code from where it was made to where this says.
    pub(super) fn moves(&self) -> Moves {
        self.moves_since(&Self::nothing(self.moved.len() / 64))
    }

    /// By coordinate, by how many levels it is moved down.
    pub(super) fn moved(&self) -> impl Iterator<Item = i64> {
        self.moved.iter().map(|moved| i64::from(*moved))
    }

    pub(super) fn direction(&self) -> &[f32] {
        &self.direction
    }

    /// How much of the vectors lies in the direction: about the mean cosine of two.
    pub(super) const fn share(&self) -> f32 {
        self.share
    }

    /// Takes the direction out of a rotated question. Returns how much of it there was.
    pub(super) fn take_from(&self, question: &mut [f32]) -> f32 {
        let taken: f32 = question.iter().zip(&self.direction).map(|(x, of)| x * of).sum();
        for (x, of) in question.iter_mut().zip(&self.direction) {
            *x -= taken * of;
        }
        taken
    }
}

/// Coordinates, a bit each, whose levels go down by one, and up.
struct Step {
    down: Vec<u64>,
    up: Vec<u64>,
}

/// How codes are moved.
pub(super) struct Moves {
    steps: Vec<Step>,
}

impl Moves {
    /// Moves the levels of a word's coordinates; those at the outermost stay there.
    #[inline]
    pub(super) fn apply(&self, word: usize, levels: Levels) -> Levels {
        let [mut high, mut middle, mut low] = levels;
        for step in &self.steps {
            let down = step.down[word] & (high | middle | low);
            let up = step.up[word] & !(high & middle & low);
            // Binary subtraction and addition, all coordinates at once.
            let (borrowed, carried) = (down & !low, up & low);
            low ^= down | up;
            let (borrowed_twice, carried_twice) = (borrowed & !middle, carried & middle);
            middle ^= borrowed | carried;
            high ^= borrowed_twice | carried_twice;
        }
        [high, middle, low]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes of one word whose coordinates all have this level.
    fn code(level: u64) -> Levels {
        [2, 1, 0].map(|bit| if level >> bit & 1 == 1 { u64::MAX } else { 0 })
    }

    fn level(code: Levels, at: usize) -> i8 {
        code.into_iter().fold(0, |level, plane| 2 * level + (plane >> at & 1) as i8)
    }

    #[test]
    fn levels_are_moved_and_stop_at_the_outermost() {
        let moved: Vec<i8> = (0..64).map(|at| at % 7 - 3).collect();
        let moves = Common { moved: moved.clone(), ..Common::nothing(1) }.moves();
        for from in 0..8 {
            let code = moves.apply(0, code(from));
            for (at, by) in moved.iter().enumerate() {
                assert_eq!(level(code, at), (from as i8 - by).clamp(0, 7), "{from} by {by}");
            }
        }
    }

    #[test]
    fn what_codes_have_in_common_is_the_same_wherever_they_were_moved_to() {
        let codes = || (4..7).map(|level| std::iter::once(code(level)));
        let nothing = Common::nothing(1);
        let common = nothing.of(codes());
        assert_eq!(common.moved, [2; 64], "5 is half above the middle of 3.5, rounded up");
        assert!(common.direction.iter().all(|x| (x - 0.125).abs() < 1e-6), "{common:?}");
        assert!((common.share - (1.5 * 0.586_f32).powi(2)).abs() < 1e-3, "{common:?}");
        let moves = common.moves();
        let moved = || (4..7).map(|level| std::iter::once(moves.apply(0, code(level))));
        assert_eq!(common.of(moved()), common);
        assert!(common.moves_since(&common).steps.is_empty());
        assert_eq!(nothing.moves_since(&common).apply(0, moves.apply(0, code(5))), code(5), "and back");
        assert_eq!(common.of(codes().take(0)), common, "of nothing nothing is learnt");
    }

    #[test]
    fn a_direction_that_few_share_is_none() {
        let nothing = Common::nothing(1);
        let codes = [3, 4, 4].map(|level| std::iter::once(code(level)));
        assert_eq!(nothing.of(codes.into_iter()), nothing);
    }

    #[test]
    fn the_direction_is_taken_from_a_question() {
        let common = Common { direction: vec![0.125; 64], ..Common::nothing(1) };
        let mut question: Vec<f32> = (0..64).map(|at| at as f32 / 32.0 - 0.5).collect();
        let along = |question: &[f32]| question.iter().sum::<f32>() / 8.0;
        let before = along(&question);
        let taken = common.take_from(&mut question);
        assert!((taken - before).abs() < 1e-5, "{taken} of {before}");
        assert!(along(&question).abs() < 1e-5);
        assert!(Common::nothing(1).take_from(&mut question).abs() < f32::EPSILON);
    }
}
