//! API keys on PostgreSQL: who sees them by raw SQL, and the statements whose plans are kept.

use std::time::Duration;

use aionis_core::{
    ids::TenantId,
    keys::{KeyRecord, KeyText, NewKey, Role, Rotation},
    ports::store::KeyStore,
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::{FakeClock, START},
    postgres::{TempDatabase, options},
};
use sqlx::{AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

/// The statements of [`exercise`], for `plans`.
pub(super) const STATEMENTS: &[(&str, &str)] = &[
    ("key_find", "FROM api_keys WHERE digest = $1"),
    ("key_list", "(tenant_id, created_at, id) >"),
    ("key_list_tenant", "(created_at, id) > ($2, $3)"),
    ("key_put", "INSERT INTO api_keys"),
    ("key_read", "FROM api_keys WHERE id = $1 FOR UPDATE"),
    ("key_replace", "UPDATE api_keys SET expires_at"),
    ("key_revoke", "UPDATE api_keys SET revoked_at"),
];

fn key(number: u8, tenant: &str) -> NewKey {
    let key = KeyText::from_random([number; 32]);
    let record = KeyRecord {
        id: Uuid::from_u128(u128::from(number)),
        tenant_id: TenantId::parse(tenant).unwrap(),
        name: None,
        prefix: key.shown().to_owned(),
        role: Role::Reader,
        agent_id: None,
        team_id: None,
        created_at: START,
        expires_at: None,
        revoked_at: None,
        replaced_by: None,
    };
    NewKey { record, digest: key.digest() }
}

/// What the service and operators do with keys.
pub(super) async fn exercise(store: &PostgresStore) {
    for number in 0..20 {
        let made = key(number, "acme");
        store.create_key(made.clone()).await.unwrap();
        store.key_by_digest(&made.digest).await.unwrap().unwrap();
        let new = KeyText::from_random([100 + number; 32]);
        let rotation = Rotation {
            old: made.record.id,
            new: Uuid::from_u128(100 + u128::from(number)),
            prefix: new.shown().to_owned(),
            digest: new.digest(),
            grace: Duration::ZERO,
            now: START,
        };
        let (new, _) = store.rotate_key(rotation).await.unwrap();
        store.revoke_key(new.id, START).await.unwrap();
        store.keys(None, Some(&new), 3).await.unwrap();
        store.keys(Some(&new.tenant_id), Some(&new), 3).await.unwrap();
    }
}

async fn as_runtime(connection: &mut PgConnection, tenant: Option<&str>) {
    sqlx::raw_sql("RESET aionis.tenant; SET ROLE aionis_runtime").execute(&mut *connection).await.unwrap();
    if let Some(tenant) = tenant {
        let sql = format!("SET aionis.tenant = '{tenant}'");
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
    }
}

async fn tenants_seen(connection: &mut PgConnection) -> Vec<String> {
    let rows = sqlx::query("SELECT DISTINCT tenant_id FROM api_keys ORDER BY 1").fetch_all(connection).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sql_sees_keys_of_one_tenant() {
    let database = TempDatabase::new().await;
    let store = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.unwrap();
    for (number, tenant) in [(1, "acme"), (2, "globex")] {
        store.create_key(key(number, tenant)).await.unwrap();
    }
    let mut connection = database.owner().await;
    assert_eq!(tenants_seen(&mut connection).await, ["acme", "globex"]);
    for (tenant, other) in [("acme", "globex"), ("globex", "acme")] {
        as_runtime(&mut connection, Some(tenant)).await;
        assert_eq!(tenants_seen(&mut connection).await, [tenant]);
        let sql = format!("UPDATE api_keys SET role = 'admin' WHERE tenant_id = '{other}'");
        let changed = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        assert_eq!(changed.rows_affected(), 0, "{other}");
        let forged = format!(
            "INSERT INTO api_keys (id, tenant_id, prefix, digest, role, created_at) \
             VALUES (gen_random_uuid(), '{other}', 'aio_00000000', sha256('x'), 'admin', 0)"
        );
        let moved = format!("UPDATE api_keys SET tenant_id = '{other}'");
        for sql in [forged, moved] {
            let refused = sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap_err();
            assert!(refused.to_string().contains("row-level security"), "{refused}");
        }
        let refused = sqlx::query("DELETE FROM api_keys").execute(&mut connection).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{refused}");
    }
    as_runtime(&mut connection, None).await;
    assert_eq!(tenants_seen(&mut connection).await, Vec::<String>::new(), "for nobody");
}

/// A table that names tenants and is added without protection is noticed here.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_a_tenant_is_protected() {
    let database = TempDatabase::new().await;
    let mut connection = database.owner().await;
    let rows = sqlx::query(
        "SELECT c.relname::text, c.relrowsecurity FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid \
         WHERE c.relkind = 'r' AND a.attname = 'tenant_id' AND c.relnamespace = 'public'::regnamespace ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap();
    let bare: Vec<String> = rows.iter().filter(|row| !row.get::<bool, _>(1)).map(|row| row.get(0)).collect();
    assert_eq!(bare, Vec::<String>::new());
    assert!(rows.iter().any(|row| row.get::<String, _>(0) == "api_keys"));
}
