//! Changing the embedding model of a store while it is in use.
//!
//! Vectors of the new model are derived beside those of the old one, which recall goes on comparing with. When there are
//! none left to derive, one transaction makes the new ones those that count; what was written in the last moment becomes
//! ordinary work of the queue. Whatever was derived stays when the work is broken off, and is not derived again.

use std::time::Duration;

use aionis_core::{
    clock::Clock,
    error::DomainError,
    ids::{NodeId, ScopeKey},
    ports::{
        embed::{EmbedError, EmbedErrorKind, Embedder, EmbeddingSpace},
        store::{PendingText, Store},
    },
};
use serde::Serialize;

use crate::{backoff, derive::embed_all};

/// Times the whole store is gone through: with a service that writes all the time there would be no end.
const PASSES_MAX: usize = 3;

/// What a change of the model is asked to do.
#[derive(Clone, Debug)]
pub struct ReembedSettings {
    /// Only count.
    pub dry_run: bool,
    /// Switch although nodes whose vector was brought by a caller, and that have no text, lose it.
    pub accept_loss: bool,
    /// Remove the vectors of other models after the switch.
    pub drop_old: bool,
    /// Nodes read at once.
    pub page: usize,
    /// Tries of one provider request.
    pub tries_max: u32,
    /// First pause between them.
    pub pause_base: Duration,
    /// Longest pause.
    pub pause_max: Duration,
}

impl Default for ReembedSettings {
    fn default() -> Self {
        Self {
            dry_run: false,
            accept_loss: false,
            drop_old: false,
            page: 512,
            tries_max: 8,
            pause_base: Duration::from_secs(1),
            pause_max: Duration::from_secs(60),
        }
    }
}

/// What was done, or would be.
#[derive(Debug, Default, Serialize)]
pub struct ReembedReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// Model whose vectors counted before.
    pub from: String,
    /// Model asked for.
    pub to: String,
    /// Dimension of its vectors.
    pub dim: usize,
    /// Nodes that want a vector.
    pub wanted: u64,
    /// Those that had one of the model already.
    pub present: u64,
    /// Those to derive, as counted by a dry run.
    pub to_derive: u64,
    /// Characters of their texts, as counted by a dry run.
    pub characters: u64,
    /// Vectors derived now.
    pub derived: u64,
    /// Texts the provider refuses.
    pub refused: u64,
    /// Nodes with a caller's vector and without a text.
    pub without_text: u64,
    /// Nodes left to the queue at the switch.
    pub queued: u64,
    /// Vectors of other models removed.
    pub dropped: u64,
    /// Whether the model's vectors are those that count now.
    pub switched: bool,
}

/// Why the model was not changed. What was derived so far stays, and is not derived again.
#[derive(Debug, thiserror::Error)]
pub enum ReembedError {
    /// Storage failed.
    #[error(transparent)]
    Store(#[from] DomainError),
    /// Vectors of one model stand under its name: those of another dimension cannot stand beside them.
    #[error(
        "the vectors are of {0} already, with {1} dimensions: another dimension of the same model cannot be changed to \
         directly; change to another model first"
    )]
    SameModel(String, usize),
    /// The provider failed too often.
    #[error("the provider cannot derive vectors: {0}; what was derived is kept, run the same command again to go on")]
    Provider(EmbedError),
}

impl From<aionis_core::ports::store::StoreError> for ReembedError {
    fn from(error: aionis_core::ports::store::StoreError) -> Self {
        Self::Store(error.into())
    }
}

/// Told how far the work is.
pub trait ReembedProgress: Send + Sync {
    /// So many vectors are to be derived.
    fn expect(&self, vectors: u64);
    /// So many more are.
    fn advance(&self, vectors: u64);
}

/// Changes the model of a store to the embedder's. For the model that counts already it queues what has no vector of it.
///
/// # Errors
/// [`ReembedError`].
pub async fn reembed(
    store: &dyn Store,
    embedder: &dyn Embedder,
    clock: &dyn Clock,
    settings: &ReembedSettings,
    progress: &dyn ReembedProgress,
) -> Result<ReembedReport, ReembedError> {
    let target = EmbeddingSpace { name: embedder.name().to_owned(), dim: embedder.dim() };
    let present = store.present_generation().await?;
    if present.name == target.name && present.dim != target.dim {
        return Err(ReembedError::SameModel(present.name, present.dim));
    }
    let counts = store.generation_counts(&target).await?;
    let mut report = ReembedReport {
        dry_run: settings.dry_run,
        from: present.name.clone(),
        to: target.name.clone(),
        dim: target.dim,
        wanted: counts.wanted,
        present: counts.present,
        ..ReembedReport::default()
    };
    if settings.dry_run {
        count(store, &target, settings.page, &mut report).await?;
        return Ok(report);
    }
    if present != target {
        progress.expect(counts.wanted - counts.present);
        // Each pass derives what was written during the one before. What is left after the last is the queue's.
        for _ in 0..PASSES_MAX {
            let stored = derive_pass(store, embedder, clock, (&target, settings), progress, &mut report).await?;
            if stored <= settings.page as u64 {
                break;
            }
        }
        if report.without_text > 0 && !settings.accept_loss {
            return Ok(report);
        }
    }
    report.queued = store.switch_generation(&target, clock.now()).await?;
    report.switched = true;
    let mut after = None;
    loop {
        after = store.label_generation(&target, after.as_ref(), settings.page).await?;
        if after.is_none() {
            break;
        }
    }
    if settings.drop_old {
        for summary in store.scopes(None, None).await? {
            report.dropped += store.drop_other_generations(&ScopeKey::from_stored(&summary.scope_key)?).await?;
        }
    }
    Ok(report)
}

/// Counts what is to be derived.
async fn count(
    store: &dyn Store,
    target: &EmbeddingSpace,
    page: usize,
    report: &mut ReembedReport,
) -> Result<(), ReembedError> {
    let mut after = None;
    loop {
        let found = store.lacking(target, after.as_ref(), page).await?;
        for node in &found.texts {
            match &node.text {
                Some(text) => {
                    report.to_derive += 1;
                    report.characters += text.chars().count() as u64;
                }
                None => report.without_text += 1,
            }
        }
        after = found.next;
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Derives and stores what is lacking, once through; returns how many vectors were stored.
async fn derive_pass(
    store: &dyn Store,
    embedder: &dyn Embedder,
    clock: &dyn Clock,
    (target, settings): (&EmbeddingSpace, &ReembedSettings),
    progress: &dyn ReembedProgress,
    report: &mut ReembedReport,
) -> Result<u64, ReembedError> {
    let mut stored = 0;
    let mut refused: Vec<(ScopeKey, NodeId)> = Vec::new();
    let mut without_text = 0;
    let mut after = None;
    loop {
        let found = store.lacking(target, after.as_ref(), settings.page).await?;
        let (with, without): (Vec<PendingText>, Vec<PendingText>) =
            found.texts.into_iter().partition(|node| node.text.is_some());
        without_text += without.len() as u64;
        let nodes = derive(embedder, with, settings).await?;
        refused.extend(nodes.iter().filter(|n| n.result.is_err()).map(|n| (n.scope.clone(), n.id)));
        let count = store.put_generation(target, nodes, clock.now()).await? as u64;
        progress.advance(count);
        stored += count;
        after = found.next;
        if after.is_none() {
            break;
        }
    }
    report.derived += stored;
    report.refused = refused.len() as u64;
    report.without_text = without_text;
    Ok(stored)
}

/// Derives vectors, patiently.
async fn derive(
    embedder: &dyn Embedder,
    texts: Vec<PendingText>,
    settings: &ReembedSettings,
) -> Result<Vec<aionis_core::ports::store::EmbeddedNode>, ReembedError> {
    let mut tried = 0;
    loop {
        let error = match embed_all(embedder, texts.clone(), &|| {}).await {
            Ok(nodes) => return Ok(nodes),
            Err(error) => error,
        };
        tried += 1;
        if error.kind == EmbedErrorKind::Unauthorized || tried >= settings.tries_max {
            return Err(ReembedError::Provider(error));
        }
        let pause = backoff::pause(settings.pause_base, settings.pause_max, tried - 1, backoff::jitter());
        let pause = error.retry_after.unwrap_or_default().min(settings.pause_max).max(pause);
        tracing::warn!(error = %error, tried, pause_ms = pause.as_millis(), "vectors could not be derived; trying again");
        tokio::time::sleep(pause).await;
    }
}
