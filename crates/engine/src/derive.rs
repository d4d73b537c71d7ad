//! Deriving vectors from texts, for the worker and for a change of the model.

use std::time::Instant;

use aionis_core::ports::{
    embed::{EmbedError, EmbedErrorKind, EmbedPurpose, Embedder},
    store::{EmbeddedNode, PendingText},
};

/// Vectors of texts, batch by batch. A text the provider refuses costs only its own node. `answered` is told after every
/// answer of the provider.
///
/// # Errors
/// Any other failure of the provider; nothing partial is returned.
pub(crate) async fn embed_all(
    embedder: &dyn Embedder,
    wanted: Vec<PendingText>,
    answered: &(dyn Fn() + Sync),
) -> Result<Vec<EmbeddedNode>, EmbedError> {
    let mut nodes = Vec::with_capacity(wanted.len());
    let mut wanted = wanted.into_iter().peekable();
    while wanted.peek().is_some() {
        let batch: Vec<PendingText> = wanted.by_ref().take(embedder.batch_size().max(1)).collect();
        nodes.extend(embed_batch(embedder, batch, answered).await?);
    }
    Ok(nodes)
}

async fn embed_batch(
    embedder: &dyn Embedder,
    batch: Vec<PendingText>,
    answered: &(dyn Fn() + Sync),
) -> Result<Vec<EmbeddedNode>, EmbedError> {
    let texts: Vec<String> = batch.iter().filter_map(|node| node.text.clone()).collect();
    let started = Instant::now();
    let result = embedder.embed(&texts, EmbedPurpose::Document).await;
    metrics::histogram!("aionis_embed_call_seconds").record(started.elapsed().as_secs_f64());
    answered();
    match result {
        Ok(vectors) if vectors.len() == batch.len() => {
            Ok(batch.into_iter().zip(vectors).map(|(node, vector)| checked(embedder, node, vector)).collect())
        }
        Ok(vectors) => Err(EmbedError::new(
            EmbedErrorKind::BadResponse,
            format!("asked for {} vectors, got {}", batch.len(), vectors.len()),
        )),
        Err(error) if error.kind == EmbedErrorKind::Rejected && batch.len() > 1 => {
            one_by_one(embedder, batch, answered).await
        }
        Err(error) if error.kind == EmbedErrorKind::Rejected => {
            Ok(batch.into_iter().map(|node| embedded(node, Err(error.message.clone()))).collect())
        }
        Err(error) => Err(error),
    }
}

/// A refused batch is asked text by text, so that one bad text costs only its own node.
async fn one_by_one(
    embedder: &dyn Embedder,
    batch: Vec<PendingText>,
    answered: &(dyn Fn() + Sync),
) -> Result<Vec<EmbeddedNode>, EmbedError> {
    let mut nodes = Vec::with_capacity(batch.len());
    for node in batch {
        let texts: Vec<String> = node.text.iter().cloned().collect();
        let result = embedder.embed(&texts, EmbedPurpose::Document).await;
        answered();
        match result {
            Ok(mut vectors) if vectors.len() == 1 => nodes.push(checked(embedder, node, vectors.remove(0))),
            Ok(_) => {
                return Err(EmbedError::new(EmbedErrorKind::BadResponse, "asked for one vector, got another number"));
            }
            Err(error) if error.kind == EmbedErrorKind::Rejected => nodes.push(embedded(node, Err(error.message))),
            Err(error) => return Err(error),
        }
    }
    Ok(nodes)
}

fn checked(embedder: &dyn Embedder, node: PendingText, vector: Vec<f32>) -> EmbeddedNode {
    let dim = embedder.dim();
    let usable = aionis_core::write::check_vector_at("vector", &vector, dim);
    let result = usable.map(|()| vector).map_err(|e| {
        e.issues.first().map_or_else(|| e.message.clone(), |issue| format!("the provider's vector {}", issue.message))
    });
    embedded(node, result)
}

/// A node with its vector, or why it has none.
pub(crate) fn embedded(text: PendingText, result: Result<Vec<f32>, String>) -> EmbeddedNode {
    EmbeddedNode { scope: text.scope, id: text.id, digest: text.digest, result }
}
