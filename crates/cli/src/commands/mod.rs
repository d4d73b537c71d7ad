//! One file per command.

pub(crate) mod bench;
pub(crate) mod bench_command;
pub(crate) mod config;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod gate;
pub(crate) mod healthcheck;
pub(crate) mod job;
pub(crate) mod keys;
pub(crate) mod migrate;
pub(crate) mod model;
pub(crate) mod openapi;
pub(crate) mod partition;
pub(crate) mod reembed;
pub(crate) mod scale;
pub(crate) mod serve;
pub(crate) mod verify;
pub(crate) mod worker;
