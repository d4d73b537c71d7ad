//! Seeds by text: all arms at once, fused with the graph around them.

use std::time::Instant;

use aionis_core::{
    error::DomainError,
    ids::NodeId,
    ports::store::{DenseHit, DenseQuery, EdgeQuery, LexicalQuery, SeedRules, SurroundingsQuery},
    recall::{
        Seed,
        bm25::LexicalHits,
        fuse::{Arms, DENSE_CANDIDATES, LEXICAL_CANDIDATES, fuse},
    },
    redact::RedactionCounts,
    text,
    write::Warning,
};
use hashbrown::HashSet;

use super::{ArmChoice, Question, Run, millis};
use crate::{
    Engine, NoVectors,
    stages::{Work, timed, timed_now},
};

/// Longest question that is searched by name, in terms; a title has at most five.
const NAME_TERMS_MAX: usize = 5;
/// Most terms of a question that are looked up.
const TERMS_MAX: usize = 64;
/// Most edges looked at around the candidates, per direction.
const CANDIDATE_EDGES_MAX: usize = 4_096;

/// Dense candidates that are scored from their vectors when words count too. Those after them come up by their words, and an
/// estimate with an error of a hundredth does for their part.
const DENSE_SCORED: usize = 32;

impl Engine {
    /// A question normalised and redacted, as stored texts are.
    pub(super) fn clean(&self, raw: &str) -> String {
        let settings = &self.settings.write;
        let normal = text::normalize(raw, settings.text_max_len);
        match &settings.redactor {
            Some(redactor) => redactor.redact(&normal, &mut RedactionCounts::default()).into_owned(),
            None => normal,
        }
    }
}

/// What a question found by its meaning.
enum Meaning {
    /// Nothing was asked.
    Unasked,
    Found(Vec<DenseHit>),
    /// The scope is no more in the state that was looked at.
    Outdated,
}

impl Run<'_> {
    /// Whether a question is answered from vectors, among others.
    pub(super) fn reads_vectors(&self) -> bool {
        match &self.request.question {
            Question::Vector(_) => true,
            Question::Text(_) => self.request.arms != ArmChoice::LexicalOnly && self.engine.queries.is_ok(),
        }
    }

    /// Seeds of a cleaned question, and the name of the space it was embedded in; none if they would be of a state that is no
    /// more, or nothing told that it still is.
    pub(super) async fn by_text(&mut self, question: &str) -> Result<Option<(Vec<Seed>, String)>, DomainError> {
        if question.is_empty() {
            if self.held.is_some() {
                return Ok(None);
            }
            self.warnings.push(Warning::new("blank_query", "query_text holds only white space, so nothing matches"));
            return Ok(Some((Vec::new(), self.provider_name())));
        }
        let choice = self.request.arms;
        let terms = match choice {
            ArmChoice::DenseOnly => Vec::new(),
            _ => timed_now(Work::Recall, "analyse", || question_terms(question)),
        };
        let (dense, lexical, quoted) = tokio::join!(
            self.dense_arm(question, choice),
            self.lexical_arm(&terms),
            self.quoted_arm(question, choice),
        );
        let (meaning, embed_ms) = dense?;
        self.timings.embed_ms = embed_ms;
        let dense = match meaning {
            Meaning::Found(hits) => Some(hits),
            Meaning::Unasked if self.held.is_none() => None,
            Meaning::Unasked | Meaning::Outdated => return Ok(None),
        };
        if dense.is_none() && choice != ArmChoice::LexicalOnly {
            self.warn_no_vectors();
        }
        let (lexical, quoted) = (lexical?, quoted?);
        let seeds = match choice {
            ArmChoice::DenseOnly => plain_dense(dense),
            ArmChoice::LexicalOnly => plain_lexical(&lexical),
            ArmChoice::Hybrid => timed(Work::Recall, "fuse", self.fused(question, dense, lexical, quoted)).await?,
        };
        Ok(Some((seeds.into_iter().take(self.knobs.limit).collect(), self.provider_name())))
    }

    fn provider_name(&self) -> String {
        self.engine.queries.as_ref().map_or_else(|_| "none".to_owned(), |queries| queries.name().to_owned())
    }

    fn warn_no_vectors(&mut self) {
        let message = match self.engine.queries {
            Err(NoVectors::ModelMissing) => {
                "the built-in model is not installed, so only words were searched; run `aionis model pull`"
            }
            _ => "no embedding provider is configured, so only words were searched",
        };
        self.warnings.push(Warning::new("lexical_only", message));
    }

    async fn dense_arm(&self, question: &str, choice: ArmChoice) -> Result<(Meaning, f64), DomainError> {
        let (true, Ok(queries)) = (choice != ArmChoice::LexicalOnly, &self.engine.queries) else {
            return Ok((Meaning::Unasked, 0.0));
        };
        let started = Instant::now();
        let embedded = timed(Work::Recall, "embed", queries.query_vector(question)).await?;
        let embed_ms = millis(started);
        metrics::histogram!("aionis_query_embed_seconds").record(embed_ms / 1e3);
        let limit = DENSE_CANDIDATES.max(self.knobs.limit);
        let query = DenseQuery {
            scope: self.request.scope.clone(),
            filter: self.filter(SeedRules::Everything),
            vector: embedded.vector.to_vec(),
            limit,
            scored: match choice {
                ArmChoice::Hybrid => DENSE_SCORED.max(self.knobs.limit),
                _ => limit,
            },
            exact: false,
        };
        Ok((self.near(query).await?.map_or(Meaning::Outdated, Meaning::Found), embed_ms))
    }

    async fn lexical_arm(&self, terms: &[String]) -> Result<LexicalHits, DomainError> {
        if terms.is_empty() {
            return Ok(LexicalHits::default());
        }
        let query = LexicalQuery {
            scope: self.request.scope.clone(),
            filter: self.filter(SeedRules::Everything),
            terms: terms.to_vec(),
            limit: LEXICAL_CANDIDATES.max(self.knobs.limit),
        };
        Ok(timed(Work::Recall, "words", self.store.lexical(query)).await?)
    }

    /// Nodes whose id or client id the question quotes.
    async fn quoted_arm(&self, question: &str, choice: ArmChoice) -> Result<HashSet<NodeId>, DomainError> {
        let literals = literals_in(question);
        if choice != ArmChoice::Hybrid || literals.is_empty() {
            return Ok(HashSet::new());
        }
        let filter = self.filter(SeedRules::Everything);
        let quoted = self.store.quoted(&self.request.scope, &filter, &literals);
        Ok(timed(Work::Recall, "quoted", quoted).await?.into_iter().collect())
    }

    async fn fused(
        &self,
        question: &str,
        dense: Option<Vec<DenseHit>>,
        lexical: LexicalHits,
        quoted: HashSet<NodeId>,
    ) -> Result<Vec<Seed>, DomainError> {
        let mut candidates: Vec<NodeId> = lexical.docs.iter().map(|doc| doc.id).collect();
        candidates.extend(dense.iter().flatten().map(|hit| hit.id));
        candidates.extend(&quoted);
        candidates.sort_unstable();
        candidates.dedup();
        let edges = EdgeQuery {
            scope: self.request.scope.clone(),
            viewer: self.request.viewer.clone(),
            around: candidates,
            min_weight: self.knobs.min_edge_weight,
            min_confidence: self.knobs.min_edge_confidence,
            limit: CANDIDATE_EDGES_MAX,
        };
        // A name alone is a preference, not a match: only candidates and their neighbours are asked for theirs.
        let around = self.store.surroundings(SurroundingsQuery { edges, names: names_in(question) }).await?;
        let dense = dense.map(|hits| hits.into_iter().map(|hit| (hit.id, hit.similarity)).collect());
        let arms = Arms { lexical, dense, quoted, around };
        Ok(fuse(&arms, self.knobs.limit))
    }
}

fn plain_dense(dense: Option<Vec<DenseHit>>) -> Vec<Seed> {
    dense.into_iter().flatten().map(|hit| Seed { id: hit.id, similarity: hit.similarity }).collect()
}

fn plain_lexical(lexical: &LexicalHits) -> Vec<Seed> {
    let idfs = lexical.idfs();
    let mass: f64 = idfs.iter().sum();
    let bound = mass * (aionis_core::recall::bm25::K1 + 1.0);
    lexical
        .docs
        .iter()
        .map(|doc| Seed { id: doc.id, similarity: lexical.score_doc(&idfs, doc) / bound.max(f64::MIN_POSITIVE) })
        .collect()
}

fn question_terms(question: &str) -> Vec<String> {
    let mut terms = text::query_terms(question);
    terms.truncate(TERMS_MAX);
    terms
}

/// Every run of one to five terms of the question, as analysed titles are written.
fn names_in(question: &str) -> Vec<String> {
    let mut terms = Vec::new();
    text::analyze(question, &mut terms);
    terms.truncate(TERMS_MAX);
    let mut names: Vec<String> = (1..=NAME_TERMS_MAX.min(terms.len()))
        .flat_map(|len| terms.windows(len).map(|run| run.join(" ")).collect::<Vec<_>>())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Words of the question that may be ids: as written, without punctuation around them.
fn literals_in(question: &str) -> Vec<String> {
    let around = |c: char| matches!(c, ',' | '.' | ';' | '?' | '!' | '"' | '\'' | '(' | ')' | '[' | ']' | '`');
    let mut literals: Vec<String> = question
        .split_whitespace()
        .map(|word| word.trim_matches(around))
        .filter(|word| {
            word.len() >= 3 && word.bytes().any(|b| b.is_ascii_digit() || matches!(b, b'-' | b'_' | b':' | b'/'))
        })
        .map(str::to_owned)
        .take(TERMS_MAX)
        .collect();
    literals.sort_unstable();
    literals.dedup();
    literals
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_runs_of_terms() {
        let names = names_in("When did Ada Lovelace meet Ada?");
        assert!(names.contains(&"ada".to_owned()) && names.iter().any(|n| n.starts_with("ada lovelac")));
    }

    #[test]
    fn literals_look_like_ids() {
        assert_eq!(literals_in("what of order-17, (evt_9)? and why"), ["evt_9", "order-17"]);
    }
}
