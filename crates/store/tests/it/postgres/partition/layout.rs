//! How running processes learn that the layout has changed.

use std::time::{Duration, Instant};

use aionis_core::ports::store::WriteStore;
use aionis_testkit::fixtures::WriteBuilder;

use super::{Bed, number};

const OURS: &str = "FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'aionis'";

/// A hint is heard by those who listen. Who lost the connection it listened to may have missed one, and makes its connections
/// anew, as after a hint.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_have_missed_a_change_of_the_layout_makes_connections_anew() {
    let bed = Bed::new().await;
    let mut owner = bed.owner().await;
    let mut n = 0;
    let mut write = async || {
        n += 1;
        let write = WriteBuilder::new(&bed.scopes[0]).input(&format!("load {n}")).node("load", &format!("load {n}"));
        bed.store.write(write.prepared()).await.unwrap();
    };
    let listening = format!("SELECT COALESCE(max(pid), 0)::bigint {OURS} AND query ILIKE 'LISTEN%'");
    let until = Instant::now() + Duration::from_secs(60);
    let mut listener = 0;
    while listener == 0 {
        listener = number(&mut owner, &listening).await;
        assert!(Instant::now() < until);
    }
    write().await;
    let oldest = format!("SELECT COALESCE(min(pid), 0)::bigint {OURS} AND query NOT ILIKE 'LISTEN%'");
    let before = number(&mut owner, &oldest).await;
    assert_ne!(before, 0);
    assert_eq!(number(&mut owner, &format!("SELECT pg_terminate_backend({listener})::int::bigint")).await, 1);
    let there = format!("SELECT count(*) {OURS} AND pid = {before}");
    while number(&mut owner, &there).await == 1 {
        write().await;
        assert!(Instant::now() < until, "the connection from before is in use still");
    }
}
