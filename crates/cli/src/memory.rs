//! How the process holds its memory.

/// Variable of the allocator that says whether it may use huge pages; who sets it decides.
#[cfg(target_os = "linux")]
const ALLOW_HUGE_PAGES: &str = "MIMALLOC_ALLOW_THP";

/// Keeps memory in pages of their usual size: the allocator asks for huge ones, and whatever a load or an image leaves free
/// within those stays resident. Measured with a scope of 100,000 nodes that is half as much again. To be called before
/// memory is used. A system that knows no huge pages refuses, which comes to the same; [`is_in_small_pages`] tells.
pub(crate) fn use_small_pages() {
    #[cfg(target_os = "linux")]
    if std::env::var_os(ALLOW_HUGE_PAGES).is_none() {
        let _ = rustix::thread::disable_transparent_huge_pages(true);
    }
}

/// Whether the system keeps huge pages from this process.
pub(crate) fn is_in_small_pages() -> bool {
    #[cfg(target_os = "linux")]
    return matches!(rustix::thread::transparent_huge_pages_are_disabled(), Ok(true));
    #[cfg(not(target_os = "linux"))]
    return false;
}
