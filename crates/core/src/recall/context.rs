//! The text a model reads (runtime specification 3.11): four sections in a fixed layout, with items and citations.

use std::fmt::Write as _;

use hashbrown::HashSet;
use serde_json::{Map, Value, json};

use super::{NodeVitals, Ranked};
use crate::{
    ids::{CommitId, NodeId},
    model::{NodeType, RuleScope, RuleState},
};

/// A node's content, as far as the context shows it.
#[derive(Clone, Debug)]
pub struct ContextRow {
    /// The node.
    pub id: NodeId,
    /// Kind.
    pub node_type: NodeType,
    /// Title.
    pub title: Option<String>,
    /// Summary.
    pub text_summary: Option<String>,
    /// Attributes.
    pub slots: Value,
    /// Pointer.
    pub raw_ref: Option<String>,
    /// Pointer.
    pub evidence_ref: Option<String>,
    /// Last commit.
    pub commit_id: CommitId,
    /// Executable part, for rules that have one.
    pub rule: Option<ContextRule>,
}

/// The executable part of a rule, as far as the context shows it.
#[derive(Clone, Debug)]
pub struct ContextRule {
    /// State.
    pub state: RuleState,
    /// Audience.
    pub rule_scope: RuleScope,
    /// Agent of an agent rule.
    pub target_agent_id: Option<String>,
    /// Team of a team rule.
    pub target_team_id: Option<String>,
    /// Condition.
    pub if_json: Value,
    /// Patch.
    pub then_json: Value,
    /// Exceptions.
    pub exceptions_json: Value,
    /// Positive feedback.
    pub positive: i64,
    /// Negative feedback.
    pub negative: i64,
}

/// How many items each section may have.
#[derive(Clone, Copy, Debug)]
pub struct ContextLimits {
    /// Topics and concepts.
    pub topics: usize,
    /// Entities.
    pub entities: usize,
    /// Rules.
    pub rules: usize,
    /// Events and evidence.
    pub events: usize,
    /// Events looked at when summaries are preferred.
    pub events_before_compression: usize,
    /// Events kept when summaries are preferred.
    pub events_with_compression: usize,
    /// Longest text in estimated tokens, if limited.
    pub token_budget: Option<usize>,
}

impl ContextLimits {
    /// The reference's limits; with a budget, events fill it instead of stopping at ten.
    pub const fn new(token_budget: Option<usize>) -> Self {
        let events = if token_budget.is_some() { 200 } else { 10 };
        let events_with_compression = if token_budget.is_some() { 200 } else { 5 };
        Self {
            topics: 4,
            entities: 6,
            rules: 6,
            events,
            events_before_compression: if events > 24 { events } else { 24 },
            events_with_compression,
            token_budget,
        }
    }
}

/// The context of a response.
#[derive(Debug, Default)]
pub struct ContextBlock {
    /// What a model reads.
    pub text: String,
    /// The same as data.
    pub items: Vec<Value>,
    /// Where it comes from.
    pub citations: Vec<Value>,
    /// Estimated tokens of the text.
    pub estimated_tokens: usize,
}

/// Estimated tokens of a text: a quarter of its bytes, rounded up. English averages about four bytes a token in common
/// vocabularies; scripts of three bytes a character come out a little high, so a budget errs on the safe side.
pub const fn estimate_tokens(text: &str) -> usize {
    text.len().div_ceil(4)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    Topics,
    Entities,
    Events,
    Rules,
}

const fn section(node_type: NodeType) -> Option<Section> {
    match node_type {
        NodeType::Topic | NodeType::Concept => Some(Section::Topics),
        NodeType::Entity => Some(Section::Entities),
        NodeType::Event | NodeType::Evidence => Some(Section::Events),
        NodeType::Rule => Some(Section::Rules),
        NodeType::Procedure | NodeType::SelfModel => None,
    }
}

/// The nodes whose rows [`build_context`] may need, in rank order. `shows` says which ranked nodes may be shown.
pub fn context_candidates<'a>(
    ranked: &[Ranked],
    vitals: impl Fn(&NodeId) -> Option<&'a NodeVitals>,
    limits: &ContextLimits,
) -> Vec<NodeId> {
    let mut room = [limits.topics, limits.entities, limits.events_before_compression, limits.rules];
    ranked
        .iter()
        .filter_map(|entry| vitals(&entry.id))
        .filter(|node| !node.draft_topic)
        .filter_map(|node| {
            let slot = &mut room[section(node.node_type)? as usize];
            *slot = slot.checked_sub(1)?;
            Some(node.id)
        })
        .collect()
}

/// Builds text, items and citations from rows in rank order (as chosen by [`context_candidates`]).
pub fn build_context(rows: &[&ContextRow], limits: &ContextLimits) -> ContextBlock {
    let pick = |wanted: Section, limit: usize| -> Vec<&ContextRow> {
        rows.iter().copied().filter(|row| section(row.node_type) == Some(wanted)).take(limit).collect()
    };
    let topics = pick(Section::Topics, limits.topics);
    let rollups: Vec<&ContextRow> = topics.iter().copied().filter(|row| is_rollup(row)).collect();
    let events = if rollups.is_empty() {
        pick(Section::Events, limits.events)
    } else {
        let covered: HashSet<String> = rollups.iter().flat_map(|row| citations_of(row)).collect();
        pick(Section::Events, limits.events_before_compression)
            .into_iter()
            .filter(|row| !covered.contains(&row.id.to_string()))
            .take(limits.events_with_compression)
            .collect()
    };
    let mut chosen = Chosen {
        topics,
        entities: pick(Section::Entities, limits.entities),
        events,
        rules: pick(Section::Rules, limits.rules),
    };
    if let Some(budget) = limits.token_budget {
        chosen.fit(rows, budget);
    }
    let text = chosen.text();
    let estimated_tokens = estimate_tokens(&text);
    let items = chosen.in_order().map(item).collect();
    let mut cited = HashSet::new();
    let citations = chosen.in_order().filter(|row| cited.insert(row.id)).map(citation).collect();
    ContextBlock { text, items, citations, estimated_tokens }
}

struct Chosen<'a> {
    topics: Vec<&'a ContextRow>,
    entities: Vec<&'a ContextRow>,
    events: Vec<&'a ContextRow>,
    rules: Vec<&'a ContextRow>,
}

impl<'a> Chosen<'a> {
    fn in_order(&self) -> impl Iterator<Item = &'a ContextRow> + '_ {
        self.topics.iter().chain(&self.entities).chain(&self.events).chain(&self.rules).copied()
    }

    /// Keeps the longest prefix of the ranking that fits the budget. The size of a section's heading and of every line
    /// is additive up to separators, so one pass in rank order suffices; the separators are counted in full.
    fn fit(&mut self, ranked: &[&ContextRow], budget: usize) {
        let max_bytes = budget.saturating_mul(4);
        let chosen: HashSet<NodeId> = self.in_order().map(|row| row.id).collect();
        let mut used = 0;
        let mut opened = [false; 4];
        let mut kept = HashSet::new();
        for row in ranked.iter().filter(|row| chosen.contains(&row.id)) {
            let Some(section) = section(row.node_type) else { continue };
            let heading = if opened[section as usize] { 0 } else { heading(section).len() + 2 };
            let size = lines(row).iter().map(|line| line.len() + 1).sum::<usize>() + heading;
            if used + size > max_bytes {
                break;
            }
            used += size;
            opened[section as usize] = true;
            kept.insert(row.id);
        }
        for list in [&mut self.topics, &mut self.entities, &mut self.events, &mut self.rules] {
            list.retain(|row| kept.contains(&row.id));
        }
    }

    fn text(&self) -> String {
        let sections = [
            (Section::Topics, &self.topics),
            (Section::Entities, &self.entities),
            (Section::Events, &self.events),
            (Section::Rules, &self.rules),
        ];
        let blocks: Vec<String> = sections
            .into_iter()
            .filter(|(_, rows)| !rows.is_empty())
            .map(|(section, rows)| {
                let mut block = heading(section).to_owned();
                for line in rows.iter().flat_map(|row| lines(row)) {
                    block.push('\n');
                    block.push_str(&line);
                }
                block
            })
            .collect();
        blocks.join("\n\n")
    }
}

const fn heading(section: Section) -> &'static str {
    match section {
        Section::Topics => "# Topics / Concepts",
        Section::Entities => "# Entities",
        Section::Events => "# Supporting Events / Evidence",
        Section::Rules => "# Applicable Rules (Shadow/Active)",
    }
}

fn is_rollup(row: &ContextRow) -> bool {
    row.node_type == NodeType::Concept
        && row.slots.get("summary_kind").and_then(Value::as_str) == Some("compression_rollup")
}

fn citations_of(row: &ContextRow) -> Vec<String> {
    let list = row.slots.get("citations").and_then(Value::as_array);
    let ids = list.into_iter().flatten().filter_map(|c| c.get("node_id").and_then(Value::as_str));
    ids.map(str::to_owned).collect()
}

fn lines(row: &ContextRow) -> Vec<String> {
    match section(row.node_type) {
        Some(Section::Topics | Section::Entities) => labelled(row),
        Some(Section::Events) => vec![event_line(row)],
        Some(Section::Rules) => rule_lines(row),
        None => Vec::new(),
    }
}

fn labelled(row: &ContextRow) -> Vec<String> {
    let label = row.title.clone().unwrap_or_else(|| row.id.to_string());
    let summary = row.text_summary.as_ref().map(|s| format!(": {s}")).unwrap_or_default();
    if !is_rollup(row) {
        return vec![format!("- {label}{summary} (node:{})", row.id)];
    }
    let covers = row.slots.get("source_event_count").and_then(Value::as_i64).unwrap_or(0);
    let mut lines = vec![format!("- {label}{summary} (node:{}, compression, covers={covers})", row.id)];
    lines.extend(citations_of(row).iter().take(3).map(|id| format!("  evidence_node={id}")));
    lines
}

fn event_line(row: &ContextRow) -> String {
    let summary = row.text_summary.as_deref().unwrap_or("(no summary)");
    let mut line = format!("- {summary} (node:{}", row.id);
    for (name, value) in [("raw_ref", &row.raw_ref), ("evidence_ref", &row.evidence_ref)] {
        if let Some(value) = value {
            let _ = write!(line, ", {name}={value}");
        }
    }
    line.push(')');
    line
}

fn truthy(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(held) => *held,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(_) | Value::Object(_) => true,
    }
}

/// Condition and patch of a rule: from its executable part, else from its slots.
fn rule_bodies(row: &ContextRow) -> (Option<&Value>, Option<&Value>) {
    let (if_json, then_json) = match &row.rule {
        Some(rule) => (Some(&rule.if_json), Some(&rule.then_json)),
        None => (row.slots.get("if"), row.slots.get("then")),
    };
    (if_json.filter(|v| truthy(v)), then_json.filter(|v| truthy(v)))
}

fn rule_lines(row: &ContextRow) -> Vec<String> {
    let mut line = format!("- state={}", row.rule.as_ref().map_or("unknown", |rule| rule.state.as_str()));
    if let Some(rule) = &row.rule {
        let _ = write!(line, " scope={}", rule.rule_scope);
        match (rule.rule_scope, &rule.target_agent_id, &rule.target_team_id) {
            (RuleScope::Agent, Some(agent), _) => _ = write!(line, " target_agent={agent}"),
            (RuleScope::Team, _, Some(team)) => _ = write!(line, " target_team={team}"),
            _ => {}
        }
        let _ = write!(line, " pos={} neg={}", rule.positive, rule.negative);
    }
    let _ = write!(line, " summary={} (node:{})", row.text_summary.as_deref().unwrap_or("(none)"), row.id);
    let (if_json, then_json) = rule_bodies(row);
    let mut lines = vec![line];
    lines.extend(if_json.map(|body| format!("  if={body}")));
    lines.extend(then_json.map(|body| format!("  then={body}")));
    lines
}

fn item(row: &ContextRow) -> Value {
    let mut item = Map::new();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            item.insert(key.to_owned(), value);
        }
    };
    put("node_id", Some(json!(row.id)));
    put("kind", Some(json!(row.node_type)));
    put("commit_id", Some(json!(row.commit_id)));
    put("summary", row.text_summary.as_ref().map(|s| json!(s)));
    match section(row.node_type) {
        Some(Section::Topics | Section::Entities) => put("title", row.title.as_ref().map(|t| json!(t))),
        Some(Section::Events) => {
            put("raw_ref", Some(json!(row.raw_ref)));
            put("evidence_ref", Some(json!(row.evidence_ref)));
        }
        Some(Section::Rules) => {
            let (if_json, then_json) = rule_bodies(row);
            put("if_json", if_json.cloned());
            put("then_json", then_json.cloned());
            if let Some(rule) = &row.rule {
                put("state", Some(json!(rule.state)));
                put("rule_scope", Some(json!(rule.rule_scope)));
                put("target_agent_id", rule.target_agent_id.as_ref().map(|id| json!(id)));
                put("target_team_id", rule.target_team_id.as_ref().map(|id| json!(id)));
                put("exceptions_json", Some(rule.exceptions_json.clone()));
                put("stats", Some(json!({ "positive": rule.positive, "negative": rule.negative })));
            }
        }
        None => {}
    }
    Value::Object(item)
}

fn citation(row: &ContextRow) -> Value {
    json!({
        "node_id": row.id,
        "commit_id": row.commit_id,
        "raw_ref": row.raw_ref,
        "evidence_ref": row.evidence_ref,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn row(n: u128, node_type: NodeType, title: Option<&str>, summary: Option<&str>) -> ContextRow {
        ContextRow {
            id: NodeId(Uuid::from_u128(n)),
            node_type,
            title: title.map(str::to_owned),
            text_summary: summary.map(str::to_owned),
            slots: json!({}),
            raw_ref: None,
            evidence_ref: None,
            commit_id: CommitId(Uuid::nil()),
            rule: None,
        }
    }

    fn parse(id: &str) -> NodeId {
        NodeId(Uuid::parse_str(id).unwrap())
    }

    fn build(rows: &[ContextRow], token_budget: Option<usize>) -> ContextBlock {
        build_context(&rows.iter().collect::<Vec<_>>(), &ContextLimits::new(token_budget))
    }

    /// Appendix A of the runtime specification, "Context text".
    #[test]
    fn the_layout_is_the_golden_one() {
        let mut rollup = row(1, NodeType::Concept, Some("Roll"), Some("summary"));
        rollup.id = parse("49e4e542-7a0b-5105-81f5-c8a63ee9047c");
        let cited = "5cdef972-85b7-531c-9ac7-d56931a461ea";
        rollup.slots = json!({ "summary_kind": "compression_rollup", "source_event_count": 7, "citations": [{ "node_id": cited }] });
        let mut covered = row(2, NodeType::Event, None, Some("raw event 1"));
        covered.id = parse(cited);
        let mut named = row(3, NodeType::Entity, Some("Ent"), None);
        named.id = parse("a2b26724-0ab1-5f57-b48b-4a1f06991f0f");
        let mut unnamed = row(4, NodeType::Entity, None, Some("sum only"));
        unnamed.id = parse("745858da-5ba3-570f-ba3a-f09ee1a27bde");
        let mut event = row(5, NodeType::Event, None, Some("raw event 2"));
        event.id = parse("fc7c5fa6-cbf9-5e4c-9e19-18bcdcee11d2");
        let block = build(&[rollup, covered, named, unnamed, event], None);
        let expected = "# Topics / Concepts\n\
            - Roll: summary (node:49e4e542-7a0b-5105-81f5-c8a63ee9047c, compression, covers=7)\n  \
              evidence_node=5cdef972-85b7-531c-9ac7-d56931a461ea\n\n\
            # Entities\n\
            - Ent (node:a2b26724-0ab1-5f57-b48b-4a1f06991f0f)\n\
            - 745858da-5ba3-570f-ba3a-f09ee1a27bde: sum only (node:745858da-5ba3-570f-ba3a-f09ee1a27bde)\n\n\
            # Supporting Events / Evidence\n\
            - raw event 2 (node:fc7c5fa6-cbf9-5e4c-9e19-18bcdcee11d2)";
        assert_eq!(block.text, expected);
        assert_eq!((block.items.len(), block.citations.len()), (4, 4));
    }

    #[test]
    fn a_rule_shows_its_executable_part() {
        let mut rule = row(1, NodeType::Rule, None, Some("use psql"));
        rule.rule = Some(ContextRule {
            state: RuleState::Active,
            rule_scope: RuleScope::Agent,
            target_agent_id: Some("ann".into()),
            target_team_id: None,
            if_json: json!({}),
            then_json: json!({ "tool": { "prefer": ["psql"] } }),
            exceptions_json: json!([]),
            positive: 3,
            negative: 1,
        });
        let text = build(&[rule], None).text;
        assert_eq!(
            text,
            "# Applicable Rules (Shadow/Active)\n- state=active scope=agent target_agent=ann pos=3 neg=1 summary=use psql \
             (node:00000000-0000-0000-0000-000000000001)\n  if={}\n  then={\"tool\":{\"prefer\":[\"psql\"]}}"
        );
    }

    #[test]
    fn a_budget_keeps_the_best_ranked_and_is_kept() {
        let rows: Vec<ContextRow> =
            (1..=30).map(|n| row(n, NodeType::Event, None, Some(&"word ".repeat(10)))).collect();
        for budget in [0, 10, 60, 200, 2000] {
            let block = build(&rows, Some(budget));
            assert!(block.estimated_tokens <= budget, "{budget}: {}", block.estimated_tokens);
        }
        assert_eq!(build(&rows, Some(2000)).items.len(), 30, "a budget lifts the limit of ten");
        assert_eq!(build(&rows, None).items.len(), 10);
        let few = build(&rows, Some(100)).items;
        assert_eq!(few[0]["node_id"], json!(Uuid::from_u128(1)));
    }

    #[test]
    fn items_leave_out_what_is_absent() {
        let items = build(&[row(1, NodeType::Topic, None, None), row(2, NodeType::Event, None, None)], None).items;
        assert!(items[0].get("title").is_none() && items[0].get("summary").is_none());
        assert_eq!(items[1]["raw_ref"], Value::Null, "references of events are there even when null");
        assert!(items[1].get("raw_ref").is_some());
    }
}
