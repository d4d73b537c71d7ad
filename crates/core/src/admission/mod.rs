//! Admission as pure decisions: how often somebody may ask ([`bucket`]), and whose turn it is ([`turns`]).

pub mod bucket;
pub mod turns;

pub use bucket::{Bucket, Rate, Taken};
pub use turns::{Entry, Ticket, Turns};
