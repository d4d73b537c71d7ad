//! Rows as the checks read them: whatever is stored, also what the program would never have stored.

use uuid::Uuid;

/// A value as stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Nothing.
    Null,
    /// A whole number.
    Int(i64),
    /// A 64-bit float.
    Real(f64),
    /// A text, also JSON.
    Text(String),
    /// Bytes, also ids.
    Bytes(Vec<u8>),
    /// What cannot be read, and why.
    Unreadable(String),
}

/// A kind of value a column is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Int,
    /// A 64-bit float.
    Real,
    /// A text.
    Text,
    /// JSON, as text.
    Json,
    /// A UUID, as 16 bytes.
    Id,
    /// Bytes.
    Bytes,
}

/// What is read page by page, each row once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScanTable {
    /// The head of a scope.
    Scopes,
    /// The chain.
    Commits,
    /// Nodes, with what the word index holds of them.
    Nodes,
    /// Vectors, without their numbers.
    Vectors,
    /// Earlier contents of nodes.
    Versions,
    /// Edges.
    Edges,
    /// Executable parts of rules.
    Rules,
    /// Decisions.
    Decisions,
    /// Feedback on rules.
    Feedback,
    /// Work that is not done.
    Outbox,
    /// Scope keys of all tables, each once per table.
    ScopeKeys,
    /// Tenants of work, in all scopes.
    OutboxTenants,
    /// Rows of the word index, in all scopes.
    Lexical,
}

impl ScanTable {
    /// All of them, in the order they are read: what a row refers to comes before it.
    pub const ALL: [Self; 13] = [
        Self::Scopes,
        Self::Commits,
        Self::Nodes,
        Self::Vectors,
        Self::Versions,
        Self::Edges,
        Self::Rules,
        Self::Decisions,
        Self::Feedback,
        Self::Outbox,
        Self::ScopeKeys,
        Self::OutboxTenants,
        Self::Lexical,
    ];

    /// Name in the database.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scopes => "memory_scopes",
            Self::Commits => "memory_commits",
            Self::Nodes => "memory_nodes",
            Self::Vectors => "memory_vectors",
            Self::Versions => "memory_node_versions",
            Self::Edges => "memory_edges",
            Self::Rules => "memory_rule_defs",
            Self::Decisions => "memory_decisions",
            Self::Feedback => "memory_rule_feedback",
            Self::Outbox | Self::OutboxTenants => "memory_outbox",
            Self::ScopeKeys => "all tables",
            Self::Lexical => "memory_lexical",
        }
    }

    /// How many of the first columns make a row's key, by which pages are ordered.
    pub const fn key_len(self) -> usize {
        match self {
            Self::Versions | Self::Vectors | Self::ScopeKeys => 2,
            _ => 1,
        }
    }

    /// Its columns, keys first.
    pub const fn columns(self) -> &'static [(&'static str, Kind)] {
        use Kind::{Bytes, Id, Int, Json, Real, Text};
        match self {
            Self::Scopes => &[
                ("scope_key", Text),
                ("head_seq", Int),
                ("head_hash", Bytes),
                ("node_count", Int),
                ("edge_count", Int),
                ("state", Text),
            ],
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
                ("digest", Bytes),
                ("commit_seq", Int),
                ("commit_id", Id),
                ("embedding_status", Text),
                ("embedding_model", Text),
                ("embedding_attempts", Int),
                ("embedding_last_error", Text),
                ("embedding_pending_at", Int),
                ("term_count", Int),
                ("activity", Json),
                // The embedded engine: whether the word index has a row; PostgreSQL: the terms beside the node.
                ("lexical", Text),
            ],
            Self::Vectors => {
                &[("node_id", Id), ("model", Text), ("dim", Int), ("source_digest", Bytes), ("origin", Text)]
            }
            Self::Versions => &[("node_id", Id), ("version", Int), ("from_seq", Int), ("content", Text)],
            Self::Edges => &[
                ("id", Id),
                ("src_id", Id),
                ("type", Text),
                ("dst_id", Id),
                ("weight", Real),
                ("confidence", Real),
                ("decay_rate", Real),
                ("commit_seq", Int),
            ],
            Self::Rules => &[
                ("rule_node_id", Id),
                ("state", Text),
                ("rule_scope", Text),
                ("target_agent_id", Text),
                ("target_team_id", Text),
                ("positive_count", Int),
                ("negative_count", Int),
                ("created_at", Int),
            ],
            Self::Decisions => &[("id", Id), ("run_id", Text), ("selected_tool", Text), ("created_at", Int)],
            Self::Feedback => &[
                ("id", Id),
                ("rule_node_id", Id),
                ("outcome", Text),
                ("run_id", Text),
                ("source", Text),
                ("decision_id", Id),
                ("created_at", Int),
            ],
            Self::Outbox => &[
                ("id", Id),
                ("event_type", Text),
                ("attempts", Int),
                ("lease_until", Int),
                ("failed_at", Int),
                ("failed_reason", Text),
                ("claimed_by", Text),
            ],
            Self::ScopeKeys => &[("table_name", Text), ("scope_key", Text)],
            Self::OutboxTenants => &[("outbox_no", Int), ("id", Id), ("scope_key", Text), ("tenant_id", Text)],
            Self::Lexical => &[("id", Int), ("node_no", Int)],
        }
    }

    /// Position of a column.
    pub fn at(self, column: &str) -> usize {
        self.columns().iter().position(|(name, _)| *name == column).unwrap_or(usize::MAX)
    }
}

/// A row and the table it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRow {
    /// Its table.
    pub table: ScanTable,
    /// One value per column.
    pub cells: Vec<Cell>,
}

/// What a check needs of a row, or why the row does not tell.
pub type Told<T> = Result<T, String>;

impl RawRow {
    fn cell(&self, column: &str) -> Told<&Cell> {
        match self.cells.get(self.table.at(column)) {
            Some(Cell::Unreadable(problem)) => Err(format!("{column} cannot be read: {problem}")),
            Some(cell) => Ok(cell),
            None => Err(format!("{} has no column {column}", self.table.name())),
        }
    }

    /// A text, if there is one.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn text(&self, column: &str) -> Told<Option<&str>> {
        match self.cell(column)? {
            Cell::Null => Ok(None),
            Cell::Text(text) => Ok(Some(text)),
            _ => Err(format!("{column} is no text")),
        }
    }

    /// A text that has to be there.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn needed_text(&self, column: &str) -> Told<&str> {
        self.text(column)?.ok_or_else(|| format!("{column} is missing"))
    }

    /// A number, if there is one.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn int(&self, column: &str) -> Told<Option<i64>> {
        match self.cell(column)? {
            Cell::Null => Ok(None),
            Cell::Int(number) => Ok(Some(*number)),
            _ => Err(format!("{column} is no whole number")),
        }
    }

    /// A number that has to be there and is not negative.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn count(&self, column: &str) -> Told<u64> {
        let number = self.int(column)?.ok_or_else(|| format!("{column} is missing"))?;
        u64::try_from(number).map_err(|_| format!("{column} is negative"))
    }

    /// A float that has to be there.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn real(&self, column: &str) -> Told<f64> {
        match self.cell(column)? {
            Cell::Real(number) => Ok(*number),
            _ => Err(format!("{column} is no number")),
        }
    }

    /// An id, if there is one.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn id(&self, column: &str) -> Told<Option<Uuid>> {
        match self.cell(column)? {
            Cell::Null => Ok(None),
            Cell::Bytes(bytes) => Uuid::from_slice(bytes).map(Some).map_err(|_| format!("{column} is no id")),
            _ => Err(format!("{column} is no id")),
        }
    }

    /// An id that has to be there.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn needed_id(&self, column: &str) -> Told<Uuid> {
        self.id(column)?.ok_or_else(|| format!("{column} is missing"))
    }

    /// A digest that has to be there.
    ///
    /// # Errors
    /// The column holds something else.
    pub fn digest(&self, column: &str) -> Told<crate::canon::Digest> {
        match self.cell(column)? {
            Cell::Bytes(bytes) => {
                <[u8; 32]>::try_from(&bytes[..]).map(crate::canon::Digest).map_err(|_| format!("{column} is no digest"))
            }
            _ => Err(format!("{column} is no digest")),
        }
    }

    /// The first columns, after which the next page begins.
    pub fn key(&self) -> Vec<Cell> {
        self.cells[..self.table.key_len().min(self.cells.len())].to_vec()
    }

    /// How the row is named in reports: its key, no text of a memory.
    pub fn named(&self) -> String {
        let parts: Vec<String> = self.key().iter().map(name_of).collect();
        parts.join("/")
    }
}

fn name_of(cell: &Cell) -> String {
    match cell {
        Cell::Null => String::new(),
        Cell::Int(number) => number.to_string(),
        Cell::Real(number) => number.to_string(),
        Cell::Text(text) => text.clone(),
        Cell::Bytes(bytes) => Uuid::from_slice(bytes).map_or_else(|_| crate::canon::hex(bytes), |id| id.to_string()),
        Cell::Unreadable(_) => "(unreadable)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_and_keys_come_first() {
        for table in ScanTable::ALL {
            for (at, (name, _)) in table.columns().iter().enumerate() {
                assert_eq!(table.at(name), at, "{table:?}.{name} is there twice");
            }
            assert!(table.key_len() <= table.columns().len());
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_and_nothing_else() {
        let row =
            RawRow { table: ScanTable::Lexical, cells: vec![Cell::Int(-3), Cell::Unreadable("not UTF-8".to_owned())] };
        assert_eq!(row.int("id"), Ok(Some(-3)));
        assert!(row.count("id").unwrap_err().contains("negative"));
        assert!(row.int("node_no").unwrap_err().contains("not UTF-8"));
        assert!(row.text("id").is_err() && row.id("id").is_err() && row.digest("id").is_err());
    }
}
