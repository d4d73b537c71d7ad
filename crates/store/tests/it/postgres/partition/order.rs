//! Commands out of order, two at once, and the schema while a change is under way.

use aionis_core::{
    clock::SystemClock,
    partition::{CutoverState, Step},
};
use aionis_store::postgres::{
    PostgresStore,
    partition::{
        BackfillOptions, EnsureOptions, PartitionAdmin, PartitionError, PromoteOptions, VerifyOptions, WindowOptions,
    },
};
use aionis_testkit::{
    fixtures::{FakeClock, scope},
    postgres::{TempDatabase, options},
};

use super::{Bed, ENSURE, admin, checks, execute};

async fn run(bed: &mut Bed, step: Step) -> Result<(), PartitionError> {
    let (admin, window) = (&mut bed.admin, WindowOptions { attempts_max: 2, ..WindowOptions::default() });
    match step {
        Step::Ensure => admin.ensure(&ENSURE).await.map(drop),
        Step::Backfill => admin.backfill(&BackfillOptions::default()).await.map(drop),
        Step::Verify => admin.verify(&VerifyOptions::default()).await.map(drop),
        Step::Gap => admin.gap().await.map(drop),
        Step::ShadowRead => admin.shadow_read(&checks().shadow).await.map(drop),
        Step::Readiness => admin.readiness(&checks(), "run").await.map(drop),
        Step::Cutover => admin.cutover(&window).await.map(drop),
        Step::Rollback => admin.rollback(&window).await.map(drop),
        Step::Finalize => admin.finalize(&window).await.map(drop),
        Step::PromoteScope => admin.promote_scope(&scope("s"), &PromoteOptions::default()).await.map(drop),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_out_of_order_changes_nothing_and_names_the_next_one() {
    let database = TempDatabase::flat().await;
    let (store, scopes) = (super::open(&database).await, Vec::new());
    let mut bed = Bed { admin: admin(&database).await, database, store, scopes };
    let mut owner = bed.owner().await;
    for state in CutoverState::ALL {
        execute(
            &mut owner,
            &format!(
                "INSERT INTO partition_cutover VALUES (1, '{state}', 0, NULL, NULL, NULL, NULL, NULL, 0) \
                 ON CONFLICT (id) DO UPDATE SET state = excluded.state"
            ),
        )
        .await;
        for step in Step::ALL.into_iter().filter(|step| !step.is_allowed(state)) {
            let error = run(&mut bed, step).await.unwrap_err();
            assert!(matches!(error, PartitionError::Refused(_)), "{step:?} in {state}: {error:?}");
            let line = error.to_string();
            let next = state.next().map_or("nothing is left", |next| next.as_str());
            assert!(line.contains("out of order") && line.contains(next), "{line}");
            assert_eq!(bed.admin.state().await.unwrap(), state);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_works_at_a_time() {
    let mut bed = Bed::ensured().await;
    let mut owner = bed.owner().await;
    // The key of the commands' lock.
    execute(&mut owner, "SELECT pg_advisory_lock(x'61696f6e69737074'::bigint)").await;
    for step in [Step::Backfill, Step::Rollback, Step::Ensure] {
        let error = run(&mut bed, step).await.unwrap_err().to_string();
        assert!(error.contains("another `aionis partition` command"), "{error}");
    }
    drop(owner);
    let mut tries = 0;
    while let Err(error) = run(&mut bed, Step::Backfill).await {
        assert!(error.to_string().contains("another"), "{error}");
        tries += 1;
        assert!(tries < 10_000, "the lock of a lost connection is not let go of");
    }
    assert_eq!(bed.admin.status(3).await.unwrap().events[0].command, "backfill");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_does_not_change_while_there_are_two_layouts() {
    let mut bed = Bed::backfilled().await;
    let mut owner = bed.owner().await;
    let last = "DELETE FROM schema_migrations WHERE version = (SELECT max(version) FROM schema_migrations)";
    execute(&mut owner, last).await;
    let url = bed.database.url();
    let migrated = PostgresStore::migrate_only(&url, false, &SystemClock).await.unwrap_err().to_string();
    let opened = PostgresStore::open(&options(&url), FakeClock::new()).await.err().unwrap().to_string();
    for error in [migrated, opened] {
        assert!(error.contains("backfilled") && error.contains("aionis partition rollback"), "{error}");
    }
    let refused = admin_error(&bed.database).await;
    assert!(refused.contains("aionis migrate"), "{refused}");
    bed.admin.discard(&WindowOptions::default()).await.unwrap();
    let error = PostgresStore::migrate_only(&url, false, &SystemClock).await.unwrap_err().to_string();
    assert!(!error.contains("partition rollback"), "no layout is in the way any more: {error}");
}

async fn admin_error(database: &TempDatabase) -> String {
    let (url, patience) = (database.url(), std::time::Duration::from_secs(10));
    let connected = PartitionAdmin::connect(&url, patience, std::sync::Arc::new(SystemClock)).await;
    connected.err().unwrap().to_string()
}

/// A run that was killed before it had noted anything.
#[tokio::test(flavor = "multi_thread")]
async fn twins_of_another_number_of_parts_are_not_taken_for_ones_own() {
    let mut bed = Bed::ensured().await;
    execute(&mut bed.owner().await, "DELETE FROM partition_cutover").await;
    let other = EnsureOptions { hash_partitions: 2, ..ENSURE };
    let error = bed.admin.ensure(&other).await.unwrap_err().to_string();
    assert!(error.contains("--hash-partitions 4"), "{error}");
    assert!(bed.admin.ensure(&ENSURE).await.unwrap().created.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_does_not_keep_for_ever() {
    let mut bed = Bed::ready().await;
    let mut owner = bed.owner().await;
    execute(&mut owner, "UPDATE partition_cutover SET ready_at = ready_at - 3601000000").await;
    let error = bed.admin.cutover(&WindowOptions::default()).await.unwrap_err().to_string();
    assert!(error.contains("aionis partition readiness"), "{error}");
    assert!(bed.admin.readiness(&checks(), "again").await.unwrap().readiness.ok);
    bed.cutover().await;
}
