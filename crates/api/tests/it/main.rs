//! The HTTP interface over a real store in a temporary directory, in process and with a clock that stands still.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod admission;
mod answers;
mod auth;
mod contract;
mod defects;
mod derive;
mod differential;
mod fading;
mod forgetting;
mod fuzz_smoke;
mod generated;
mod golden;
mod harness;
mod health;
mod isolation;
mod limits;
mod protocol;
mod reading;
mod recall;
mod refusals;
mod repeat;
mod tenancy;
mod tools;
mod visibility;
mod write;
