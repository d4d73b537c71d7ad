//! The copy itself.

use std::{collections::BTreeMap, sync::Arc};

use aionis_core::{ids::ScopeKey, ports::store::StoreError};
use serde::Serialize;
use uuid::Uuid;

use super::{Head, Progress, RowsDigest, Snapshot, Table, key_of};
use crate::Deployment;

/// What to copy.
#[derive(Clone, Debug)]
pub struct CopySettings {
    /// Only this tenant.
    pub tenant: Option<String>,
    /// Only this scope.
    pub scope: Option<String>,
    /// Only tell what would be copied.
    pub dry_run: bool,
    /// Rows per page.
    pub page: usize,
}

/// Why a copy stopped. Scopes that are complete stay; the one under way goes on when the same copy is started again.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A store failed.
    #[error("{side}: {error}")]
    Store {
        /// `from` or `to`.
        side: &'static str,
        /// What failed.
        error: StoreError,
    },
    /// The copy would not be one.
    #[error("{0}")]
    Refused(String),
    /// What was read back is not what was copied.
    #[error("{scope}: {table} is not the same on both sides ({from} rows there, {to} here)")]
    Differs {
        /// Scope.
        scope: String,
        /// Table.
        table: &'static str,
        /// Rows at the source.
        from: u64,
        /// Rows at the destination.
        to: u64,
    },
}

/// What of a scope does not change without a commit. Nodes and vectors do: workers derive on either side.
const BY_THE_HEAD: [Table; 3] = [Table::Commits, Table::Versions, Table::Edges];

fn from(error: StoreError) -> CopyError {
    CopyError::Store { side: "from", error }
}

fn to(error: StoreError) -> CopyError {
    CopyError::Store { side: "to", error }
}

/// What became of a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyStatus {
    /// Copied now.
    Copied,
    /// Was there already, and is the same.
    Present,
    /// Would be copied.
    Planned,
}

/// One scope of a copy.
#[derive(Clone, Debug, Serialize)]
pub struct ScopeCopy {
    /// Tenant.
    pub tenant_id: String,
    /// Scope.
    pub scope: String,
    /// What became of it.
    pub status: CopyStatus,
    /// Whether an earlier copy was gone on with.
    pub resumed: bool,
    /// Number of the newest commit.
    pub head_seq: u64,
    /// Its hash.
    pub head_hash: String,
    /// Rows per table, as compared on both sides.
    pub rows: BTreeMap<&'static str, u64>,
}

/// Told how far a copy is.
pub trait CopyProgress: Send + Sync {
    /// A scope begins; about so many rows are expected.
    fn scope(&self, scope: &str, rows: u64);
    /// So many more are copied.
    fn advance(&self, rows: u64);
}

/// Copies scopes, one after the other, and compares each. Nothing is merged: a scope that is there with another history is
/// refused before anything is changed.
///
/// # Errors
/// [`CopyError`].
pub async fn copy(
    source: &Arc<dyn Deployment>,
    destination: &Arc<dyn Deployment>,
    settings: &CopySettings,
    progress: &dyn CopyProgress,
) -> Result<Vec<ScopeCopy>, CopyError> {
    let fresh = || Uuid::new_v4().simple().to_string();
    let source_id = source.meta_or_insert("store_id", fresh()).await.map_err(from)?;
    if source_id == destination.meta_or_insert("store_id", fresh()).await.map_err(to)? {
        return Err(CopyError::Refused("--from and --to are the same store".to_owned()));
    }
    let mut there = source.transfer().0.snapshot().await.map_err(from)?;
    let wanted = (settings.tenant.as_deref(), settings.scope.as_deref());
    let mut plan = Vec::new();
    for summary in there.scopes(wanted.0, wanted.1).await.map_err(from)? {
        let scope = ScopeKey::from_stored(&summary.scope_key).map_err(|e| from(e.into()))?;
        let Some(head) = there.head(&scope).await.map_err(from)? else {
            return Err(CopyError::Refused(format!("{scope} has rows and no head; run `aionis verify`")));
        };
        if head.importing {
            return Err(CopyError::Refused(format!("{scope} is itself an incomplete copy at the source")));
        }
        plan.push((scope, head));
    }
    let mut here = destination.transfer().0.snapshot().await.map_err(to)?;
    let mut held = Vec::with_capacity(plan.len());
    for (scope, head) in &plan {
        let present = here.head(scope).await.map_err(to)?.filter(|present| !present.importing);
        if let Some(present) = &present
            && (present.seq, present.hash) != (head.seq, head.hash)
        {
            return Err(CopyError::Refused(format!(
                "{scope} is at the destination with another history (commit {} there, {} here); a copy merges nothing",
                head.seq, present.seq
            )));
        }
        held.push(present.is_some());
    }
    drop(here);
    settle_space(source, destination, settings.dry_run).await?;
    if !settings.dry_run {
        // Redaction tokens are made with a key; the same text must go on giving the same token.
        if let Some(key) = source.meta("redaction_key").await.map_err(from)?
            && destination.meta_or_insert("redaction_key", key.clone()).await.map_err(to)? != key
        {
            tracing::warn!(
                "the destination has a redaction key of its own: tokens in copied texts do not match new ones"
            );
        }
    }
    let mut report = Vec::with_capacity(plan.len());
    for ((scope, head), present) in plan.iter().zip(held) {
        let mut done = ScopeCopy {
            tenant_id: scope.tenant().to_owned(),
            scope: scope.scope().to_owned(),
            status: if settings.dry_run { CopyStatus::Planned } else { CopyStatus::Copied },
            resumed: false,
            head_seq: head.seq,
            head_hash: head.hash.to_hex(),
            rows: BTreeMap::new(),
        };
        if present {
            done.status = CopyStatus::Present;
            done.rows = compare(&mut *there, destination, scope, &BY_THE_HEAD, settings.page).await?;
        } else if !settings.dry_run {
            progress.scope(scope.as_str(), head.seq + 2 * head.nodes + head.edges);
            one(&mut *there, destination, (scope, head), &source_id, settings.page, progress, &mut done).await?;
        }
        report.push(done);
    }
    Ok(report)
}

/// Vectors of different models do not compare: the destination takes the source's model, or has it.
async fn settle_space(
    source: &Arc<dyn Deployment>,
    destination: &Arc<dyn Deployment>,
    dry_run: bool,
) -> Result<(), CopyError> {
    let theirs = source.present_generation().await.map_err(from)?;
    let ours = destination.present_generation().await.map_err(to)?;
    if theirs == ours {
        return Ok(());
    }
    if destination.generation_counts(&ours).await.map_err(to)?.wanted > 0 {
        return Err(CopyError::Refused(format!(
            "the vectors there are of {} ({} dimensions), those at the destination of {} ({}): run `aionis reembed` on one \
             of them first",
            theirs.name, theirs.dim, ours.name, ours.dim
        )));
    }
    if !dry_run {
        destination.switch_generation(&theirs, aionis_core::clock::Timestamp(0)).await.map_err(to)?;
    }
    Ok(())
}

/// Copies one scope and compares it.
async fn one(
    there: &mut dyn Snapshot,
    destination: &Arc<dyn Deployment>,
    (scope, head): (&ScopeKey, &Head),
    source_id: &str,
    page: usize,
    told: &dyn CopyProgress,
    done: &mut ScopeCopy,
) -> Result<(), CopyError> {
    let fresh =
        Progress { source: source_id.to_owned(), head: (head.seq, head.hash.to_hex()), tables: 0, after: Vec::new() };
    let earlier = destination.transfer().0.progress(scope).await.map_err(to)?;
    // Of another source, or of this one before it was written again, nothing can be used.
    let earlier = earlier.filter(|earlier| (&earlier.source, &earlier.head) == (&fresh.source, &fresh.head));
    let mut progress = match earlier {
        Some(earlier) => {
            done.resumed = true;
            earlier
        }
        None => {
            destination.transfer().0.begin_import(scope, &fresh).await.map_err(to)?;
            fresh.clone()
        }
    };
    // The work comes last, with the head: no worker may begin before everything is there.
    let tables = &Table::ALL[..Table::Outbox as usize];
    while let Some(table) = tables.get(progress.tables) {
        let rows = there.page(scope, *table, &progress.after, page).await.map_err(from)?;
        let Some(last) = rows.last() else {
            progress.tables += 1;
            progress.after.clear();
            continue;
        };
        progress.after = key_of(*table, last).map_err(from)?;
        let count = rows.len() as u64;
        destination.transfer().0.import(scope, *table, rows, &progress).await.map_err(to)?;
        told.advance(count);
    }
    // Not the kept answers: either side forgets old ones at any time.
    done.rows = match compare(there, destination, scope, &tables[..Table::Requests as usize], page).await {
        Err(differs @ CopyError::Differs { .. }) => {
            // To go on from here would only find the same again.
            destination.transfer().0.begin_import(scope, &fresh).await.map_err(to)?;
            return Err(differs);
        }
        done => done?,
    };
    let mut work = Vec::new();
    loop {
        let after = work.last().map_or_else(|| Ok(Vec::new()), |last| key_of(Table::Outbox, last)).map_err(from)?;
        let rows = there.page(scope, Table::Outbox, &after, page).await.map_err(from)?;
        if rows.is_empty() {
            break;
        }
        work.extend(rows);
    }
    done.rows.insert(Table::Outbox.name(), work.len() as u64);
    destination.transfer().0.finish_import(scope, head, work).await.map_err(to)
}

/// Compares tables of a scope on both sides; returns how many rows they have.
async fn compare(
    there: &mut dyn Snapshot,
    destination: &Arc<dyn Deployment>,
    scope: &ScopeKey,
    tables: &[Table],
    page: usize,
) -> Result<BTreeMap<&'static str, u64>, CopyError> {
    let mut here = destination.transfer().0.snapshot().await.map_err(to)?;
    let mut rows = BTreeMap::new();
    for table in tables {
        let theirs = digest(there, scope, *table, page).await.map_err(from)?;
        let ours = digest(&mut *here, scope, *table, page).await.map_err(to)?;
        if theirs != ours {
            let (from, to) = (theirs.rows, ours.rows);
            return Err(CopyError::Differs { scope: scope.to_string(), table: table.name(), from, to });
        }
        rows.insert(table.name(), ours.rows);
    }
    Ok(rows)
}

async fn digest(
    snapshot: &mut dyn Snapshot,
    scope: &ScopeKey,
    table: Table,
    page: usize,
) -> Result<RowsDigest, StoreError> {
    let mut digest = RowsDigest::default();
    let mut after = Vec::new();
    loop {
        let rows = snapshot.page(scope, table, &after, page).await?;
        for row in &rows {
            digest.add(row)?;
        }
        match rows.last() {
            Some(last) => after = key_of(table, last)?,
            None => return Ok(digest),
        }
    }
}
