//! Reading for recall: scans in the scope's image, rows from the database.

use std::sync::Arc;

use aionis_core::{
    clock::Timestamp,
    ids::{CommitId, NodeId, ScopeKey},
    model::{NodeType, Viewer},
    ports::store::{
        DenseHit, DenseQuery, EdgeQuery, LexicalQuery, NodeFilter, NodeRow, RecallAudit, RecallReader, RecallStore,
        ScopeStatus, StoreError, SurroundingsQuery,
    },
    recall::{EdgeView, NodeVitals, Surroundings, bm25::LexicalHits},
};
use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, params};

use super::{
    SqliteStore,
    error::driver,
    images::ImageRef,
    purge::is_purging,
    rows::{NODE_COLUMNS, blob, node_row, rule_of, signed, unreadable, uuid, vector},
};
use aionis_image::{Near, ScopeImage, exact_cosine, scoped_term};

/// How often posting lists are read again because the scope was written meanwhile. After that the image is held still
/// for the reading: a busy writer waits for a reader rather than starving it.
const POSTING_READS_MAX: usize = 16;

impl SqliteStore {
    /// Runs a reading closure with a connection and the scope's image.
    async fn with_image<T: Send + 'static>(
        &self,
        scope: &ScopeKey,
        work: impl FnOnce(&Connection, &ImageRef) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let shared = Arc::clone(&self.shared);
        let scope = scope.clone();
        self.readers
            .run(move |connection| {
                let image = shared.images.get(scope.as_str(), connection, &shared.space)?;
                work(connection, &image)
            })
            .await
    }
}

impl SqliteStore {
    /// Waits until the scope's vectors have an index; returns its lists and how many of them a question visits. The
    /// caller bounds the wait by dropping the future.
    ///
    /// # Errors
    /// A failure of storage.
    pub async fn wait_for_index(&self, scope: &ScopeKey) -> Result<(usize, usize), StoreError> {
        let mut commits = self.shared.commits.subscribe();
        loop {
            commits.mark_unchanged();
            if let Some(shape) = self.on_image(scope, ScopeImage::index_shape).await? {
                return Ok(shape);
            }
            // The index is stored by the writing thread, which says so like of any other transaction.
            commits.changed().await.map_err(|_| StoreError::Unavailable("the store is closed".to_owned()))?;
        }
    }

    /// Asks the scope's image alone: at once when it is in memory, which takes less time than handing the work over.
    async fn on_image<T: Send + 'static>(
        &self,
        scope: &ScopeKey,
        work: impl FnOnce(&ScopeImage) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.shared.images.peek(scope.as_str()) {
            Some(image) => image.read(work),
            None => self.with_image(scope, move |_, image| image.read(work)).await,
        }
    }
}

#[async_trait]
impl RecallReader for SqliteStore {
    async fn scope_status(&self, scope: &ScopeKey) -> Result<ScopeStatus, StoreError> {
        let (head_seq, (nodes, pending)) = self.on_image(scope, |image| (image.head_seq, image.counts())).await?;
        let oldest_pending = if pending > 0 {
            let key = scope.clone();
            self.readers.run(move |connection| oldest_pending(connection, key.as_str())).await?
        } else {
            None
        };
        Ok(ScopeStatus { head_seq, nodes, pending, oldest_pending })
    }

    async fn dense(&self, query: DenseQuery) -> Result<Vec<DenseHit>, StoreError> {
        let query = Arc::new(query);
        let asked = Arc::clone(&query);
        let near = move |image: &ScopeImage| {
            (image.near(&asked.filter, &asked.vector, image.reach(asked.limit), asked.exact), image.has_aliases())
        };
        let (near, has_aliases) = self.on_image(&query.scope, near).await?;
        let mut hits = match near {
            Near::Scored(hits) => hits,
            Near::Candidates(candidates) => {
                let query = Arc::clone(&query);
                self.readers.run(move |connection| rescore(connection, candidates, &query)).await?
            }
        };
        if has_aliases {
            let asked = Arc::clone(&query);
            hits = self.on_image(&query.scope, move |image| image.resolved(&asked.filter, hits)).await?;
        }
        Ok(best_first(hits, query.limit))
    }

    async fn lexical(&self, query: LexicalQuery) -> Result<LexicalHits, StoreError> {
        let find = |image: &ScopeImage, query: &LexicalQuery| image.lexical(&query.filter, &query.terms, query.limit);
        if let Some(image) = self.shared.images.peek(query.scope.as_str()) {
            let found = image.read(|image| image.missing(&query.terms).is_empty().then(|| find(image, &query)))?;
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let (scope, shared) = (query.scope.clone(), Arc::clone(&self.shared));
        self.with_image(&scope, move |connection, image| {
            load_postings(connection, image, &query.terms)?;
            shared.images.reweigh(image, query.scope.as_str());
            image.read(|image| find(image, &query))
        })
        .await
    }

    async fn quoted(
        &self,
        scope: &ScopeKey,
        filter: &NodeFilter,
        literals: &[String],
    ) -> Result<Vec<NodeId>, StoreError> {
        let (filter, literals) = (filter.clone(), literals.to_vec());
        self.on_image(scope, move |image| image.quoted(&filter, &literals)).await
    }

    async fn edges_around(&self, query: EdgeQuery) -> Result<Vec<EdgeView>, StoreError> {
        let scope = query.scope.clone();
        self.on_image(&scope, move |image| image.edges_around(&query)).await
    }

    async fn surroundings(&self, query: SurroundingsQuery) -> Result<Surroundings, StoreError> {
        let scope = query.edges.scope.clone();
        self.on_image(&scope, move |image| image.surroundings(&query)).await
    }

    async fn vitals(&self, scope: &ScopeKey, ids: &[NodeId], viewer: &Viewer) -> Result<Vec<NodeVitals>, StoreError> {
        let (ids, viewer) = (ids.to_vec(), viewer.clone());
        self.on_image(scope, move |image| image.vitals(&ids, &viewer)).await
    }

    async fn rows(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<NodeRow>, StoreError> {
        let (ids, key) = (ids.to_vec(), scope.clone());
        self.with_image(scope, move |connection, image| {
            let numbers: Vec<(NodeId, i64)> = image
                .read(|image| ids.iter().filter_map(|id| image.node_no(*id).map(|number| (*id, number))).collect())?;
            node_rows(connection, key.as_str(), &numbers)
        })
        .await
    }

    async fn stored_vectors(&self, scope: &ScopeKey, ids: &[NodeId]) -> Result<Vec<(NodeId, Vec<f32>)>, StoreError> {
        let (key, ids, model) = (scope.clone(), ids.to_vec(), self.shared.space.name.clone());
        self.readers
            .run(move |connection| {
                let sql = "SELECT vector FROM memory_vectors WHERE scope_key = ?1 AND node_id = ?2 AND model = ?3";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                let mut found = Vec::with_capacity(ids.len());
                if is_purging(connection, key.as_str())? {
                    return Ok(found);
                }
                for id in ids {
                    let bytes: Option<Vec<u8>> = statement
                        .query_row((key.as_str(), blob(id.0), &model), |row| row.get(0))
                        .optional()
                        .map_err(driver)?;
                    found.extend(bytes.map(|bytes| (id, vector(&bytes))));
                }
                Ok(found)
            })
            .await
    }
}

#[async_trait]
impl RecallStore for SqliteStore {
    async fn wait_for_commit(&self, scope: &ScopeKey, seq: u64) -> Result<(), StoreError> {
        let mut commits = self.shared.commits.subscribe();
        loop {
            commits.mark_unchanged();
            if self.on_image(scope, |image| image.head_seq).await? >= seq {
                return Ok(());
            }
            commits.changed().await.map_err(|_| StoreError::Unavailable("the store is closed".to_owned()))?;
        }
    }

    async fn commit_ids(&self, scope: &ScopeKey, seqs: &[u64]) -> Result<Vec<(u64, CommitId)>, StoreError> {
        let (key, seqs) = (scope.clone(), seqs.to_vec());
        self.readers
            .run(move |connection| {
                let sql = "SELECT id FROM memory_commits WHERE scope_key = ?1 AND seq = ?2";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                let mut found = Vec::with_capacity(seqs.len());
                for seq in seqs {
                    let id = statement
                        .query_row((key.as_str(), signed(seq)), |row| uuid(row, 0))
                        .optional()
                        .map_err(driver)?;
                    found.extend(id.map(|id| (seq, CommitId(id))));
                }
                Ok(found)
            })
            .await
    }

    async fn record_recalls(&self, audits: Vec<RecallAudit>) -> Result<(), StoreError> {
        self.writer
            .submit(move |connection, _| {
                let sql = "INSERT INTO memory_recall_audit (scope_key, endpoint, consumer_agent_id, consumer_team_id, \
                           query_sha256, seed_count, node_count, edge_count, created_at) \
                           SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9 WHERE NOT EXISTS \
                           (SELECT 1 FROM memory_purges WHERE scope_key = ?1 AND purged_at >= ?9)";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                for audit in audits {
                    statement
                        .execute(params![
                            audit.scope.as_str(),
                            audit.endpoint,
                            audit.viewer.agent,
                            audit.viewer.team,
                            audit.query_sha256,
                            audit.seeds,
                            audit.nodes,
                            audit.edges,
                            audit.at.0,
                        ])
                        .map_err(driver)?;
                }
                Ok(())
            })
            .await
    }
}

fn oldest_pending(connection: &Connection, scope: &str) -> Result<Option<Timestamp>, StoreError> {
    let sql = "SELECT embedding_pending_at FROM memory_nodes WHERE scope_key = ?1 AND embedding_status = 'pending' \
               ORDER BY embedding_pending_at LIMIT 1";
    connection
        .prepare_cached(sql)
        .map_err(driver)?
        .query_row([scope], |row| row.get(0).map(Timestamp))
        .optional()
        .map_err(driver)
}

/// The best hits, best first, ties by id.
fn best_first(mut hits: Vec<DenseHit>, limit: usize) -> Vec<DenseHit> {
    hits.sort_unstable_by(|a, b| b.similarity.total_cmp(&a.similarity).then(a.id.cmp(&b.id)));
    hits.truncate(limit);
    hits
}

/// Exact cosines of the candidates, from the stored vectors.
fn rescore(
    connection: &Connection,
    candidates: Vec<(NodeId, i64)>,
    query: &DenseQuery,
) -> Result<Vec<DenseHit>, StoreError> {
    // The number alone does not do: a number that became free since the scan may be another node's by now.
    let sql = "SELECT vector FROM memory_vectors WHERE vector_no = ?1 AND scope_key = ?2 AND node_id = ?3";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    let mut hits = Vec::with_capacity(candidates.len());
    for (id, vector_no) in candidates {
        let similarity = statement
            .query_row((vector_no, query.scope.as_str(), blob(id.0)), |row| {
                let bytes = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
                Ok(exact_cosine(&query.vector, &vector(bytes)))
            })
            .optional()
            .map_err(|e| unreadable("memory_vectors", id, e))?;
        // A vector that is gone was replaced since the scan: its node waits for the new one.
        hits.extend(similarity.map(|similarity| DenseHit { id, similarity }));
    }
    Ok(hits)
}

/// Brings the posting lists of all terms into memory.
fn load_postings(connection: &Connection, image: &ImageRef, terms: &[String]) -> Result<(), StoreError> {
    for _ in 0..POSTING_READS_MAX {
        let (missing, version, scope_no) =
            image.read(|image| (image.missing(terms), image.version(), image.scope_no))?;
        let Some(scope_no) = scope_no.filter(|_| !missing.is_empty()) else { return Ok(()) };
        let lists = read_all(connection, scope_no, missing)?;
        if image.change(|image| lists.iter().all(|(term, rows)| image.keep_postings(term, rows, version)))? {
            return Ok(());
        }
    }
    image.change(|image| {
        let Some(scope_no) = image.scope_no else { return Ok(()) };
        // Deltas wait for this lock, so rows the image does not know yet are applied to these lists right after.
        for (term, rows) in read_all(connection, scope_no, image.missing(terms))? {
            image.keep_known_postings(&term, &rows);
        }
        Ok(())
    })?
}

type PostingRows = Vec<(i64, u16)>;

/// Reads a term's posting list from the inverted index as pairs of row number and count.
fn read_postings(connection: &Connection, scope_no: i64, term: &str) -> Result<PostingRows, StoreError> {
    let sql = "SELECT doc, COUNT(*) FROM memory_lexical_terms WHERE term = ?1 GROUP BY doc";
    let mut statement = connection.prepare_cached(sql).map_err(driver)?;
    statement
        .query_map([scoped_term(scope_no, term)], |row| Ok((row.get(0)?, row.get(1)?)))
        .and_then(Iterator::collect)
        .map_err(driver)
}

fn read_all(
    connection: &Connection,
    scope_no: i64,
    terms: Vec<String>,
) -> Result<Vec<(String, PostingRows)>, StoreError> {
    terms.into_iter().map(|term| read_postings(connection, scope_no, &term).map(|rows| (term, rows))).collect()
}

fn node_rows(connection: &Connection, scope: &str, numbers: &[(NodeId, i64)]) -> Result<Vec<NodeRow>, StoreError> {
    // The number alone does not do: one that became free may be another node's by now, of another scope.
    let sql = format!("SELECT {NODE_COLUMNS} FROM memory_nodes WHERE node_no = ?1 AND scope_key = ?2 AND id = ?3");
    let mut statement = connection.prepare_cached(&sql).map_err(driver)?;
    let mut rows = Vec::with_capacity(numbers.len());
    for (id, number) in numbers {
        let row = statement
            .query_row((number, scope, blob(id.0)), node_row)
            .optional()
            .map_err(|e| unreadable("memory_nodes", id, e))?;
        let Some(mut row) = row else { continue };
        if row.node_type == NodeType::Rule {
            row.rule = rule_of(connection, scope, row.id.0)?;
        }
        rows.push(row);
    }
    Ok(rows)
}
