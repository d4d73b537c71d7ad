//! What both engines do alike for reading: pages of nodes, and earlier states.

use aionis_core::{
    ids::NodeId,
    model::{NodeType, RuleState},
    ports::store::{FindPage, FindQuery, NodeRow, StoreError},
    read::{FoundNode, Position},
    recall::context::ContextRule,
    write::rule_of_slots,
};
use serde_json::Value;

/// Rows read at once where only reading shows whether a node is let through.
const BATCH: usize = 500;

/// A page that is being filled.
pub(crate) struct Pager<'q> {
    query: &'q FindQuery,
    found: Vec<FoundNode>,
    skipped: usize,
    scanned: usize,
    last: Option<Position>,
}

/// Where a node stands in the order of find.
pub(crate) const fn position(node: &FoundNode) -> Position {
    Position { created_at: node.row.created_at, id: node.row.id }
}

impl<'q> Pager<'q> {
    pub(crate) const fn new(query: &'q FindQuery) -> Self {
        Self { query, found: Vec::new(), skipped: 0, scanned: 0, last: query.after }
    }

    /// Where to read on.
    pub(crate) const fn after(&self) -> Option<Position> {
        self.last
    }

    /// How many rows to read next.
    pub(crate) fn batch(&self) -> usize {
        let FindQuery { filter, as_of, limit, offset, .. } = self.query;
        let read_to_know = as_of.is_some()
            || filter.title_contains.is_some()
            || filter.text_contains.is_some()
            || filter.slots_contains.is_some()
            || filter.updated_from.is_some()
            || filter.updated_before.is_some();
        let wanted = limit + 1 + offset;
        if read_to_know { BATCH } else { wanted.clamp(1, BATCH) }
    }

    /// Takes rows in order, from a reading that asked for `asked` of them; tells whether more are needed.
    pub(crate) fn take(&mut self, rows: Vec<FoundNode>, asked: usize) -> bool {
        let is_last = rows.len() < asked;
        for node in rows {
            if self.is_full() || self.scanned >= self.query.scan_max {
                return false;
            }
            // What is passed over first is not counted: a page that ends meanwhile could not say how much is left of it.
            self.scanned += usize::from(self.skipped >= self.query.offset);
            self.last = Some(position(&node));
            let row = &node.row;
            let seen = self.query.eyes.see(row.lane, row.owner_agent_id.as_deref(), row.owner_team_id.as_deref());
            if !seen || !self.query.filter.lets_through(row) {
                continue;
            }
            if self.skipped < self.query.offset {
                self.skipped += 1;
            } else {
                self.found.push(node);
            }
        }
        !is_last && !self.is_full() && self.scanned < self.query.scan_max
    }

    /// One node more than the page holds shows that there is another page.
    fn is_full(&self) -> bool {
        self.found.len() > self.query.limit
    }

    pub(crate) fn page(mut self) -> FindPage {
        if self.is_full() {
            self.found.truncate(self.query.limit);
            return FindPage { next: self.found.last().map(position), nodes: self.found };
        }
        let next = if self.scanned >= self.query.scan_max { self.last } else { None };
        FindPage { nodes: self.found, next }
    }

    /// A page of nodes that were named one by one, in no order.
    pub(crate) fn of_named(mut self, mut rows: Vec<FoundNode>) -> FindPage {
        rows.sort_unstable_by_key(|node| std::cmp::Reverse(position(node)));
        rows.dedup_by_key(|node| node.row.id);
        rows.retain(|node| self.query.after.is_none_or(|after| position(node) < after));
        let all = rows.len() + 1;
        self.take(rows, all);
        self.page()
    }
}

/// Puts the executable part of an earlier content of a rule in the place of the present one. Its state and its counts have
/// no history.
pub(crate) fn rule_as_it_was(row: &mut NodeRow) {
    if row.node_type != NodeType::Rule {
        row.rule = None;
        return;
    }
    let (then, now) = (rule_of_slots(&row.slots), row.rule.take());
    row.rule = Some(ContextRule {
        state: now.as_ref().map_or(RuleState::Draft, |rule| rule.state),
        positive: now.as_ref().map_or(0, |rule| rule.positive),
        negative: now.as_ref().map_or(0, |rule| rule.negative),
        rule_scope: then.rule_scope,
        target_agent_id: then.target_agent_id,
        target_team_id: then.target_team_id,
        if_json: then.if_json,
        then_json: then.then_json,
        exceptions_json: then.exceptions_json,
    });
}

/// A kept content, parsed.
pub(crate) fn content(node: NodeId, version: u32, text: &str) -> Result<Value, StoreError> {
    serde_json::from_str(text).map_err(|e| unreadable_version(node, version, &e.to_string()))
}

pub(crate) fn unreadable_version(node: NodeId, version: u32, problem: &str) -> StoreError {
    StoreError::Inconsistent {
        table: "memory_node_versions",
        column: "content",
        row: format!("{node}/{version}"),
        problem: problem.to_owned(),
    }
}
