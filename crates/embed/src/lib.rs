//! Embedding providers behind the port [`aionis_core::ports::embed::Embedder`]: the built-in static model, an
//! OpenAI-compatible endpoint, MiniMax and a deterministic one for tests; further a cache with batching for questions
//! ([`cached`]) and the files of the built-in model ([`model_files`]).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cached;
pub mod fake;
mod http;
pub mod local;
mod minimax;
pub mod model_files;
mod openai;
mod preview;
mod remote;
pub mod settings;

#[cfg(test)]
mod http_tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use aionis_core::ports::embed::Embedder;

pub use http::install_crypto;

use fake::FakeEmbedder;
use local::{LocalEmbedder, LocalModelError};
use minimax::MiniMaxEmbedder;
use model_files::{LOCAL_MODEL, ModelFileError, ModelStatus, verify_dir};
use openai::OpenAiEmbedder;
use settings::{DEFAULT_REMOTE_DIM, EmbedSettings, ProviderKind};

/// What the settings ask for.
#[derive(Clone)]
pub enum Provider {
    /// A provider that embeds.
    Ready(Arc<dyn Embedder>),
    /// Embedding is switched off.
    Disabled,
    /// The local model is wanted but not installed in `dir`; `aionis model pull` installs it.
    ModelMissing {
        /// Where it was looked for.
        dir: PathBuf,
    },
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready(embedder) => f.debug_tuple("Ready").field(&embedder.name()).finish(),
            Self::Disabled => f.write_str("Disabled"),
            Self::ModelMissing { dir } => f.debug_struct("ModelMissing").field("dir", dir).finish(),
        }
    }
}

/// The settings do not allow a provider.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Meaningless vectors on a production server.
    #[error(
        "EMBEDDING_PROVIDER=fake gives meaningless vectors and is refused in production: \
         set EMBEDDING_PROVIDER to local, openai or minimax, or to none to do without embeddings"
    )]
    FakeInProduction,
    /// A setting the provider cannot do without.
    #[error("EMBEDDING_PROVIDER={provider} needs {variable}: set it, or choose another provider")]
    MissingSetting {
        /// The provider.
        provider: &'static str,
        /// The environment variable.
        variable: &'static str,
    },
    /// A setting with an unusable value.
    #[error("{setting} is not usable: {reason}")]
    InvalidSetting {
        /// The setting.
        setting: &'static str,
        /// Why.
        reason: String,
    },
    /// The HTTP client cannot be made.
    #[error("the HTTP client cannot be set up: {0}")]
    HttpClient(String),
    /// A file of the local model is not the pinned one.
    #[error(
        "the model file {} is damaged (expected {expected}, found {found}): run `aionis model pull` to replace it",
        path.display()
    )]
    CorruptModel {
        /// The file.
        path: PathBuf,
        /// Pinned size or digest.
        expected: String,
        /// What was found.
        found: String,
    },
    /// The files of the local model cannot be read.
    #[error("{0}: make it readable, or run `aionis model pull` to replace it")]
    UnreadableModel(#[from] ModelFileError),
    /// The local model cannot be loaded.
    #[error("{0}: run `aionis model pull` to replace it")]
    UnusableModel(#[from] LocalModelError),
}

impl BuildError {
    fn invalid(setting: &'static str, reason: impl Into<String>) -> Self {
        Self::InvalidSetting { setting, reason: reason.into() }
    }
}

/// Makes the provider that `settings` ask for. Reads the model files when it is the local one, so it belongs at the
/// start of the process, not on a request path. Remote providers are not contacted.
///
/// # Errors
/// [`BuildError`] when a setting is missing or unusable, or when the local model is damaged. A local model that is not
/// installed is no error but [`Provider::ModelMissing`].
pub fn build(settings: &EmbedSettings) -> Result<Provider, BuildError> {
    if settings.dim == Some(0) {
        return Err(BuildError::invalid("EMBEDDING_DIM", "it must be positive"));
    }
    match settings.provider {
        ProviderKind::None => Ok(Provider::Disabled),
        ProviderKind::Fake if settings.production => Err(BuildError::FakeInProduction),
        ProviderKind::Fake => {
            Ok(Provider::Ready(Arc::new(FakeEmbedder::new(settings.dim.unwrap_or(DEFAULT_REMOTE_DIM)))))
        }
        ProviderKind::OpenAi => Ok(Provider::Ready(Arc::new(OpenAiEmbedder::new(settings)?))),
        ProviderKind::MiniMax => Ok(Provider::Ready(Arc::new(MiniMaxEmbedder::new(settings)?))),
        ProviderKind::Local => build_local(settings),
    }
}

fn build_local(settings: &EmbedSettings) -> Result<Provider, BuildError> {
    let dir = &settings.model_dir;
    match verify_dir(dir)? {
        ModelStatus::Missing => return Ok(Provider::ModelMissing { dir: dir.clone() }),
        ModelStatus::Corrupt { file, expected, found } => {
            return Err(BuildError::CorruptModel { path: dir.join(file), expected, found });
        }
        ModelStatus::Valid => {}
    }
    let embedder = LocalEmbedder::load(dir, LOCAL_MODEL.name)?;
    match settings.dim {
        Some(dim) if dim != embedder.dim() => Err(BuildError::invalid(
            "EMBEDDING_DIM",
            format!("the local model has {} dimensions, not {dim}: unset it", embedder.dim()),
        )),
        _ => Ok(Provider::Ready(Arc::new(embedder))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_files::{MODEL_FILE, TOKENIZER_FILE};
    use crate::settings::Secret;

    fn settings(provider: ProviderKind) -> EmbedSettings {
        EmbedSettings::new(provider, "no-such-folder")
    }

    fn refusal(settings: &EmbedSettings) -> String {
        build(settings).unwrap_err().to_string()
    }

    fn ready(settings: &EmbedSettings) -> (String, usize, bool) {
        match build(settings) {
            Ok(Provider::Ready(embedder)) => (embedder.name().to_owned(), embedder.dim(), embedder.is_local()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fake_works_outside_production_only() {
        let mut settings = settings(ProviderKind::Fake);
        assert_eq!(ready(&settings), ("fake:deterministic".to_owned(), 1536, true));
        settings.dim = Some(8);
        assert_eq!(ready(&settings).1, 8);
        settings.production = true;
        assert!(refusal(&settings).contains("set EMBEDDING_PROVIDER to local"));
        settings.dim = Some(0);
        assert!(refusal(&settings).contains("EMBEDDING_DIM"));
    }

    #[test]
    fn remote_providers_name_the_missing_variable() {
        let mut openai = settings(ProviderKind::OpenAi);
        assert!(refusal(&openai).contains("OPENAI_API_KEY"));
        openai.openai.api_key = Some(Secret::new("  "));
        assert!(refusal(&openai).contains("OPENAI_API_KEY"));
        openai.openai.api_key = Some(Secret::new("key\n2"));
        assert!(refusal(&openai).contains("no HTTP header"));
        openai.openai.api_key = Some(Secret::new("key"));
        assert_eq!(ready(&openai), ("openai:text-embedding-3-small".to_owned(), 1536, false));
        openai.openai.batch_size = 257;
        assert!(refusal(&openai).contains("OPENAI_EMBED_BATCH_SIZE"));
        let mut minimax = settings(ProviderKind::MiniMax);
        assert!(refusal(&minimax).contains("MINIMAX_API_KEY"));
        minimax.minimax.api_key = Some(Secret::new("key"));
        assert!(refusal(&minimax).contains("MINIMAX_GROUP_ID"));
        minimax.minimax.group_id = Some("42".to_owned());
        assert_eq!(ready(&minimax), ("minimax:embo-01".to_owned(), 1536, false));
        minimax.minimax.endpoint = "minimax".to_owned();
        assert!(refusal(&minimax).contains("MINIMAX_EMBED_ENDPOINT"));
    }

    #[test]
    fn absent_local_model_is_no_error_but_a_damaged_one_is() {
        let dir = tempfile::tempdir().unwrap();
        let settings = EmbedSettings::new(ProviderKind::Local, dir.path());
        assert!(matches!(build(&settings), Ok(Provider::ModelMissing { dir: at }) if at == dir.path()));
        std::fs::write(dir.path().join(TOKENIZER_FILE), "{}").unwrap();
        std::fs::write(dir.path().join(MODEL_FILE), "cut").unwrap();
        let message = refusal(&settings);
        assert!(message.contains("tokenizer.json") && message.contains("aionis model pull"), "{message}");
        assert!(matches!(build(&self::settings(ProviderKind::None)), Ok(Provider::Disabled)));
    }
}
