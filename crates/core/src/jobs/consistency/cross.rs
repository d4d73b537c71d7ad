//! Checks over several rows: what is noted of each, and what is judged when all were seen.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    CHAIN_TAIL, Judge, RawRow, Told,
    chain::{note_changes, stored_commit},
    facts::{
        ALIASED, HAS_RULE, HAS_VECTOR, Members, NodeFact, PRIVATE, READY, RefKind, RuleFact, STORED, TYPED, first_bytes,
    },
    nodes::NodeView,
};
use crate::{
    canon::sha256,
    ids::{EdgeId, NodeId},
    model::{EdgeType, EmbeddingStatus, Lane, NodeType, Tier},
    write::edge_digest,
};

/// Checks over several rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cross {
    EdgesCrossScope,
    ScopeHeadMissing,
    ReadyWithoutVector,
    NotReadyWithVector,
    VectorsWithoutNode,
    VectorDigestStale,
    TopicMemberCountMismatch,
    HotBudget,
    ActiveBudget,
    CitationMissing,
    AliasMissing,
    SupersededMissing,
    AliasType,
    AliasCycle,
    AliasedWithEdges,
    DerivedWider,
    OrphanRuleDefinition,
    RuleWithoutDefinition,
    FeedbackCounters,
    DecisionMissing,
    DecisionRun,
    Chain,
    Digests,
    NodeCommit,
    EdgeCommit,
    Counters,
}

use Cross as C;

/// Checks that need a node's type.
const OF_TYPES: &[Cross] =
    &[C::AliasType, C::OrphanRuleDefinition, C::RuleWithoutDefinition, C::TopicMemberCountMismatch];
/// Checks that need a node's slots.
const OF_SLOTS: &[Cross] = &[
    C::TopicMemberCountMismatch,
    C::CitationMissing,
    C::AliasMissing,
    C::SupersededMissing,
    C::AliasType,
    C::AliasCycle,
    C::AliasedWithEdges,
    C::DerivedWider,
];

impl Judge {
    /// Notes a node; what cannot be read of it is an error of the checks that need it.
    pub(super) fn note_node(&mut self, node: &NodeView<'_>) {
        self.facts.stored_nodes += 1;
        let Ok(id) = node.id() else { return };
        let before = self.facts.nodes.get(&id).copied();
        let mut fact = NodeFact { bits: STORED, ..before.unwrap_or_default() };
        if self.wants(C::Digests) {
            self.node_digest(node, id, before.map(|fact| fact.digest));
        }
        if let Some(kind) = self.told(OF_TYPES, node.row, node.node_type()) {
            let at = NodeType::ALL.iter().position(|known| *known == kind).unwrap_or_default();
            (fact.kind, fact.bits) = (u8::try_from(at).unwrap_or(u8::MAX), fact.bits | TYPED);
        }
        let of_vectors = [C::ReadyWithoutVector, C::NotReadyWithVector, C::VectorDigestStale];
        if self.told(&of_vectors, node.row, node.status()) == Some(EmbeddingStatus::Ready) {
            fact.bits |= READY;
        }
        if let Some(digest) = self.told(&of_vectors[1..], node.row, node.row.digest("digest")) {
            fact.digest = first_bytes(&digest);
        }
        match self.told(&[C::HotBudget, C::ActiveBudget], node.row, node.tier()) {
            Some(Tier::Hot) => self.facts.hot += 1,
            Some(Tier::Warm) => self.facts.warm += 1,
            _ => {}
        }
        self.note_owner(node, &mut fact);
        if self.wants(C::NodeCommit) {
            self.node_commit(node, id);
        }
        self.facts.nodes.insert(id, fact);
        if OF_SLOTS.iter().any(|check| self.wants(*check)) {
            let noted = self.note_slots(node, id);
            self.told(OF_SLOTS, node.row, noted);
        }
    }

    fn note_owner(&mut self, node: &NodeView<'_>, fact: &mut NodeFact) {
        let read = || Ok((node.lane()?, node.row.text("owner_agent_id")?, node.row.text("owner_team_id")?));
        if let Some((lane, agent, team)) = self.told(&[C::DerivedWider], node.row, read()) {
            (fact.agent, fact.team) = (self.facts.name(agent), self.facts.name(team));
            fact.bits |= if lane == Lane::Private { PRIVATE } else { 0 };
        }
    }

    fn note_slots(&mut self, node: &NodeView<'_>, id: Uuid) -> Told<()> {
        if let Some(target) = node.named_node("alias_of")? {
            self.facts.aliases.insert(id, target);
            self.facts.refs.push((id, target, RefKind::Alias));
            if let Some(fact) = self.facts.nodes.get_mut(&id).filter(|_| target != id) {
                fact.bits |= ALIASED;
            }
        }
        if let Some(target) = node.named_node("superseded_by")? {
            self.facts.refs.push((id, target, RefKind::Superseded));
        }
        if self.wants(C::CitationMissing) && node.is_summary()? {
            self.facts.refs.extend(node.cited()?.into_iter().map(|cited| (id, cited, RefKind::Citation)));
        }
        if self.wants(C::DerivedWider) {
            self.facts.refs.extend(node.sources()?.into_iter().map(|source| (id, source, RefKind::Source)));
        }
        if self.wants(C::TopicMemberCountMismatch) && node.node_type()? == NodeType::Topic {
            let said = node.slot("member_count")?.and_then(|count| count.parse().ok());
            self.facts.members.extend(said.map(|said| (id, Members { said, counted: 0 })));
        }
        Ok(())
    }

    fn node_digest(&mut self, node: &NodeView<'_>, id: Uuid, chained: Option<u64>) {
        let read = || Ok((node.recomputed()?, node.row.digest("digest")?));
        let Some((recomputed, stored)) = self.told(&[C::Digests], node.row, read()) else { return };
        let code = match chained {
            None => "no_commit_names_it",
            Some(chained) if chained != first_bytes(&recomputed) => "not_what_its_commit_binds",
            Some(_) if recomputed != stored => "not_the_digest_beside_it",
            Some(_) => return,
        };
        self.find(C::Digests, || json!({ "object": "node", "id": id, "code": code }));
    }

    fn node_commit(&mut self, node: &NodeView<'_>, id: Uuid) {
        let read = || Ok((node.row.count("commit_seq")?, node.row.needed_id("commit_id")?));
        let Some((seq, commit)) = self.told(&[C::NodeCommit], node.row, read()) else { return };
        if self.facts.commit(seq) != Some(commit) {
            self.find(C::NodeCommit, || json!({ "id": id, "commit_seq": seq }));
        }
    }

    pub(super) fn note_vector(&mut self, row: &RawRow) {
        let checks = [C::VectorsWithoutNode, C::ReadyWithoutVector, C::NotReadyWithVector, C::VectorDigestStale];
        let read = || Ok((row.needed_id("node_id")?, row.needed_text("model")?, row.digest("source_digest")?));
        let Some((id, model, source)) = self.told(&checks, row, read()) else { return };
        let sample = || json!({ "node_id": id, "model": crate::ids::clip(model, 80) });
        let used = model == self.known.space.0;
        let Some(fact) = self.facts.nodes.get_mut(&id).filter(|fact| fact.has(STORED)) else {
            self.find(C::VectorsWithoutNode, sample);
            return;
        };
        if !used {
            return;
        }
        fact.bits |= HAS_VECTOR;
        let (ready, same) = (fact.has(READY), fact.digest == first_bytes(&source));
        if ready && !same {
            self.find(C::VectorDigestStale, sample);
        }
        if !ready && same {
            self.find(C::NotReadyWithVector, sample);
        }
    }

    pub(super) fn note_version(&mut self, row: &RawRow) {
        let read = || Ok((row.needed_id("node_id")?, row.count("from_seq")?, sha256(row.needed_text("content")?)));
        let Some((id, from, digest)) = self.told(&[C::Digests], row, read()) else { return };
        let code = match self.facts.earlier.get(&(id, u32::try_from(from).unwrap_or(u32::MAX))) {
            None => "no_commit_names_it",
            Some(chained) if *chained != first_bytes(&digest) => "not_what_its_commit_binds",
            Some(_) => return,
        };
        self.find(C::Digests, || json!({ "object": "version", "id": row.named(), "code": code }));
    }

    pub(super) fn note_edge(&mut self, row: &RawRow) {
        self.facts.stored_edges += 1;
        if self.wants(C::Digests) {
            self.edge_digest(row);
        }
        if let Some(seq) = self.told(&[C::EdgeCommit], row, row.count("commit_seq"))
            && self.wants(C::EdgeCommit)
            && self.facts.commit(seq).is_none()
        {
            self.find(C::EdgeCommit, || json!({ "id": row.named(), "commit_seq": seq }));
        }
        let checks = [C::EdgesCrossScope, C::AliasedWithEdges, C::DerivedWider, C::TopicMemberCountMismatch];
        if checks.iter().any(|check| self.wants(*check)) {
            let read = || {
                let kind = EdgeType::parse(row.needed_text("type")?).ok_or("type is unknown")?;
                Ok((kind, row.needed_id("src_id")?, row.needed_id("dst_id")?))
            };
            let Some((kind, src, dst)) = self.told(&checks, row, read()) else { return };
            self.edge_ends(row, kind, src, dst);
        }
    }

    fn edge_ends(&mut self, row: &RawRow, kind: EdgeType, src: Uuid, dst: Uuid) {
        let sample = || json!({ "id": row.named(), "type": kind, "src_id": src, "dst_id": dst });
        let ends = [src, dst].map(|end| self.facts.stored(&end).copied());
        let [Some(from), Some(to)] = ends else {
            self.find(C::EdgesCrossScope, sample);
            return;
        };
        if from.has(ALIASED) || to.has(ALIASED) {
            self.find(C::AliasedWithEdges, sample);
        }
        if kind == EdgeType::DerivedFrom && self.wants(C::DerivedWider) && from.is_wider_than(&to) {
            self.facts.refs.push((src, dst, RefKind::Source));
        }
        if kind == EdgeType::PartOf
            && from.is(NodeType::Event)
            && let Some(members) = self.facts.members.get_mut(&dst)
        {
            members.counted += 1;
        }
    }

    fn edge_digest(&mut self, row: &RawRow) {
        let read = || {
            let id = row.needed_id("id")?;
            let kind = EdgeType::parse(row.needed_text("type")?).ok_or("type is unknown")?;
            let ends = (NodeId(row.needed_id("src_id")?), NodeId(row.needed_id("dst_id")?));
            let values = (row.real("weight")?, row.real("confidence")?, row.real("decay_rate")?);
            Ok((id, edge_digest(EdgeId(id), kind, ends, values)))
        };
        let read = read();
        if let (Err(_), Ok(id)) = (&read, row.needed_id("id")) {
            // It is there, whatever it says.
            self.facts.edges.remove(&id);
        }
        let Some((id, digest)) = self.told(&[C::Digests], row, read) else { return };
        let code = match self.facts.edges.remove(&id) {
            None => "no_commit_names_it",
            Some(chained) if chained != first_bytes(&digest) => "not_what_its_commit_binds",
            Some(_) => return,
        };
        self.find(C::Digests, || json!({ "object": "edge", "id": id, "code": code }));
    }

    pub(super) fn note_rule(&mut self, row: &RawRow) {
        let checks = [C::OrphanRuleDefinition, C::RuleWithoutDefinition, C::FeedbackCounters];
        let Some(id) = self.told(&checks, row, row.needed_id("rule_node_id")) else { return };
        let counters = || {
            let since = row.int("created_at")?.ok_or("created_at is missing")?;
            Ok(((row.count("positive_count")?, row.count("negative_count")?), since))
        };
        if let Some((said, since)) = self.told(&[C::FeedbackCounters], row, counters()) {
            self.facts.rules.insert(id, RuleFact { said, since, ..RuleFact::default() });
        }
        match self.facts.nodes.get_mut(&id).filter(|fact| fact.has(STORED) && fact.is(NodeType::Rule)) {
            Some(fact) => fact.bits |= HAS_RULE,
            None => {
                let state = row.text("state").ok().flatten();
                self.find(C::OrphanRuleDefinition, || json!({ "id": id, "state": state }));
            }
        }
    }

    pub(super) fn note_decision(&mut self, row: &RawRow) {
        let read = || Ok((row.needed_id("id")?, row.text("run_id")?));
        if let Some((id, run)) = self.told(&[C::DecisionMissing, C::DecisionRun], row, read()) {
            self.facts.decisions.insert(id, run_hash(run));
        }
    }

    pub(super) fn note_feedback(&mut self, row: &RawRow) {
        let counted = || {
            let at = row.int("created_at")?.ok_or("created_at is missing")?;
            Ok((row.needed_id("rule_node_id")?, row.needed_text("outcome")?, at))
        };
        if let Some((rule, outcome, at)) = self.told(&[C::FeedbackCounters], row, counted())
            && let Some(rule) = self.facts.rules.get_mut(&rule)
        {
            rule.count(outcome, at);
        }
        let read =
            || Ok((row.needed_id("id")?, row.needed_text("source")?, row.id("decision_id")?, row.text("run_id")?));
        let linked = self.told(&[C::DecisionMissing, C::DecisionRun], row, read());
        let Some((id, "tools_feedback", Some(decision), run)) = linked else { return };
        let sample = || json!({ "id": id, "decision_id": decision });
        match self.facts.decisions.get(&decision).copied() {
            None => self.find(C::DecisionMissing, sample),
            Some(of) if of != 0 && run_hash(run) != 0 && of != run_hash(run) => self.find(C::DecisionRun, sample),
            Some(_) => {}
        }
    }

    pub(super) fn note_commit(&mut self, row: &RawRow, tail: bool) {
        let scope_key = self.scope_key.clone();
        let checks = [C::Chain, C::Digests, C::NodeCommit, C::EdgeCommit];
        let Some(commit) = self.told(&checks, row, stored_commit(row, &scope_key)) else {
            // What follows cannot be compared with what cannot be read.
            self.chain.broken = true;
            return;
        };
        let seq = commit.header.seq;
        if self.wants(C::Chain)
            && !self.chain.broken
            && let Err(problem) = self.chain.commit(&commit, tail)
        {
            self.find(C::Chain, || json!({ "seq": seq, "problem": problem }));
            self.at_least(C::Chain);
        }
        if tail {
            return;
        }
        self.facts.commits.push((seq, commit.id.0));
        if self.wants(C::Digests) {
            let noted = note_changes(&mut self.facts, &commit);
            self.told(&[C::Digests], row, noted);
        }
    }

    pub(super) fn note_scope_key(&mut self, row: &RawRow) {
        let read = || Ok((row.needed_text("table_name")?, row.needed_text("scope_key")?));
        let Some((table, key)) = self.told(&[C::ScopeHeadMissing], row, read()) else { return };
        match table {
            "memory_scopes" => {
                self.facts.scopes.insert(key.to_owned());
            }
            // A recall of a scope that is not there is audited too.
            "memory_recall_audit" => {}
            _ if !self.facts.scopes.contains(key) => {
                let sample = json!({ "table": table, "scope_key": crate::ids::clip(key, 400) });
                self.find(C::ScopeHeadMissing, || sample);
            }
            _ => {}
        }
    }

    /// Judges what needed all rows.
    pub(super) fn conclude(&mut self) {
        self.judge_refs();
        self.judge_nodes();
        for (id, length) in self.facts.circles() {
            self.find(C::AliasCycle, || json!({ "id": id, "length": length }));
        }
        let budgets = (self.known.thresholds.hot_budget, self.known.thresholds.active_budget);
        let (hot, active) = (self.facts.hot, self.facts.hot + self.facts.warm);
        self.find_many(C::HotBudget, hot.saturating_sub(budgets.0), json!({ "hot": hot, "budget": budgets.0 }));
        self.find_many(
            C::ActiveBudget,
            active.saturating_sub(budgets.1),
            json!({ "active": active, "budget": budgets.1 }),
        );
        let mut rules: Vec<(Uuid, RuleFact)> =
            self.facts.rules.iter().filter(|(_, rule)| !rule.fits()).map(|(id, r)| (*id, *r)).collect();
        rules.sort_unstable_by_key(|(id, _)| *id);
        for (id, RuleFact { said, counted, .. }) in rules {
            self.find(C::FeedbackCounters, || {
                json!({ "id": id, "positive_count": said.0, "negative_count": said.1,
                        "positive_feedback": counted.0, "negative_feedback": counted.1 })
            });
        }
        self.judge_head(false);
    }

    fn judge_refs(&mut self) {
        let mut wider = hashbrown::HashSet::new();
        for (from, to, kind) in std::mem::take(&mut self.facts.refs) {
            let target = self.facts.stored(&to).copied();
            let own = self.facts.stored(&from).copied().unwrap_or_default();
            let sample = || json!({ "id": from, "target_id": to });
            match (kind, target) {
                (RefKind::Citation, None) => self.find(C::CitationMissing, sample),
                (RefKind::Alias, None) => self.find(C::AliasMissing, sample),
                (RefKind::Superseded, None) => self.find(C::SupersededMissing, sample),
                (RefKind::Alias, Some(target)) if target.has(TYPED) && own.has(TYPED) && target.kind != own.kind => {
                    self.find(C::AliasType, sample);
                }
                (RefKind::Source, Some(source)) if own.is_wider_than(&source) && wider.insert((from, to)) => {
                    self.find(C::DerivedWider, || json!({ "id": from, "source_id": to }));
                }
                _ => {}
            }
        }
    }

    fn judge_nodes(&mut self) {
        let mut found: Vec<(Uuid, Cross)> = Vec::new();
        for (id, fact) in &self.facts.nodes {
            if !fact.has(STORED) {
                found.push((*id, C::Digests));
            } else if fact.has(READY) && !fact.has(HAS_VECTOR) && self.wants(C::ReadyWithoutVector) {
                found.push((*id, C::ReadyWithoutVector));
            }
            if fact.has(STORED) && fact.is(NodeType::Rule) && !fact.has(HAS_RULE) {
                found.push((*id, C::RuleWithoutDefinition));
            }
        }
        found.sort_unstable_by_key(|(id, _)| *id);
        for (id, check) in found {
            self.find(check, || match check {
                C::Digests => json!({ "object": "node", "id": id, "code": "not_stored" }),
                _ => json!({ "id": id }),
            });
        }
        let mut edges: Vec<Uuid> = self.facts.edges.keys().copied().collect();
        edges.sort_unstable();
        for id in edges {
            self.find(C::Digests, || json!({ "object": "edge", "id": id, "code": "not_stored" }));
        }
        let mut members: Vec<(Uuid, Members)> = self.facts.members.iter().map(|(id, m)| (*id, *m)).collect();
        members.retain(|(_, members)| members.said != members.counted);
        members.sort_unstable_by_key(|(id, _)| *id);
        for (id, Members { said, counted }) in members {
            let sample = || json!({ "id": id, "member_count": said, "edges": counted });
            self.find(C::TopicMemberCountMismatch, sample);
        }
    }

    /// Compares the scope's head with what was read.
    pub(super) fn judge_head(&mut self, tail: bool) {
        let Some(head) = self.head.take() else {
            if self.wants(C::Chain) || self.wants(C::Counters) {
                let problem = "memory_scopes has no row of it";
                self.find(C::Chain, || json!({ "seq": Value::Null, "problem": problem }));
                self.find(C::Counters, || json!({ "counter": "head", "said": Value::Null, "stored": problem }));
            }
            return;
        };
        let said = || Ok((head.count("head_seq")?, head.digest("head_hash")?));
        if let Some(said) = self.told(&[C::Chain], &head, said())
            && self.wants(C::Chain)
            && !self.chain.broken
            && said != self.chain.head()
        {
            let problem = format!("the head is not the last commit, which is {}", self.chain.head().0);
            self.find(C::Chain, || json!({ "seq": said.0, "problem": problem }));
        }
        if tail {
            self.note(C::Chain, &format!("fast mode looks at the last {CHAIN_TAIL} commits"));
            return;
        }
        let counts = [("node_count", self.facts.stored_nodes), ("edge_count", self.facts.stored_edges)];
        for (counter, stored) in counts {
            if let Some(said) = self.told(&[C::Counters], &head, head.count(counter))
                && said != stored
            {
                self.find(C::Counters, || json!({ "counter": counter, "said": said, "stored": stored }));
            }
        }
    }
}

/// Tells runs apart; 0 for none.
fn run_hash(run: Option<&str>) -> u64 {
    let run = run.map(str::trim).filter(|run| !run.is_empty());
    run.map_or(0, |run| first_bytes(&sha256(run)).max(1))
}

#[cfg(test)]
mod tests {
    use super::super::nodes::as_id;

    #[test]
    fn dashes_are_no_id() {
        assert_eq!(as_id(&"-".repeat(36)), None);
        assert!(as_id("3d0a2c1e-0000-4000-8000-000000000001").is_some());
    }
}
