//! The pure domain of Aionis: no async runtime, no I/O.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admission;
pub mod canon;
pub mod chain;
pub mod clock;
pub mod deadline;
pub mod derive_id;
pub mod error;
pub mod error_codes;
pub mod forget;
pub mod held;
pub mod ids;
pub mod jobs;
pub mod keys;
pub mod lifecycle;
pub mod model;
pub mod operate;
pub mod partition;
pub mod ports;
pub mod read;
pub mod recall;
pub mod redact;
pub mod rules;
pub mod slots;
pub mod text;
pub mod write;
