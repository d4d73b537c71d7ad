//! Posting lists: read from the durable inverted index when a question first needs them, then kept up to date.

use std::cell::RefCell;

use super::{Filter, ScopeImage, Slot, fetch::fetch, postings::Postings};
use aionis_core::{
    ids::NodeId,
    ports::store::NodeFilter,
    recall::bm25::{LexicalDoc, LexicalHits, idf, saturation},
};

/// Once this many documents are in play, further (more common) terms only add to documents already found. The rarest
/// terms come first, so what is passed over holds none of them.
const DOCUMENTS_IN_PLAY_MAX: usize = 50_000;

/// Postings that are read before their documents are looked at.
const READ_AHEAD: usize = 64;

/// Room for the scores of one question, kept from question to question: for a large scope it is some hundred kilobytes.
#[derive(Default)]
struct Scores {
    /// By slot; zero between questions.
    score_of: Vec<f32>,
    /// The slots whose score is not zero.
    touched: Vec<Slot>,
}

thread_local! {
    static SCORES: RefCell<Scores> = RefCell::default();
}

impl Scores {
    /// Takes out all scores.
    fn drain(&mut self) -> impl Iterator<Item = (Slot, f32)> + '_ {
        let Self { score_of, touched } = self;
        touched.drain(..).map(|slot| (slot, std::mem::take(&mut score_of[slot as usize])))
    }
}

/// A term as the inverted index holds it.
pub fn scoped_term(scope_no: i64, term: &str) -> String {
    format!("{scope_no}_{term}")
}

impl ScopeImage {
    /// Version of the image, to tell whether a posting list read meanwhile still fits.
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Terms whose posting list is not in memory.
    pub fn missing(&self, terms: &[String]) -> Vec<String> {
        if self.postings_complete {
            return Vec::new();
        }
        terms.iter().filter(|term| !self.postings.contains_key(term.as_str())).cloned().collect()
    }

    /// Keeps a posting list that was read while the image had `version`. False when the image has moved on, or the list
    /// names a row the image does not know yet: then it must be read again.
    pub fn keep_postings(&mut self, term: &str, rows: &[(i64, u16)], version: u64) -> bool {
        if version != self.version {
            return false;
        }
        let Some(entries) = rows
            .iter()
            .map(|(node_no, count)| self.numbered(*node_no).map(|slot| (slot, *count)))
            .collect::<Option<Vec<_>>>()
        else {
            return false;
        };
        self.postings.insert(term.into(), Postings::new(entries));
        true
    }

    /// The node of a row number.
    fn numbered(&self, node_no: i64) -> Option<Slot> {
        self.numbers.get(node_no, |slot| self.rows[slot as usize].node_no)
    }

    /// Keeps the part of a posting list whose rows the image knows; the rest arrives as deltas.
    pub fn keep_known_postings(&mut self, term: &str, rows: &[(i64, u16)]) {
        let known = rows.iter().filter_map(|(node_no, count)| self.numbered(*node_no).map(|slot| (slot, *count)));
        self.postings.insert(term.into(), Postings::new(known.collect()));
    }

    /// Brings the posting lists in memory up to date with a document's new counts.
    pub(super) fn index(&mut self, slot: Slot, replaced: &[String], terms: &[(String, u32)]) {
        for term in replaced {
            if let Some(postings) = self.postings.get_mut(term.as_str()) {
                postings.set(slot, 0);
            }
        }
        for (term, count) in terms {
            if let Some(postings) = self.postings.get_mut(term.as_str()) {
                postings.set(slot, u16::try_from(*count).unwrap_or(u16::MAX));
            }
        }
    }

    /// From now on every posting list is in memory: what is not there does not occur.
    pub fn hold_all_postings(&mut self) {
        self.postings_complete = true;
    }

    /// Takes documents out of all posting lists, in one pass.
    pub fn forget_documents(&mut self, slots: &hashbrown::HashSet<Slot>) {
        if !slots.is_empty() {
            self.postings.values_mut().for_each(|list| list.forget(slots));
        }
    }

    /// Adds one term of a document.
    pub fn add_term(&mut self, slot: Slot, term: &str, count: u32) {
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        match self.postings.get_mut(term) {
            Some(list) => list.set(slot, count),
            None => _ = self.postings.insert(term.into(), Postings::new(vec![(slot, count)])),
        }
    }

    /// Adds a document to the posting lists of its terms, which come as "term count term count …".
    pub fn add_document(&mut self, slot: Slot, terms: &str) {
        let mut words = terms.split_ascii_whitespace();
        while let (Some(term), Some(count)) = (words.next(), words.next()) {
            self.add_term(slot, term, count.parse().unwrap_or(u32::MAX));
        }
    }

    /// The best documents by BM25 among those a filter lets pass. All terms' lists must be in memory.
    pub fn lexical(&self, filter: &NodeFilter, terms: &[String], limit: usize) -> LexicalHits {
        let seen_by = filter;
        let filter = self.filter(filter);
        let empty = Postings::default();
        let lists: Vec<&Postings> =
            terms.iter().map(|term| self.postings.get(term.as_str()).unwrap_or(&empty)).collect();
        #[expect(clippy::cast_precision_loss, reason = "term counts are far below 2^52")]
        let mean_len = if self.documents == 0 { 0.0 } else { self.total_terms as f64 / self.documents as f64 };
        let doc_freq: Vec<u64> = lists.iter().map(|list| list.len() as u64).collect();
        let mut best = self.best(&lists, &doc_freq, mean_len, &filter, self.reach(limit));
        best.sort_unstable_by(|a, b| {
            b.0.total_cmp(&a.0).then_with(|| self.nodes[a.1 as usize].id.cmp(&self.nodes[b.1 as usize].id))
        });
        let mut docs: Vec<LexicalDoc> = best
            .iter()
            .map(|(_, slot)| LexicalDoc {
                id: NodeId(self.nodes[*slot as usize].id),
                len: self.gates.terms(*slot),
                counts: std::iter::repeat_n(0, lists.len()).collect(),
            })
            .collect();
        let mut by_slot: Vec<(Slot, usize)> = best.iter().enumerate().map(|(at, (_, slot))| (*slot, at)).collect();
        by_slot.sort_unstable();
        for (term, list) in lists.iter().enumerate() {
            for ((_, at), count) in by_slot.iter().zip(list.counts(by_slot.iter().map(|(slot, _)| *slot))) {
                docs[*at].counts[term] = count;
            }
        }
        let mut docs = self.resolved_docs(seen_by, docs);
        docs.truncate(limit);
        LexicalHits { total_docs: self.documents, mean_len, doc_freq, docs }
    }

    /// The best-scored documents that may be seeds, in no order.
    fn best(
        &self,
        lists: &[&Postings],
        doc_freq: &[u64],
        mean_len: f64,
        filter: &Filter,
        limit: usize,
    ) -> Vec<(f32, Slot)> {
        let mut scores = SCORES.take();
        self.score(lists, doc_freq, mean_len, &mut scores);
        let mut best: Vec<(f32, Slot)> = Vec::with_capacity(2 * limit.min(scores.touched.len()) + 1);
        let mut floor = 0.0_f32;
        let worse_last = |a: &(f32, Slot), b: &(f32, Slot)| {
            b.0.total_cmp(&a.0).then_with(|| self.nodes[a.1 as usize].id.cmp(&self.nodes[b.1 as usize].id))
        };
        // Kept in a buffer of twice the limit that is cut back when full: most documents fall below the floor at once.
        for (slot, score) in scores.drain() {
            if score < floor || !filter.seeds(&self.gates, slot) {
                continue;
            }
            best.push((score, slot));
            if best.len() == 2 * limit {
                best.select_nth_unstable_by(limit, worse_last);
                best.truncate(limit);
                floor = best.iter().fold(f32::INFINITY, |least, entry| least.min(entry.0));
            }
        }
        SCORES.set(scores);
        if best.len() > limit {
            best.select_nth_unstable_by(limit, worse_last);
            best.truncate(limit);
        }
        best
    }

    fn score(&self, lists: &[&Postings], doc_freq: &[u64], mean_len: f64, scores: &mut Scores) {
        let mut rarest_first: Vec<usize> = (0..lists.len()).filter(|at| doc_freq[*at] > 0).collect();
        rarest_first.sort_by_key(|at| doc_freq[*at]);
        let Scores { score_of, touched } = scores;
        if score_of.len() < self.nodes.len() {
            score_of.resize(self.nodes.len(), 0.0);
        }
        let mut ahead: Vec<(Slot, u16)> = Vec::with_capacity(READ_AHEAD);
        for at in rarest_first {
            let weight = idf(self.documents, doc_freq[at]);
            let open = touched.len() < DOCUMENTS_IN_PLAY_MAX;
            let mut entries = lists[at].entries();
            loop {
                ahead.clear();
                ahead.extend(entries.by_ref().take(READ_AHEAD).inspect(|(slot, _)| {
                    fetch(score_of, *slot);
                    self.gates.fetch_terms(*slot);
                }));
                if ahead.is_empty() {
                    break;
                }
                for (slot, count) in ahead.drain(..) {
                    let score = &mut score_of[slot as usize];
                    if *score == 0.0 {
                        if !open {
                            continue;
                        }
                        touched.push(slot);
                    }
                    let len = f64::from(self.gates.terms(slot));
                    #[expect(
                        clippy::cast_possible_truncation,
                        reason = "candidates are scored again in full precision"
                    )]
                    let gain = (weight * saturation(f64::from(count), len, mean_len)) as f32;
                    *score += gain;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aionis_core::{model::Viewer, ports::store::SeedRules};

    use crate::tests::facts;

    #[test]
    fn all_documents_of_a_long_list_are_scored() {
        let mut image = ScopeImage::empty(1, 0);
        image.hold_all_postings();
        let count = 3 * READ_AHEAD as u32 + 1;
        for n in 0..count {
            let slot = image.put_facts(&facts(u128::from(n)));
            // The later a document, the better it is.
            image.add_term(slot, "word", n + 1);
        }
        let terms = ["word".to_owned()];
        let everyone = NodeFilter { viewer: Viewer::default(), rules: SeedRules::Everything };
        let all = image.lexical(&everyone, &terms, count as usize);
        let counts: Vec<u16> = all.docs.iter().map(|doc| doc.counts[0]).collect();
        assert_eq!(counts, (1..=count as u16).rev().collect::<Vec<_>>());
    }
}
