//! The storage adapters of Aionis.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod image;
mod migration;
mod space;
pub mod sqlite;

pub use migration::MigrationReport;
pub use space::EmbeddingSpace;
