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

/// Asks for all entries of a part of a list.
#[inline(always)]
pub(super) fn fetch_all<T>(of: &[T]) {
    fetch_row(of, 0, of.len());
}

/// Asks for one of the rows that a list is made of, which may be further on in memory than the list goes.
#[inline(always)]
pub(super) fn fetch_row<T>(of: &[T], row: usize, length: usize) {
    for at in (0..length).step_by((LINE / size_of::<T>()).max(1)) {
        prefetch_index(of, row * length + at);
    }
}

/// Bytes that come at once.
const LINE: usize = 64;
