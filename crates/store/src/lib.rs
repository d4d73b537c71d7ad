//! The storage adapters of Aionis.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod content;
mod image;
mod migration;
pub mod postgres;
mod space;
pub mod sqlite;

pub use migration::MigrationReport;
pub use space::EmbeddingSpace;
