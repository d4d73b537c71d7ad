//! Schema migrations: forward only, embedded, each applied once in a transaction of its own, checksums verified at start.
//! One advisory lock lets any number of processes start at once.

use aionis_core::{canon::sha256_hex, clock::Timestamp, partition::CutoverState, ports::store::StoreError};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, raw_sql};

use super::error::driver;
use crate::migration::{Applied, Migration, MigrationReport, check, plan};

/// The role the program works as. It owns nothing, so that row-level security holds for it.
pub(crate) const RUNTIME_ROLE: &str = "aionis_runtime";

const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, name: "memory", sql: include_str!("migrations/0001_memory.sql") },
    Migration { version: 2, name: "maintenance", sql: include_str!("migrations/0002_maintenance.sql") },
    Migration { version: 3, name: "operations", sql: include_str!("migrations/0003_operations.sql") },
    Migration {
        version: 4,
        name: "reading_and_forgetting",
        sql: include_str!("migrations/0004_reading_and_forgetting.sql"),
    },
    Migration { version: 5, name: "api_keys", sql: include_str!("migrations/0005_api_keys.sql") },
    Migration { version: 6, name: "jobs", sql: include_str!("migrations/0006_jobs.sql") },
    Migration { version: 7, name: "lifecycle", sql: include_str!("migrations/0007_lifecycle.sql") },
    Migration { version: 8, name: "consolidation", sql: include_str!("migrations/0008_consolidation.sql") },
    Migration { version: 9, name: "reports", sql: include_str!("migrations/0009_reports.sql") },
    Migration { version: 10, name: "topics", sql: include_str!("migrations/0010_topics.sql") },
    Migration { version: 11, name: "purges", sql: include_str!("migrations/0011_purges.sql") },
    Migration { version: 12, name: "partition_cutover", sql: include_str!("migrations/0012_partition_cutover.sql") },
];

/// Key of the advisory lock: "aionis" in ASCII.
const LOCK_KEY: i64 = 0x0061_696f_6e69_7300;

/// pgvector from which on an index scan goes on until it has found enough.
const PGVECTOR_MIN: (u32, u32) = (0, 8);
/// Oldest server, as `server_version_num` says it.
const SERVER_MIN: i32 = 150_000;

/// Short name of the schema that all migrations make.
pub(crate) fn fingerprint() -> String {
    let all: String = MIGRATIONS.iter().map(|migration| migration.sql).collect();
    sha256_hex(all)[..12].to_owned()
}

/// Migrates a database; with `dry_run` only tells what would be done.
pub(crate) async fn run(
    mut connection: PgConnection,
    dry_run: bool,
    now: Timestamp,
) -> Result<MigrationReport, StoreError> {
    let report = if dry_run {
        let applied = applied(&mut connection).await?;
        Ok(plan(MIGRATIONS, &check(MIGRATIONS, &applied)?))
    } else {
        migrate(&mut connection, now).await
    };
    // The connection is of no use to anybody any more, however its end goes.
    let _ = connection.close().await;
    report
}

/// Brings the schema up to date.
pub(crate) async fn migrate(connection: &mut PgConnection, now: Timestamp) -> Result<MigrationReport, StoreError> {
    check_server(connection).await?;
    let before = check(MIGRATIONS, &applied(connection).await?)?;
    if before.len() == MIGRATIONS.len() {
        return Ok(plan(MIGRATIONS, &before));
    }
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK_KEY).execute(&mut *connection).await.map_err(driver)?;
    let report = locked(connection, now).await;
    let unlocked = sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK_KEY).execute(&mut *connection).await;
    let report = report?;
    unlocked.map_err(driver)?;
    Ok(report)
}

/// Names of migrations that are not applied yet.
pub(super) async fn missing(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let applied = check(MIGRATIONS, &applied(connection).await?)?;
    Ok(plan(MIGRATIONS, &applied).applied_now)
}

/// Refuses to change the schema while two layouts have to be the same.
async fn check_layout(connection: &mut PgConnection) -> Result<(), StoreError> {
    let known: bool = sqlx::query("SELECT to_regclass('partition_cutover') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(driver)?;
    if !known {
        return Ok(());
    }
    let sql = "SELECT state FROM partition_cutover";
    let row = sqlx::query(sql).fetch_optional(connection).await.map_err(driver)?;
    let state: Option<String> = row.map(|row| row.try_get(0)).transpose().map_err(driver)?;
    match state.as_deref().and_then(CutoverState::parse) {
        Some(state) if state.is_under_way() => Err(StoreError::Driver(format!(
            "the schema cannot change while the tables are being partitioned (state {state}); end it with `aionis partition \
             finalize` or `aionis partition rollback`, with the version that began it"
        ))),
        _ => Ok(()),
    }
}

async fn locked(connection: &mut PgConnection, now: Timestamp) -> Result<MigrationReport, StoreError> {
    prepare(connection).await?;
    let before = check(MIGRATIONS, &applied(connection).await?)?;
    let report = plan(MIGRATIONS, &before);
    if !report.applied_now.is_empty() {
        check_layout(connection).await?;
    }
    for migration in MIGRATIONS.iter().filter(|migration| !before.contains(&migration.version)) {
        let mut tx = connection.begin().await.map_err(driver)?;
        raw_sql(AssertSqlSafe(migration.sql)).execute(&mut *tx).await.map_err(driver)?;
        sqlx::query("INSERT INTO schema_migrations (version, name, sha256, applied_at) VALUES ($1, $2, $3, $4)")
            .bind(migration.version)
            .bind(migration.name)
            .bind(sha256_hex(migration.sql))
            .bind(now.0)
            .execute(&mut *tx)
            .await
            .map_err(driver)?;
        tx.commit().await.map_err(driver)?;
    }
    Ok(report)
}

/// What migrations stand on: the extension, the runtime role and the table of what is applied.
async fn prepare(connection: &mut PgConnection) -> Result<(), StoreError> {
    let sql = "CREATE EXTENSION IF NOT EXISTS vector;
         CREATE TABLE IF NOT EXISTS schema_migrations (
             version bigint NOT NULL PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at bigint NOT NULL
         );";
    raw_sql(sql).execute(&mut *connection).await.map_err(driver)?;
    // Roles belong to the whole server: another database's migration may be making it right now.
    let sql = "DO $$ BEGIN
             IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'aionis_runtime') THEN
                 CREATE ROLE aionis_runtime NOLOGIN NOSUPERUSER NOBYPASSRLS;
             END IF;
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
         END $$;";
    raw_sql(sql).execute(&mut *connection).await.map_err(|e| {
        StoreError::Unavailable(format!(
            "the role {RUNTIME_ROLE} is missing and cannot be made ({e}); let an administrator run: CREATE ROLE \
             {RUNTIME_ROLE} NOLOGIN; GRANT {RUNTIME_ROLE} TO the user of DATABASE_URL"
        ))
    })?;
    let member: bool = sqlx::query("SELECT pg_has_role(current_user, 'aionis_runtime', 'MEMBER')")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(driver)?;
    if !member {
        raw_sql("GRANT aionis_runtime TO current_user").execute(&mut *connection).await.map_err(driver)?;
    }
    raw_sql("GRANT USAGE ON SCHEMA public TO aionis_runtime").execute(&mut *connection).await.map_err(driver)?;
    Ok(())
}

async fn check_server(connection: &mut PgConnection) -> Result<(), StoreError> {
    let sql = "SELECT current_setting('server_version_num')::int, \
               (SELECT default_version FROM pg_available_extensions WHERE name = 'vector')";
    let row = sqlx::query(sql).fetch_one(&mut *connection).await.map_err(driver)?;
    let server: i32 = row.try_get(0).map_err(driver)?;
    let vector: Option<String> = row.try_get(1).map_err(driver)?;
    if server < SERVER_MIN {
        return Err(StoreError::Driver(format!("PostgreSQL 15 or newer is needed, the server is {server}")));
    }
    let Some(vector) = vector else {
        return Err(StoreError::Driver(
            "the server has no pgvector extension; install pgvector 0.8 or newer".to_owned(),
        ));
    };
    let mut parts = vector.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    if (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) < PGVECTOR_MIN {
        return Err(StoreError::Driver(format!("pgvector 0.8 or newer is needed, the server has {vector}")));
    }
    Ok(())
}

/// What is applied; nothing on a new database.
async fn applied(connection: &mut PgConnection) -> Result<Vec<Applied>, StoreError> {
    let known: bool = sqlx::query("SELECT to_regclass('schema_migrations') IS NOT NULL")
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(driver)?;
    if !known {
        return Ok(Vec::new());
    }
    let rows = sqlx::query("SELECT version, name, sha256 FROM schema_migrations ORDER BY version")
        .fetch_all(&mut *connection)
        .await
        .map_err(driver)?;
    rows.iter()
        .map(|row| {
            Ok(Applied {
                version: row.try_get(0).map_err(driver)?,
                name: row.try_get(1).map_err(driver)?,
                sha256: row.try_get(2).map_err(driver)?,
            })
        })
        .collect()
}
