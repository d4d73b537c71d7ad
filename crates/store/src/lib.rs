//! The storage adapters of Aionis.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod consistency;
mod consolidation;
mod content;
mod decay;
mod deployment;
mod facts;
mod forget;
mod gauges;

mod integrity;
mod jobs;
mod keys;
mod maintenance;
mod migration;
mod operate;
mod past;
pub mod postgres;
mod purge;
mod read;
mod space;
pub mod sqlite;
mod topics;
mod transfer;

pub use deployment::{Deployment, StoreOptions, migrate, open};
pub use facts::{DatabaseCounters, LoadFacts, LoadWindows, StoreVersions, TenantLoad};
pub use gauges::{PoolGauges, StoreGauges};
pub use migration::MigrationReport;
pub use space::EmbeddingSpace;
pub use transfer::{CopyError, CopyProgress, CopySettings, CopyStatus, ScopeCopy, copy};

/// Tables whose rows a purge removes, and those with a scope key whose rows stay; for tests that compare them with the
/// catalogue.
#[doc(hidden)]
pub fn purged_tables(embedded: bool) -> (Vec<&'static str>, &'static [&'static str]) {
    let purged = purge::TABLES.iter().filter(|table| embedded || !table.embedded_only);
    (purged.map(|table| table.name).collect(), purge::KEPT)
}

/// The code that `memory_vectors.code` holds of a vector, for tests that load many rows by SQL.
#[doc(hidden)]
pub fn vector_code(vector: &[f32]) -> Vec<u8> {
    aionis_image::Coding::of(vector.len()).encode(vector)
}
