//! Puts the parts together: the only place where adapters meet the engine.

use std::{sync::Arc, time::Duration};

use aionis_core::{
    clock::{Clock, SystemClock},
    jobs::consistency::{Asked, Mode, Thresholds},
    ports::{
        embed::Embedder,
        store::{RUN_LEASE, Store},
    },
    redact::Redactor,
    write::WriteSettings,
};
use aionis_embed::{Provider, cached::QueryEmbedder, local, settings::ProviderKind};
use aionis_engine::{
    CursorKey, Engine, EngineSettings, NoVectors, QuerySource,
    jobs::{
        CompressionRollup, ConsistencyCheck, Job, Retention, Runner, SalienceDecay, Scheduler, SchedulerSettings,
        TopicCluster,
    },
    worker::{Worker, WorkerSettings},
};
use aionis_store::{
    Deployment, EmbeddingSpace, StoreOptions,
    postgres::{PostgresOptions, VectorSearch},
    sqlite::{DATABASE_FILE, SqliteOptions},
};
use uuid::Uuid;

use crate::{
    failure::Failure,
    settings::{Settings, StorageSettings, VectorSearchKind},
};

/// Everything that runs, put together.
pub(crate) struct Parts {
    pub(crate) store: Arc<dyn Deployment>,
    pub(crate) engine: Arc<Engine>,
    pub(crate) embedder: Option<Arc<dyn Embedder>>,
    pub(crate) provider: Provider,
    pub(crate) clock: Arc<dyn Clock>,
}

/// Scopes a scheduler takes per job when it looks for what is due.
const SCOPES_PER_LOOK: usize = 200;
/// Rows of the audit queue.
const AUDIT_QUEUE_MAX: usize = 4_096;

/// Opens the store and builds provider and engine.
pub(crate) async fn open(settings: &Settings) -> Result<Parts, Failure> {
    settings.check()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let embed = settings.embedding.to_embed(&settings.storage.data_dir, settings.memory.is_production());
    let provider = tokio::task::spawn_blocking(move || aionis_embed::build(&embed))
        .await
        .map_err(|e| Failure::new(format!("the embedding provider could not be set up: {e}")))??;
    let store = open_store(settings, &provider, Arc::clone(&clock)).await?;
    let (embedder, queries): (_, QuerySource) = match &provider {
        Provider::Ready(embedder) => {
            let queries = QueryEmbedder::new(Arc::clone(embedder), settings.memory.query_settings());
            (Some(Arc::clone(embedder)), Ok(Arc::new(queries)))
        }
        Provider::Disabled => (None, Err(NoVectors::Disabled)),
        Provider::ModelMissing { .. } => (None, Err(NoVectors::ModelMissing)),
    };
    let engine_settings = EngineSettings {
        write: WriteSettings {
            default_tenant: settings.memory.memory_tenant_id.clone(),
            text_max_len: settings.memory.max_text_len as usize,
            redactor: redactor(settings, &*store).await?,
            embedding_dim: store.space().dim,
            can_embed: !matches!(queries, Err(NoVectors::Disabled)),
        },
        write_limits: settings.memory.write_limits(),
        profiles: settings.recall.profiles().map_err(Failure::new)?,
        adaptive: settings.recall.adaptive().map_err(Failure::new)?,
        recall_gate: settings.gates.recall_gate(&settings.storage),
        write_gate: settings.gates.write_gate(),
        commit_waiters_max: settings.gates.api_commit_waiters_max as usize,
        decay: settings.decay.policy().decay,
        recall_activates: settings.recall.recall_activates,
        audit_queue_max: AUDIT_QUEUE_MAX,
        as_of_nodes_max: settings.recall.as_of_nodes_max,
        cursor_key: cursor_key(&*store).await?,
    };
    let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
    let engine = Arc::new(Engine::new(shared, queries, engine_settings, Arc::clone(&clock)));
    Ok(Parts { store, engine, embedder, provider, clock })
}

/// Opens the store alone.
pub(crate) async fn open_store(
    settings: &Settings,
    provider: &Provider,
    clock: Arc<dyn Clock>,
) -> Result<Arc<dyn Deployment>, Failure> {
    let gates = &settings.gates;
    let queue_max = gates.api_write_max_inflight as usize + gates.api_write_queue_max as usize + 64;
    let fallback_dim = settings.embedding.embedding_dim.map(|dim| dim as usize);
    let mut options = store_options(&settings.storage);
    match &mut options {
        StoreOptions::Embedded(options) => {
            options.space = space(provider);
            options.fallback_dim = fallback_dim.unwrap_or(options.fallback_dim);
            options.write_queue_max = queue_max;
            options.outbox_attempts_max = settings.outbox.outbox_max_attempts;
            options.slow_statement = settings.telemetry.slow_statement();
        }
        StoreOptions::Postgres(options) => {
            options.space = space(provider);
            options.fallback_dim = fallback_dim.unwrap_or(options.fallback_dim);
            options.write_queue_max = queue_max;
            options.outbox_attempts_max = settings.outbox.outbox_max_attempts;
            options.slow_statement = settings.telemetry.slow_statement();
        }
    }
    Ok(aionis_store::open(&options, clock).await?)
}

/// Opens the store for an operator's command: there has to be one, and whatever embedding model it has is right.
pub(crate) async fn open_existing(storage: &StorageSettings) -> Result<Arc<dyn Deployment>, Failure> {
    storage.check()?;
    let options = store_options(storage).with_any_space();
    if let StoreOptions::Embedded(embedded) = &options {
        there_is_a_database(embedded)?;
    }
    Ok(aionis_store::open(&options, Arc::new(SystemClock)).await?)
}

/// Which store the settings name, without what depends on the embedding provider: PostgreSQL when `DATABASE_URL` is set,
/// else the embedded engine.
pub(crate) fn store_options(storage: &StorageSettings) -> StoreOptions {
    let image_bytes_max = storage.image_cache_mib as usize * 1024 * 1024;
    let url = &storage.database_url.0;
    if url.is_empty() {
        let mut options = SqliteOptions::new(&storage.data_dir);
        options.readers = usize::from(storage.readers);
        options.group_max = usize::from(storage.write_group_max);
        options.image_bytes_max = image_bytes_max;
        options.index_from = storage.vector_index_from as usize;
        return StoreOptions::Embedded(options);
    }
    let mut options = PostgresOptions::new(url);
    options.connections_max = storage.db_pool_max;
    options.acquire_timeout = Duration::from_millis(storage.db_acquire_timeout_ms);
    options.statement_timeout = Duration::from_millis(storage.db_statement_timeout_ms);
    options.group_max = usize::from(storage.write_group_max);
    options.image_bytes_max = image_bytes_max;
    options.vector_search = match storage.vector_search {
        VectorSearchKind::Codes => VectorSearch::Codes,
        VectorSearchKind::Hnsw => VectorSearch::Hnsw,
    };
    StoreOptions::Postgres(options)
}

/// The space of a provider's vectors; a missing model counts as the one that is to come.
fn space(provider: &Provider) -> Option<EmbeddingSpace> {
    match provider {
        Provider::Ready(embedder) => Some(EmbeddingSpace { name: embedder.name().to_owned(), dim: embedder.dim() }),
        Provider::ModelMissing { .. } => Some(EmbeddingSpace {
            name: format!("{}:{}", ProviderKind::Local.as_str(), aionis_embed::model_files::LOCAL_MODEL.name),
            dim: local::LOCAL_MODEL_DIM,
        }),
        Provider::Disabled => None,
    }
}

/// Where a database keeps what it is told apart by.
const DEPLOYMENT_ID: &str = "deployment_id";

/// What tells a database from others, for whoever has to know whether two processes use the same one. It is stored in the
/// database, made up when it is not there yet, so that it does not matter by which address a process gets there.
pub(crate) async fn identify(store: &dyn Deployment) -> Result<String, Failure> {
    Ok(target_hash(&store.meta_or_insert(DEPLOYMENT_ID, fresh_secret()).await?))
}

/// The same, of a database that nothing is written to; nothing if no server ever used it.
pub(crate) async fn identity(store: &dyn Deployment) -> Result<Option<String>, Failure> {
    Ok(store.meta(DEPLOYMENT_ID).await?.as_deref().map(target_hash))
}

/// What is shown of it: anybody may ask a server, and the id itself is nobody's business.
fn target_hash(id: &str) -> String {
    aionis_core::canon::sha256_hex(format!("aionis database {id}"))
}

/// Opens the store for a gate. A gate changes nothing: one whose schema, embedding space or codes of vectors are behind is
/// refused, where others would bring it up to date. Returns the newest step of the schema too.
pub(crate) async fn open_to_judge(storage: &StorageSettings) -> Result<(Arc<dyn Deployment>, String), Failure> {
    storage.check()?;
    let options = store_options(storage);
    if let StoreOptions::Embedded(embedded) = &options {
        there_is_a_database(embedded)?;
    }
    let report = aionis_store::migrate(&options, true, &SystemClock).await?;
    if let Some(missing) = report.applied_now.first() {
        return Err(Failure::new(format!("the database lacks migration {missing}; run `aionis migrate` first")));
    }
    let schema = report.applied_before.last().cloned().unwrap_or_default();
    let store = aionis_store::open(&options.taken_as_it_is(), Arc::new(SystemClock)).await?;
    Ok((store, schema))
}

fn there_is_a_database(embedded: &SqliteOptions) -> Result<(), Failure> {
    let path = embedded.data_dir.join(DATABASE_FILE);
    if path.exists() {
        return Ok(());
    }
    Err(Failure::new(format!("there is no database at {}; set AIONIS_DATA_DIR", path.display())))
}

/// As many random bits as two ids of version 4 hold.
fn fresh_secret() -> String {
    format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())
}

/// The store's own key, so that a cursor of one process is good in the others.
async fn cursor_key(store: &dyn Deployment) -> Result<CursorKey, Failure> {
    let secret = store.meta_or_insert("cursor_key", fresh_secret()).await?;
    Ok(CursorKey::of_secret(secret.as_bytes())?)
}

/// The redactor with the store's own key, so that tokens cannot be reversed by trying all phone numbers.
async fn redactor(settings: &Settings, store: &dyn Deployment) -> Result<Option<Redactor>, Failure> {
    if !settings.memory.pii_redaction {
        return Ok(None);
    }
    let key = store.meta_or_insert("redaction_key", fresh_secret()).await?;
    Ok(Some(Redactor::keyed(key.as_bytes())))
}

impl Parts {
    /// A worker over these parts, when there is a provider to work with.
    pub(crate) fn worker(&self, settings: &Settings) -> Option<Worker> {
        let embedder = self.embedder.clone()?;
        let outbox = &settings.outbox;
        let worker_settings = WorkerSettings {
            poll_interval: std::time::Duration::from_millis(outbox.outbox_poll_interval_ms),
            batch_size: usize::from(outbox.outbox_batch_size),
            lease: std::time::Duration::from_millis(outbox.outbox_claim_timeout_ms),
            attempts_max: outbox.outbox_max_attempts,
            step_max: step_max(settings),
            ..WorkerSettings::default()
        };
        let store: Arc<dyn Store> = Arc::clone(&self.store) as Arc<dyn Store>;
        Some(Worker::new(store, embedder, Arc::clone(&self.clock), worker_settings))
    }

    /// A scheduler of the periodic jobs, unless they are switched off.
    pub(crate) fn scheduler(&self, settings: &Settings) -> Option<Scheduler> {
        let jobs = settings.jobs.jobs_enabled.then(|| periodic(settings))?;
        let scheduler_settings = SchedulerSettings {
            holder: WorkerSettings::default().name,
            poll_interval: Duration::from_millis(settings.jobs.jobs_poll_interval_ms),
            scopes_max: SCOPES_PER_LOOK,
            lease: RUN_LEASE,
        };
        let runner = Runner::new(Arc::clone(&self.store) as _, Arc::clone(&self.clock));
        Some(Scheduler::new(runner, jobs, scheduler_settings))
    }
}

/// What one step of the outbox worker may take: a statement, or a call of the provider with all its repetitions, and a
/// minute more for a machine that is busy.
fn step_max(settings: &Settings) -> Duration {
    let (storage, embed) = (&settings.storage, &settings.embedding);
    let statement_ms = storage.db_acquire_timeout_ms + storage.db_statement_timeout_ms;
    let repetitions = u64::from(embed.embed_http_max_retries);
    let call_ms = embed.embed_http_timeout_ms * (repetitions + 1) + embed.embed_http_max_delay_ms * repetitions;
    Duration::from_millis(statement_ms.max(call_ms)) + Duration::from_secs(60)
}

/// The jobs that run by themselves, with their settings, but those that are switched off.
fn periodic(settings: &Settings) -> Vec<Arc<dyn Job>> {
    let tenant = settings.memory.memory_tenant_id.as_str();
    let can_embed = settings.embedding.embedding_provider != ProviderKind::None;
    let consistency = consistency(settings);
    let all: Vec<Arc<dyn Job>> = vec![
        Arc::new(CompressionRollup::new(settings.derived.compression.to_job(tenant, can_embed))),
        Arc::new(ConsistencyCheck::of_scopes(consistency.clone())),
        Arc::new(ConsistencyCheck::of_the_deployment(consistency)),
        Arc::new(Retention { days: settings.jobs.retention.days() }),
        Arc::new(SalienceDecay::new(settings.decay.policy())),
        Arc::new(TopicCluster::new(settings.derived.topics.to_job(tenant))),
    ];
    let disabled: Vec<&str> = settings.jobs.disabled().collect();
    all.into_iter().filter(|job| !disabled.contains(&job.info().name)).collect()
}

/// The checks a worker makes by itself: what indexes find, every day.
fn consistency(settings: &Settings) -> Asked {
    let (outbox, tiers) = (&settings.outbox, settings.decay.policy());
    Asked {
        mode: Mode::Fast,
        thresholds: Thresholds {
            cold_below: tiers.cold_below,
            hot_budget: tiers.hot_node_budget,
            active_budget: tiers.active_node_budget,
            attempts_max: outbox.outbox_max_attempts,
            claim_timeout: Duration::from_millis(outbox.outbox_claim_timeout_ms),
            ..Thresholds::default()
        },
        ..Asked::default()
    }
}
