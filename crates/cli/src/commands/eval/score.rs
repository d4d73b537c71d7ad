//! Retrieval scores.

use std::collections::{BTreeMap, HashSet};

use serde::Serialize;

/// Scores of a group of questions. recall@k is the share of a question's evidence among the first k, averaged over
/// questions; hit@k is the share of questions with any evidence among the first k.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Group {
    pub(super) questions: usize,
    #[serde(rename = "recall@5")]
    pub(super) recall_at_5: f64,
    #[serde(rename = "recall@10")]
    pub(super) recall_at_10: f64,
    #[serde(rename = "recall@20")]
    pub(super) recall_at_20: f64,
    #[serde(rename = "recall@50")]
    pub(super) recall_at_50: f64,
    #[serde(rename = "hit@5")]
    pub(super) hit_at_5: f64,
    #[serde(rename = "hit@10")]
    pub(super) hit_at_10: f64,
    #[serde(rename = "hit@50")]
    pub(super) hit_at_50: f64,
    pub(super) mrr: f64,
    pub(super) context_tokens_mean: f64,
    pub(super) latency_ms_p50: f64,
    pub(super) latency_ms_p95: f64,
    #[serde(skip)]
    latencies: Vec<f64>,
}

/// Scores of all questions and by category.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Scores {
    pub(super) overall: Group,
    pub(super) per_category: BTreeMap<String, Group>,
}

impl Scores {
    /// Counts one question: its evidence, and what was found, best first.
    pub(super) fn add(&mut self, category: &str, evidence: &[String], found: &[&str], tokens: usize, latency_ms: f64) {
        let group = self.per_category.entry(category.to_owned()).or_default();
        for group in [&mut self.overall, group] {
            group.add(evidence, found, tokens, latency_ms);
        }
    }

    /// Turns sums into means.
    pub(super) fn finish(&mut self) {
        self.overall.finish();
        self.per_category.values_mut().for_each(Group::finish);
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of questions and tokens are small")]
impl Group {
    fn add(&mut self, evidence: &[String], found: &[&str], tokens: usize, latency_ms: f64) {
        let wanted: HashSet<&str> = evidence.iter().map(String::as_str).collect();
        let within = |k: usize| {
            let seen: HashSet<&str> = found.iter().take(k).copied().filter(|id| wanted.contains(id)).collect();
            seen.len() as f64 / wanted.len() as f64
        };
        let hit = |share: f64| if share > 0.0 { 1.0 } else { 0.0 };
        self.questions += 1;
        self.recall_at_5 += within(5);
        self.recall_at_10 += within(10);
        self.recall_at_20 += within(20);
        self.recall_at_50 += within(50);
        self.hit_at_5 += hit(within(5));
        self.hit_at_10 += hit(within(10));
        self.hit_at_50 += hit(within(50));
        let first = found.iter().position(|id| wanted.contains(id));
        self.mrr += first.map_or(0.0, |at| 1.0 / (at + 1) as f64);
        self.context_tokens_mean += tokens as f64;
        self.latencies.push(latency_ms);
    }

    fn finish(&mut self) {
        let n = self.questions.max(1) as f64;
        for sum in [
            &mut self.recall_at_5,
            &mut self.recall_at_10,
            &mut self.recall_at_20,
            &mut self.recall_at_50,
            &mut self.hit_at_5,
            &mut self.hit_at_10,
            &mut self.hit_at_50,
            &mut self.mrr,
            &mut self.context_tokens_mean,
        ] {
            *sum /= n;
        }
        self.latencies.sort_by(f64::total_cmp);
        let at = |share: f64| {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index into the list")]
            let index = ((self.latencies.len() as f64 * share).ceil() as usize).max(1) - 1;
            self.latencies.get(index).copied().unwrap_or(0.0)
        };
        (self.latency_ms_p50, self.latency_ms_p95) = (at(0.5), at(0.95));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_follow_their_definitions() {
        let mut scores = Scores::default();
        let evidence = ["a".to_owned(), "b".to_owned()];
        scores.add("x", &evidence, &["z", "a", "y", "y", "y", "b"], 10, 2.0);
        scores.add("y", &evidence[..1], &["z"], 30, 4.0);
        scores.finish();
        let g = &scores.overall;
        assert_eq!((g.questions, g.recall_at_5, g.recall_at_10), (2, 0.25, 0.5));
        assert_eq!((g.hit_at_5, g.mrr, g.context_tokens_mean), (0.5, 0.25, 20.0));
        assert_eq!((g.latency_ms_p50, g.latency_ms_p95), (2.0, 4.0));
        assert_eq!(scores.per_category["x"].recall_at_5, 0.5);
    }
}
