//! Logical replication beside a change of the layout: it goes past the mirror, so that neither may be begun beside the other.

use aionis_core::partition::CutoverState;
use aionis_store::postgres::partition::{BackfillOptions, WindowOptions};

use super::{Bed, execute, number};

const SUBSCRIBE: &str = "CREATE SUBSCRIPTION moved CONNECTION 'dbname=none' PUBLICATION none WITH (connect = false); \
                         INSERT INTO pg_subscription_rel (srsubid, srrelid, srsubstate) \
                         SELECT oid, 'memory_nodes'::regclass, 'r' FROM pg_subscription WHERE subname = 'moved'";
const UNSUBSCRIBE: &str = "ALTER SUBSCRIPTION moved SET (slot_name = NONE); DROP SUBSCRIPTION moved";

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_replicated_are_not_exchanged() {
    let window = WindowOptions::default();
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    for (begin, told, end) in [
        (SUBSCRIBE, "the subscription of memory_nodes", UNSUBSCRIBE),
        (
            "CREATE PUBLICATION moved FOR TABLE memory_edges",
            "publication moved of memory_edges",
            "DROP PUBLICATION moved",
        ),
        ("CREATE PUBLICATION moved FOR ALL TABLES", "publication moved of all tables", "DROP PUBLICATION moved"),
        (
            "CREATE PUBLICATION moved FOR TABLES IN SCHEMA public",
            "publication moved of the schema",
            "DROP PUBLICATION moved",
        ),
    ] {
        execute(&mut owner, begin).await;
        let error = bed.admin.backfill(&BackfillOptions::default()).await.unwrap_err().to_string();
        assert!(error.contains(told), "{error}");
        assert_eq!(bed.admin.state().await.unwrap(), CutoverState::Ensured);
        let triggers = "SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal";
        assert_eq!(number(&mut owner, triggers).await, 0, "nothing is mirrored yet");
        execute(&mut owner, end).await;
    }
    bed.admin.backfill(&BackfillOptions::default()).await.unwrap();
    bed.get_ready().await;
    execute(&mut owner, "CREATE PUBLICATION moved FOR TABLE memory_nodes").await;
    assert!(bed.failing().await.contains(&"not_replicated"));
    let error = bed.admin.cutover(&window).await.unwrap_err().to_string();
    assert!(error.contains("publication moved of memory_nodes"), "{error}");
    assert_eq!(bed.admin.state().await.unwrap(), CutoverState::Ready);
    execute(&mut owner, "DROP PUBLICATION moved").await;
    bed.cutover().await;
    execute(&mut owner, "CREATE PUBLICATION moved FOR TABLE memory_nodes").await;
    let error = bed.admin.rollback(&window).await.unwrap_err().to_string();
    assert!(error.contains("publication moved of memory_nodes"), "{error}");
    execute(&mut owner, "DROP PUBLICATION moved").await;
    bed.admin.rollback(&window).await.unwrap();
}
