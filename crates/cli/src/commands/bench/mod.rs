//! `aionis bench`: seeds a scope of a running server and measures it under load.
//!
//! Two kinds of load: the *closed* loop (every connection sends its next request when it has its answer) shows what
//! the server can do; the *open* loop (arrivals on a schedule, latency from the scheduled start) shows what callers
//! wait at a given rate, queueing included. Latencies are kept whole, so percentiles are exact. Texts, vectors and
//! requests follow from `--seed` and `--nonce`. Everything is bounded in count and in time.

mod args;
mod body;
mod client;
mod counted;
mod load;
mod process;
mod progress;
mod report;
mod rng;
mod schedule;
mod seed;
mod session;
mod stats;
mod text;
mod vectors;
mod words;

#[cfg(test)]
mod tests;

use std::fmt;

pub(crate) use args::BenchArgs;
pub(crate) use client::{Client, Target};
pub(crate) use counted::{CaseReport, Counted, CountedReport};
pub(crate) use report::BenchReport;
pub(crate) use seed::DrainState;

use client::Failure;

/// Why a run gave up.
#[derive(Debug)]
pub(crate) enum BenchError {
    /// The flags do not make sense.
    Args(String),
    /// A request that has to work has no answer.
    Unanswered {
        /// What was asked.
        what: &'static str,
        /// Why there is no answer.
        failure: Failure,
    },
    /// A request that has to work was refused.
    Refused {
        /// What was asked.
        what: &'static str,
        /// The status of the answer.
        status: u16,
        /// The beginning of the answer.
        answer: String,
    },
    /// A worker ended abnormally.
    Worker(String),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Args(message) => f.write_str(message),
            Self::Unanswered { what, failure } => write!(f, "{what}: {failure}"),
            Self::Refused { what, status, answer } => write!(f, "{what} was answered {status}: {answer}"),
            Self::Worker(message) => write!(f, "a worker failed: {message}"),
        }
    }
}

impl std::error::Error for BenchError {}

/// Seeds, measures and reports; needs a multi-threaded runtime for figures that mean something.
pub(crate) async fn run(args: BenchArgs) -> Result<BenchReport, BenchError> {
    session::Session::prepare(args).await?.run().await
}
