//! Asking memory for what will be read a little later.
//!
//! What lies anywhere in a large list takes some hundred cycles to come. The processor begins with several such readings at once
//! only as far as it looks ahead, which a dozen of instructions for each uses up.

use prefetch_index::prefetch_index;
#[cfg(target_arch = "x86_64")]
use prefetch_index::prefetch_index_nta;

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

/// Asks for all entries of a part of a list that is gone through from end to end, longer than the caches are large: it will have
/// gone from them before it is read again, and should not have taken the place of what else is in them.
#[inline(always)]
pub(super) fn fetch_once<T>(of: &[T]) {
    for at in (0..of.len()).step_by((LINE / size_of::<T>()).max(1)) {
        // The crate knows the instruction for this kind of processor only.
        #[cfg(target_arch = "x86_64")]
        prefetch_index_nta(of, at);
        #[cfg(not(target_arch = "x86_64"))]
        prefetch_index(of, at);
    }
}

/// Bytes that come at once.
const LINE: usize = 64;
