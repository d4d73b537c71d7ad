//! Okapi BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009), scored here from plain
//! statistics so that every engine ranks alike.

use smallvec::SmallVec;

use crate::ids::NodeId;

/// Term-frequency saturation. 0.9 and 0.4 are the values of the Anserini baselines; short texts like both low.
pub const K1: f64 = 0.9;
/// Length normalisation, 0…1.
pub const B: f64 = 0.4;

/// Statistics of the documents a question may match, and the best of them.
#[derive(Clone, Debug, Default)]
pub struct LexicalHits {
    /// Documents in the scope.
    pub total_docs: u64,
    /// Mean document length in terms.
    pub mean_len: f64,
    /// Per question term: in how many documents it occurs.
    pub doc_freq: Vec<u64>,
    /// Best documents, each with its counts.
    pub docs: Vec<LexicalDoc>,
}

/// Terms of a question up to which a document's counts are no memory of their own: there are hundreds of documents.
const TERMS_IN_PLACE: usize = 12;

/// One document that holds at least one of the terms.
#[derive(Clone, Debug)]
pub struct LexicalDoc {
    /// The node.
    pub id: NodeId,
    /// Length in terms.
    pub len: u32,
    /// Per question term: how often it occurs.
    pub counts: SmallVec<[u16; TERMS_IN_PLACE]>,
}

/// Inverse document frequency, `ln(1 + (N - n + 0.5) / (n + 0.5))`: never negative.
#[expect(clippy::cast_precision_loss, reason = "document counts are far below 2^52")]
pub fn idf(total_docs: u64, doc_freq: u64) -> f64 {
    let n = doc_freq as f64;
    ((total_docs as f64 - n).max(0.0) + 0.5).mul_add(1.0 / (n + 0.5), 1.0).ln()
}

/// Weight of one term in one document, before its idf: `tf (k1 + 1) / (tf + k1 (1 - b + b len / mean))`.
pub fn saturation(count: f64, len: f64, mean_len: f64) -> f64 {
    let length_ratio = if mean_len > 0.0 { len / mean_len } else { 1.0 };
    count * (K1 + 1.0) / (count + K1 * (1.0 - B + B * length_ratio))
}

impl LexicalHits {
    /// Per question term its idf.
    pub fn idfs(&self) -> Vec<f64> {
        self.doc_freq.iter().map(|&n| idf(self.total_docs, n)).collect()
    }

    /// Scores counts against the statistics; `idfs` from [`Self::idfs`].
    pub fn score(&self, idfs: &[f64], counts: impl IntoIterator<Item = f64>, len: f64) -> f64 {
        counts
            .into_iter()
            .zip(idfs)
            .filter(|(count, _)| *count > 0.0)
            .map(|(count, idf)| idf * saturation(count, len, self.mean_len))
            .sum()
    }

    /// Scores one document.
    pub fn score_doc(&self, idfs: &[f64], doc: &LexicalDoc) -> f64 {
        self.score(idfs, doc.counts.iter().map(|&c| f64::from(c)), f64::from(doc.len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    /// BM25 straight from its definition over whole documents.
    fn naive(docs: &[Vec<u8>], at: usize, terms: &[u8]) -> f64 {
        let total = docs.len() as f64;
        let mean = docs.iter().map(Vec::len).sum::<usize>() as f64 / total;
        let len = docs[at].len() as f64;
        terms
            .iter()
            .map(|t| {
                let n = docs.iter().filter(|d| d.contains(t)).count() as f64;
                let tf = docs[at].iter().filter(|x| *x == t).count() as f64;
                (1.0 + (total - n + 0.5) / (n + 0.5)).ln() * tf * 1.9 / (tf + 0.9 * (0.6 + 0.4 * len / mean))
            })
            .sum()
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            docs in prop::collection::vec(prop::collection::vec(0_u8..12, 1..30), 1..20),
            terms in prop::collection::btree_set(0_u8..12, 1..6),
        ) {
            let terms: Vec<u8> = terms.into_iter().collect();
            let hits = LexicalHits {
                total_docs: docs.len() as u64,
                mean_len: docs.iter().map(Vec::len).sum::<usize>() as f64 / docs.len() as f64,
                doc_freq: terms.iter().map(|t| docs.iter().filter(|d| d.contains(t)).count() as u64).collect(),
                docs: docs.iter().map(|d| LexicalDoc {
                    id: NodeId(Uuid::nil()),
                    len: d.len() as u32,
                    counts: terms.iter().map(|t| d.iter().filter(|x| *x == t).count() as u16).collect(),
                }).collect(),
            };
            let idfs = hits.idfs();
            for (at, doc) in hits.docs.iter().enumerate() {
                let (ours, theirs) = (hits.score_doc(&idfs, doc), naive(&docs, at, &terms));
                prop_assert!((ours - theirs).abs() < 1e-9, "{ours} {theirs}");
            }
        }

        #[test]
        fn more_occurrences_never_score_less(count in 1_u16..50, len in 1_u32..200) {
            let one = saturation(f64::from(count), f64::from(len), 20.0);
            prop_assert!(saturation(f64::from(count) + 1.0, f64::from(len), 20.0) > one);
        }
    }

    #[test]
    fn idf_is_never_negative() {
        assert!(idf(10, 10) > 0.0 && idf(1, 1) > 0.0 && idf(0, 0) > 0.0);
    }
}
