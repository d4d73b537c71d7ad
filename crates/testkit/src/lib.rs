//! Fixtures, fault tools and the conformance suite of the storage ports; for tests only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

mod audiences;
pub mod conformance;
pub mod fixtures;
mod leaks;
pub mod postgres;
pub mod proxy;
mod sound;
pub mod sqlite;

pub use audiences::{assert_narrow, stored_edges, stored_nodes, wider_than_sources};
pub use leaks::{Leak, Words, found_by_asking, leaks};
pub use sound::{VerifiedScope, assert_sound, verify};
