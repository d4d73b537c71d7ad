//! Purging a scope: the plan, what is kept of it while it is under way, and the record that stays.
//!
//! A purge is looked at before it is done: the look gives a plan whose hash binds the head of the chain, and only that
//! hash starts the purge. What it did stays as a record; each record names the digest of the one before, whatever scope
//! that was of, so that none can be taken away unseen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    canon::{Digest, canonical_sha256},
    clock::Timestamp,
    error::{DomainError, ErrorKind},
    ids::ScopeKey,
    model::text_enum,
};

/// Name of the job.
pub const SCOPE_PURGE: &str = "scope-purge";

text_enum!(
    /// How rows may be removed.
    PurgeMode {
        /// A partition of the scope's own is truncated; where there is none, rows are deleted.
        Auto = "auto",
        /// Only partitions of the scope's own are truncated; a table with rows and without one is refused.
        Partition = "partition",
        /// Rows are deleted, also where there is a partition.
        Delete = "delete",
    }
);

text_enum!(
    /// How the rows of one table are removed.
    PurgeStrategy {
        /// The partition that holds this scope alone is truncated.
        PartitionTruncate = "partition_truncate",
        /// Rows are deleted, batch by batch.
        Delete = "delete",
    }
);

/// A table with rows of the scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SurveyedTable {
    /// Name.
    pub table: String,
    /// Rows of the scope.
    pub rows: u64,
    /// Whether it has a partition that holds this scope and no other.
    pub own_partition: bool,
}

/// What is stored of a scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeSurvey {
    /// Number and hash of the newest commit; zeros if there is none.
    pub head: (u64, Digest),
    /// Every table that may hold rows of a scope, in the order they are removed.
    pub tables: Vec<SurveyedTable>,
}

impl PurgeSurvey {
    /// Rows in all tables.
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }
}

/// A table of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedTable {
    /// Name.
    pub table: String,
    /// How its rows are removed.
    pub strategy: PurgeStrategy,
    /// Rows now.
    pub rows: u64,
}

/// What a purge would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgePlan {
    /// Binds the scope, the head of its chain, the mode and the strategies. Not the counts: audit rows and answers come and
    /// go without a commit.
    pub hash: Digest,
    /// How rows may be removed.
    pub mode: PurgeMode,
    /// Number and hash of the newest commit.
    pub head: (u64, Digest),
    /// Table by table, in order.
    pub tables: Vec<PlannedTable>,
}

impl PurgePlan {
    /// Tables whose partition is truncated.
    pub fn truncated(&self) -> Vec<String> {
        let truncated = self.tables.iter().filter(|table| table.strategy == PurgeStrategy::PartitionTruncate);
        truncated.map(|table| table.table.clone()).collect()
    }
}

/// The table that has a row per job and scope, and so is never partitioned. Deleting them one by one is no fallback.
const FEW_ROWS: &str = "job_states";

/// Plans a purge. Nothing is touched before every rule holds.
///
/// # Errors
/// `purge_refused`: with `fail_on_delete`, or the mode `partition`, a table has rows that would have to be deleted.
pub fn plan_purge(
    scope: &ScopeKey,
    survey: &PurgeSurvey,
    mode: PurgeMode,
    fail_on_delete: bool,
) -> Result<PurgePlan, DomainError> {
    let strategy = |table: &SurveyedTable| match mode {
        PurgeMode::Auto | PurgeMode::Partition if table.own_partition => PurgeStrategy::PartitionTruncate,
        _ => PurgeStrategy::Delete,
    };
    let tables: Vec<PlannedTable> = survey
        .tables
        .iter()
        .map(|table| PlannedTable { table: table.table.clone(), strategy: strategy(table), rows: table.rows })
        .collect();
    let counts = |table: &&PlannedTable| table.strategy == PurgeStrategy::Delete && table.rows > 0;
    let deleted = |table: &&PlannedTable| counts(table) && table.table != FEW_ROWS;
    let names: Vec<&str> = tables.iter().filter(deleted).map(|table| table.table.as_str()).collect();
    let rule = match (fail_on_delete, mode) {
        (true, _) => Some("--fail-on-delete"),
        (false, PurgeMode::Partition) => Some("--mode partition"),
        (false, PurgeMode::Auto | PurgeMode::Delete) => None,
    };
    if let Some(rule) = rule.filter(|_| !names.is_empty()) {
        let message = format!(
            "{rule}: the rows of {} would be deleted one by one, they are in no partition of their own; nothing was touched",
            names.join(", ")
        );
        return Err(DomainError::new(ErrorKind::Conflict, "purge_refused", message));
    }
    let strategies: BTreeMap<&str, &str> =
        tables.iter().map(|table| (table.table.as_str(), table.strategy.as_str())).collect();
    let hash = canonical_sha256(&json!({
        "purge_plan": 1,
        "scope_key": scope.as_str(),
        "head_seq": survey.head.0,
        "head_hash": survey.head.1.to_hex(),
        "mode": mode.as_str(),
        "tables": strategies,
    }));
    Ok(PurgePlan { hash, mode, head: survey.head, tables })
}

/// A purge that began and has not ended, as it is kept with the scope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingPurge {
    /// Hash of its plan, in hex.
    pub plan: String,
    /// How rows may be removed.
    pub mode: String,
    /// Tables whose partition is truncated.
    pub truncated: Vec<String>,
    /// Who started it.
    pub by: String,
    /// When, in microseconds since 1970.
    pub began_at_us: i64,
    /// Place of the table it is at, in the order they are removed.
    pub at: usize,
    /// Rows removed so far, by table.
    pub rows: BTreeMap<String, u64>,
}

impl PendingPurge {
    /// One that begins now.
    pub fn new(plan: &PurgePlan, by: &str, now: Timestamp) -> Self {
        Self {
            plan: plan.hash.to_hex(),
            mode: plan.mode.as_str().to_owned(),
            truncated: plan.truncated(),
            by: by.to_owned(),
            began_at_us: now.0,
            at: 0,
            rows: BTreeMap::new(),
        }
    }

    /// Rows of a table were removed.
    pub fn removed(&mut self, table: &str, rows: u64) {
        if rows > 0 {
            *self.rows.entry(table.to_owned()).or_default() += rows;
        }
    }
}

/// How a scope stands towards a purge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeState {
    /// It has no head; there may be rows without one, of audits.
    Absent,
    /// It is in use, or marked because its tenant is served from elsewhere: nobody copies it in.
    Open,
    /// It is being copied in.
    Importing,
    /// A purge began and has not ended.
    Purging(PendingPurge),
}

/// What one step of a purge did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeStep {
    /// Rows removed.
    pub rows: u64,
    /// The record, if that was the end.
    pub done: Option<PurgeRecord>,
}

/// A purge that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgeRecord {
    /// Its number in the deployment, from 1.
    pub seq: u64,
    /// The scope.
    pub scope_key: String,
    /// Hash of its plan.
    pub plan: Digest,
    /// Number and hash of the newest commit the scope had.
    pub head: (u64, Digest),
    /// How rows might be removed.
    pub mode: String,
    /// Rows removed, by table.
    pub rows: BTreeMap<String, u64>,
    /// Who started it.
    pub by: String,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub purged_at: Timestamp,
    /// Digest of the record before; zeros for the first.
    pub parent: Digest,
    /// Digest of this record.
    pub digest: Digest,
}

impl PurgeRecord {
    /// The record of a purge that ends now, after `last`: number and digest of the newest record of the deployment.
    ///
    /// # Errors
    /// The hash of the plan is kept in a form that is none.
    pub fn of(
        scope: &ScopeKey,
        head: (u64, Digest),
        pending: &PendingPurge,
        last: Option<(u64, Digest)>,
        now: Timestamp,
    ) -> Result<Self, DomainError> {
        let plan = Digest::from_hex(&pending.plan)
            .map_err(|_| DomainError::internal(format!("the kept plan {:?} of a purge is no hash", pending.plan)))?;
        let (seq, parent) = last.unwrap_or_default();
        let mut record = Self {
            seq: seq + 1,
            scope_key: scope.as_str().to_owned(),
            plan,
            head,
            mode: pending.mode.clone(),
            rows: pending.rows.clone(),
            by: pending.by.clone(),
            began_at: Timestamp(pending.began_at_us),
            purged_at: now,
            parent,
            digest: Digest::default(),
        };
        record.digest = record.computed();
        Ok(record)
    }

    /// The digest of everything else in it.
    pub fn computed(&self) -> Digest {
        canonical_sha256(&json!({
            "purge_record": 1,
            "seq": self.seq,
            "scope_key": self.scope_key,
            "plan": self.plan.to_hex(),
            "head_seq": self.head.0,
            "head_hash": self.head.1.to_hex(),
            "mode": self.mode,
            "rows": self.rows,
            "by": self.by,
            "began_at": self.began_at.0,
            "purged_at": self.purged_at.0,
            "parent": self.parent.to_hex(),
        }))
    }

    /// For reports.
    pub fn shown(&self) -> Value {
        json!({
            "record": self.seq,
            "plan_hash": self.plan.to_hex(),
            "head_seq": self.head.0,
            "head_hash": self.head.1.to_hex(),
            "mode": self.mode,
            "rows": self.rows,
            "by": self.by,
            "began_at": self.began_at.to_iso(),
            "purged_at": self.purged_at.to_iso(),
            "digest": self.digest.to_hex(),
        })
    }
}

/// Walks the records of a deployment in the order of their numbers.
#[derive(Debug, Default)]
pub struct PurgeChain {
    last: (u64, Digest),
}

impl PurgeChain {
    /// Takes the next record.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn record(&mut self, record: &PurgeRecord) -> Result<(), String> {
        let wanted = self.last.0 + 1;
        if record.seq != wanted {
            return Err(format!("record {wanted} is missing, the next one stored is {}", record.seq));
        }
        if record.parent != self.last.1 {
            return Err(format!("record {} does not name the digest of the one before it", record.seq));
        }
        if record.computed() != record.digest {
            return Err(format!("record {} is not what its digest was taken of", record.seq));
        }
        self.last = (record.seq, record.digest);
        Ok(())
    }

    /// Compares the end with what is stored as the newest record.
    ///
    /// # Errors
    /// What does not hold, in words.
    pub fn finish(&self, head: Option<(u64, Digest)>) -> Result<(), String> {
        let (seq, digest) = head.unwrap_or_default();
        if (seq, digest) == self.last {
            return Ok(());
        }
        Err(format!("the newest record is number {seq} with digest {}, stored are {}", digest.to_hex(), self.last.0))
    }

    /// Records taken.
    pub const fn records(&self) -> u64 {
        self.last.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::TenantId;

    fn scope(name: &str) -> ScopeKey {
        ScopeKey::new(&TenantId::parse("acme").unwrap(), name).unwrap()
    }

    fn survey(seq: u64, tables: &[(&str, u64, bool)]) -> PurgeSurvey {
        let table = |(table, rows, own_partition): &(&str, u64, bool)| SurveyedTable {
            table: (*table).to_owned(),
            rows: *rows,
            own_partition: *own_partition,
        };
        PurgeSurvey { head: (seq, Digest([seq as u8; 32])), tables: tables.iter().map(table).collect() }
    }

    #[test]
    fn the_hash_binds_scope_head_mode_and_strategies_and_not_the_counts() {
        let base = survey(3, &[("a", 1, true), ("b", 2, false)]);
        let hash = |scope: &ScopeKey, survey: &PurgeSurvey, mode| plan_purge(scope, survey, mode, false).unwrap().hash;
        let planned = hash(&scope("s"), &base, PurgeMode::Auto);
        assert_eq!(planned, hash(&scope("s"), &survey(3, &[("a", 9, true), ("b", 0, false)]), PurgeMode::Auto));
        for other in [
            hash(&scope("S"), &base, PurgeMode::Auto),
            hash(&scope("s"), &survey(4, &[("a", 1, true), ("b", 2, false)]), PurgeMode::Auto),
            hash(&scope("s"), &base, PurgeMode::Delete),
            hash(&scope("s"), &survey(3, &[("a", 1, false), ("b", 2, false)]), PurgeMode::Auto),
        ] {
            assert_ne!(planned, other);
        }
    }

    #[test]
    fn partitions_come_first_and_what_would_be_deleted_is_refused_by_the_rules_before_anything_else() {
        let mixed = survey(1, &[("a", 5, true), ("b", 5, false)]);
        // A row per job is no reason to refuse.
        assert!(
            plan_purge(&scope("s"), &survey(1, &[("a", 5, true), ("job_states", 2, false)]), PurgeMode::Auto, true)
                .is_ok()
        );
        let strategies = |mode| -> Vec<PurgeStrategy> {
            let plan = plan_purge(&scope("s"), &mixed, mode, false).unwrap();
            plan.tables.iter().map(|table| table.strategy).collect()
        };
        assert_eq!(strategies(PurgeMode::Auto), [PurgeStrategy::PartitionTruncate, PurgeStrategy::Delete]);
        assert_eq!(strategies(PurgeMode::Delete), [PurgeStrategy::Delete, PurgeStrategy::Delete]);
        for (mode, fail) in [(PurgeMode::Partition, false), (PurgeMode::Auto, true), (PurgeMode::Delete, true)] {
            let refused = plan_purge(&scope("s"), &mixed, mode, fail).unwrap_err();
            assert_eq!(refused.code, "purge_refused");
            assert!(refused.message.contains('b') && refused.message.contains("nothing was touched"), "{refused}");
        }
        // A table without rows needs nothing deleted.
        let empty = survey(1, &[("a", 5, true), ("b", 0, false)]);
        plan_purge(&scope("s"), &empty, PurgeMode::Partition, true).unwrap();
    }

    fn records(n: u64) -> Vec<PurgeRecord> {
        let mut records: Vec<PurgeRecord> = Vec::new();
        for at in 0..n {
            let plan = plan_purge(&scope("s"), &survey(at, &[("a", at, false)]), PurgeMode::Auto, false).unwrap();
            let mut pending = PendingPurge::new(&plan, "ops", Timestamp(1));
            pending.removed("a", at);
            let last = records.last().map(|record| (record.seq, record.digest));
            records.push(PurgeRecord::of(&scope("s"), plan.head, &pending, last, Timestamp(2)).unwrap());
        }
        records
    }

    fn check(records: &[PurgeRecord], head: Option<(u64, Digest)>) -> Result<(), String> {
        let mut chain = PurgeChain::default();
        records.iter().try_for_each(|record| chain.record(record))?;
        chain.finish(head)
    }

    proptest! {
        #[test]
        fn a_record_that_is_taken_away_or_altered_is_noticed(n in 1_u64..8, pick in 0_usize..8, by in "[a-z]{1,8}") {
            let whole = records(n);
            let head = whole.last().map(|record| (record.seq, record.digest));
            prop_assert!(check(&whole, head).is_ok());
            let at = pick % whole.len();
            let mut without = whole.clone();
            without.remove(at);
            prop_assert!(check(&without, head).is_err());
            let mut altered = whole.clone();
            altered[at].by = format!("not {by}");
            prop_assert!(check(&altered, head).is_err());
            altered[at].digest = altered[at].computed();
            prop_assert!(check(&altered, head).is_err());
            prop_assert!(check(&whole, None).is_err());
        }
    }

    #[test]
    fn what_is_pending_survives_its_stored_form() {
        let plan = plan_purge(&scope("s"), &survey(1, &[("a", 5, true)]), PurgeMode::Auto, false).unwrap();
        let mut pending = PendingPurge::new(&plan, "ops \"x\"", Timestamp(7));
        pending.removed("a", 5);
        pending.removed("b", 0);
        let text = serde_json::to_string(&pending).unwrap();
        assert_eq!(serde_json::from_str::<PendingPurge>(&text).unwrap(), pending);
        assert_eq!(pending.rows.len(), 1);
    }
}
