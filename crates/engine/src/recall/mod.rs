//! The recall use cases: by vector and by text.

mod answer;
mod arms;
mod commit_wait;
mod expand;
mod text;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::{
    canon::{audit_vector_sha256, sha256_hex},
    error::{DomainError, ErrorKind},
    held,
    ids::ScopeKey,
    model::Viewer,
    ports::store::{HeldState, RecallAudit, RecallReader, ScopeStatus, Store},
    read::AsOf,
    recall::{KnobOverrides, Knobs, Profile, RecallEndpoint, ResolvedProfile, Seed},
    write::{Warning, check_vector_at},
};
use serde_json::{Value, json};

pub use self::answer::{DebugEmbedding, QueryInfo, RecallAnswer, Timings};
use self::arms::Found;
pub(crate) use self::commit_wait::CommitWaiters;
use crate::{Engine, EvaluateRequest, stages, usage};

/// What is asked.
#[derive(Clone, Debug)]
pub enum Question {
    /// A vector of the store's space.
    Vector(Vec<f32>),
    /// A text.
    Text(String),
}

/// Which arms answer a text question; for measuring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArmChoice {
    /// All of them, fused with the graph.
    #[default]
    Hybrid,
    /// Vectors alone.
    DenseOnly,
    /// Words alone, without the graph.
    LexicalOnly,
}

/// One recall.
#[derive(Clone, Debug)]
pub struct RecallRequest {
    /// Scope.
    pub scope: ScopeKey,
    /// For whom.
    pub viewer: Viewer,
    /// What is asked.
    pub question: Question,
    /// Knobs the caller pinned.
    pub knobs: KnobOverrides,
    /// The profile the others come from; without one, that of the policy.
    pub profile: Option<Profile>,
    /// Whether counts and, if asked for, embeddings are returned for debugging.
    pub return_debug: bool,
    /// Whether debugging shows embeddings of the first seeds.
    pub include_embeddings: bool,
    /// Whether edges name their commits.
    pub include_meta: bool,
    /// What rules are evaluated on beside, if they are.
    pub rules: Option<RulesAsked>,
    /// An earlier state to answer from.
    pub as_of: Option<AsOf>,
    /// A commit the answer must include.
    pub min_commit: Option<u64>,
    /// How long to wait for it.
    pub max_wait: Duration,
    /// Longest context in estimated tokens.
    pub token_budget: Option<usize>,
    /// Which arms answer a text question.
    pub arms: ArmChoice,
}

/// What rules are evaluated on.
#[derive(Clone, Debug)]
pub struct RulesAsked {
    /// The context.
    pub context: Value,
    /// Whether shadow rules are looked at too.
    pub include_shadow: bool,
    /// Most rules listed.
    pub limit: usize,
}

impl RecallRequest {
    /// A text question with nothing pinned.
    pub fn text(scope: ScopeKey, viewer: Viewer, text: impl Into<String>) -> Self {
        Self {
            scope,
            viewer,
            question: Question::Text(text.into()),
            knobs: KnobOverrides::default(),
            profile: None,
            return_debug: false,
            include_embeddings: false,
            include_meta: false,
            rules: None,
            as_of: None,
            min_commit: None,
            max_wait: Duration::ZERO,
            token_budget: None,
            arms: ArmChoice::Hybrid,
        }
    }

    /// Which endpoint it belongs to.
    pub const fn endpoint(&self) -> RecallEndpoint {
        match self.question {
            Question::Vector(_) => RecallEndpoint::Recall,
            Question::Text(_) => RecallEndpoint::RecallText,
        }
    }
}

/// Debugging shows embeddings only up to this limit of seeds.
const DEBUG_EMBEDDINGS_LIMIT_MAX: usize = 20;

impl Engine {
    /// The profile the policy has for a recall.
    pub fn profile_of(&self, request: &RecallRequest) -> ResolvedProfile {
        self.settings.profiles.resolve(request.scope.tenant(), request.endpoint())
    }

    /// Refuses what cannot be answered, or not be debugged with the profile of the policy, before the recall waits.
    ///
    /// # Errors
    /// `invalid_request`, `debug_embeddings_requires_return_debug`, `debug_embeddings_limit_too_high`.
    pub fn check_recall(&self, request: &RecallRequest) -> Result<(), DomainError> {
        self.check(request, &request.knobs.over(self.profile_of(request).profile.knobs()))
    }

    fn check(&self, request: &RecallRequest, knobs: &Knobs) -> Result<(), DomainError> {
        check_debug(request, knobs)?;
        match &request.question {
            Question::Vector(vector) => check_vector_at("query_embedding", vector, self.settings.write.embedding_dim),
            Question::Text(_) => Ok(()),
        }
    }

    /// Whether answering a question asks a provider: it is a text whose vector is not kept.
    pub fn embeds(&self, request: &RecallRequest) -> bool {
        let (Question::Text(text), Ok(queries)) = (&request.question, &self.queries) else { return false };
        let question = self.clean(text);
        !question.is_empty() && !queries.has(&question)
    }

    /// Answers a recall. Who admits recalls through a gate waits for the commit before it
    /// ([`Engine::wait_for_commit`]) and asks for none here.
    ///
    /// # Errors
    /// A caller's mistake, a commit that does not become visible in time, a provider that fails, or a failure of storage.
    pub async fn recall(&self, request: RecallRequest) -> Result<RecallAnswer, DomainError> {
        stages::note_tenant(request.scope.tenant());
        let profile = request.profile.unwrap_or_else(|| self.profile_of(&request).profile);
        let knobs = request.knobs.over(profile.knobs());
        self.check(&request, &knobs)?;
        self.wait_for_commit(&request).await?;
        let (timings, warnings) = (Timings::default(), Vec::new());
        let Some(state) = request.as_of else {
            let store: Arc<dyn RecallReader> = Arc::<dyn Store>::clone(&self.store);
            return Run { engine: self, store, request, knobs, profile, timings, warnings, held: None }.answer().await;
        };
        let seq = self.state_of(&request.scope, state).await?;
        // Nobody waits for it: who waits holds a place that others could use.
        let one = Arc::clone(&self.building_past).try_acquire_owned().map_err(|_| {
            let message = "as many earlier states as this process holds at once are being recalled from";
            DomainError::new(ErrorKind::TooManyRequests, "as_of_busy", message).with_retry_after(Duration::from_secs(1))
        })?;
        // It is being built on also when the request is over.
        held::holding(Arc::new((held::share(), one)), async {
            let store = self.store.past(&request.scope, seq, self.settings.as_of_nodes_max).await?;
            Run { engine: self, store, request, knobs, profile, timings, warnings, held: None }.answer().await
        })
        .await
    }
}

fn check_debug(request: &RecallRequest, knobs: &Knobs) -> Result<(), DomainError> {
    if !request.include_embeddings {
        return Ok(());
    }
    let refuse = |code, message: &str| Err(DomainError::new(ErrorKind::Invalid, code, message));
    if !request.return_debug {
        return refuse("debug_embeddings_requires_return_debug", "include_embeddings needs return_debug");
    }
    if knobs.limit > DEBUG_EMBEDDINGS_LIMIT_MAX {
        return refuse("debug_embeddings_limit_too_high", "include_embeddings needs a limit of at most 20");
    }
    Ok(())
}

/// One recall under way.
struct Run<'a> {
    engine: &'a Engine,
    /// The scope as it is, or as it was.
    store: Arc<dyn RecallReader>,
    /// State of the scope that the search goes by, if it is still to be confirmed.
    held: Option<HeldState>,
    request: RecallRequest,
    knobs: Knobs,
    profile: Profile,
    timings: Timings,
    warnings: Vec<Warning>,
}

impl Run<'_> {
    async fn answer(&mut self) -> Result<RecallAnswer, DomainError> {
        let (Found { seeds, query, query_sha256 }, status) = self.found().await?;
        if status.pending > 0 && !matches!(self.engine.queries, Err(crate::NoVectors::Disabled)) {
            metrics::counter!("aionis_recall_with_pending_total").increment(1);
        }
        let mut answer = self.expand(&seeds).await?;
        if let Some(asked) = self.request.rules.take() {
            let request = EvaluateRequest {
                scope: self.request.scope.clone(),
                context: asked.context,
                include_shadow: asked.include_shadow,
                limit: asked.limit,
                identity: None,
            };
            answer.rules = Some(self.engine.evaluate_rules(&request).await?);
        }
        answer.query = query;
        answer.as_of_commit = status.head_seq;
        answer.pending = status;
        answer.warnings = std::mem::take(&mut self.warnings);
        answer.timings = self.timings;
        self.audit(&answer, &seeds, query_sha256);
        if let (Some(writer), None) = (&self.engine.usage, self.request.as_of) {
            let now = self.engine.clock.now();
            let due = usage::due(answer.seeds.iter().filter_map(|seed| answer.rows.get(&seed.id)), now);
            writer.record(&self.request.scope, due, now);
        }
        Ok(answer)
    }

    /// Seeds, and the state of the scope they are of. It is looked at first; where it has likely not changed, whether it has is
    /// asked together with what the search reads, and if so, all is done again.
    async fn found(&mut self) -> Result<(Found, ScopeStatus), DomainError> {
        let mut may_be_held = self.reads_vectors();
        loop {
            let held = if may_be_held { self.store.held_status(&self.request.scope).await? } else { None };
            let (status, held) = match held {
                Some((status, held)) => (status, Some(held)),
                None => (self.store.scope_status(&self.request.scope).await?, None),
            };
            self.held = held;
            let started = Instant::now();
            if let Some(found) = self.find().await? {
                self.timings.candidates_ms = millis(started);
                return Ok((found, status));
            }
            may_be_held = false;
        }
    }

    /// Seeds; none if they would be of a state that is no more, which only one that is held may be.
    async fn find(&mut self) -> Result<Option<Found>, DomainError> {
        match self.request.question.clone() {
            Question::Vector(vector) => Ok(self.by_vector(&vector).await?.map(|seeds| Found {
                seeds,
                query: None,
                query_sha256: audit_vector_sha256(&vector),
            })),
            Question::Text(text) => {
                let clean = self.engine.clean(&text);
                let query_sha256 = sha256_hex(&clean);
                let Some((seeds, embedding_provider)) = self.by_text(&clean).await? else { return Ok(None) };
                Ok(Some(Found { seeds, query: Some(QueryInfo { text: clean, embedding_provider }), query_sha256 }))
            }
        }
    }

    fn audit(&self, answer: &RecallAnswer, seeds: &[Seed], query_sha256: String) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        self.engine.audit.record(RecallAudit {
            scope: self.request.scope.clone(),
            endpoint: if answer.query.is_some() { "recall_text" } else { "recall" },
            viewer: self.request.viewer.clone(),
            query_sha256,
            seeds: count(seeds.len()),
            nodes: count(answer.nodes.len()),
            edges: count(answer.edges.len()),
            at: self.engine.clock.now(),
        });
    }
}

/// Milliseconds since an instant.
fn millis(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

/// How many vectors wait and for how long, as responses show it.
pub fn pending_json(status: &ScopeStatus, now: aionis_core::clock::Timestamp) -> Value {
    let oldest_ms = status.oldest_pending.map(|since| now.micros_since(since) / 1_000);
    json!({ "nodes": status.pending, "oldest_ms": oldest_ms })
}
