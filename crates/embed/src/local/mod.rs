//! The built-in provider: static token vectors, averaged. Pure Rust, no network, microseconds per short text.
//!
//! Encoding follows the Python package model2vec: tokenize without special tokens, keep the first 512 tokens, drop
//! unknown ones, take the mean of their rows, scale to length 1. The matrix is held in half precision (half the
//! memory; the direction of a vector changes by less than 1e-6 in cosine).

mod matrix;
mod tokens;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aionis_core::ports::embed::{EmbedError, EmbedErrorKind, EmbedPurpose, Embedder};
use async_trait::async_trait;

use crate::model_files::{MODEL_FILE, TOKENIZER_FILE};
use matrix::Matrix;
use tokens::Tokens;

/// Texts per call.
const BATCH_SIZE: usize = 256;

/// Dimension of the pinned model's vectors.
pub const LOCAL_MODEL_DIM: usize = 256;
/// Up to this many texts and bytes, a call runs on the caller's thread; above, on a blocking thread.
const INLINE_TEXTS: usize = 64;
const INLINE_BYTES: usize = 32 << 10;

/// The files of a local model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalModelError {
    /// A file cannot be read.
    #[error("cannot read the model file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file was read but does not hold what is needed.
    #[error("cannot use the model file {}: {reason}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl LocalModelError {
    fn read(path: &Path, source: std::io::Error) -> Self {
        Self::Read { path: path.to_owned(), source }
    }

    fn unsupported(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), reason: reason.into() }
    }
}

/// Tokenizer, matrix and the vector of texts without a known token.
struct StaticModel {
    tokens: Tokens,
    matrix: Matrix,
    fallback: Vec<f32>,
}

impl StaticModel {
    fn load(dir: &Path) -> Result<Self, LocalModelError> {
        let tokens = Tokens::load(&dir.join(TOKENIZER_FILE))?;
        let matrix = Matrix::load(&dir.join(MODEL_FILE))?;
        if tokens.id_limit() > matrix.rows() {
            return Err(LocalModelError::unsupported(
                &dir.join(TOKENIZER_FILE),
                format!("its ids reach {}, the matrix has {} rows", tokens.id_limit(), matrix.rows()),
            ));
        }
        let fallback = matrix.unit_mean(tokens.unknown().into_iter()).ok_or_else(|| {
            LocalModelError::unsupported(&dir.join(TOKENIZER_FILE), "it has no unknown token with a row of its own")
        })?;
        Ok(Self { tokens, matrix, fallback })
    }

    fn embed(&self, text: &str) -> Option<Vec<f32>> {
        match self.tokens.known_ids(text) {
            Ok(ids) => self.matrix.unit_mean(ids),
            Err(_) => {
                // The error may quote the text, which must not reach the log.
                tracing::warn!(
                    bytes = text.len(),
                    "the tokenizer refused a text; it counts as a text without known tokens"
                );
                None
            }
        }
    }

    fn embed_or_fallback(&self, texts: &[String]) -> Vec<Vec<f32>> {
        texts.iter().map(|text| self.embed(text).unwrap_or_else(|| self.fallback.clone())).collect()
    }
}

/// The provider `local:<model>`.
#[derive(Clone)]
pub struct LocalEmbedder {
    name: String,
    model: Arc<StaticModel>,
}

impl std::fmt::Debug for LocalEmbedder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalEmbedder").field("name", &self.name).field("dim", &self.model.matrix.dim()).finish()
    }
}

impl LocalEmbedder {
    /// Loads `model.safetensors` and `tokenizer.json` from `dir` as the model `model_name`. Digests are not checked
    /// here; see [`crate::model_files::verify_dir`].
    ///
    /// # Errors
    /// [`LocalModelError`] when a file is missing or unfit.
    pub fn load(dir: &Path, model_name: &str) -> Result<Self, LocalModelError> {
        Ok(Self { name: format!("local:{model_name}"), model: Arc::new(StaticModel::load(dir)?) })
    }

    /// Embeds each text on its own: `None` for a text without any known token, a unit vector otherwise.
    /// [`Embedder::embed`] gives such texts the vector of the unknown token instead.
    pub fn embed_each(&self, texts: &[String]) -> Vec<Option<Vec<f32>>> {
        texts.iter().map(|text| self.model.embed(text)).collect()
    }
}

#[async_trait]
impl Embedder for LocalEmbedder {
    fn name(&self) -> &str {
        &self.name
    }

    fn dim(&self) -> usize {
        self.model.matrix.dim()
    }

    fn batch_size(&self) -> usize {
        BATCH_SIZE
    }

    fn is_local(&self) -> bool {
        true
    }

    /// Never fails because of a text: one without any known token (the empty text, for example) gets the unit vector
    /// of the unknown token, so that every stored vector has a direction and one odd text does not fail its batch.
    async fn embed(&self, texts: &[String], _purpose: EmbedPurpose) -> Result<Vec<Vec<f32>>, EmbedError> {
        if texts.len() <= INLINE_TEXTS && texts.iter().map(String::len).sum::<usize>() <= INLINE_BYTES {
            return Ok(self.model.embed_or_fallback(texts));
        }
        let model = Arc::clone(&self.model);
        let texts = texts.to_vec();
        let held = aionis_core::held::share();
        let work = move || {
            // Nothing ends it once it has begun: the place of its request is taken until then.
            let _held = held;
            model.embed_or_fallback(&texts)
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            EmbedError::new(EmbedErrorKind::Unavailable, format!("the embedding task ended early: {error}"))
        })
    }
}
