//! Writing: from a validated request to the rows of one commit.
//!
//! [`prepare`] needs no storage: it normalises, redacts and derives ids. [`plan_part`] is given what is stored and decides
//! the outcome of every item and the commit. Both are pure, so every engine writes the same.

mod derived;
mod digest;
mod plan;
mod prepare;
mod request;

pub use derived::{DerivedText, EmbedJob, NAME_TERMS_MAX, name_key, term_counts};
pub use digest::{NodeContent, edge_digest, node_digest};
pub use plan::{
    EdgeOp, NewCommit, NodeOp, ParentState, PartPlan, PartState, Replay, StoredEdge, StoredNode, Warning, WriteOutcome,
    plan_part,
};
pub use prepare::{
    EdgeEnd, JobWrite, PreparedEdge, PreparedNode, PreparedPart, PreparedRule, PreparedWrite, WriteSettings,
    check_vector_at, embed_text, prepare, rule_of_slots,
};
pub use request::{EdgeInput, EndInput, IdempotencyKey, NodeInput, WriteRequest};
