//! Purging, as only the embedded engine does it.

use aionis_core::{
    clock::Timestamp,
    jobs::scope_purge::{PurgeMode, PurgeState, plan_purge},
    ports::store::{PurgeStore, RecallReader, WriteStore},
};
use aionis_testkit::{
    assert_sound,
    fixtures::{WriteBuilder, scope},
    sqlite::TempStore,
};

/// A table that is added and not purged is noticed here.
#[tokio::test(flavor = "multi_thread")]
async fn every_table_with_a_scope_is_purged_or_known_to_stay() {
    let temp = TempStore::new();
    let raw = temp.raw();
    let sql = "SELECT m.name FROM sqlite_master m JOIN pragma_table_info(m.name) c ON c.name = 'scope_key' \
               WHERE m.type = 'table' ORDER BY m.name";
    let mut statement = raw.prepare(sql).unwrap();
    let tables: Vec<String> = statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let (purged, kept) = aionis_store::purged_tables(true);
    let mut known: Vec<&str> = purged.into_iter().chain(kept.iter().copied()).collect();
    known.sort_unstable();
    assert_eq!(tables, known);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_a_purged_scope_is_not_given_again_and_a_killed_purge_goes_on() {
    let mut temp = TempStore::new();
    let mut numbers = Vec::new();
    for round in 0..3 {
        let s = scope("last");
        let store = temp.store();
        for n in 0..9 {
            let text = format!("harbour {round} {n}");
            store.write(WriteBuilder::new(&s).input(&text).node(&text, &text).prepared()).await.unwrap();
        }
        let sql = "SELECT scope_no FROM memory_scopes WHERE scope_key LIKE '%/last'";
        numbers.push(temp.raw().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap());
        let survey = store.purge_survey(&s).await.unwrap();
        let plan = plan_purge(&s, &survey, PurgeMode::Auto, false).unwrap();
        assert!(store.begin_purge(&s, &plan, "ops", Timestamp(1)).await.unwrap());
        store.purge_step(&s, plan.hash, 4, Timestamp(1)).await.unwrap();
        drop(store);
        // What a killed process leaves is what is committed.
        temp = temp.crash_copy().open();
        let store = temp.store();
        assert_eq!(store.scope_status(&s).await.unwrap().nodes, 0);
        assert!(matches!(store.purge_state(&s).await.unwrap(), PurgeState::Purging(_)));
        let record = loop {
            if let Some(record) = store.purge_step(&s, plan.hash, 4, Timestamp(1)).await.unwrap().done {
                break record;
            }
        };
        assert_eq!(record.rows["memory_nodes"], 9, "what went before the kill is counted too");
        assert_sound(&*store).await;
        let words: i64 =
            temp.raw().query_row("SELECT COUNT(*) FROM memory_lexical_terms", [], |row| row.get(0)).unwrap();
        assert_eq!(words, 0, "no word is left in the inverted index");
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 3, "{numbers:?}");
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_scope_is_purged_unless_a_copy_of_it_is_under_way() {
    let temp = TempStore::new();
    let (store, s) = (temp.store(), scope("s"));
    store.write(WriteBuilder::new(&s).input("1").node("a", "harbour").prepared()).await.unwrap();
    let plan = plan_purge(&s, &store.purge_survey(&s).await.unwrap(), PurgeMode::Auto, false).unwrap();
    let raw = temp.raw();
    raw.execute("UPDATE memory_scopes SET state = 'importing'", []).unwrap();
    let copied = "INSERT INTO aionis_meta (key, value) VALUES ('import:' || ?1, '{}')";
    raw.execute(copied, [s.as_str()]).unwrap();
    assert_eq!(store.purge_state(&s).await.unwrap(), PurgeState::Importing);
    assert!(!store.begin_purge(&s, &plan, "ops", Timestamp(1)).await.unwrap(), "a copy is under way");
    raw.execute("DELETE FROM aionis_meta WHERE key LIKE 'import:%'", []).unwrap();
    assert_eq!(store.purge_state(&s).await.unwrap(), PurgeState::Open);
    assert!(store.begin_purge(&s, &plan, "ops", Timestamp(1)).await.unwrap());
    let step = store.purge_step(&s, plan.hash, 100, Timestamp(1)).await.unwrap();
    assert_eq!(step.done.unwrap().rows["memory_nodes"], 1);
}
