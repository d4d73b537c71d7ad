//! Purging scopes.

use std::collections::BTreeMap;

use aionis_core::{
    canon::Digest,
    error::DomainError,
    forget::PreparedForget,
    ids::{ScopeKey, TenantId},
    jobs::scope_purge::{PurgeChain, PurgeMode, PurgePlan, PurgeRecord, PurgeState, plan_purge},
    model::NodeType,
    operate::{DecisionQuery, Operation, Outcome},
    ports::store::{FindQuery, RecallAudit, StoreError},
    read::{AsOf, Eyes, FindFilter},
};
use serde_json::json;
use uuid::Uuid;

use super::Subject;
use crate::{
    assert_sound,
    fixtures::{DIM, Rng, WriteBuilder, anyone, decision, node_id, operation, scope, scope_of},
};

/// Rows of every kind.
async fn fill(subject: &Subject, s: &ScopeKey) {
    let rule = |node: &mut aionis_core::write::NodeInput| {
        node.node_type = NodeType::Rule;
        node.slots = Some(json!({ "if": {}, "then": {} }));
    };
    for version in 0..2 {
        let text = format!("the {version} harbour");
        let write = WriteBuilder::new(s)
            .deriving()
            .key(&text, true)
            .node("a", &text)
            .node("b", "a lighthouse")
            .vector(vec![1.0; DIM])
            .node("r", "a rule")
            .with(rule)
            .edge("a", "b");
        subject.write(write.input(&text)).await;
    }
    let store = &subject.store;
    store.put_decision(s, decision(Uuid::from_u128(1), None, &[node_id(s, "r")])).await.unwrap();
    let feedback =
        Operation::RuleFeedback { rule: node_id(s, "r"), outcome: Outcome::Positive, run_id: None, note: None };
    store.operate(operation(s, None, feedback)).await.unwrap();
    subject.write(WriteBuilder::new(s).input("gone").node("gone", "forgotten")).await;
    let asked = |token| PreparedForget {
        scope: s.clone(),
        actor: "a".to_owned(),
        ids: vec![node_id(s, "gone")],
        missing_client_ids: Vec::new(),
        viewer: None,
        token,
        request_digest: aionis_core::canon::sha256("forget"),
        idempotency: None,
    };
    let look = store.forget(asked(None)).await.unwrap();
    store.forget(asked(Digest::from_hex(&look.token).ok())).await.unwrap();
    audit(subject, s).await;
}

async fn audit(subject: &Subject, s: &ScopeKey) {
    let audit = RecallAudit {
        scope: s.clone(),
        endpoint: "recall",
        viewer: anyone(),
        query_sha256: "q".to_owned(),
        seeds: 1,
        nodes: 1,
        edges: 1,
        at: subject.now(),
    };
    subject.store.record_recalls(vec![audit]).await.unwrap();
}

async fn plan(subject: &Subject, s: &ScopeKey) -> PurgePlan {
    let survey = subject.store.purge_survey(s).await.unwrap();
    plan_purge(s, &survey, PurgeMode::Auto, false).unwrap()
}

async fn begin(subject: &Subject, s: &ScopeKey) -> PurgePlan {
    let plan = plan(subject, s).await;
    assert!(subject.store.begin_purge(s, &plan, "ops", subject.now()).await.unwrap());
    plan
}

async fn finish(subject: &Subject, s: &ScopeKey, plan: &PurgePlan, rows_max: usize) -> PurgeRecord {
    for _ in 0..1_000 {
        let step = subject.store.purge_step(s, plan.hash, rows_max, subject.now()).await.unwrap();
        assert!(step.rows <= rows_max as u64, "a step is bounded");
        if let Some(record) = step.done {
            return record;
        }
    }
    panic!("the purge does not end");
}

async fn purge(subject: &Subject, s: &ScopeKey) -> PurgeRecord {
    let plan = begin(subject, s).await;
    finish(subject, s, &plan, 3).await
}

async fn rows(subject: &Subject, s: &ScopeKey) -> BTreeMap<String, u64> {
    let survey = subject.store.purge_survey(s).await.unwrap();
    survey.tables.into_iter().filter(|table| table.rows > 0).map(|table| (table.table, table.rows)).collect()
}

fn rejected(error: StoreError) -> &'static str {
    DomainError::from(error).code
}

/// Everything of exactly the scope that is named goes, however alike others are named; the record says what went.
pub async fn a_purged_scope_is_gone_and_others_stay_however_they_are_named(subject: &Subject) {
    let names = ["perf_1", "perfX1", "PERF_1", "perf%", "perf'1", "perf\"1", "perf\\1", "perf/1", "pérf☃", "perf__1"];
    let scopes: Vec<ScopeKey> = names.iter().map(|name| scope(name)).chain([scope_of("other", "perf_1")]).collect();
    for s in &scopes {
        fill(subject, s).await;
    }
    let full = rows(subject, &scopes[0]).await;
    assert!(full.len() >= 12, "rows in every table: {full:?}");
    for (at, s) in scopes.iter().enumerate() {
        let record = purge(subject, s).await;
        assert_eq!((&record.rows, record.scope_key.as_str(), record.by.as_str()), (&full, s.as_str(), "ops"));
        assert_eq!(subject.store.purge_state(s).await.unwrap(), PurgeState::Absent);
        assert_eq!(subject.store.purge_record(s, record.plan).await.unwrap(), Some(record));
        for (other, s) in scopes.iter().enumerate() {
            let left = rows(subject, s).await;
            assert_eq!(left, if other <= at { BTreeMap::new() } else { full.clone() }, "{s} after {at}");
            let found = subject.found(s, "harbour").await;
            assert_eq!(found.len(), usize::from(other > at), "{s} after {at}");
        }
        assert_eq!(assert_sound(&*subject.store).await.len(), scopes.len() - at - 1);
    }
}

/// Random names of two tenants: a purge touches nothing of any other scope.
pub async fn a_purge_touches_no_other_scope(subject: &Subject) {
    let mut rng = Rng::new(0x0b5e);
    let signs = ['a', 'A', '_', '%', '\'', '"', '\\', ';', '$', ' ', '/', 'ß', '☃', '*'];
    let mut scopes: Vec<ScopeKey> = Vec::new();
    while scopes.len() < 24 {
        let length = 1 + rng.below(3);
        let name: String = (0..length).map(|_| signs[rng.below(signs.len())]).collect();
        let tenant = TenantId::parse(if rng.below(2) == 0 { "acme" } else { "acme_" }).unwrap();
        if let Ok(key) = ScopeKey::new(&tenant, &name)
            && !scopes.contains(&key)
        {
            scopes.push(key);
        }
    }
    for s in &scopes {
        subject.write(WriteBuilder::new(s).input(s.as_str()).node("a", "harbour")).await;
    }
    while let Some(s) = scopes.pop() {
        let before: Vec<_> = subject.store.scopes(None, None).await.unwrap();
        purge(subject, &s).await;
        let after: Vec<_> = subject.store.scopes(None, None).await.unwrap();
        let gone: Vec<&str> = before
            .iter()
            .filter(|one| after.iter().all(|other| other.scope_key != one.scope_key))
            .map(|one| one.scope_key.as_str())
            .collect();
        assert_eq!((gone, before.len() - 1), (vec![s.as_str()], after.len()));
        for other in &scopes {
            assert_eq!(subject.status(other).await.nodes, 1, "{other} after {s}");
        }
    }
}

/// From the mark on a scope is not there for readers and takes nothing in, until its last row is gone.
pub async fn while_it_is_purged_a_scope_is_not_there_and_takes_nothing_in(subject: &Subject) {
    let (s, store) = (scope("s"), &subject.store);
    fill(subject, &s).await;
    fill(subject, &scope("other")).await;
    // What is in memory must not answer either.
    assert_eq!(subject.found(&s, "harbour").await.len(), 1);
    let r = node_id(&s, "r");
    let plan = begin(subject, &s).await;
    assert!(matches!(store.purge_state(&s).await.unwrap(), PurgeState::Purging(pending) if pending.by == "ops"));
    for partly in [false, true] {
        if partly {
            store.purge_step(&s, plan.hash, 4, subject.now()).await.unwrap();
        }
        let status = subject.status(&s).await;
        assert_eq!((status.head_seq, status.nodes), (0, 0));
        assert!(subject.found(&s, "harbour").await.is_empty());
        assert!(subject.near(&s, &[1.0; DIM], 10).await.is_empty());
        let query = |filter, as_of| FindQuery {
            scope: s.clone(),
            filter,
            eyes: Eyes::Of(anyone()),
            as_of,
            after: None,
            offset: 0,
            limit: 5,
            scan_max: 100,
            maybe_named: Vec::new(),
        };
        let named = FindFilter { ids: vec![r], ..FindFilter::default() };
        for query in [query(FindFilter::default(), None), query(named, None), query(FindFilter::default(), Some(1))] {
            assert!(store.find(query).await.unwrap().nodes.is_empty());
        }
        assert!(store.history(&s, r, None, 5).await.unwrap().is_empty());
        assert!(store.erased(&s, &[node_id(&s, "gone")]).await.unwrap().is_empty());
        assert!(store.newest_commits(&s, None, 5).await.unwrap().is_empty());
        assert!(store.commit_at(&s, AsOf::Seq(1)).await.unwrap().is_none());
        assert_eq!(store.past(&s, 1, 100).await.unwrap().scope_status(&s).await.unwrap().nodes, 0);
        assert!(store.rule(&s, r).await.unwrap().is_none());
        assert!(store.live_rules(&s).await.unwrap().is_empty());
        assert!(store.decision(&s, Uuid::from_u128(1)).await.unwrap().is_none());
        let query = DecisionQuery {
            run_id: None,
            selected_tool: "psql".to_owned(),
            candidates: vec!["psql".to_owned(), "curl".to_owned()],
            context_sha256: "c".repeat(64),
            newer_than: aionis_core::clock::Timestamp(0),
        };
        assert!(store.find_decision(&s, &query).await.unwrap().is_none());
        assert_eq!(store.scopes(None, None).await.unwrap().len(), 1, "nor is it listed");
        assert_eq!(assert_sound(&**store).await.len(), 1);
        // Nothing is taken in: not a write, not a repetition of one, not an operation, a decision or a look.
        let write = WriteBuilder::new(&s).input("x").node("late", "late");
        assert_eq!(subject.refused(write).await.code, "scope_purging");
        let again = WriteBuilder::new(&s).key("the 0 harbour", false).input("y").node("late", "late");
        assert_eq!(subject.refused(again).await.code, "scope_purging");
        let feedback = Operation::RuleFeedback { rule: r, outcome: Outcome::Positive, run_id: None, note: None };
        assert_eq!(rejected(store.operate(operation(&s, None, feedback)).await.unwrap_err()), "scope_purging");
        let late = store.put_decision(&s, decision(Uuid::from_u128(2), None, &[r])).await;
        assert_eq!(rejected(late.unwrap_err()), "scope_purging");
        assert!(!store.begin_purge(&s, &plan, "ops", subject.now()).await.unwrap(), "it is marked once");
    }
    finish(subject, &s, &plan, 3).await;
    assert!(rows(subject, &s).await.is_empty());
}

/// A worker that holds work of a scope stores nothing of it any more, and gets no text.
pub async fn work_under_way_on_a_purged_scope_stores_nothing(subject: &Subject) {
    let s = scope("s");
    for n in 0..6 {
        let name = format!("n{n}");
        subject.write(WriteBuilder::new(&s).deriving().input(&name).node(&name, &name)).await;
    }
    let items = subject.claim("w", 10).await;
    let derived = subject.derive(&items).await;
    assert_eq!(derived.len(), 6);
    let plan = begin(subject, &s).await;
    assert!(subject.store.pending_texts(&items).await.unwrap().is_empty());
    subject.complete_with(&items[..2], derived[..2].to_vec()).await;
    subject.store.purge_step(&s, plan.hash, 9, subject.now()).await.unwrap();
    assert_eq!(subject.complete_with(&items[2..4], derived[2..4].to_vec()).await, 0);
    finish(subject, &s, &plan, 9).await;
    assert_eq!(subject.complete_with(&items[4..], derived[4..].to_vec()).await, 0);
    // An audit that was on its way when the scope went is not kept.
    audit(subject, &s).await;
    assert!(rows(subject, &s).await.is_empty());
    assert!(subject.claim("w", 10).await.is_empty());
}

/// A scope that is written again is a new one: its chain begins at 1, and nothing of the old one is found.
pub async fn a_scope_that_is_written_again_is_another_one(subject: &Subject) {
    let s = scope("s");
    for round in 0..3_u64 {
        fill(subject, &s).await;
        assert_eq!(subject.found(&s, "harbour").await, [node_id(&s, "a")]);
        let plan = plan(subject, &s).await;
        purge(subject, &s).await;
        let word = format!("ferry{round}");
        let outcome = subject.write(WriteBuilder::new(&s).input(&word).node("c", &word).vector(vec![-1.0; DIM])).await;
        assert_eq!(outcome.commit_seq, 1);
        assert_eq!(subject.status(&s).await.nodes, 1);
        assert!(subject.found(&s, "harbour").await.is_empty() && subject.found(&s, "lighthouse").await.is_empty());
        assert_eq!(subject.found(&s, &word).await, [node_id(&s, "c")]);
        assert_eq!(subject.near(&s, &[1.0; DIM], 10).await.len(), 1);
        assert!(!subject.store.begin_purge(&s, &plan, "ops", subject.now()).await.unwrap(), "the old plan is stale");
        assert_sound(&*subject.store).await;
        purge(subject, &s).await;
    }
}

/// A plan is for the head it was made at, and only its purge is gone on with.
pub async fn a_purge_is_by_the_plan_of_the_head(subject: &Subject) {
    let s = scope("s");
    subject.write(WriteBuilder::new(&s).input("1").node("a", "one")).await;
    let stale = plan(subject, &s).await;
    subject.write(WriteBuilder::new(&s).input("2").node("b", "two")).await;
    assert!(!subject.store.begin_purge(&s, &stale, "ops", subject.now()).await.unwrap());
    let none = subject.store.purge_step(&s, stale.hash, 9, subject.now()).await.unwrap_err();
    assert_eq!(rejected(none), "purge_plan_stale");
    assert_eq!(subject.status(&s).await.nodes, 2);
    let plan = begin(subject, &s).await;
    let other = subject.store.purge_step(&s, stale.hash, 9, subject.now()).await.unwrap_err();
    assert_eq!(rejected(other), "purge_plan_stale");
    let record = finish(subject, &s, &plan, 100).await;
    assert_eq!((record.head, record.plan), (plan.head, plan.hash));
    let again = subject.store.purge_step(&s, plan.hash, 9, subject.now()).await.unwrap_err();
    assert_eq!(rejected(again), "purge_plan_stale");
    // Rows without a head, of audits, are purged too.
    subject.clock.advance(std::time::Duration::from_secs(1));
    audit(subject, &s).await;
    assert_eq!(purge(subject, &s).await.rows, BTreeMap::from([("memory_recall_audit".to_owned(), 1)]));
}

/// Records of all tenants make one chain, also when purges end at once.
pub async fn records_of_purges_are_chained(subject: &Subject) {
    let scopes: Vec<ScopeKey> = (0..8).map(|n| scope_of(&format!("t{}", n % 3), &format!("s{n}"))).collect();
    for s in &scopes {
        subject.write(WriteBuilder::new(s).input("1").node("a", "one")).await;
    }
    for s in scopes.chunks(4) {
        tokio::join!(purge(subject, &s[0]), purge(subject, &s[1]), purge(subject, &s[2]), purge(subject, &s[3]));
    }
    let mut chain = PurgeChain::default();
    loop {
        let page = subject.store.purges(chain.records(), 3).await.unwrap();
        if page.is_empty() {
            break;
        }
        page.iter().for_each(|record| chain.record(record).unwrap());
    }
    assert_eq!(chain.records(), 8);
    chain.finish(subject.store.purges_head().await.unwrap()).unwrap();
}
