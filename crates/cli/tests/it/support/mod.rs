//! What the tests share: the program as a child, a small HTTP client, the database from outside.

pub(crate) mod db;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod place;
pub(crate) mod program;
pub(crate) mod rng;
pub(crate) mod server;

use std::time::{Duration, Instant};

/// Asks until the answer is there, or panics after `limit`.
pub(crate) fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
