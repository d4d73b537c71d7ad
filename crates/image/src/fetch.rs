//! Asking memory for what will be read a little later.
//!
//! What lies anywhere in a large list takes some hundred cycles to come. The processor begins with several such readings at once
//! only as far as it looks ahead, which a dozen of instructions for each uses up.

use prefetch_index::prefetch_index;

/// How many entries ahead, where each takes a few dozen cycles.
pub(super) const AHEAD: usize = 8;

/// Asks for an entry of a list, if it has one there.
#[inline(always)]
pub(super) fn fetch<T>(of: &[T], at: u32) {
    let at = at as usize;
    prefetch_index(of, at);
    if size_of::<T>() > LINE || !LINE.is_multiple_of(size_of::<T>()) {
        // Where the next one begins, which most often is where this one ends.
        prefetch_index(of, at + 1);
    }
}

/// Asks for consecutive entries, each of them as large as a line of the cache.
#[inline(always)]
pub(super) fn fetch_all<T>(lines: &[T]) {
    for at in 0..lines.len() {
        prefetch_index(lines, at);
    }
}

/// Bytes that come at once.
const LINE: usize = 64;
