//! The rows a scope consists of, as both engines hold them.

use aionis_core::{
    canon::{Digest, canonical_json, sha256},
    ports::store::StoreError,
};
use uuid::Uuid;

/// A kind of value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole number.
    Int,
    /// A 64-bit float.
    Real,
    /// A text.
    Text,
    /// JSON; engines may write the same value differently.
    Json,
    /// A UUID.
    Uuid,
    /// Bytes.
    Bytes,
    /// 32-bit floats.
    Vector,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Cell {
    Null,
    Int(i64),
    Real(f64),
    Text(String),
    Json(String),
    Uuid(Uuid),
    Bytes(Vec<u8>),
    Vector(Vec<f32>),
}

/// A row: one value per column of its table.
pub(crate) type Row = Vec<Cell>;

/// A table of a scope. The order is that of copying: what a row refers to comes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    Commits,
    Nodes,
    Rules,
    Versions,
    Edges,
    Vectors,
    Decisions,
    Feedback,
    Erasures,
    Candidates,
    Merges,
    RemovedEdges,
    Requests,
    Outbox,
}

use Kind::{Bytes, Int, Json, Real, Text, Uuid as Id, Vector};

impl Table {
    /// All tables, in the order of copying.
    pub(crate) const ALL: [Self; 14] = [
        Self::Commits,
        Self::Nodes,
        Self::Rules,
        Self::Versions,
        Self::Edges,
        Self::Vectors,
        Self::Decisions,
        Self::Feedback,
        Self::Erasures,
        Self::Candidates,
        Self::Merges,
        Self::RemovedEdges,
        Self::Requests,
        Self::Outbox,
    ];

    /// Name in the database and in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Commits => "memory_commits",
            Self::Nodes => "memory_nodes",
            Self::Rules => "memory_rule_defs",
            Self::Versions => "memory_node_versions",
            Self::Edges => "memory_edges",
            Self::Vectors => "memory_vectors",
            Self::Requests => "memory_requests",
            Self::Outbox => "memory_outbox",
            Self::Decisions => "memory_decisions",
            Self::Feedback => "memory_rule_feedback",
            Self::Erasures => "memory_erasures",
            Self::Candidates => "memory_consolidation_candidates",
            Self::Merges => "memory_merges",
            Self::RemovedEdges => "memory_removed_edges",
        }
    }

    /// How many of the first columns make a row's key in its scope, by which pages are ordered.
    pub(crate) const fn key_len(self) -> usize {
        match self {
            Self::Versions | Self::Vectors | Self::RemovedEdges => 2,
            _ => 1,
        }
    }

    /// What of the table is copied: work that is done is history.
    pub(crate) const fn condition(self) -> &'static str {
        match self {
            Self::Outbox => "published_at IS NULL",
            _ => "true",
        }
    }

    /// The columns beside the scope, keys first. What an engine derives from them is not among them.
    pub(crate) const fn columns(self) -> &'static [(&'static str, Kind)] {
        match self {
            Self::Commits => &[
                ("seq", Int),
                ("id", Id),
                ("parent_hash", Bytes),
                ("hash", Bytes),
                ("kind", Text),
                ("actor", Text),
                ("model_version", Text),
                ("prompt_version", Text),
                ("input_sha256", Text),
                ("request_sha256", Bytes),
                ("changes", Text),
                ("created_at", Int),
            ],
            Self::Nodes => &[
                ("id", Id),
                ("client_id", Text),
                ("type", Text),
                ("title", Text),
                ("text_summary", Text),
                ("slots", Json),
                ("raw_ref", Text),
                ("evidence_ref", Text),
                ("memory_lane", Text),
                ("producer_agent_id", Text),
                ("owner_agent_id", Text),
                ("owner_team_id", Text),
                ("tier", Text),
                ("salience", Real),
                ("salience_at", Int),
                ("importance", Real),
                ("confidence", Real),
                ("last_activated", Int),
                ("version", Int),
                ("digest", Bytes),
                ("content_seq", Int),
                ("commit_seq", Int),
                ("commit_id", Id),
                ("created_at", Int),
                ("updated_at", Int),
                ("embedding_status", Text),
                ("embedding_model", Text),
                ("embedding_attempts", Int),
                ("embedding_last_error", Text),
                ("embedding_last_attempt_at", Int),
                ("embedding_ready_at", Int),
                ("embedding_pending_at", Int),
                ("activity", Json),
            ],
            Self::Rules => &[
                ("rule_node_id", Id),
                ("state", Text),
                ("if_json", Json),
                ("then_json", Json),
                ("exceptions_json", Json),
                ("rule_scope", Text),
                ("target_agent_id", Text),
                ("target_team_id", Text),
                ("positive_count", Int),
                ("negative_count", Int),
                ("last_evaluated_at", Int),
                ("commit_seq", Int),
                ("created_at", Int),
                ("updated_at", Int),
            ],
            Self::Versions => {
                &[("node_id", Id), ("version", Int), ("from_seq", Int), ("to_seq", Int), ("content", Text)]
            }
            Self::Edges => &[
                ("id", Id),
                ("src_id", Id),
                ("type", Text),
                ("dst_id", Id),
                ("weight", Real),
                ("confidence", Real),
                ("decay_rate", Real),
                ("last_activated", Int),
                ("created_at", Int),
                ("commit_seq", Int),
            ],
            Self::Vectors => &[
                ("node_id", Id),
                ("model", Text),
                ("dim", Int),
                ("source_digest", Bytes),
                ("origin", Text),
                ("created_at", Int),
                ("embedding", Vector),
            ],
            Self::Requests => {
                &[("request_key", Text), ("request_sha256", Bytes), ("outcome", Text), ("created_at", Int)]
            }
            Self::Decisions => &[
                ("id", Id),
                ("run_id", Text),
                ("selected_tool", Text),
                ("candidates", Text),
                ("context_sha256", Text),
                ("policy_sha256", Text),
                ("policy", Text),
                ("source_rules", Text),
                ("tool_rules", Text),
                ("metadata", Text),
                ("created_at", Int),
                ("commit_seq", Int),
            ],
            Self::Feedback => &[
                ("id", Id),
                ("rule_node_id", Id),
                ("outcome", Text),
                ("run_id", Text),
                ("note", Text),
                ("source", Text),
                ("decision_id", Id),
                ("commit_seq", Int),
                ("created_at", Int),
            ],
            Self::Erasures => &[
                ("id", Id),
                ("digest", Bytes),
                ("memory_lane", Text),
                ("owner_agent_id", Text),
                ("owner_team_id", Text),
                ("commit_seq", Int),
                ("erased_at", Int),
            ],
            Self::Candidates => &[
                ("pair_key", Text),
                ("low_id", Id),
                ("high_id", Id),
                ("type", Text),
                ("low_digest", Bytes),
                ("high_digest", Bytes),
                ("score", Real),
                ("vector_similarity", Real),
                ("lexical_similarity", Real),
                ("conflict_kind", Text),
                ("conflict_score", Real),
                ("shared_tokens", Int),
                ("state", Text),
                ("created_at", Int),
                ("updated_at", Int),
            ],
            Self::Merges => &[
                ("id", Id),
                ("run_id", Id),
                ("ordinal", Int),
                ("cause_id", Id),
                ("canonical_id", Id),
                ("duplicate_id", Id),
                ("pair_key", Text),
                ("score", Real),
                ("prior_duplicate", Json),
                ("prior_canonical", Json),
                ("applied_seq", Int),
                ("applied_at", Int),
                ("undone_seq", Int),
            ],
            Self::RemovedEdges => &[
                ("edge_id", Id),
                ("removed_seq", Int),
                ("src_id", Id),
                ("type", Text),
                ("dst_id", Id),
                ("weight", Real),
                ("confidence", Real),
                ("decay_rate", Real),
                ("last_activated", Int),
                ("created_at", Int),
                ("commit_seq", Int),
                ("role", Text),
                ("target_id", Id),
                ("base_weight", Real),
                ("base_confidence", Real),
                ("base_decay_rate", Real),
                ("base_last_activated", Int),
                ("restored_seq", Int),
            ],
            // Claims are of the workers there; here the work is free.
            Self::Outbox => &[
                ("id", Id),
                ("event_type", Text),
                ("job_key", Text),
                ("commit_seq", Int),
                ("payload", Text),
                ("created_at", Int),
                ("available_at", Int),
                ("attempts", Int),
                ("last_error", Text),
                ("failed_at", Int),
                ("failed_reason", Text),
            ],
        }
    }

    /// Position of a column.
    pub(crate) fn at(self, column: &str) -> usize {
        self.columns().iter().position(|(name, _)| *name == column).unwrap_or(usize::MAX)
    }
}

/// The text of a cell, when it has one.
pub(crate) fn text(row: &Row, at: usize) -> Option<&str> {
    match row.get(at) {
        Some(Cell::Text(text) | Cell::Json(text)) => Some(text),
        _ => None,
    }
}

/// The id of a cell.
pub(crate) fn id(row: &Row, at: usize) -> Result<Uuid, StoreError> {
    match row.get(at) {
        Some(Cell::Uuid(id)) => Ok(*id),
        other => Err(StoreError::Driver(format!("a row to copy has {other:?} for an id"))),
    }
}

/// A digest of rows that does not depend on their order: engines sort texts differently.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RowsDigest {
    pub(crate) rows: u64,
    sum: [u8; 32],
}

impl RowsDigest {
    /// Adds a row.
    pub(crate) fn add(&mut self, row: &Row) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(256);
        for cell in row {
            let (tag, value): (u8, Vec<u8>) = match cell {
                Cell::Null => (0, Vec::new()),
                Cell::Int(value) => (1, value.to_le_bytes().to_vec()),
                Cell::Real(value) => (2, value.to_bits().to_le_bytes().to_vec()),
                Cell::Text(value) => (3, value.as_bytes().to_vec()),
                Cell::Json(value) => {
                    let value = serde_json::from_str(value)
                        .map_err(|e| StoreError::Driver(format!("JSON to copy cannot be read: {e}")))?;
                    (4, canonical_json(&value).into_bytes())
                }
                Cell::Uuid(value) => (5, value.as_bytes().to_vec()),
                Cell::Bytes(value) => (6, value.clone()),
                Cell::Vector(value) => (7, value.iter().flat_map(|x| x.to_bits().to_le_bytes()).collect()),
            };
            bytes.push(tag);
            bytes.extend((value.len() as u64).to_le_bytes());
            bytes.extend(value);
        }
        let Digest(hash) = sha256(bytes);
        self.sum.iter_mut().zip(hash).for_each(|(sum, byte)| *sum ^= byte);
        self.rows += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_first_and_columns_are_found() {
        for table in Table::ALL {
            assert!(table.key_len() < table.columns().len());
            for (at, (name, _)) in table.columns().iter().enumerate() {
                assert_eq!(table.at(name), at, "{table:?}.{name} is there twice");
            }
        }
    }

    #[test]
    fn a_digest_depends_on_every_value_and_on_no_order() {
        let rows: Vec<Row> = vec![
            vec![Cell::Int(1), Cell::Json(r#"{"a":1,"b":2}"#.to_owned()), Cell::Null],
            vec![Cell::Int(2), Cell::Json("{}".to_owned()), Cell::Vector(vec![1.0, -0.0])],
        ];
        let of = |rows: &[&Row]| {
            let mut digest = RowsDigest::default();
            rows.iter().for_each(|row| digest.add(row).unwrap());
            digest
        };
        let whole = of(&[&rows[0], &rows[1]]);
        assert_eq!(whole, of(&[&rows[1], &rows[0]]));
        let same = vec![Cell::Int(1), Cell::Json(r#"{ "b": 2, "a": 1 }"#.to_owned()), Cell::Null];
        assert_eq!(whole, of(&[&same, &rows[1]]));
        for (at, other) in [(0, Cell::Int(3)), (1, Cell::Json(r#"{"a":1}"#.to_owned())), (2, Cell::Int(0))] {
            let mut changed = rows[0].clone();
            changed[at] = other;
            assert_ne!(whole, of(&[&changed, &rows[1]]));
        }
        let mut changed = rows[1].clone();
        changed[2] = Cell::Vector(vec![1.0, 0.0]);
        assert_ne!(whole, of(&[&rows[0], &changed]));
        assert_ne!(whole, of(&[&rows[0]]));
        assert!(RowsDigest::default().add(&vec![Cell::Json("{".to_owned())]).is_err());
    }
}
