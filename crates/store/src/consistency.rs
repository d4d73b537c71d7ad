//! The statements of checks: the same for both engines but for how they write parameters and a few columns.

use aionis_core::jobs::consistency::{Kind, Probe, ScanTable, StorageEngine};

/// Tables whose scope keys are looked at; the heads come first.
const KEYED: [&str; 13] = [
    "memory_scopes",
    "memory_commits",
    "memory_nodes",
    "memory_node_versions",
    "memory_edges",
    "memory_vectors",
    "memory_rule_defs",
    "memory_rule_feedback",
    "memory_decisions",
    "memory_erasures",
    "memory_outbox",
    "memory_requests",
    "memory_recall_audit",
];

/// Statements as one engine writes them.
#[derive(Clone, Copy)]
pub(crate) struct Dialect(pub(crate) StorageEngine);

impl Dialect {
    fn place(self, number: usize) -> String {
        match self.0 {
            StorageEngine::Embedded => format!("?{number}"),
            StorageEngine::Postgres => format!("${number}"),
        }
    }

    fn column(self, table: ScanTable, (name, kind): (&str, Kind)) -> String {
        match (self.0, table, name) {
            (StorageEngine::Embedded, ScanTable::Nodes, "lexical") => {
                "(SELECT 'indexed' FROM memory_lexical_docsize d WHERE d.id = t.node_no)".to_owned()
            }
            (StorageEngine::Postgres, ScanTable::Nodes, "lexical") => "t.lexical_terms".to_owned(),
            (_, ScanTable::Lexical, "node_no") => {
                "(SELECT n.node_no FROM memory_nodes n WHERE n.node_no = t.id)".to_owned()
            }
            (StorageEngine::Postgres, ..) => match kind {
                Kind::Int => format!("t.{name}::bigint"),
                Kind::Json => format!("t.{name}::text"),
                _ => format!("t.{name}"),
            },
            (StorageEngine::Embedded, ..) => format!("t.{name}"),
        }
    }

    fn select(self, table: ScanTable) -> String {
        let columns: Vec<String> = table.columns().iter().map(|column| self.column(table, *column)).collect();
        let from = match table {
            ScanTable::Lexical => "memory_lexical_docsize",
            table => table.name(),
        };
        format!("SELECT {} FROM {from} t", columns.join(", "))
    }

    /// A page of a table. Parameters: the scope (unless it is of everything), the limit, the key it comes after.
    pub(crate) fn page(self, table: ScanTable, after: bool) -> String {
        if table == ScanTable::ScopeKeys {
            return self.scope_keys();
        }
        let of_scope = !matches!(table, ScanTable::OutboxTenants | ScanTable::Lexical);
        let keys: Vec<String> =
            table.columns()[..table.key_len()].iter().map(|(name, _)| format!("t.{name}")).collect();
        let mut conditions = Vec::new();
        let mut next = 1;
        if of_scope {
            conditions.push(format!("t.scope_key = {}", self.place(1)));
            next = 2;
        }
        let limit = self.place(next);
        if table == ScanTable::Outbox {
            conditions.push("t.published_at IS NULL".to_owned());
        }
        if after {
            let places: Vec<String> = (1..=keys.len()).map(|at| self.place(next + at)).collect();
            conditions.push(format!("({}) > ({})", keys.join(", "), places.join(", ")));
        }
        let conditions = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
        format!("{} WHERE {conditions} ORDER BY {} LIMIT {limit}", self.select(table), keys.join(", "))
    }

    /// What a probe sends. Parameters: the scope, the limit, and what [`Extra`] says.
    pub(crate) fn probe(self, probe: Probe) -> (String, Extra) {
        let (condition, extra) = match probe {
            Probe::ScopeKeys => return (self.scope_keys(), Extra::Alone),
            Probe::ChainTail => ("true ORDER BY t.seq DESC".to_owned(), Extra::None),
            Probe::Pending => (
                format!(
                    "t.embedding_status = 'pending' AND t.embedding_pending_at < {} ORDER BY t.embedding_pending_at",
                    self.place(3)
                ),
                Extra::StuckBefore,
            ),
            Probe::Failed => ("t.embedding_status = 'failed' ORDER BY t.id".to_owned(), Extra::None),
            Probe::DeadLetters => ("t.failed_at IS NOT NULL ORDER BY t.failed_at".to_owned(), Extra::None),
            Probe::OpenWork => (
                format!(
                    "t.tenant_id = {} AND t.published_at IS NULL AND t.failed_at IS NULL ORDER BY t.available_at",
                    self.place(3)
                ),
                Extra::Tenant,
            ),
        };
        let sql = format!(
            "{} WHERE t.scope_key = {} AND {condition} LIMIT {}",
            self.select(probe.table()),
            self.place(1),
            self.place(2)
        );
        (sql, extra)
    }

    /// Every scope key of every table, by leaping from one to the next: one look into an index per key and table.
    fn scope_keys(self) -> String {
        let tables: Vec<String> = KEYED
            .iter()
            .enumerate()
            .map(|(at, table)| format!("SELECT '{table}', k, {at} AS at FROM ({}) leaps{at}", leaps(table)))
            .collect();
        format!("SELECT * FROM ({}) found ORDER BY at, k", tables.join(" UNION ALL "))
    }
}

/// The scope keys of a table, one look into an index for each.
pub(crate) fn leaps(table: &str) -> String {
    format!(
        "WITH RECURSIVE leaps (k) AS (SELECT * FROM (SELECT scope_key FROM {table} ORDER BY scope_key LIMIT 1) first \
         UNION ALL SELECT (SELECT n.scope_key FROM {table} n WHERE n.scope_key > leaps.k ORDER BY n.scope_key LIMIT 1) \
         FROM leaps WHERE leaps.k IS NOT NULL) SELECT k FROM leaps WHERE k IS NOT NULL"
    )
}

/// The third parameter of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extra {
    /// There is none.
    None,
    /// There are no parameters at all.
    Alone,
    /// The time from which on nodes wait too long.
    StuckBefore,
    /// The tenant.
    Tenant,
}
