//! Fixtures, fault tools and the conformance suite of the storage ports; for tests only.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

pub mod conformance;
pub mod fixtures;
pub mod postgres;
pub mod proxy;
mod sound;
pub mod sqlite;

pub use sound::{VerifiedScope, assert_sound, verify};
