//! Reading for recall: words, graph and filters from the scope's image, vectors and rows from the database.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use aionis_core::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    lifecycle::DecayBasis,
    model::{EmbeddingStatus, Lane, NodeType, RuleScope, RuleState, Tier, Viewer},
    operate::merged_slots,
    ports::store::{
        DenseHit, DenseQuery, EdgeQuery, HeldState, LexicalQuery, NodeFilter, NodeRow, RecallAudit, RecallReader,
        RecallStore, ScopeStatus, StoreError, SurroundingsQuery,
    },
    recall::{EdgeView, NodeVitals, Surroundings, bm25::LexicalHits, context::ContextRule},
};
use aionis_image::ScopeImage;
use async_trait::async_trait;
use hashbrown::HashMap;
use pgvector::Vector;
use sqlx::{AssertSqlSafe, postgres::PgRow};
use uuid::Uuid;

use super::{
    PostgresStore, VectorSearch,
    dense::best_first,
    error::driver,
    images::{Entry, Freshness},
    place::{RowPlace, at_place_or_by_key},
    rows::{choice, get, json, json_of, parsed, signed, unsigned},
    session::{ASKER, For, Transaction, ask, begin},
};

/// The audit may lose its last moments when the server crashes, as it may drop rows under load; nobody waits for its sync.
const UNSYNCED: &str = "SET LOCAL synchronous_commit = off";
/// Longest time between two looks for a commit of another process when no hint comes.
const COMMIT_POLL: Duration = Duration::from_millis(100);

impl PostgresStore {
    async fn image(&self, scope: &ScopeKey, freshness: Freshness) -> Result<Arc<Entry>, StoreError> {
        self.shared.images.get(&self.shared, scope, freshness).await
    }

    fn status(image: &ScopeImage) -> ScopeStatus {
        let (nodes, pending) = image.counts();
        ScopeStatus { head_seq: image.head_seq, nodes, pending, oldest_pending: image.oldest_pending }
    }

    /// The nearest vectors; none if they are asked for of a state that is no more, or may be no more.
    async fn dense_of(&self, query: DenseQuery, held: Option<HeldState>) -> Result<Option<Vec<DenseHit>>, StoreError> {
        let image = self.image(&query.scope, Freshness::Known).await?;
        let limit = query.limit;
        let reach = image.read(|image| image.reach(limit));
        // In a small scope reading a few vectors more costs next to nothing.
        let is_small = image.vectors() <= self.shared.options.exact_max;
        let scored = if is_small || query.scored >= limit { reach } else { query.scored };
        let query = Arc::new(DenseQuery { limit: reach, scored, ..query });
        let hits = if query.exact || self.shared.options.vector_search == VectorSearch::Hnsw {
            if held.is_some() {
                return Ok(None);
            }
            self.shared.nearest(&query, image.vectors()).await?
        } else {
            let found = image.candidates(&query).await?;
            let moved = |id, place: RowPlace| image.read(|image| image.vector_moved(id, place.0));
            let Some(mut hits) = self.shared.rescore(&query, &found.unscored, held, moved).await? else {
                image.expect_changes();
                return Ok(None);
            };
            hits.extend(found.estimated);
            hits
        };
        Ok(Some(best_first(image.read(|image| image.resolved(&query.filter, hits)), limit)))
    }

    async fn begin_for(&self, scope: &ScopeKey) -> Result<Transaction, StoreError> {
        begin(&self.shared.pool, For::Tenant(scope.tenant()), self.shared.options.statement_timeout, "").await
    }
}

#[async_trait]
impl RecallReader for PostgresStore {
    async fn scope_status(&self, scope: &ScopeKey) -> Result<ScopeStatus, StoreError> {
        // A recall that does not begin with a state that is confirmed later begins here, with an image that is up to date.
        let image = self.image(scope, Freshness::Now).await?;
        Ok(image.read(Self::status))
    }

    async fn held_status(&self, scope: &ScopeKey) -> Result<Option<(ScopeStatus, HeldState)>, StoreError> {
        let image = self.shared.images.held(scope).filter(|image| image.is_likely_current() && image.vectors() > 0);
        let (Some(image), VectorSearch::Codes) = (image, self.shared.options.vector_search) else { return Ok(None) };
        // The state before what is in it: what is newer than the state is not confirmed by it.
        let Some(state) = image.state() else { return Ok(None) };
        Ok(Some((image.read(Self::status), state)))
    }

    async fn dense_if_unchanged(
        &self,
        query: DenseQuery,
        held: HeldState,
    ) -> Result<Option<Vec<DenseHit>>, StoreError> {
        self.dense_of(query, Some(held)).await
    }

    async fn dense(&self, query: DenseQuery) -> Result<Vec<DenseHit>, StoreError> {
        // None only comes of a state that was asked for; should it come here, that is no empty answer.
        let unasked = || StoreError::Driver("vectors were not read, of a state nobody asked for".to_owned());
        self.dense_of(query, None).await?.ok_or_else(unasked)
    }

    async fn lexical(&self, query: LexicalQuery) -> Result<LexicalHits, StoreError> {
        let image = self.image(&query.scope, Freshness::Known).await?;
        Ok(image.read(|image| image.lexical(&query.filter, &query.terms, query.limit)))
    }

    async fn quoted(
        &self,
        scope: &ScopeKey,
        filter: &NodeFilter,
        literals: &[String],
    ) -> Result<Vec<NodeId>, StoreError> {
        let image = self.image(scope, Freshness::Known).await?;
        Ok(image.read(|image| image.quoted(filter, literals)))
    }

    async fn edges_around(&self, query: EdgeQuery) -> Result<Vec<EdgeView>, StoreError> {
        let image = self.image(&query.scope, Freshness::Known).await?;
        Ok(image.read(|image| image.edges_around(&query)))
    }

    async fn surroundings(&self, query: SurroundingsQuery) -> Result<Surroundings, StoreError> {
        let image = self.image(&query.edges.scope, Freshness::Known).await?;
        Ok(image.read(|image| image.surroundings(&query)))
    }

    async fn vitals(&self, scope: &ScopeKey, ids: &[NodeId], viewer: &Viewer) -> Result<Vec<NodeVitals>, StoreError> {
        let image = self.image(scope, Freshness::Known).await?;
        Ok(image.read(|image| image.vitals(ids, viewer)))
    }

    async fn rows(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<NodeRow>, StoreError> {
        static SQL: LazyLock<String> = LazyLock::new(|| {
            let key = "scope_key = $1 AND tenant_id = asker.tenant AND id = q.id";
            let node = at_place_or_by_key(STORED_COLUMNS, "memory_nodes", key);
            format!(
                "SELECT {NODE_COLUMNS}, NULLIF(n.row_place, q.row_place) \
                 FROM {ASKER} CROSS JOIN UNNEST($3::uuid[], $4::tid[]) AS q (id, row_place) CROSS JOIN LATERAL {node} n {RULE_OF_NODE}"
            )
        });
        let image = self.shared.images.held(scope);
        let places: Vec<RowPlace> = match &image {
            Some(image) => image.read(|image| ids.iter().map(|id| RowPlace(image.node_place(*id))).collect()),
            None => vec![RowPlace::default(); ids.len()],
        };
        let uuids = uuids(ids);
        let question = || {
            sqlx::query(AssertSqlSafe(SQL.as_str()))
                .bind(scope.as_str())
                .bind(scope.tenant())
                .bind(&uuids)
                .bind(&places)
        };
        let asked = ask(&self.shared.pool, scope.tenant(), self.shared.options.statement_timeout, question);
        let found = self.shared.patience.bounded(asked).await?;
        let mut by_id: HashMap<NodeId, NodeRow> = HashMap::with_capacity(found.len());
        for row in &found {
            let node = node_row(row)?;
            if let (Some(image), Some(place)) = (&image, get::<Option<RowPlace>>(row, PLACE_OF_NODE)?) {
                image.read(|image| image.node_moved(node.id, place.0));
            }
            by_id.insert(node.id, node);
        }
        // In the order asked, and as often; who is asked for once, as nearly all are, is not copied.
        let last: HashMap<NodeId, usize> = ids.iter().enumerate().map(|(at, id)| (*id, at)).collect();
        let mut take = |(at, id)| if last.get(id) == Some(&at) { by_id.remove(id) } else { by_id.get(id).cloned() };
        Ok(ids.iter().enumerate().filter_map(&mut take).collect())
    }

    async fn stored_vectors(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<(NodeId, Vec<f32>)>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_for(scope).await?;
                let sql = "SELECT q.id, v.embedding FROM UNNEST($3::uuid[]) AS q (id), LATERAL (SELECT embedding FROM memory_vectors \
                   WHERE scope_key = $1 AND node_id = q.id AND model = $2 LIMIT 1) v";
                let found = sqlx::query(sql)
                    .bind(scope.as_str())
                    .bind(&self.shared.space.name)
                    .bind(uuids(ids))
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(driver)?;
                let vectors: HashMap<NodeId, Vec<f32>> = found
                    .iter()
                    .map(|row| Ok((NodeId(get(row, 0)?), get::<Vector>(row, 1)?.to_vec())))
                    .collect::<Result<_, StoreError>>()?;
                Ok(ids.iter().filter_map(|id| vectors.get(id).map(|vector| (*id, vector.clone()))).collect())
            })
            .await
    }
}

#[async_trait]
impl RecallStore for PostgresStore {
    async fn wait_for_commit(&self, scope: &ScopeKey, seq: u64) -> Result<(), StoreError> {
        let mut commits = self.shared.wake.commits();
        loop {
            commits.mark_unchanged();
            let image = self.image(scope, Freshness::Now).await?;
            if image.read(|image| image.head_seq) >= seq {
                return Ok(());
            }
            // A hint may be lost; a look now and then finds what it was about. The sender outlives this call.
            let _ = tokio::time::timeout(COMMIT_POLL, commits.changed()).await;
        }
    }

    async fn commit_ids(&self, scope: &ScopeKey, seqs: &[u64]) -> Result<Vec<(u64, CommitId)>, StoreError> {
        self.shared
            .patience
            .bounded(async {
                let mut tx = self.begin_for(scope).await?;
                let wanted: Vec<i64> = seqs.iter().map(|seq| signed(*seq)).collect();
                let found = sqlx::query(
                    "SELECT q.seq, c.id FROM UNNEST($2::bigint[]) AS q (seq), LATERAL ( \
                   SELECT id FROM memory_commits WHERE scope_key = $1 AND seq = q.seq LIMIT 1) c",
                )
                .bind(scope.as_str())
                .bind(wanted)
                .fetch_all(&mut *tx)
                .await
                .map_err(driver)?;
                let ids: HashMap<u64, CommitId> = found
                    .iter()
                    .map(|row| Ok((unsigned(row, 0)?, CommitId(get(row, 1)?))))
                    .collect::<Result<_, StoreError>>()?;
                Ok(seqs.iter().filter_map(|seq| ids.get(seq).map(|id| (*seq, *id))).collect())
            })
            .await
    }

    async fn record_recalls(&self, audits: Vec<RecallAudit>) -> Result<(), StoreError> {
        self.shared.patience.bounded(async {
        let sql = "INSERT INTO memory_recall_audit (scope_key, id, endpoint, consumer_agent_id, consumer_team_id, \
                   query_sha256, seed_count, node_count, edge_count, created_at) \
                   SELECT q.* FROM UNNEST($1::text[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int4[], \
                   $8::int4[], $9::int4[], $10::bigint[]) AS q (scope_key, id, endpoint, agent, team, query, seeds, nodes, \
                   edges, created_at) WHERE (SELECT 1 FROM memory_purges p WHERE p.scope_key = q.scope_key \
                   AND p.purged_at >= q.created_at LIMIT 1) IS NULL";
        let count = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
        let each = |f: fn(&RecallAudit) -> String| audits.iter().map(f).collect::<Vec<_>>();
        let some = |f: fn(&RecallAudit) -> Option<String>| audits.iter().map(f).collect::<Vec<_>>();
        let mut tx = begin(&self.shared.pool, For::Everyone, self.shared.options.statement_timeout, UNSYNCED).await?;
        sqlx::query(sql)
            .bind(each(|a| a.scope.as_str().to_owned()))
            .bind(audits.iter().map(|_| Uuid::new_v4()).collect::<Vec<_>>())
            .bind(each(|a| a.endpoint.to_owned()))
            .bind(some(|a| a.viewer.agent.clone()))
            .bind(some(|a| a.viewer.team.clone()))
            .bind(each(|a| a.query_sha256.clone()))
            .bind(audits.iter().map(|a| count(a.seeds)).collect::<Vec<_>>())
            .bind(audits.iter().map(|a| count(a.nodes)).collect::<Vec<_>>())
            .bind(audits.iter().map(|a| count(a.edges)).collect::<Vec<_>>())
            .bind(audits.iter().map(|a| a.at.0).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await
            .map_err(driver)?;
        tx.commit().await.map_err(driver)
        }).await
    }
}

fn uuids(ids: &[NodeId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// What [`NODE_COLUMNS`] needs of a stored node.
const STORED_COLUMNS: &str = "id, type, client_id, title, text_summary, slots, tier, memory_lane, producer_agent_id, \
     owner_agent_id, owner_team_id, raw_ref, evidence_ref, embedding_status, embedding_model, salience, importance, \
     confidence, last_activated, created_at, updated_at, commit_seq, commit_id, activity, salience_at";

/// Column behind those of [`NODE_COLUMNS`]: where the row is, unless it is where it was thought to be.
const PLACE_OF_NODE: usize = 28;

/// The columns of [`node_row`], in its order; `n` is the node, `r` its rule.
pub(crate) const NODE_COLUMNS: &str = "n.id, n.type, n.client_id, n.title, n.text_summary, n.slots::text, n.tier, \
     n.memory_lane, n.producer_agent_id, n.owner_agent_id, n.owner_team_id, n.raw_ref, n.evidence_ref, n.embedding_status, \
     n.embedding_model, n.salience, n.importance, n.confidence, n.last_activated, n.created_at, n.updated_at, n.commit_seq, \
     n.commit_id, CASE WHEN r.state IS NOT NULL THEN ARRAY[r.state, r.rule_scope, r.target_agent_id, r.target_team_id, \
         r.if_json::text, r.then_json::text, r.exceptions_json::text] END, r.positive_count, r.negative_count, \
     n.activity::text, n.salience_at";

/// Joins the rule `r` of a node `n` of the scope `$1`.
pub(crate) const RULE_OF_NODE: &str = "LEFT JOIN LATERAL (SELECT * FROM memory_rule_defs \
     WHERE n.type = 'rule' AND scope_key = $1 AND rule_node_id = n.id LIMIT 1) r ON true";

/// Reads a node in full.
pub(crate) fn node_row(row: &PgRow) -> Result<NodeRow, StoreError> {
    let rule: Option<Vec<Option<String>>> = get(row, 23)?;
    let activity = get::<Option<&str>>(row, 26)?.map(json_of).transpose()?;
    let (node_type, tier) = (choice(row, 1, NodeType::parse)?, choice(row, 6, Tier::parse)?);
    let slots = merged_slots(json(row, 5)?, activity.as_ref());
    let (last_activated, created_at) = (get::<Option<i64>>(row, 18)?.map(Timestamp), Timestamp(get(row, 19)?));
    let times = (Timestamp(get(row, 27)?), last_activated, created_at);
    Ok(NodeRow {
        id: NodeId(get(row, 0)?),
        node_type,
        client_id: get(row, 2)?,
        title: get(row, 3)?,
        text_summary: get(row, 4)?,
        decay: DecayBasis::of((node_type, tier), times, &slots, None),
        slots,
        tier,
        lane: choice(row, 7, Lane::parse)?,
        producer_agent_id: get(row, 8)?,
        owner_agent_id: get(row, 9)?,
        owner_team_id: get(row, 10)?,
        raw_ref: get(row, 11)?,
        evidence_ref: get(row, 12)?,
        embedding_status: choice(row, 13, EmbeddingStatus::parse)?,
        embedding_model: get(row, 14)?,
        salience: get(row, 15)?,
        importance: get(row, 16)?,
        confidence: get(row, 17)?,
        last_activated,
        created_at,
        updated_at: Timestamp(get(row, 20)?),
        commit_seq: unsigned(row, 21)?,
        commit_id: CommitId(get(row, 22)?),
        rule: rule.map(|texts| rule_of(row, texts)).transpose()?,
    })
}

fn rule_of(row: &PgRow, mut texts: Vec<Option<String>>) -> Result<ContextRule, StoreError> {
    let mut text = |at: usize| texts.get_mut(at).and_then(Option::take);
    Ok(ContextRule {
        state: parsed(&text(0).unwrap_or_default(), RuleState::parse)?,
        rule_scope: parsed(&text(1).unwrap_or_default(), RuleScope::parse)?,
        target_agent_id: text(2),
        target_team_id: text(3),
        if_json: json_of(&text(4).unwrap_or_default())?,
        then_json: json_of(&text(5).unwrap_or_default())?,
        exceptions_json: json_of(&text(6).unwrap_or_default())?,
        positive: get(row, 24)?,
        negative: get(row, 25)?,
    })
}
