//! Settings of the embedding providers, already parsed and bounded by the caller.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Dimension of the vectors of every provider but the local one, unless set otherwise.
pub const DEFAULT_REMOTE_DIM: usize = 1536;
/// Most texts one OpenAI-compatible request may carry.
pub const MAX_OPENAI_BATCH: usize = 256;

/// A credential. It never shows in `Debug` output and is never serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a credential.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The credential itself; only for building a request.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether nothing but white space is in it.
    pub fn is_blank(&self) -> bool {
        self.0.trim().is_empty()
    }
}

impl From<String> for Secret {
    fn from(value: String) -> Self {
        Self(value)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Which provider embeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// The built-in static model, in process.
    Local,
    /// An OpenAI-compatible HTTP endpoint.
    OpenAi,
    /// MiniMax.
    MiniMax,
    /// Deterministic pseudo-random vectors, for tests only.
    Fake,
    /// No embedding.
    None,
}

impl ProviderKind {
    /// The value of the setting EMBEDDING_PROVIDER that selects it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::OpenAi => "openai",
            Self::MiniMax => "minimax",
            Self::Fake => "fake",
            Self::None => "none",
        }
    }
}

/// A value outside a closed list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {value:?}: allowed are {allowed}")]
pub struct UnknownValue {
    /// What kind of value was expected.
    pub what: &'static str,
    /// What was given.
    pub value: String,
    /// The allowed values, comma separated.
    pub allowed: &'static str,
}

impl FromStr for ProviderKind {
    type Err = UnknownValue;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "local" => Ok(Self::Local),
            "openai" => Ok(Self::OpenAi),
            "minimax" => Ok(Self::MiniMax),
            "fake" => Ok(Self::Fake),
            "none" => Ok(Self::None),
            _ => Err(UnknownValue {
                what: "embedding provider",
                value: value.to_owned(),
                allowed: "local, openai, minimax, fake, none",
            }),
        }
    }
}

/// How MiniMax encodes a text: its model is asymmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MiniMaxType {
    /// As a stored document.
    Db,
    /// As a question.
    Query,
}

impl MiniMaxType {
    /// The value of the request field `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Db => "db",
            Self::Query => "query",
        }
    }
}

impl FromStr for MiniMaxType {
    type Err = UnknownValue;

    fn from_str(value: &str) -> Result<Self, Self::Err> {
        match value {
            "db" => Ok(Self::Db),
            "query" => Ok(Self::Query),
            _ => Err(UnknownValue { what: "MiniMax embedding type", value: value.to_owned(), allowed: "db, query" }),
        }
    }
}

/// Settings of the OpenAI-compatible provider.
#[derive(Clone, Debug)]
pub struct OpenAiSettings {
    /// Address under which `/embeddings` lies; a query part is kept.
    pub base_url: String,
    /// Bearer credential (OPENAI_API_KEY).
    pub api_key: Option<Secret>,
    /// Model name sent with each request.
    pub model: String,
    /// Texts per request, 1 to [`MAX_OPENAI_BATCH`].
    pub batch_size: usize,
}

impl Default for OpenAiSettings {
    fn default() -> Self {
        Self {
            base_url: "https://api.openai.com/v1".to_owned(),
            api_key: None,
            model: "text-embedding-3-small".to_owned(),
            batch_size: 32,
        }
    }
}

/// Settings of the MiniMax provider.
#[derive(Clone, Debug)]
pub struct MiniMaxSettings {
    /// Full address of the embedding endpoint; the group id is added as `GroupId`.
    pub endpoint: String,
    /// Bearer credential (MINIMAX_API_KEY).
    pub api_key: Option<Secret>,
    /// Account group (MINIMAX_GROUP_ID).
    pub group_id: Option<String>,
    /// Model name sent with each request.
    pub model: String,
    /// Type of documents (MINIMAX_EMBED_TYPE); questions are always sent as `query`.
    pub document_type: MiniMaxType,
}

impl Default for MiniMaxSettings {
    fn default() -> Self {
        Self {
            endpoint: "https://api.minimax.chat/v1/embeddings".to_owned(),
            api_key: None,
            group_id: None,
            model: "embo-01".to_owned(),
            document_type: MiniMaxType::Db,
        }
    }
}

/// How remote providers are called.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// Limit of one attempt, from sending to the last byte of the answer.
    pub timeout: Duration,
    /// Attempts after the first one.
    pub max_retries: u32,
    /// First pause between attempts; it doubles with each, plus a random part below this value.
    pub base_delay: Duration,
    /// Longest pause between attempts, before the random part. A provider that wants a longer one ends the call.
    pub max_delay: Duration,
    /// Attempts in flight at once.
    pub max_concurrency: usize,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(10_000),
            max_retries: 2,
            base_delay: Duration::from_millis(250),
            max_delay: Duration::from_millis(5_000),
            max_concurrency: 8,
        }
    }
}

/// Everything [`crate::build`] needs.
#[derive(Clone, Debug)]
pub struct EmbedSettings {
    /// Which provider to build.
    pub provider: ProviderKind,
    /// Folder with the files of the local model.
    pub model_dir: PathBuf,
    /// Dimension given explicitly; `None` takes the provider's own.
    pub dim: Option<usize>,
    /// OpenAI-compatible provider.
    pub openai: OpenAiSettings,
    /// MiniMax provider.
    pub minimax: MiniMaxSettings,
    /// Calls of remote providers.
    pub http: HttpSettings,
    /// Whether this is a production server, where [`ProviderKind::Fake`] is refused.
    pub production: bool,
}

impl EmbedSettings {
    /// Default settings for `provider`, with the local model in `model_dir`, outside production.
    pub fn new(provider: ProviderKind, model_dir: impl Into<PathBuf>) -> Self {
        Self {
            provider,
            model_dir: model_dir.into(),
            dim: None,
            openai: OpenAiSettings::default(),
            minimax: MiniMaxSettings::default(),
            http: HttpSettings::default(),
            production: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_names_round_trip_and_unknown_names_list_the_allowed() {
        for kind in
            [ProviderKind::Local, ProviderKind::OpenAi, ProviderKind::MiniMax, ProviderKind::Fake, ProviderKind::None]
        {
            assert_eq!(kind.as_str().parse::<ProviderKind>(), Ok(kind));
        }
        let error = "OpenAI".parse::<ProviderKind>().unwrap_err().to_string();
        assert_eq!(error, "unknown embedding provider \"OpenAI\": allowed are local, openai, minimax, fake, none");
        assert_eq!("query".parse::<MiniMaxType>(), Ok(MiniMaxType::Query));
        assert!("".parse::<MiniMaxType>().is_err());
    }

    #[test]
    fn debug_output_holds_no_credential() {
        let mut settings = EmbedSettings::new(ProviderKind::OpenAi, "models");
        settings.openai.api_key = Some(Secret::new("sk-very-secret"));
        settings.minimax.api_key = Some(Secret::new("mm-very-secret"));
        let text = format!("{settings:?}");
        assert!(!text.contains("very-secret") && text.contains("redacted"));
    }
}
