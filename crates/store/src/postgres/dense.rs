//! Nearest vectors: exact through the primary key in a small scope, by the HNSW index in a large one, filters always inside
//! the search.

use std::sync::{
    LazyLock,
    atomic::{AtomicI64, AtomicU64, Ordering},
};

use aionis_core::{
    ids::NodeId,
    ports::store::{DenseHit, DenseQuery, HeldState, SeedRules, StoreError},
};
use pgvector::Vector;
use sqlx::{AssertSqlSafe, Row};

use super::{
    Shared,
    error::driver,
    place::{RowPlace, at_place_or_by_key},
    rows::get,
    session::{ASKER, For, ask, begin, literal},
};
use crate::{purge::OPEN, space::EmbeddingSpace};
use aionis_image::gate;

/// Candidates the index is asked for beyond the limit: a quarter and so many, scored again in full precision.
const MORE_CANDIDATES: usize = 16;
/// What the index keeps in view beyond the candidates, so that a few that the filter refuses cost no second search.
const MORE_IN_VIEW: usize = 40;
/// Most candidates an HNSW search keeps in view.
const EF_SEARCH_MAX: usize = 1_000;
/// Vectors an index scan may look at before it gives up; the exact search takes over then.
const SCAN_TUPLES_MAX: usize = 100_000;
/// How long an estimate of the size of the table holds, in microseconds.
const ESTIMATE_US: i64 = 60_000_000;

/// Of a partitioned table the parts are counted: nobody analyses the whole by itself.
const ESTIMATE: &str = "SELECT COALESCE(SUM(GREATEST(reltuples, 0)), 0)::float4 FROM pg_class \
                        WHERE relkind = 'r' AND oid IN (SELECT 'memory_vectors'::regclass::oid UNION ALL \
                            SELECT relid FROM pg_partition_tree('memory_vectors'::regclass) WHERE isleaf)";

/// The statements of a space, and what is known of the table.
pub(crate) struct Dense {
    exact: String,
    indexed: String,
    estimate: AtomicU64,
    estimated_at: AtomicI64,
}

impl Dense {
    pub(crate) fn new(space: &EmbeddingSpace) -> Self {
        // Model and dimension stand in the text, because a partial index is matched by constants.
        let of_space = format!("model = {} AND dim = {}", literal(&space.name), space.dim);
        let seen =
            "scope_key = $1 AND (gate & $3) = $3 AND (gate & $4 <> 0 OR owner_agent_id = $5 OR owner_team_id = $6)";
        let exact = format!(
            "SELECT node_id, 1 - (embedding <=> $2) FROM memory_vectors WHERE {of_space} AND {seen} \
             ORDER BY embedding <=> $2, node_id LIMIT $7"
        );
        let dim = space.dim;
        let indexed = format!(
            "SELECT node_id, 1 - (embedding <=> $2) FROM memory_vectors WHERE {of_space} AND {seen} ORDER BY {} LIMIT $7",
            index_order("$2", dim)
        );
        Self { exact, indexed, estimate: AtomicU64::new(0), estimated_at: AtomicI64::new(i64::MIN) }
    }
}

/// The order the HNSW index gives, by distance from a parameter.
pub(super) fn index_order(parameter: &str, dim: usize) -> String {
    format!("l2_normalize(embedding)::halfvec({dim}) <=> l2_normalize({parameter})::halfvec({dim})")
}

/// Candidates the index is asked for, of which the best `limit` by full precision are taken.
pub(super) const fn index_candidates(limit: usize) -> usize {
    limit + limit / 4 + MORE_CANDIDATES
}

/// Settings of a transaction that searches by the index. Sorting is priced out, so that the index gives the order.
pub(super) fn index_settings(candidates: usize) -> String {
    format!(
        "SET LOCAL hnsw.ef_search = {}; SET LOCAL hnsw.iterative_scan = 'relaxed_order'; \
         SET LOCAL hnsw.max_scan_tuples = {SCAN_TUPLES_MAX}; SET LOCAL enable_sort = off; \
         SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off",
        (candidates + candidates / 8 + MORE_IN_VIEW).min(EF_SEARCH_MAX)
    )
}

impl Shared {
    /// The nearest of some candidates, best first, ties by id. Tells of rows that were not where they had been seen. None if
    /// the scope is not in the state that was asked for, or nothing tells that it is.
    pub(crate) async fn rescore(
        &self,
        query: &DenseQuery,
        candidates: &[(NodeId, u64)],
        held: Option<HeldState>,
        moved: impl Fn(NodeId, RowPlace),
    ) -> Result<Option<Vec<DenseHit>>, StoreError> {
        static SQL: LazyLock<[String; 2]> = LazyLock::new(|| {
            let vector = at_place_or_by_key(
                "1 - (embedding <=> $4) AS similarity",
                "memory_vectors",
                "scope_key = $1 AND tenant_id = asker.tenant AND node_id = q.id AND model = $3",
            );
            // Of another state no row is read.
            let unchanged = format!(
                " CROSS JOIN LATERAL (SELECT FROM memory_scopes WHERE scope_key = $1 AND tenant_id = asker.tenant \
                 AND change_no = $7 AND incarnation = $8 AND state = '{OPEN}' LIMIT 1) unchanged"
            );
            ["", &unchanged].map(|unchanged| {
                format!(
                    "SELECT q.id, v.similarity, NULLIF(v.row_place, q.row_place) FROM {ASKER}{unchanged} \
                     CROSS JOIN UNNEST($5::uuid[], $6::tid[]) AS q (id, row_place) CROSS JOIN LATERAL {vector} v"
                )
            })
        });
        if candidates.is_empty() || query.limit == 0 {
            return Ok(held.is_none().then(Vec::new));
        }
        let vector = Vector::from(query.vector.clone());
        let (ids, places): (Vec<_>, Vec<_>) = candidates.iter().map(|(id, at)| (id.0, RowPlace(*at))).unzip();
        let question = || {
            let question = sqlx::query(AssertSqlSafe(SQL[usize::from(held.is_some())].as_str()))
                .bind(query.scope.as_str())
                .bind(query.scope.tenant())
                .bind(&self.space.name)
                .bind(&vector)
                .bind(&ids)
                .bind(&places);
            match held {
                Some(HeldState { change_no, incarnation }) => question.bind(change_no).bind(incarnation),
                None => question,
            }
        };
        let asked = ask(&self.pool, query.scope.tenant(), self.options.statement_timeout, question);
        let rows = self.patience.bounded(asked).await?;
        if rows.is_empty() && held.is_some() {
            return Ok(None);
        }
        let hit = |row| {
            let id = NodeId(get(row, 0)?);
            if let Some(place) = get(row, 2)? {
                moved(id, place);
            }
            Ok(DenseHit { id, similarity: get(row, 1)? })
        };
        Ok(Some(best_first(rows.iter().map(hit).collect::<Result<_, StoreError>>()?, query.limit)))
    }

    /// The nearest vectors by the database alone, best first, ties by id.
    pub(crate) async fn nearest(&self, query: &DenseQuery, of_scope: u64) -> Result<Vec<DenseHit>, StoreError> {
        let wanted = index_candidates(query.limit);
        if query.limit == 0 || of_scope == 0 {
            return Ok(Vec::new());
        }
        let exact = query.exact
            || of_scope <= self.options.exact_max
            || self.space.dim > super::space::INDEXED_DIM_MAX
            || exact_is_cheaper(of_scope, self.vectors_estimate().await?.max(of_scope), wanted);
        if !exact {
            let hits = self.search(query, &self.dense.indexed, wanted, Some(wanted)).await?;
            // An index scan that gave up early may have missed matches under a filter.
            if hits.len() >= query.limit || hits.len() as u64 >= of_scope {
                return Ok(best_first(hits, query.limit));
            }
        }
        let hits = self.search(query, &self.dense.exact, query.limit, None).await?;
        Ok(best_first(hits, query.limit))
    }

    async fn search(
        &self,
        query: &DenseQuery,
        sql: &str,
        limit: usize,
        index: Option<usize>,
    ) -> Result<Vec<DenseHit>, StoreError> {
        self.patience
            .bounded(async {
                let settings = index.map(index_settings).unwrap_or_default();
                let tenant = For::Tenant(query.scope.tenant());
                let mut tx = begin(&self.pool, tenant, self.options.statement_timeout, &settings).await?;
                let needed = match query.filter.rules {
                    SeedRules::Everything => gate::SEED,
                    SeedRules::Reference => gate::SEED | gate::REFERENCE,
                };
                let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
                    .bind(query.scope.as_str())
                    .bind(Vector::from(query.vector.clone()))
                    .bind(i16::from(needed))
                    .bind(i16::from(gate::SHARED))
                    .bind(query.filter.viewer.agent.as_deref())
                    .bind(query.filter.viewer.team.as_deref())
                    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                    .fetch_all(&mut *tx)
                    .await
                    .map_err(driver)?;
                rows.iter().map(|row| Ok(DenseHit { id: NodeId(get(row, 0)?), similarity: get(row, 1)? })).collect()
            })
            .await
    }

    /// About how many vectors there are in all scopes, as the server's statistics say.
    async fn vectors_estimate(&self) -> Result<u64, StoreError> {
        self.patience
            .bounded(async {
                let now = self.clock.now().0;
                if now.saturating_sub(self.dense.estimated_at.load(Ordering::Relaxed)) < ESTIMATE_US {
                    return Ok(self.dense.estimate.load(Ordering::Relaxed));
                }
                let estimate: f32 = sqlx::query(ESTIMATE)
                    .fetch_one(&mut *self.pool.acquire().await.map_err(driver)?)
                    .await
                    .and_then(|row| row.try_get(0))
                    .map_err(driver)?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rough count, never negative here"
                )]
                let estimate = estimate.max(0.0) as u64;
                self.dense.estimate.store(estimate, Ordering::Relaxed);
                self.dense.estimated_at.store(now, Ordering::Relaxed);
                Ok(estimate)
            })
            .await
    }
}

/// Whether comparing all vectors of a scope costs less than searching the index of all scopes. A vector compared costs
/// about 1.7 µs; the index looks at `candidates · all / of_scope` vectors, at about 25 µs each, to find that many of the
/// scope (1536 dimensions, everything in memory).
fn exact_is_cheaper(of_scope: u64, all: u64, candidates: usize) -> bool {
    let index = (candidates as u128) * u128::from(all) * 25 * 10;
    u128::from(of_scope) * u128::from(of_scope) * 17 < index
}

/// The best hits, best first, ties by id.
pub(crate) fn best_first(mut hits: Vec<DenseHit>, limit: usize) -> Vec<DenseHit> {
    hits.sort_unstable_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.id.cmp(&b.id)));
    hits.truncate(limit);
    hits
}

#[cfg(test)]
mod tests {
    use super::exact_is_cheaper;

    #[test]
    fn a_small_share_of_a_large_table_is_compared_and_a_large_one_searched() {
        assert!(exact_is_cheaper(500, 100_000, 100));
        assert!(exact_is_cheaper(5_000, 100_000, 100));
        assert!(!exact_is_cheaper(20_000, 100_000, 100));
        assert!(!exact_is_cheaper(100_000, 100_000, 100));
        assert!(exact_is_cheaper(20_000, 10_000_000, 100));
    }
}
