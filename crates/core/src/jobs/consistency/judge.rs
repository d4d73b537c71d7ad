//! Takes the rows of a scope, or of the deployment, and tells what the chosen checks found.

use std::sync::Arc;

use super::{
    Check, CheckOutcome, FULL_MODE_ONLY, Known, Mode, Probe, RawRow, ScanTable, Told, catalogue::Rule,
    chain::ChainWalk, cross::Cross, facts::Facts, nodes::NodeView, tally::Tally, work::RowView,
};

const fn bit(cross: Cross) -> u64 {
    1 << cross as u64
}

impl Check {
    const fn cross(&self) -> Option<Cross> {
        match self.rule {
            Rule::Cross(cross) => Some(cross),
            Rule::Node(_) | Rule::Row(_) => None,
        }
    }
}

/// Judges rows.
#[derive(Debug)]
pub struct Judge {
    pub(super) known: Arc<Known>,
    pub(super) scope_key: String,
    pub(super) facts: Facts,
    pub(super) chain: ChainWalk,
    pub(super) head: Option<RawRow>,
    tallies: Vec<Tally>,
    /// Which of the checks over several rows are among them, a bit each.
    wanted: u64,
    mode: Mode,
    /// Too many rows to hold: checks over several rows are given up.
    overflowed: bool,
}

impl Judge {
    /// Of some checks; `scope_key` is empty for the deployment.
    pub fn new(scope_key: &str, checks: &[&'static Check], mode: Mode, known: Known, sample_max: usize) -> Self {
        let mut tallies: Vec<Tally> = checks.iter().map(|check| Tally::new(check, sample_max)).collect();
        if mode == Mode::Fast {
            tallies.iter_mut().filter(|tally| tally.check.probe.is_none()).for_each(|tally| tally.skip(FULL_MODE_ONLY));
        }
        Self {
            known: Arc::new(known),
            scope_key: scope_key.to_owned(),
            facts: Facts::default(),
            chain: ChainWalk::new(scope_key),
            head: None,
            wanted: tallies.iter().filter_map(|tally| tally.check.cross()).fold(0, |bits, cross| bits | bit(cross)),
            tallies,
            mode,
            overflowed: false,
        }
    }

    /// Tables to read in full mode, in this order.
    pub fn tables(&self) -> Vec<ScanTable> {
        let read = |table: &ScanTable| self.tallies.iter().any(|tally| tally.check.reads.contains(table));
        ScanTable::ALL.into_iter().filter(read).collect()
    }

    /// Probes to make in fast mode.
    pub fn probes(&self) -> Vec<Probe> {
        let mut probes: Vec<Probe> = Vec::new();
        for probe in self.tallies.iter().filter_map(|tally| tally.check.probe) {
            if !probes.contains(&probe) {
                probes.push(probe);
            }
        }
        probes
    }

    /// Takes the scope's head row.
    pub fn head(&mut self, row: RawRow) {
        self.head = Some(row);
    }

    /// Takes a row of a table that is read as a whole.
    pub fn row(&mut self, row: &RawRow) {
        self.alone(row, None);
        if !self.overflowed {
            self.together(row);
            if self.facts.held() > self.known.thresholds.rows_max {
                self.give_up();
            }
        }
    }

    /// Takes what a probe found. When it may have left some out, a check that found nothing is not made, and what another one
    /// found is the least there is.
    pub fn probed(&mut self, probe: Probe, rows: &[RawRow], complete: bool) {
        for row in rows {
            self.alone(row, Some(probe));
            match probe {
                Probe::ChainTail => self.note_commit(row, true),
                Probe::ScopeKeys => self.note_scope_key(row),
                _ => {}
            }
        }
        if probe == Probe::ChainTail {
            self.judge_head(true);
            return;
        }
        for tally in self.tallies.iter_mut().filter(|tally| tally.check.probe == Some(probe) && !complete) {
            if tally.count() == 0 {
                tally.skip(&format!("{FULL_MODE_ONLY}: there is nothing in the first {} rows", rows.len()));
            } else {
                tally.at_least();
            }
        }
    }

    /// Takes that a table could not be read.
    pub fn unreadable(&mut self, table: ScanTable, probe: Option<Probe>, problem: &str) {
        let concerned = |tally: &&mut Tally| match probe {
            Some(probe) => tally.check.probe == Some(probe),
            None => tally.check.reads.contains(&table),
        };
        let text = format!("{} cannot be read: {problem}", table.name());
        self.tallies.iter_mut().filter(concerned).for_each(|tally| tally.error(&text));
    }

    /// Makes none of the checks.
    pub fn skip_all(&mut self, reason: &str) {
        self.tallies.iter_mut().for_each(|tally| tally.skip(reason));
    }

    /// What was found, in the declared order. `took_ms` is how long a table took to read.
    pub fn finish(mut self, took_ms: impl Fn(ScanTable) -> u64) -> Vec<CheckOutcome> {
        if self.mode == Mode::Full && !self.overflowed {
            self.conclude();
        }
        let took = |check: &Check| match (self.mode, check.probe) {
            (Mode::Full, _) => check.reads.iter().map(|table| took_ms(*table)).sum(),
            (Mode::Fast, Some(probe)) => took_ms(probe.table()),
            (Mode::Fast, None) => 0,
        };
        self.tallies
            .into_iter()
            .map(|tally| {
                let ms = took(tally.check);
                tally.outcome(ms)
            })
            .collect()
    }

    /// Checks of a row by itself.
    fn alone(&mut self, row: &RawRow, probe: Option<Probe>) {
        let node = NodeView::new(row, &self.known);
        let view = RowView { row, known: &self.known };
        for tally in &mut self.tallies {
            let check = tally.check;
            if check.reads.first() != Some(&row.table) || probe.is_some() && check.probe != probe {
                continue;
            }
            let found = match check.rule {
                Rule::Node(judge) => judge(&node),
                Rule::Row(judge) => judge(&view),
                Rule::Cross(_) => continue,
            };
            match found {
                Ok(None) => {}
                Ok(Some(sample)) => tally.found(sample),
                Err(problem) => tally.error(&format!("{} {}: {problem}", row.table.name(), row.named())),
            }
        }
        if row.table == ScanTable::Nodes && probe.is_none() && !self.overflowed && self.notes_nodes() {
            let known = Arc::clone(&self.known);
            let node = NodeView::new(row, &known);
            self.note_node(&node);
        }
    }

    fn notes_nodes(&self) -> bool {
        self.tallies.iter().any(|tally| tally.check.cross().is_some() && tally.check.reads.contains(&ScanTable::Nodes))
    }

    /// What a row means beside others; nodes are noted where they are judged.
    fn together(&mut self, row: &RawRow) {
        match row.table {
            ScanTable::Commits => self.note_commit(row, false),
            ScanTable::Vectors => self.note_vector(row),
            ScanTable::Versions => self.note_version(row),
            ScanTable::Edges => self.note_edge(row),
            ScanTable::Rules => self.note_rule(row),
            ScanTable::Decisions => self.note_decision(row),
            ScanTable::Feedback => self.note_feedback(row),
            ScanTable::ScopeKeys => self.note_scope_key(row),
            ScanTable::Scopes
            | ScanTable::Nodes
            | ScanTable::Outbox
            | ScanTable::OutboxTenants
            | ScanTable::Lexical => {}
        }
    }

    fn give_up(&mut self) {
        self.overflowed = true;
        self.facts = Facts::default();
        let reason = format!(
            "more than {} rows to hold in memory; raise --rows-max, or make the check in a smaller scope",
            self.known.thresholds.rows_max
        );
        self.tallies.iter_mut().filter(|tally| tally.check.cross().is_some()).for_each(|tally| tally.skip(&reason));
    }

    fn tally(&mut self, cross: Cross) -> Option<&mut Tally> {
        self.tallies.iter_mut().find(|tally| tally.check.cross() == Some(cross))
    }

    pub(super) const fn wants(&self, cross: Cross) -> bool {
        self.wanted & bit(cross) != 0
    }

    pub(super) fn find(&mut self, cross: Cross, sample: impl FnOnce() -> serde_json::Value) {
        if let Some(tally) = self.tally(cross) {
            tally.found(sample());
        }
    }

    pub(super) fn find_many(&mut self, cross: Cross, count: u64, sample: serde_json::Value) {
        if let Some(tally) = self.tally(cross).filter(|_| count > 0) {
            tally.found_many(count, sample);
        }
    }

    pub(super) fn at_least(&mut self, cross: Cross) {
        if let Some(tally) = self.tally(cross) {
            tally.at_least();
        }
    }

    pub(super) fn note(&mut self, cross: Cross, note: &str) {
        if let Some(tally) = self.tally(cross) {
            tally.note(note);
        }
    }

    /// What a row told; what it did not tell is an error of the checks that need it.
    pub(super) fn told<T>(&mut self, checks: &[Cross], row: &RawRow, told: Told<T>) -> Option<T> {
        match told {
            Ok(value) => Some(value),
            Err(problem) => {
                let text = format!("{} {}: {problem}", row.table.name(), row.named());
                for check in checks {
                    if let Some(tally) = self.tally(*check) {
                        tally.error(&text);
                    }
                }
                None
            }
        }
    }
}
