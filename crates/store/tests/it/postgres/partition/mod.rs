//! From flat tables to partitioned ones while writers are at work: every step, what is planted against it, and the way back.

mod cutover;
mod faults;
mod layout;
mod mirror;
mod order;
mod promote;
mod replication;
mod shadow;
mod shape;

use std::{sync::Arc, time::Duration};

use aionis_core::{clock::SystemClock, ids::ScopeKey, partition::CutoverState, ports::store::WriteStore};
use aionis_store::postgres::{
    PostgresStore,
    partition::{
        BackfillOptions, EnsureOptions, PartitionAdmin, ReadinessOptions, ReadinessReport, ShadowOptions, SwapReport,
        VerifyOptions, WindowOptions,
    },
};
use aionis_testkit::{
    fixtures::{DIM, FakeClock, Rng, WriteBuilder, scope_of},
    postgres::{TempDatabase, options},
};
use sqlx::{AssertSqlSafe, PgConnection, Row};

/// A database with memories, a store over it, and the owner's hand.
struct Bed {
    database: TempDatabase,
    store: Arc<PostgresStore>,
    admin: PartitionAdmin,
    scopes: Vec<ScopeKey>,
}

async fn admin(database: &TempDatabase) -> PartitionAdmin {
    PartitionAdmin::connect(&database.url(), Duration::from_secs(10), Arc::new(SystemClock)).await.unwrap()
}

async fn open(database: &TempDatabase) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap())
}

/// Some nodes with vectors, edges, versions, requests and work in a scope.
async fn fill(store: &PostgresStore, s: &ScopeKey, nodes: usize) {
    let mut rng = Rng::new(7);
    for n in 0..nodes {
        let (name, other) = (format!("n{n}"), format!("n{}", (n + 1) % nodes));
        for version in 0..2 {
            let text = format!("harbour {n} {version}");
            let write = WriteBuilder::new(s)
                .deriving()
                .input(&text)
                .key(&format!("{n} {version}"), true)
                .node(&name, &text)
                .vector(rng.vector(DIM))
                .node(&other, "beside")
                .edge(&name, &other);
            store.write(write.prepared()).await.unwrap();
        }
    }
}

impl Bed {
    /// With flat tables, whichever layout other tests have.
    async fn new() -> Self {
        let database = TempDatabase::flat().await;
        let store = open(&database).await;
        let scopes: Vec<ScopeKey> = [("acme", "perf_1"), ("acme", "perfX1"), ("acme", "it's"), ("other", "perf_1")]
            .into_iter()
            .map(|(tenant, name)| scope_of(tenant, name))
            .collect();
        for s in &scopes {
            fill(&store, s, 6).await;
        }
        let admin = admin(&database).await;
        Self { database, store, admin, scopes }
    }

    async fn ensured() -> Self {
        Self::ensured_with(ENSURE.hash_partitions).await
    }

    async fn ensured_with(hash_partitions: u16) -> Self {
        let mut bed = Self::new().await;
        bed.admin.ensure(&EnsureOptions { hash_partitions, ..ENSURE }).await.unwrap();
        bed
    }

    /// At the end, with so many parts of the default partition.
    async fn finalized_with(hash_partitions: u16) -> Self {
        let mut bed = Self::ensured_with(hash_partitions).await;
        bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
        bed.get_ready().await;
        bed.cutover().await;
        bed.admin.finalize(&WindowOptions::default()).await.unwrap();
        bed
    }

    async fn backfilled() -> Self {
        let mut bed = Self::ensured().await;
        assert_eq!(bed.admin.backfill(&BackfillOptions::default()).await.unwrap().state, CutoverState::Backfilled);
        bed
    }

    async fn ready() -> Self {
        let mut bed = Self::backfilled().await;
        bed.get_ready().await;
        bed
    }

    async fn cut_over() -> Self {
        let mut bed = Self::ready().await;
        bed.cutover().await;
        bed
    }

    async fn get_ready(&mut self) {
        let verified = self.admin.verify(&VerifyOptions::default()).await.unwrap();
        assert!(verified.ok, "{verified:?}");
        let report = self.admin.readiness(&checks(), "run").await.unwrap();
        assert!(report.readiness.ok, "{:?}", report.readiness.fail_reasons);
    }

    async fn cutover(&mut self) -> SwapReport {
        self.admin.cutover(&WindowOptions::default()).await.unwrap()
    }

    async fn owner(&self) -> PgConnection {
        self.database.owner().await
    }

    /// What readiness says, without asking for it in order.
    async fn judged(&mut self) -> ReadinessReport {
        self.admin.check_readiness(&checks()).await.unwrap()
    }

    /// The names of the checks that do not pass.
    async fn failing(&mut self) -> Vec<&'static str> {
        let report = self.judged().await;
        let failing = report.readiness.checks.iter().filter(|c| c.state != aionis_core::partition::CheckState::Pass);
        failing.map(|check| check.name).collect()
    }
}

const ENSURE: EnsureOptions = EnsureOptions { hash_partitions: 4, own_from_rows: None };

fn checks() -> ReadinessOptions {
    let shadow = ShadowOptions { limit: 5, ..ShadowOptions::default() };
    ReadinessOptions { shadow, ..ReadinessOptions::default() }
}

async fn execute(owner: &mut PgConnection, sql: &str) -> u64 {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(owner)
        .await
        .unwrap_or_else(|e| panic!("{sql}: {e}"))
        .rows_affected()
}

async fn number(owner: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query(AssertSqlSafe(sql.to_owned())).fetch_one(owner).await.unwrap().get(0)
}
