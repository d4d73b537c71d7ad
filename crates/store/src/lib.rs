//! The storage adapters of Aionis.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod content;
mod deployment;
mod image;
mod migration;
pub mod postgres;
mod space;
pub mod sqlite;

pub use deployment::{Deployment, StoreOptions, migrate, open};
pub use migration::MigrationReport;
pub use space::EmbeddingSpace;
