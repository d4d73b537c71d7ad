//! The storage adapters of Aionis.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod sqlite;
