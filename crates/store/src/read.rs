//! What both engines do alike for reading: pages of nodes, and earlier states.

use aionis_core::{
    ids::NodeId,
    model::{NodeType, RuleState},
    ports::store::{FindPage, FindQuery, NodeRow, StoreError},
    read::{FoundNode, Place, Position},
    recall::context::ContextRule,
    write::rule_of_slots,
};
use serde_json::Value;

/// Rows read at once where only reading shows whether a node is let through.
const BATCH: usize = 500;

/// Rows in the first window of a page, if that is not more than are wanted.
const WINDOW: usize = 256;

/// A page that is being filled.
///
/// Rows are read window by window: so many rows in the order of find, whoever sees them and whatever the filter says. That
/// bounds what a statement looks at when it finds nothing. The first window is small, because most pages are full at once;
/// each further one is twice as large, until the page may look at no more.
pub(crate) struct Pager<'q> {
    query: &'q FindQuery,
    found: Vec<FoundNode>,
    skipped: usize,
    last: Option<Position>,
    /// Rows of the next window.
    window: usize,
    /// Rows the page may still look at.
    left: usize,
    /// Last row of the window; none where the window holds all there are.
    floor: Option<Position>,
    ended: bool,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Read on in this window.
    Rows,
    /// Open the next window.
    Window,
    /// The page is done.
    Page,
}

/// Where a node stands in the order of find.
pub(crate) const fn position(node: &FoundNode) -> Position {
    Position { created_at: node.row.created_at, id: node.row.id }
}

impl<'q> Pager<'q> {
    pub(crate) fn new(query: &'q FindQuery) -> Self {
        let wanted = query.limit.saturating_add(query.offset).saturating_add(1);
        Self {
            query,
            found: Vec::new(),
            skipped: 0,
            last: query.after,
            window: wanted.saturating_mul(2).max(WINDOW).min(query.scan_max.max(1)),
            left: query.scan_max.max(1),
            floor: None,
            ended: false,
        }
    }

    /// Where to read on.
    pub(crate) const fn after(&self) -> Option<Position> {
        self.last
    }

    /// The last row of the window.
    pub(crate) const fn floor(&self) -> Option<Position> {
        self.floor
    }

    /// How many rows the next window has.
    pub(crate) const fn window(&self) -> usize {
        self.window
    }

    /// Opens a window of [`Self::window`] rows after [`Self::after`], the last of which stands at `floor`; none if there
    /// are not so many.
    pub(crate) fn open(&mut self, floor: Option<Position>) {
        self.floor = floor;
        self.left -= self.window.min(self.left);
        self.window = self.window.saturating_mul(2).min(self.left);
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

    /// Takes rows in order, from a reading that asked for `asked` of them in the window.
    pub(crate) fn take(&mut self, rows: Vec<FoundNode>, asked: usize) -> Step {
        let all_read = rows.len() < asked;
        for node in rows {
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
            if self.is_full() {
                return Step::Page;
            }
        }
        if !all_read {
            return Step::Rows;
        }
        self.ended = self.floor.is_none();
        self.last = self.floor.or(self.last);
        if self.ended || self.left == 0 { Step::Page } else { Step::Window }
    }

    /// One node more than the page holds shows that there is another page.
    fn is_full(&self) -> bool {
        self.found.len() > self.query.limit
    }

    pub(crate) fn page(mut self) -> FindPage {
        if self.is_full() {
            self.found.truncate(self.query.limit);
            // A page of no nodes goes on where it began.
            let after = self.found.last().map(position).or(self.query.after);
            return FindPage { next: after.map(|after| Place { after, offset: 0 }), nodes: self.found };
        }
        let offset = self.query.offset - self.skipped;
        let next = self.last.filter(|_| !self.ended).map(|after| Place { after, offset });
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
