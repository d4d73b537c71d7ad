//! Picking what is not above a bound. Whether something is can hardly be foretold, so nothing branches on it.

use super::pages::{BLOCK, Sums};

/// Which code is at a place of a block.
#[expect(clippy::cast_possible_truncation, reason = "slots are of 32 bits")]
const fn position(block: usize, place: usize) -> u32 {
    (block * BLOCK + place) as u32
}

/// The codes of some blocks whose sums are not above `most`.
pub(super) fn pick_codes(blocks: &[u32], sums: &[Sums], most: u32, picked: &mut Vec<u32>) {
    let mut count = 0;
    for block in blocks {
        let block = *block as usize;
        if picked.len() < count + BLOCK {
            picked.resize(2 * (count + BLOCK), 0);
        }
        for (code, sum) in sums[block].iter().enumerate() {
            picked[count] = position(block, code);
            count += usize::from(*sum <= most);
        }
    }
    picked.truncate(count);
}

/// The names of so many sums that are not above `most`.
pub(super) fn keep<'a>(sums: impl Iterator<Item = (u32, &'a u32)>, many: usize, most: u32, kept: &mut Vec<u32>) {
    let mut count = 0;
    kept.resize(many, 0);
    for (name, sum) in sums {
        kept[count] = name;
        count += usize::from(*sum <= most);
    }
    kept.truncate(count);
}

/// Keeps those of picked codes whose sums are not above `most`.
pub(super) fn keep_within(picked: &mut Vec<u32>, sums: &[u32], most: u32) {
    let mut count = 0;
    for number in 0..picked.len() {
        let at = picked[number];
        picked[count] = at;
        count += usize::from(sums[at as usize] <= most);
    }
    picked.truncate(count);
}
