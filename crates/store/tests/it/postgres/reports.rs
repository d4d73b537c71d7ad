//! The statements of reports, retention and backfills, for the tests of plans.

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    jobs::{
        owner_review::{Owner, assign},
        retention::Expiring,
    },
    model::{NodeType, RuleState},
    operate::{LinkMode, Operation, Outcome},
    ports::{
        embed::EmbeddingSpace,
        store::{BackfillStore, OperateStore, ReportStore, RetentionStore, RuleSignalQuery, WriteStore},
    },
};
use aionis_store::postgres::PostgresStore;
use aionis_testkit::{
    conformance::MODEL,
    fixtures::{DIM, START, WriteBuilder, decision, node_id, operation, scope, scope_of},
};
use serde_json::json;
use uuid::Uuid;

/// Every statement of [`exercise`]: the name its plan is kept under, and a part of its text that no other one has.
pub(crate) const STATEMENTS: &[(&str, &str)] = &[
    ("backfill_lacking", "SELECT n.id, n.type, n.title, n.text_summary, n.digest, v.source_digest"),
    ("backfill_still", "q.id AS still_lacking"),
    ("backfill_open", "SELECT payload FROM memory_outbox WHERE tenant_id"),
    ("backfill_wait", "SET embedding_status = 'pending', embedding_pending_at = $3"),
    ("backfill_give_up", "AND n.embedding_status || '' <> 'failed'"),
    ("backfill_enqueue", "UNNEST($2::uuid[], $3::text[], $4::text[]) AS q (id, key, payload)"),
    ("ownerless", "AND memory_lane = 'private' AND owner_agent_id IS NULL"),
    ("report_activity", "WITH ORDINALITY AS q (scope_key, place)"),
    ("report_quality", "AS summary FROM memory_nodes"),
    ("report_rules", "AS rules_of_states"),
    ("report_signals", "AS new_good"),
    ("retention_audits", "WITH noted AS"),
    ("retention_count_audits", "SELECT count(*) FROM memory_recall_audit WHERE created_at"),
    ("retention_count_decisions", "SELECT count(*) FROM memory_decisions r"),
    ("retention_count_outbox", "SELECT count(*) FROM memory_outbox WHERE published_at"),
    ("retention_decisions", "DELETE FROM memory_decisions r USING"),
    ("retention_hold", "SELECT 1 FROM memory_scopes WHERE scope_key = $1 FOR UPDATE"),
    ("retention_old_decisions", "(created_at, scope_key, id) > ($2, $3, $4::uuid)"),
    ("retention_outbox", "WITH published AS"),
];

/// What reports, retention and backfills do, each more than once, in a scope of its own.
pub(crate) async fn exercise(store: &PostgresStore) {
    let (s, other) = (scope("reports"), scope_of("globex", "reports"));
    let generation = EmbeddingSpace { name: MODEL.to_owned(), dim: DIM };
    for n in 0..12_u128 {
        let write = WriteBuilder::new(&s)
            .input(&format!("{n}"))
            .node(&format!("lost {n}"), &format!("lost {n}"))
            .private(None, None)
            .node(&format!("silent {n}"), "")
            .vector(vec![1.0; DIM])
            .node(&format!("rule {n}"), "a rule")
            .with(|node| {
                node.node_type = NodeType::Rule;
                node.slots = Some(json!({ "if": {}, "then": {} }));
            });
        store.write(write.prepared()).await.unwrap();
        let rule = node_id(&s, &format!("rule {n}"));
        let id = Uuid::from_u128(1_000 + n);
        store.put_decision(&s, decision(id, None, &[rule])).await.unwrap();
        store.put_decision(&s, decision(Uuid::from_u128(2_000 + n), None, &[rule])).await.unwrap();
        let feedback = Operation::ToolFeedback {
            decision: id,
            link: LinkMode::Provided,
            create: None,
            rules: vec![rule],
            request: aionis_core::canon::Digest([1; 32]),
            outcome: Outcome::Positive,
            run_id: Some("run".to_owned()),
            note: None,
        };
        store.operate(operation(&s, None, feedback)).await.unwrap();
        count(store, &s, &other).await;
        let page = store.lacking_in(&s, &generation, None, 50).await.unwrap();
        assert!(store.lacking_in(&s, &generation, Some(NodeId(Uuid::max())), 50).await.unwrap().nodes.is_empty());
        assert_eq!(store.queue_lacking(&s, &generation, page.nodes, START).await.unwrap().without_text, 0);
        let other = EmbeddingSpace { name: "other".to_owned(), dim: DIM };
        let page = store.lacking_in(&s, &other, None, 200).await.unwrap();
        assert!(store.queue_lacking(&s, &other, page.nodes, START).await.unwrap().without_text > 0);
        let lost = store.ownerless(&s, None, 50).await.unwrap();
        assert_eq!(lost.len(), 1);
        let owner = Owner::Agent("ada".to_owned());
        store.write(assign(&s, lost, &owner, (Uuid::from_u128(n), START))).await.unwrap();
        expire(store).await;
    }
}

async fn count(store: &PostgresStore, s: &aionis_core::ids::ScopeKey, other: &aionis_core::ids::ScopeKey) {
    let found = store.activity(&[s.clone(), other.clone()], Timestamp(0)).await.unwrap();
    assert!(found[0].activity.feedback.tools_linked > 0);
    let query = RuleSignalQuery { scope: s.clone(), states: RuleState::ALL, since: Timestamp(0), limit: 5 };
    assert!(!store.rule_signals(&query).await.unwrap().rules.is_empty());
    assert!(store.quality(s, Timestamp(0)).await.unwrap().nodes > 0);
}

async fn expire(store: &PostgresStore) {
    let later = Timestamp(START.0 + 1);
    for kind in Expiring::ALL {
        store.expiring(*kind, later).await.unwrap();
        match kind {
            Expiring::Decisions => assert!(store.expire_decisions(later, None, 100).await.unwrap().removed > 0),
            _ => drop(store.expire(*kind, later, 100).await.unwrap()),
        }
    }
}
