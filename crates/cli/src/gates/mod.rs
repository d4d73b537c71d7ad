//! Gates at work: they read a deployment, ask a server, and leave evidence. What is found is judged in
//! `aionis_core::gates`. A gate changes nothing it judges; the benchmark writes into a scope of its own, which is removed.

pub(crate) mod artifacts;
mod chain;
pub(crate) mod partition_readiness;
pub(crate) mod perf;
mod perf_scope;
mod probes;
pub(crate) mod release;
pub(crate) mod scoped;
pub(crate) mod surroundings;
