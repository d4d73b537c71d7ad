//! Tests of the whole program: the built binary as a child process, spoken to over HTTP and read through its database.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(clippy::print_stdout, reason = "measured figures and reasons for skipping belong into the test's output")]

mod admission;
mod chaos;
mod configuration;
mod connections;
mod consistency;
mod consolidation;
mod defects;
mod demo;
mod disk_full;
mod eval;
mod found_at_once;
mod gates;
mod healthcheck;
mod job_isolation;
mod job_kills;
mod job_purge;
mod keys;
mod kill9;
mod logs;
mod metrics;
mod model;
mod openapi;
mod operations;
mod ownership;
mod partition;
mod postgres;
mod profiles;
mod provider_failures;
mod reports;
mod schema;
mod sdk;
mod settings;
mod sigterm;
mod start;
mod support;
mod tamper;
mod topics;
#[cfg(feature = "otlp")]
mod traces;
mod workspace;
