//! The change to partitioned tables while the program works on: `aionis partition`.
//!
//! Twins of the flat tables are made, every change is mirrored into them by triggers, older rows are copied, everything is
//! compared, and one short transaction exchanges the names. What is done here is done as the owner of the schema, on one
//! connection, by one process at a time. See `docs/adr/0022-partitioned-layout.md`.

mod backfill;
mod catalogue;
mod check;
mod compare;
mod copy;
mod ensure;
mod indexes;
mod mirror;
mod plan;
mod progress;
mod promote;
mod replication;
mod shadow;
mod swap;
mod window;

use std::{sync::Arc, time::Duration};

use aionis_core::{
    clock::Clock,
    partition::{CutoverState, Step},
    ports::store::StoreError,
};
use sqlx::{AssertSqlSafe, PgConnection, Row, raw_sql};

pub use self::{
    backfill::{BackfillOptions, BackfillReport, TableCopy},
    check::{ReadinessOptions, ReadinessReport},
    compare::{GapReport, GapRow, SamplePair, TableComparison, VerifyOptions, VerifyReport},
    ensure::{EnsureOptions, EnsureReport},
    plan::{LargeScope, PlanReport, PlannedTable},
    progress::{CutoverStatus, Event, TableProgress},
    promote::{PromoteOptions, PromoteReport, PromotedTable},
    shadow::{ShadowOptions, ShadowReport},
    swap::SwapReport,
    window::WindowOptions,
};
use super::{connect_in_time, connect_options, error::driver};
use crate::purge::TABLES;

/// Key of the advisory lock that lets one command work at a time: "aionispt" in ASCII.
const LOCK_KEY: i64 = 0x6169_6f6e_6973_7074;

/// Small tables with a few rows per scope, which stay flat.
const STAY_FLAT: &[&str] = &["job_states"];

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// It must not be done now; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for PartitionError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(driver(error))
    }
}

pub(crate) type Done<T> = Result<T, PartitionError>;

fn refused<T>(text: impl Into<String>) -> Done<T> {
    Err(PartitionError::Refused(text.into()))
}

/// The tables that are partitioned, in an order in which writers take them.
pub fn partitioned_tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().filter(|table| !table.embedded_only && !STAY_FLAT.contains(&table.name)).map(|table| table.name)
}

/// The owner's connection, and what commands do on it.
pub struct PartitionAdmin {
    connection: PgConnection,
    clock: Arc<dyn Clock>,
}

impl PartitionAdmin {
    /// Connects as the owner. Nothing is changed: the schema is brought up to date by `aionis migrate` alone.
    ///
    /// # Errors
    /// The server cannot be reached; migrations are missing or altered.
    pub async fn connect(url: &str, timeout: Duration, clock: Arc<dyn Clock>) -> Result<Self, PartitionError> {
        let options = connect_options(url)?.application_name("aionis partition");
        let mut connection = connect_in_time(&options, timeout).await?;
        raw_sql("SET statement_timeout = 0; SET jit = off").execute(&mut connection).await?;
        let missing = super::migrate::missing(&mut connection).await?;
        if !missing.is_empty() {
            return refused(format!("the schema is not up to date ({}); run `aionis migrate`", missing.join(", ")));
        }
        Ok(Self { connection, clock })
    }

    /// Takes the lock that one command holds at a time, and checks that the command is in order.
    async fn begin(&mut self, step: Step) -> Done<CutoverState> {
        let sql = "SELECT pg_try_advisory_lock($1)";
        let got: bool = sqlx::query(sql).bind(LOCK_KEY).fetch_one(&mut self.connection).await?.try_get(0)?;
        if !got {
            return refused(
                "another `aionis partition` command is at work; wait for it, `aionis partition status` tells",
            );
        }
        let state = progress::state(&mut self.connection).await?;
        if let Err(line) = step.check(state) {
            self.end().await?;
            return refused(line);
        }
        Ok(state)
    }

    /// Lets go of the lock. A connection that is lost lets go of it too.
    async fn end(&mut self) -> Done<()> {
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK_KEY).execute(&mut self.connection).await?;
        Ok(())
    }

    /// Process id of this connection's backend on the server.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn backend_pid(&mut self) -> Result<i32, PartitionError> {
        Ok(sqlx::query("SELECT pg_backend_pid()").fetch_one(&mut self.connection).await?.try_get(0)?)
    }

    /// How far the change is.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn state(&mut self) -> Result<CutoverState, PartitionError> {
        progress::state(&mut self.connection).await
    }
}

/// Runs statements without parameters, one after the other.
async fn execute(connection: &mut PgConnection, sql: &str) -> Done<()> {
    raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await?;
    Ok(())
}
