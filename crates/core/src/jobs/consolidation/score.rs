//! How alike two nodes are, and whether they may contradict each other.

use std::collections::BTreeSet;

use crate::{
    ids::NodeId,
    model::{NodeType, text_enum},
    text,
};

/// Most of a text that is compared, in UTF-16 units.
const TEXT_MAX: usize = 1_200;

/// Words that say yes, of the reference. What they find is advice: a pair is looked at, never decided by them.
const POSITIVE: [&str; 16] = [
    "allow", "allowed", "enable", "enabled", "include", "included", "with", "required", "must", "always", "true",
    "public", "sync", "accept", "accepted", "open",
];
const NEGATIVE: [&str; 20] = [
    "deny",
    "denied",
    "disable",
    "disabled",
    "exclude",
    "excluded",
    "without",
    "optional",
    "never",
    "false",
    "private",
    "async",
    "reject",
    "rejected",
    "close",
    "closed",
    "ban",
    "blocked",
    "forbid",
    "forbidden",
];
const NEGATION: [&str; 17] = [
    "no", "not", "never", "without", "none", "cannot", "cant", "wont", "dont", "isnt", "arent", "disable", "disabled",
    "deny", "denied", "exclude", "excluded",
];
const STOPWORDS: [&str; 22] = [
    "the", "a", "an", "and", "or", "of", "to", "in", "on", "for", "is", "are", "be", "by", "at", "as", "it", "this",
    "that", "from", "was", "were",
];

/// When two nodes count as alike.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Thresholds {
    /// Least cosine of the vectors.
    pub min_vector: f64,
    /// Least score.
    pub min_score: f64,
    /// Shared words from which on opposite words count as a contradiction.
    pub conflict_min_shared_tokens: usize,
    /// Likeness of the words from which on a negation on one side counts as a contradiction.
    pub conflict_negation_lexical_min: f64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { min_vector: 0.86, min_score: 0.82, conflict_min_shared_tokens: 1, conflict_negation_lexical_min: 0.5 }
    }
}

text_enum!(
    /// Why two nodes that look alike may contradict each other.
    ConflictKind {
        /// One side says yes where the other says no.
        PolarityOpposition = "polarity_opposition",
        /// One side is negated.
        NegationMismatch = "negation_mismatch",
        /// Both name numbers, and not the same ones.
        NumberMismatch = "number_mismatch",
    }
);

/// A contradiction that somebody should look at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conflict {
    /// Why.
    pub kind: ConflictKind,
    /// How sure it is, 0…1.
    pub score: f64,
    /// How many words of content both sides share.
    pub shared_tokens: u32,
}

/// What was measured of a pair; six decimals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairScore {
    /// `0.8 · vector + 0.2 · lexical`.
    pub score: f64,
    /// Cosine of the vectors.
    pub vector_similarity: f64,
    /// Shared words of all words.
    pub lexical_similarity: f64,
    /// Whether they may contradict each other.
    pub conflict: Option<Conflict>,
}

/// One side of a pair: its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    tokens: BTreeSet<String>,
    /// Numbers as they are written, also those of one digit.
    numbers: BTreeSet<String>,
}

impl Side {
    /// The words of a text.
    pub fn of(text: &str) -> Self {
        let text = text::normalize(text, TEXT_MAX).to_lowercase();
        let numbers = words(&text).filter(|word| word.chars().any(char::is_numeric)).map(str::to_owned).collect();
        Self { tokens: tokens(&text), numbers }
    }
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// The distinct words of a text in lower case: runs of letters and digits of two characters or more.
pub fn tokens(text: &str) -> BTreeSet<String> {
    let text = text::normalize(text, TEXT_MAX).to_lowercase();
    words(&text).filter(|word| word.chars().nth(1).is_some()).map(str::to_owned).collect()
}

#[expect(clippy::cast_precision_loss, reason = "a text has far fewer words than 2^52")]
fn jaccard(a: &BTreeSet<String>, b: &BTreeSet<String>) -> f64 {
    let shared = a.intersection(b).count();
    let all = a.len() + b.len() - shared;
    if all == 0 { 0.0 } else { shared as f64 / all as f64 }
}

fn six(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Scores a pair by the cosine of its vectors and its words. None when it is not alike enough.
pub fn score_pair(a: &Side, b: &Side, vector_similarity: f64, thresholds: &Thresholds) -> Option<PairScore> {
    let lexical = jaccard(&a.tokens, &b.tokens);
    let score = six(combined(vector_similarity, lexical));
    if six(vector_similarity) < thresholds.min_vector || score < thresholds.min_score {
        return None;
    }
    Some(PairScore {
        score,
        vector_similarity: six(vector_similarity),
        lexical_similarity: six(lexical),
        conflict: conflict(a, b, lexical, thresholds),
    })
}

pub(super) fn combined(vector: f64, lexical: f64) -> f64 {
    0.8f64.mul_add(vector, 0.2 * lexical)
}

fn holds(side: &Side, list: &[&str]) -> bool {
    list.iter().any(|word| side.tokens.contains(*word))
}

fn conflict(a: &Side, b: &Side, lexical: f64, thresholds: &Thresholds) -> Option<Conflict> {
    let is_content = |word: &&String| {
        ![&POSITIVE[..], &NEGATIVE, &NEGATION, &STOPWORDS].iter().any(|list| list.contains(&word.as_str()))
    };
    let shared = a.tokens.intersection(&b.tokens).filter(is_content).count();
    let found = |kind, score| Some(Conflict { kind, score, shared_tokens: u32::try_from(shared).unwrap_or(u32::MAX) });
    let says_no = |side: &Side| holds(side, &NEGATIVE) || holds(side, &NEGATION);
    let opposed = |one: &Side, other: &Side| holds(one, &POSITIVE) && says_no(other);
    if (opposed(a, b) || opposed(b, a)) && shared >= thresholds.conflict_min_shared_tokens {
        return found(ConflictKind::PolarityOpposition, 1.0);
    }
    if holds(a, &NEGATION) != holds(b, &NEGATION)
        && shared >= thresholds.conflict_min_shared_tokens
        && lexical >= thresholds.conflict_negation_lexical_min
    {
        return found(ConflictKind::NegationMismatch, 0.85);
    }
    // Numbers need no language: "keeps 30 days" and "keeps 90 days" are alike in everything but what matters.
    if a.numbers != b.numbers && !a.numbers.is_empty() && !b.numbers.is_empty() {
        return found(ConflictKind::NumberMismatch, 0.7);
    }
    None
}

/// `<smaller id>|<larger id>|<type>`.
pub fn pair_key(a: NodeId, b: NodeId, node_type: NodeType) -> String {
    let (low, high) = if a <= b { (a, b) } else { (b, a) };
    format!("{low}|{high}|{node_type}")
}

/// Reads what [`pair_key`] writes; none for anything else.
pub fn parse_pair_key(key: &str) -> Option<(NodeId, NodeId, NodeType)> {
    let mut parts = key.split('|');
    let mut id = || parts.next().and_then(|part| uuid::Uuid::parse_str(part).ok()).map(NodeId);
    let (low, high) = (id()?, id()?);
    let node_type = NodeType::parse(parts.next()?)?;
    (parts.next().is_none() && low < high && pair_key(low, high, node_type) == key).then_some((low, high, node_type))
}
