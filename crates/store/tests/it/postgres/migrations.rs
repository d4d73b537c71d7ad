//! Schema migrations on PostgreSQL.

use aionis_core::clock::SystemClock;
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    fixtures::FakeClock,
    postgres::{TempDatabase, options},
};

async fn migrate(url: &str, dry_run: bool) -> Result<(Vec<String>, Vec<String>), String> {
    PostgresStore::migrate_only(url, dry_run, &SystemClock)
        .await
        .map(|report| (report.applied_before, report.applied_now))
        .map_err(|e| e.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_processes_that_start_at_once_migrate_once() {
    let database = TempDatabase::empty().await;
    let planned = migrate(&database.url(), true).await.unwrap();
    assert_eq!((planned.0.len(), planned.1.is_empty()), (0, false));
    assert_eq!(migrate(&database.url(), true).await.unwrap(), planned, "a dry run changes nothing");
    let starts = (0..10).map(|_| {
        let url = database.url();
        tokio::spawn(async move { PostgresStore::open(&options(&url), FakeClock::new()).await.map(|_| ()) })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    assert_eq!(migrate(&database.url(), false).await.unwrap(), (planned.1, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_and_newer_schemas_are_refused() {
    for (sql, wanted) in [
        ("UPDATE schema_migrations SET sha256 = 'x' WHERE version = 1", "other content"),
        ("INSERT INTO schema_migrations VALUES (99, 'later', 'x', 0)", "newer version"),
    ] {
        let database = TempDatabase::new().await;
        sqlx::query(sql).execute(&mut database.owner().await).await.unwrap();
        let error = PostgresStore::open(&options(&database.url()), FakeClock::new()).await.err().unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
        assert!(migrate(&database.url(), false).await.unwrap_err().contains(wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_of_another_space_stop_the_start_and_name_the_way_out() {
    use aionis_core::ports::store::WriteStore;
    let database = TempDatabase::new().await;
    let mut options = options(&database.url());
    let store = PostgresStore::open(&options, FakeClock::new()).await.unwrap();
    let write = aionis_testkit::fixtures::WriteBuilder::new(&aionis_testkit::fixtures::scope("s"))
        .node("a", "one")
        .vector(vec![1.0; aionis_testkit::fixtures::DIM]);
    store.write(write.prepared()).await.unwrap();
    options.space = Some(aionis_store::EmbeddingSpace { name: "other:model".to_owned(), dim: 3 });
    let error = PostgresStore::open(&options, FakeClock::new()).await.err().unwrap().to_string();
    assert!(error.contains("other:model") && error.contains("another database"), "{error}");
}
