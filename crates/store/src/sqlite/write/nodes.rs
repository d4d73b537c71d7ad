//! Storing the nodes of a write.

use aionis_core::{
    clock::Timestamp,
    ids::NodeId,
    lifecycle::DecayBasis,
    model::{EmbeddingStatus, Tier},
    ports::store::StoreError,
    text,
    write::{DerivedText, NewCommit, PreparedNode, StoredNode},
};
use rusqlite::{Connection, params};

use super::{Application, vectors::put_vector};
use crate::sqlite::{
    error::driver,
    rows::{blob, choice, decay_basis, signed},
};
use aionis_image::{Delta, NodeDelta};

/// Where a node is written.
pub(super) struct Place<'a> {
    pub(super) scope: &'a str,
    pub(super) scope_no: i64,
    pub(super) commit: &'a NewCommit,
    pub(super) now: Timestamp,
}

impl Application<'_> {
    pub(super) fn create_node(
        &mut self,
        node: &PreparedNode,
        terms: DerivedText,
        place: &Place<'_>,
    ) -> Result<(), StoreError> {
        let tier = node.tier.unwrap_or(Tier::Hot);
        let vitals = [node.salience, node.importance, node.confidence].map(|v| v.unwrap_or(0.5));
        let (status, last_error) = node.initial_status();
        let sql = "INSERT INTO memory_nodes (scope_key, id, client_id, type, title, text_summary, slots, raw_ref, \
                   evidence_ref, memory_lane, producer_agent_id, owner_agent_id, owner_team_id, tier, salience, \
                   salience_at, importance, confidence, version, digest, content_seq, commit_seq, commit_id, created_at, updated_at, \
                   embedding_status, embedding_model, embedding_last_error, embedding_ready_at, recall_flags, \
                   term_count, name_key, embedding_pending_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
                   ?17, ?18, 1, ?19, ?20, ?20, ?21, ?16, ?16, ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29)";
        self.run(
            sql,
            params![
                place.scope,
                blob(node.id.0),
                node.client_id,
                node.node_type.as_str(),
                node.title,
                node.text_summary,
                node.slots.to_string(),
                node.raw_ref,
                node.evidence_ref,
                node.lane.as_str(),
                node.producer_agent_id,
                node.owner_agent_id,
                node.owner_team_id,
                tier.as_str(),
                vitals[0],
                place.now.0,
                vitals[1],
                vitals[2],
                node.digest.0,
                signed(place.commit.header.seq),
                blob(place.commit.id.0),
                status.as_str(),
                node.embedding_model,
                last_error,
                (status == EmbeddingStatus::Ready).then_some(place.now.0),
                i64::from(terms.flags),
                i64::from(terms.counts.len),
                terms.name_key,
                (status == EmbeddingStatus::Pending).then_some(place.now.0),
            ],
        )?;
        let node_no = self.connection.last_insert_rowid();
        if node.rule.is_some() {
            self.put_rule(node, place)?;
        }
        let vector_no = self.put_vector(node, place)?;
        let decay = DecayBasis::of((node.node_type, tier), (place.now, None, place.now), &node.slots, None);
        self.deltas.push(Delta::Node(Box::new(NodeDelta::new(
            node,
            (place.scope, place.scope_no),
            node_no,
            (tier, vitals, decay),
            terms,
            None,
        ))));
        self.vector_delta(node, place, vector_no);
        Ok(())
    }

    pub(super) fn update_node(
        &mut self,
        node: &PreparedNode,
        terms: DerivedText,
        (version, stored): (u32, Option<&StoredNode>),
        place: &Place<'_>,
    ) -> Result<(), StoreError> {
        let stored =
            stored.ok_or_else(|| StoreError::Driver("an update was planned without a stored node".to_owned()))?;
        let replaced_terms = self.keep_version(node.id, place)?;
        let tier = node.tier.unwrap_or(stored.tier);
        let vitals = [
            node.salience.unwrap_or(stored.salience),
            node.importance.unwrap_or(stored.importance),
            node.confidence.unwrap_or(stored.confidence),
        ];
        let (status, last_error) = node.initial_status();
        let sql = "UPDATE memory_nodes SET client_id = ?3, type = ?4, title = ?5, text_summary = ?6, slots = ?7, \
                   raw_ref = ?8, evidence_ref = ?9, memory_lane = ?10, producer_agent_id = ?11, owner_agent_id = ?12, \
                   owner_team_id = ?13, tier = ?14, salience_at = CASE WHEN salience = ?15 THEN salience_at ELSE ?16 END, \
                   salience = ?15, importance = ?17, confidence = ?18, version = ?19, digest = ?20, content_seq = ?21, commit_seq = ?21, \
                   commit_id = ?22, updated_at = ?16, embedding_status = ?23, embedding_model = ?24, \
                   embedding_attempts = 0, embedding_last_error = ?25, embedding_ready_at = ?26, recall_flags = ?27, \
                   term_count = ?28, name_key = ?29, embedding_pending_at = ?30 WHERE scope_key = ?1 AND id = ?2 \
                   RETURNING node_no, salience_at, last_activated, created_at, slots, activity";
        let (node_no, decay): (i64, _) = self
            .statement(sql)?
            .query_row(
                params![
                    place.scope,
                    blob(node.id.0),
                    node.client_id,
                    node.node_type.as_str(),
                    node.title,
                    node.text_summary,
                    node.slots.to_string(),
                    node.raw_ref,
                    node.evidence_ref,
                    node.lane.as_str(),
                    node.producer_agent_id,
                    node.owner_agent_id,
                    node.owner_team_id,
                    tier.as_str(),
                    vitals[0],
                    place.now.0,
                    vitals[1],
                    vitals[2],
                    version,
                    node.digest.0,
                    signed(place.commit.header.seq),
                    blob(place.commit.id.0),
                    status.as_str(),
                    node.embedding_model,
                    last_error,
                    (status == EmbeddingStatus::Ready).then_some(place.now.0),
                    i64::from(terms.flags),
                    i64::from(terms.counts.len),
                    terms.name_key,
                    (status == EmbeddingStatus::Pending).then_some(place.now.0),
                ],
                |row| Ok((row.get(0)?, decay_basis(row, (node.node_type, tier), 1)?)),
            )
            .map_err(driver)?;
        self.put_rule(node, place)?;
        // The old vector is of the old text: it goes at once, so that recall never compares with it.
        let sql = "DELETE FROM memory_vectors WHERE scope_key = ?1 AND node_id = ?2";
        self.run(sql, (place.scope, blob(node.id.0)))?;
        let vector_no = self.put_vector(node, place)?;
        self.deltas.push(Delta::Node(Box::new(NodeDelta::new(
            node,
            (place.scope, place.scope_no),
            node_no,
            (tier, vitals, decay),
            terms,
            Some(replaced_terms),
        ))));
        self.vector_delta(node, place, vector_no);
        Ok(())
    }

    /// Keeps the content that is about to be replaced, as the text its digest was taken of; returns its terms.
    fn keep_version(&self, id: NodeId, place: &Place<'_>) -> Result<Vec<String>, StoreError> {
        let stored = crate::sqlite::integrity::stored_content(self.connection, place.scope, id)?;
        let content = stored.content().canonical();
        let sql = "INSERT INTO memory_node_versions (scope_key, node_id, version, from_seq, to_seq, content) \
                   SELECT scope_key, id, version, content_seq, ?3, ?4 FROM memory_nodes WHERE scope_key = ?1 AND id = ?2";
        self.run(sql, params![place.scope, blob(id.0), signed(place.commit.header.seq), content])?;
        let texts: Vec<&str> =
            [&stored.title, &stored.text_summary].into_iter().flatten().map(String::as_str).collect();
        Ok(text::term_counts(&texts).terms.into_iter().map(|(term, _)| term).collect())
    }

    pub(super) fn touch_node(&mut self, node: &PreparedNode, place: &Place<'_>) -> Result<(), StoreError> {
        let sql = "UPDATE memory_nodes SET tier = COALESCE(?3, tier), \
                   salience_at = CASE WHEN ?4 IS NULL THEN salience_at ELSE ?7 END, salience = COALESCE(?4, salience), \
                   importance = COALESCE(?5, importance), confidence = COALESCE(?6, confidence), updated_at = ?7, \
                   commit_seq = ?8, commit_id = ?9 WHERE scope_key = ?1 AND id = ?2 \
                   RETURNING tier, salience, importance, confidence, salience_at, last_activated, created_at, slots, activity";
        let (tier, salience, confidence, decay) = self
            .statement(sql)?
            .query_row(
                params![
                    place.scope,
                    blob(node.id.0),
                    node.tier.map(Tier::as_str),
                    node.salience,
                    node.importance,
                    node.confidence,
                    place.now.0,
                    signed(place.commit.header.seq),
                    blob(place.commit.id.0),
                ],
                |row| {
                    let tier = choice(row, 0, Tier::parse)?;
                    Ok((tier, row.get(1)?, row.get(3)?, decay_basis(row, (node.node_type, tier), 4)?))
                },
            )
            .map_err(driver)?;
        self.deltas.push(Delta::Vitals {
            scope: place.scope.to_owned(),
            id: node.id,
            tier,
            salience,
            decay,
            confidence,
        });
        let vector_no = self.put_vector(node, place)?;
        if vector_no.is_some() {
            let sql = "UPDATE memory_nodes SET embedding_status = 'ready', embedding_model = ?3, embedding_last_error = NULL, \
                       embedding_ready_at = ?4 WHERE scope_key = ?1 AND id = ?2";
            self.run(sql, params![place.scope, blob(node.id.0), node.embedding_model, place.now.0])?;
        }
        self.vector_delta(node, place, vector_no);
        Ok(())
    }

    fn put_rule(&self, node: &PreparedNode, place: &Place<'_>) -> Result<(), StoreError> {
        let Some(rule) = &node.rule else {
            // A node that stops being a rule keeps no executable part.
            return self.run(
                "DELETE FROM memory_rule_defs WHERE scope_key = ?1 AND rule_node_id = ?2",
                (place.scope, blob(node.id.0)),
            );
        };
        let sql = "INSERT INTO memory_rule_defs (scope_key, rule_node_id, state, if_json, then_json, exceptions_json, \
                   rule_scope, target_agent_id, target_team_id, commit_seq, created_at, updated_at) \
                   VALUES (?1, ?2, 'draft', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?10) \
                   ON CONFLICT (scope_key, rule_node_id) DO UPDATE SET state = 'draft', if_json = excluded.if_json, \
                   then_json = excluded.then_json, exceptions_json = excluded.exceptions_json, \
                   rule_scope = excluded.rule_scope, target_agent_id = excluded.target_agent_id, \
                   target_team_id = excluded.target_team_id, commit_seq = excluded.commit_seq, \
                   updated_at = excluded.updated_at";
        self.run(
            sql,
            params![
                place.scope,
                blob(node.id.0),
                rule.if_json.to_string(),
                rule.then_json.to_string(),
                rule.exceptions_json.to_string(),
                rule.rule_scope.as_str(),
                rule.target_agent_id,
                rule.target_team_id,
                signed(place.commit.header.seq),
                place.now.0,
            ],
        )
    }

    fn put_vector(&self, node: &PreparedNode, place: &Place<'_>) -> Result<Option<i64>, StoreError> {
        let Some(vector) = &node.embedding else { return Ok(None) };
        let key = (place.scope, node.id);
        put_vector(self.connection, key, &self.shared.space.name, (&node.digest.0, "client"), vector, place.now)
            .map(Some)
    }

    fn vector_delta(&mut self, node: &PreparedNode, place: &Place<'_>, vector_no: Option<i64>) {
        if let (Some(vector), Some(vector_no)) = (&node.embedding, vector_no) {
            self.deltas.push(Delta::Vector {
                scope: place.scope.to_owned(),
                id: node.id,
                vector_no,
                vector: vector.clone(),
            });
        }
    }
}

/// Brings the inverted index up to date with the nodes a transaction stored.
pub(crate) fn index_texts(connection: &Connection, deltas: &[Delta]) -> Result<(), StoreError> {
    for delta in deltas {
        let node = match delta {
            Delta::Node(node) => node,
            Delta::Erased { nodes, .. } => {
                let sql = "DELETE FROM memory_lexical WHERE rowid = ?1";
                let mut statement = connection.prepare_cached(sql).map_err(driver)?;
                nodes.iter().try_for_each(|(_, number)| statement.execute([number]).map(|_| ())).map_err(driver)?;
                continue;
            }
            _ => continue,
        };
        if node.replaces() {
            let sql = "DELETE FROM memory_lexical WHERE rowid = ?1";
            connection.prepare_cached(sql).and_then(|mut s| s.execute([node.node_no()])).map_err(driver)?;
        }
        if let Some(document) = node.document() {
            let sql = "INSERT INTO memory_lexical (rowid, terms) VALUES (?1, ?2)";
            connection.prepare_cached(sql).and_then(|mut s| s.execute((node.node_no(), document))).map_err(driver)?;
        }
    }
    Ok(())
}
