//! Settings: one struct per concern, each field a flag and an environment variable with its default and bounds.

mod admission;
mod auth;
pub(crate) mod catalog;
mod connections;
mod decay;
pub(crate) mod env_file;
pub(crate) mod environment;
mod jobs;
mod recall;
pub(crate) mod retention;
pub(crate) mod retired;
pub(crate) mod telemetry;
pub(crate) mod topics;

use std::{net::IpAddr, path::PathBuf, time::Duration};

use aionis_api::{ApiSettings, Auth, AuthMode, CorsOrigins};
use aionis_core::ids::TenantId;
use aionis_embed::{
    cached::{BatchSettings, CacheSettings, QuerySettings},
    settings::{EmbedSettings, MiniMaxType, ProviderKind, Secret},
};
use aionis_engine::WriteLimits;
use clap::Args;

pub(crate) use self::decay::{DecaySettings, FadingSettings};
pub(crate) use self::telemetry::{LogFormat, LogSettings, TelemetrySettings};
use self::{
    admission::{GateArgs, LimitArgs},
    auth::AuthArgs,
    connections::ConnectionArgs,
    jobs::JobSettings,
    recall::RecallSettings,
    topics::DerivedSettings,
};
use crate::failure::Failure;

pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// Which deployment this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AppEnv {
    Dev,
    Ci,
    Prod,
}

/// How nearest vectors are found on PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum VectorSearchKind {
    /// Short codes in the image of the scope, scored again from the stored vectors.
    Codes,
    /// An HNSW index in the database.
    Hnsw,
}

/// Where data lives.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Storage")]
pub(crate) struct StorageSettings {
    /// Directory of the embedded database, its lock and the model.
    #[arg(long, env = "AIONIS_DATA_DIR", default_value = "./aionis-data")]
    pub(crate) data_dir: PathBuf,
    /// Reading connections.
    #[arg(long, env = "AIONIS_READERS", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) readers: u16,
    /// Writes folded into one transaction at most.
    #[arg(long, env = "AIONIS_WRITE_GROUP_MAX", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) write_group_max: u16,
    /// Memory for scope images, in MiB.
    #[arg(long, env = "AIONIS_IMAGE_CACHE_MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(16..=1_048_576))]
    pub(crate) image_cache_mib: u32,
    /// Vectors of one scope from which on they get an index; 0 for never, so that every search looks at all of them.
    #[arg(long, env = "AIONIS_VECTOR_INDEX_FROM", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub(crate) vector_index_from: u32,
    /// Address of a PostgreSQL database with pgvector; unset for the embedded engine.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub(crate) database_url: SecretArg,
    /// How PostgreSQL finds nearest vectors: by codes in memory, or by an HNSW index in the database.
    #[arg(long, env = "AIONIS_VECTOR_SEARCH", value_enum, default_value_t = VectorSearchKind::Codes)]
    pub(crate) vector_search: VectorSearchKind,
    /// Connections to PostgreSQL.
    #[arg(long, env = "DB_POOL_MAX", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=1000))]
    pub(crate) db_pool_max: u32,
    /// Longest wait for a connection to PostgreSQL.
    #[arg(long, env = "DB_POOL_CONNECTION_TIMEOUT_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(crate) db_acquire_timeout_ms: u64,
    /// Longest time of one statement in PostgreSQL.
    #[arg(long, env = "AIONIS_DB_STATEMENT_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..=3_600_000))]
    pub(crate) db_statement_timeout_ms: u64,
}

/// Which embeddings.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Embeddings")]
pub(crate) struct EmbeddingSettings {
    /// local, openai, minimax, fake or none.
    #[arg(long, env = "EMBEDDING_PROVIDER", default_value = "local")]
    pub(crate) embedding_provider: ProviderKind,
    /// Directory of the built-in model's files [default: models/potion-base-8M in the data directory].
    #[arg(long, env = "AIONIS_MODEL_DIR")]
    pub(crate) model_dir: Option<PathBuf>,
    /// Dimension of vectors, where the provider lets one choose.
    #[arg(long, env = "EMBEDDING_DIM", value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub(crate) embedding_dim: Option<u32>,
    /// Base address of an OpenAI-compatible service.
    #[arg(long, env = "OPENAI_BASE_URL")]
    pub(crate) openai_base_url: Option<String>,
    /// Key of the OpenAI-compatible service.
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub(crate) openai_api_key: SecretArg,
    /// Model of the OpenAI-compatible service.
    #[arg(long, env = "OPENAI_EMBEDDING_MODEL", default_value = "text-embedding-3-small")]
    pub(crate) openai_embedding_model: String,
    /// Texts per request to the OpenAI-compatible service.
    #[arg(long, env = "OPENAI_EMBED_BATCH_SIZE", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) openai_embed_batch_size: u16,
    /// Key of MiniMax.
    #[arg(long, env = "MINIMAX_API_KEY", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub(crate) minimax_api_key: SecretArg,
    /// Group of MiniMax.
    #[arg(long, env = "MINIMAX_GROUP_ID", default_value = "")]
    pub(crate) minimax_group_id: String,
    /// Model of MiniMax.
    #[arg(long, env = "MINIMAX_EMBED_MODEL", default_value = "embo-01")]
    pub(crate) minimax_embed_model: String,
    /// How MiniMax encodes documents: db or query.
    #[arg(long, env = "MINIMAX_EMBED_TYPE", default_value = "db")]
    pub(crate) minimax_embed_type: MiniMaxType,
    /// Address of MiniMax.
    #[arg(long, env = "MINIMAX_EMBED_ENDPOINT")]
    pub(crate) minimax_embed_endpoint: Option<String>,
    /// Time for one provider request, in ms.
    #[arg(long, env = "EMBED_HTTP_TIMEOUT_MS", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) embed_http_timeout_ms: u64,
    /// Repetitions of a failed provider request.
    #[arg(long, env = "EMBED_HTTP_MAX_RETRIES", default_value_t = 2, value_parser = clap::value_parser!(u32).range(0..=10))]
    pub(crate) embed_http_max_retries: u32,
    /// First pause between repetitions, in ms.
    #[arg(long, env = "EMBED_HTTP_BASE_DELAY_MS", default_value_t = 250, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) embed_http_base_delay_ms: u64,
    /// Longest pause between repetitions, in ms.
    #[arg(long, env = "EMBED_HTTP_MAX_DELAY_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub(crate) embed_http_max_delay_ms: u64,
    /// Provider requests at once.
    #[arg(long, env = "EMBED_HTTP_MAX_CONCURRENCY", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=128))]
    pub(crate) embed_http_max_concurrency: u16,
}

/// A secret on the command line or in the environment; never shown.
#[derive(Clone)]
pub(crate) struct SecretArg(pub(crate) String);

impl SecretArg {
    fn secret(&self) -> Option<Secret> {
        (!self.0.trim().is_empty()).then(|| Secret::new(self.0.clone()))
    }
}

impl std::fmt::Debug for SecretArg {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "unset" } else { "set" })
    }
}

impl std::str::FromStr for SecretArg {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// How memory is written and recalled.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Memory, recall and admission")]
pub(crate) struct MemorySettings {
    /// dev, ci or prod; prod refuses unsafe settings.
    #[arg(long, env = "APP_ENV", value_enum, default_value = "dev")]
    pub(crate) app_env: AppEnv,
    /// Tenant of requests that name none.
    #[arg(long, env = "MEMORY_TENANT_ID", default_value = "default")]
    pub(crate) memory_tenant_id: String,
    /// Scope of requests that name none.
    #[arg(long, env = "MEMORY_SCOPE", default_value = "default")]
    pub(crate) memory_scope: String,
    /// Replace e-mail addresses, phone numbers, IP addresses and social security numbers by tokens.
    #[arg(long, env = "PII_REDACTION", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) pii_redaction: bool,
    /// Longest text, in UTF-16 units.
    #[arg(long, env = "MAX_TEXT_LEN", default_value_t = 8_000, value_parser = clap::value_parser!(u32).range(16..=1_000_000))]
    pub(crate) max_text_len: u32,
    /// Nodes per write.
    #[arg(long, env = "MEMORY_WRITE_MAX_NODES", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) memory_write_max_nodes: u32,
    /// Edges per write.
    #[arg(long, env = "MEMORY_WRITE_MAX_EDGES", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=400_000))]
    pub(crate) memory_write_max_edges: u32,
    /// Keep vectors of questions.
    #[arg(long, env = "RECALL_TEXT_EMBED_CACHE_ENABLED", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) recall_text_embed_cache_enabled: bool,
    /// Vectors of questions that are kept at most.
    #[arg(long, env = "RECALL_TEXT_EMBED_CACHE_MAX_KEYS", default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub(crate) recall_text_embed_cache_max_keys: u32,
    /// How long vectors of questions are kept, in ms.
    #[arg(long, env = "RECALL_TEXT_EMBED_CACHE_TTL_MS", default_value_t = 600_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) recall_text_embed_cache_ttl_ms: u64,
    /// Embed questions that arrive together in one request.
    #[arg(long, env = "RECALL_TEXT_EMBED_BATCH_ENABLED", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) recall_text_embed_batch_enabled: bool,
    /// Questions per request to the provider at most.
    #[arg(long, env = "RECALL_TEXT_EMBED_BATCH_MAX_SIZE", default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) recall_text_embed_batch_max_size: u16,
    /// How long the first question of a request to the provider waits for others, in ms.
    #[arg(long, env = "RECALL_TEXT_EMBED_BATCH_MAX_WAIT_MS", default_value_t = 8, value_parser = clap::value_parser!(u64).range(0..=100))]
    pub(crate) recall_text_embed_batch_max_wait_ms: u64,
    /// Requests for question vectors at once.
    #[arg(long, env = "RECALL_TEXT_EMBED_BATCH_MAX_INFLIGHT", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) recall_text_embed_batch_max_inflight: u16,
    /// Questions that may wait for their vector.
    #[arg(long, env = "RECALL_TEXT_EMBED_BATCH_QUEUE_MAX", default_value_t = 12_000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    pub(crate) recall_text_embed_batch_queue_max: u32,
    /// How long a question may wait until it is sent to the provider, in ms.
    #[arg(long, env = "RECALL_TEXT_EMBED_BATCH_QUEUE_TIMEOUT_MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) recall_text_embed_batch_queue_timeout_ms: u64,
}

/// How work is derived.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Outbox worker")]
pub(crate) struct OutboxSettings {
    /// Longest sleep of an idle worker, in ms.
    #[arg(long, env = "OUTBOX_POLL_INTERVAL_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub(crate) outbox_poll_interval_ms: u64,
    /// Items claimed at once.
    #[arg(long, env = "OUTBOX_BATCH_SIZE", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub(crate) outbox_batch_size: u16,
    /// How long a claim holds unless it is extended, in ms.
    #[arg(long, env = "OUTBOX_CLAIM_TIMEOUT_MS", default_value_t = 60_000, value_parser = clap::value_parser!(u64).range(100..=3_600_000))]
    pub(crate) outbox_claim_timeout_ms: u64,
    /// Claims of one item before it is given up.
    #[arg(long, env = "OUTBOX_MAX_ATTEMPTS", default_value_t = 25, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) outbox_max_attempts: u32,
}

/// How the service listens.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "HTTP service")]
pub(crate) struct HttpSettings {
    /// Address to listen on.
    #[arg(long, env = "HOST", default_value = "127.0.0.1")]
    pub(crate) host: IpAddr,
    /// Port to listen on; 0 takes a free one.
    #[arg(long, env = "PORT", default_value_t = 3001)]
    pub(crate) port: u16,
    /// Write the port listened on to this file.
    #[arg(long)]
    pub(crate) port_file: Option<PathBuf>,
    /// Allow an address other machines can reach although nothing authenticates them.
    #[arg(long)]
    pub(crate) dev: bool,
    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    #[command(flatten)]
    pub(crate) connections: ConnectionArgs,
    /// Origins that browsers may call from, comma separated [default: *; none with MEMORY_AUTH_MODE=off].
    #[arg(long, env = "CORS_ALLOW_ORIGINS")]
    pub(crate) cors_allow_origins: Option<String>,
    /// Token that allows debugging embeddings.
    #[arg(long, env = "ADMIN_TOKEN", hide_env_values = true, default_value = "", hide_default_value = true)]
    pub(crate) admin_token: SecretArg,
    /// Longest time a request may take, in ms.
    #[arg(long, env = "API_REQUEST_TIMEOUT_MS", default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(10..=600_000))]
    pub(crate) api_request_timeout_ms: u64,
    /// Age of the oldest outbox item above which the service is not ready, in s.
    #[arg(long, env = "READY_OUTBOX_AGE_MAX_S", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) ready_outbox_age_max_s: u64,
    #[command(flatten)]
    pub(crate) auth: AuthArgs,
}

/// Everything the service needs.
#[derive(Clone, Debug, Args)]
pub(crate) struct Settings {
    #[command(flatten)]
    pub(crate) storage: StorageSettings,
    #[command(flatten)]
    pub(crate) embedding: EmbeddingSettings,
    #[command(flatten)]
    pub(crate) memory: MemorySettings,
    #[command(flatten)]
    pub(crate) recall: RecallSettings,
    #[command(flatten)]
    pub(crate) gates: GateArgs,
    #[command(flatten)]
    pub(crate) outbox: OutboxSettings,
    #[command(flatten)]
    pub(crate) jobs: JobSettings,
    #[command(flatten)]
    pub(crate) derived: DerivedSettings,
    #[command(flatten)]
    pub(crate) decay: DecaySettings,
    #[command(flatten)]
    pub(crate) telemetry: TelemetrySettings,
}

impl StorageSettings {
    /// Refuses a database that this version cannot use, before another one is used in its place.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let url = &self.database_url.0;
        if url.is_empty() || url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(());
        }
        Err(Failure::new("DATABASE_URL must begin with postgres:// or postgresql://; unset it for the embedded engine"))
    }
}

impl StorageSettings {
    /// Keys that are looked up at once: a quarter of the connections that read, so that a flood of unknown keys leaves the
    /// others to requests.
    pub(crate) fn key_lookups_max(&self) -> usize {
        let connections = if self.database_url.0.is_empty() { u32::from(self.readers) } else { self.db_pool_max };
        (connections as usize / 4).max(1)
    }

    /// Whether there may be a database; of the embedded one it is known.
    fn may_be_there(&self) -> bool {
        !self.database_url.0.is_empty() || self.data_dir.join(aionis_store::sqlite::DATABASE_FILE).exists()
    }
}

impl EmbeddingSettings {
    /// The directory of the model's files.
    pub(crate) fn model_dir(&self, data_dir: &std::path::Path) -> PathBuf {
        self.model_dir
            .clone()
            .unwrap_or_else(|| data_dir.join("models").join(aionis_embed::model_files::LOCAL_MODEL.name))
    }

    /// Whether the settings allow the provider they name. The built-in model's files are not looked at: that takes long.
    fn check(&self, all: &Settings) -> Result<(), Failure> {
        if self.embedding_provider == ProviderKind::Local {
            return Ok(());
        }
        let settings = self.to_embed(&all.storage.data_dir, all.memory.is_production());
        aionis_embed::build(&settings).map(|_| ()).map_err(Failure::from)
    }

    /// As the embedding crate takes them.
    pub(crate) fn to_embed(&self, data_dir: &std::path::Path, production: bool) -> EmbedSettings {
        let ms = Duration::from_millis;
        let mut settings = EmbedSettings::new(self.embedding_provider, self.model_dir(data_dir));
        settings.production = production;
        settings.dim = self.embedding_dim.map(|dim| dim as usize);
        if let Some(base_url) = &self.openai_base_url {
            settings.openai.base_url.clone_from(base_url);
        }
        settings.openai.api_key = self.openai_api_key.secret();
        settings.openai.model.clone_from(&self.openai_embedding_model);
        settings.openai.batch_size = usize::from(self.openai_embed_batch_size);
        settings.minimax.api_key = self.minimax_api_key.secret();
        settings.minimax.group_id = (!self.minimax_group_id.trim().is_empty()).then(|| self.minimax_group_id.clone());
        settings.minimax.model.clone_from(&self.minimax_embed_model);
        settings.minimax.document_type = self.minimax_embed_type;
        if let Some(endpoint) = &self.minimax_embed_endpoint {
            settings.minimax.endpoint.clone_from(endpoint);
        }
        settings.http.timeout = ms(self.embed_http_timeout_ms);
        settings.http.max_retries = self.embed_http_max_retries;
        settings.http.base_delay = ms(self.embed_http_base_delay_ms);
        settings.http.max_delay = ms(self.embed_http_max_delay_ms);
        settings.http.max_concurrency = usize::from(self.embed_http_max_concurrency);
        settings
    }
}

impl MemorySettings {
    pub(crate) fn is_production(&self) -> bool {
        self.app_env == AppEnv::Prod
    }

    pub(crate) const fn write_limits(&self) -> WriteLimits {
        WriteLimits { nodes_max: self.memory_write_max_nodes as usize, edges_max: self.memory_write_max_edges as usize }
    }

    pub(crate) fn query_settings(&self) -> QuerySettings {
        let cache = self.recall_text_embed_cache_enabled.then(|| CacheSettings {
            max_keys: self.recall_text_embed_cache_max_keys as usize,
            ttl: Duration::from_millis(self.recall_text_embed_cache_ttl_ms),
        });
        let batch = self.recall_text_embed_batch_enabled.then(|| BatchSettings {
            max_size: usize::from(self.recall_text_embed_batch_max_size),
            max_wait: Duration::from_millis(self.recall_text_embed_batch_max_wait_ms),
            max_inflight: usize::from(self.recall_text_embed_batch_max_inflight),
            max_queue: self.recall_text_embed_batch_queue_max as usize,
            queue_timeout: Duration::from_millis(self.recall_text_embed_batch_queue_timeout_ms),
        });
        QuerySettings { cache, batch }
    }
}

impl HttpSettings {
    /// Refuses credentials that cannot be used, and an address that other machines reach when nobody is asked for any.
    pub(crate) fn check(&self, settings: &Settings) -> Result<Auth, Failure> {
        let memory = &settings.memory;
        self.limits.check(memory.is_production())?;
        let auth = self.auth.build(memory.is_production(), settings.storage.may_be_there())?;
        if auth.mode() != AuthMode::Off {
            return Ok(auth);
        }
        if memory.is_production() {
            return Err(Failure::new(
                "MEMORY_AUTH_MODE=off is refused in production; set api_key, jwt or api_key_or_jwt",
            ));
        }
        if self.host.is_loopback() || self.dev {
            return Ok(auth);
        }
        Err(Failure::new(format!(
            "HOST={} can be reached from other machines and nothing authenticates them: set MEMORY_AUTH_MODE, listen on \
             127.0.0.1, or pass --dev to accept that anyone who reaches the port reads and writes everything",
            self.host
        )))
    }

    /// Origins that browsers may call from. Where nobody is authenticated there are none unless they are named: any page
    /// could read and write the memory of whoever looks at it.
    fn cors(&self) -> CorsOrigins {
        match &self.cors_allow_origins {
            Some(list) => CorsOrigins::parse(list),
            None if self.auth.mode() == AuthMode::Off => CorsOrigins::Listed(Vec::new()),
            None => CorsOrigins::Any,
        }
    }

    pub(crate) fn api(
        &self,
        memory: &MemorySettings,
        telemetry: &TelemetrySettings,
        auth: Auth,
    ) -> Result<ApiSettings, Failure> {
        self.connections.apply(ApiSettings {
            auth,
            default_tenant: memory.memory_tenant_id.clone(),
            default_scope: memory.memory_scope.clone(),
            request_timeout: Duration::from_millis(self.api_request_timeout_ms),
            cors: self.cors(),
            admin_token: (!self.admin_token.0.is_empty()).then(|| self.admin_token.0.clone()),
            loopback_may_debug: !memory.is_production(),
            trusted_proxies: self.limits.trusted_proxies()?,
            bypass_loopback: self.limits.bypass_loopback(memory.is_production()),
            slow_request: telemetry.slow_request(),
            ..ApiSettings::default()
        })
    }
}

impl Settings {
    /// Checks what no single field shows; every problem is one line.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let mut problems = Vec::new();
        if TenantId::parse(&self.memory.memory_tenant_id).is_err() {
            problems.push("MEMORY_TENANT_ID must match ^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$".to_owned());
        }
        if self.memory.memory_scope.trim().is_empty() {
            problems.push("MEMORY_SCOPE must not be blank".to_owned());
        }
        if let Err(problem) = self.storage.check() {
            problems.push(problem.to_string());
        }
        problems.extend(self.gates.problem(&self.storage));
        problems.extend(self.recall.profiles().err());
        problems.extend(self.recall.adaptive().err());
        problems.extend(self.recall.adaptive_wait_problem(self.gates.api_recall_queue_timeout_ms));
        problems.extend(self.telemetry.problems());
        problems.extend(self.jobs.problem());
        problems.extend(self.decay.problem());
        if self.memory.is_production() {
            problems.extend(environment::unknown().iter().map(ToString::to_string));
        }
        Failure::unless_empty(problems)
    }

    /// Checks everything that can be checked before anything is opened, and reports all problems together.
    pub(crate) fn check_with(&self, http: &HttpSettings) -> Result<Auth, Failure> {
        let (own, provider) = (self.check(), self.embedding.check(self));
        match (own, http.check(self), provider) {
            (Ok(()), Ok(auth), Ok(())) => Ok(auth),
            (own, auth, provider) => Err(Failure::all([own.err(), auth.err(), provider.err()].into_iter().flatten())),
        }
    }
}
