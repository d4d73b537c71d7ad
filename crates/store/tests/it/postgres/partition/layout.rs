//! How running processes learn that the layout has changed.

use std::time::{Duration, Instant};

use aionis_core::ports::store::WriteStore;
use aionis_testkit::fixtures::WriteBuilder;

use sqlx::{AssertSqlSafe, Row};

use super::{Bed, number};

const OURS: &str = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'aionis'";

/// A hint is heard by those who listen. Who lost the connection it listened to may have missed one, and makes its connections
/// anew, as after a hint.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_missed_a_change_of_the_layout_makes_connections_anew() {
    let bed = Bed::new().await;
    let mut owner = bed.owner().await;
    let listening = format!("SELECT COALESCE(max(pid), 0)::bigint {OURS} AND query ILIKE 'LISTEN%'");
    let until = Instant::now() + Duration::from_secs(60);
    let mut listener = 0;
    while listener == 0 {
        listener = number(&mut owner, &listening).await;
        assert!(Instant::now() < until);
    }
    // Several at once, so that there are several connections: one of them will be listened to.
    let mut n = 0;
    let mut write = async || {
        n += 1;
        let text = format!("load {n}");
        let all = bed
            .scopes
            .iter()
            .map(|s| bed.store.write(WriteBuilder::new(s).input(&text).node("load", &text).prepared()));
        futures_util::future::try_join_all(all).await.unwrap();
    };
    write().await;
    let at_work = format!("SELECT array_agg(pid) {OURS} AND query NOT ILIKE 'LISTEN%'");
    let before: Vec<i32> = sqlx::query(AssertSqlSafe(at_work)).fetch_one(&mut owner).await.unwrap().get(0);
    assert!(before.len() >= 2, "{before:?}");
    assert_eq!(number(&mut owner, &format!("SELECT pg_terminate_backend({listener})::int::bigint")).await, 1);
    let there = format!("SELECT count(*) {OURS} AND pid = ANY ('{{{}}}') AND query NOT ILIKE 'LISTEN%'", list(&before));
    while number(&mut owner, &there).await > 0 {
        write().await;
        assert!(Instant::now() < until, "connections from before are in use still");
    }
}

fn list(pids: &[i32]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
