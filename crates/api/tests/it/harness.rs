//! A whole service in one process: store, engine, worker on demand, router.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use aionis_api::{ApiSettings, AppState, BodyBudget, EmbeddingState, HealthState, router};
use aionis_core::{
    clock::Clock,
    lifecycle::DecayPolicy,
    ports::{
        embed::Embedder,
        store::{OutboxStatus, Store},
    },
    recall::{Adaptive, ProfilePolicy},
    redact::Redactor,
    write::WriteSettings,
};
use aionis_embed::{
    cached::{QueryEmbedder, QuerySettings},
    fake::FakeEmbedder,
};
use aionis_engine::{
    CursorKey, Engine, EngineSettings, GateSettings, NoVectors, QuerySource, WriteLimits,
    admission::{KEYS_MAX, LimitSettings, Limits},
    worker::{Round, Worker, WorkerSettings},
};
use aionis_store::{
    Deployment, EmbeddingSpace,
    postgres::{PostgresOptions, PostgresStore},
    sqlite::{SqliteOptions, SqliteStore},
};
use aionis_testkit::{fixtures::FakeClock, postgres::TempDatabase};
use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderMap, Request, StatusCode, header},
};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use serde_json::{Value, json};
use tower::ServiceExt;

pub(crate) const WRITE: &str = "/v1/memory/write";
pub(crate) const RECALL: &str = "/v1/memory/recall";
pub(crate) const RECALL_TEXT: &str = "/v1/memory/recall_text";

/// Dimension of vectors in tests that do not ask for another.
pub(crate) const DIM: usize = 16;

/// Age of the oldest outbox item above which the service is not ready.
pub(crate) const OUTBOX_AGE_MAX_S: u64 = 300;

/// Where vectors come from.
pub(crate) enum Vectors {
    From(Arc<dyn Embedder>),
    Disabled,
    ModelMissing,
}

/// What a service is made of; the default is the deterministic provider of [`DIM`] dimensions.
pub(crate) struct Setup {
    pub(crate) vectors: Vectors,
    pub(crate) dim: usize,
    pub(crate) api: ApiSettings,
    pub(crate) write_limits: WriteLimits,
    pub(crate) profiles: ProfilePolicy,
    pub(crate) adaptive: Adaptive,
    pub(crate) limits: LimitSettings,
    pub(crate) queries: QuerySettings,
    pub(crate) recall_gate: GateSettings,
    pub(crate) write_gate: GateSettings,
    pub(crate) commit_waiters_max: usize,
    pub(crate) body_bytes_max: usize,
    pub(crate) metrics: Option<PrometheusHandle>,
    /// Off by default: what recalls use is noted some time later.
    pub(crate) recall_activates: bool,
}

impl Setup {
    fn space(&self) -> Option<EmbeddingSpace> {
        match &self.vectors {
            Vectors::From(e) => Some(EmbeddingSpace { name: e.name().to_owned(), dim: e.dim() }),
            Vectors::Disabled | Vectors::ModelMissing => None,
        }
    }
}

impl Default for Setup {
    fn default() -> Self {
        let gate = GateSettings { max_inflight: 64, max_queue: 64, queue_timeout: Duration::from_secs(30) };
        Self {
            vectors: Vectors::From(Arc::new(FakeEmbedder::new(DIM))),
            dim: DIM,
            api: ApiSettings::default(),
            write_limits: WriteLimits { nodes_max: 5_000, edges_max: 20_000 },
            profiles: ProfilePolicy::default(),
            adaptive: Adaptive::default(),
            limits: LimitSettings::default(),
            queries: QuerySettings::default(),
            recall_gate: gate,
            write_gate: gate,
            commit_waiters_max: 64,
            body_bytes_max: 64 * 1024 * 1024,
            metrics: None,
            recall_activates: false,
        }
    }
}

/// A running service.
pub(crate) struct Service {
    pub(crate) engine: Arc<Engine>,
    pub(crate) clock: Arc<FakeClock>,
    pub(crate) bodies: Arc<BodyBudget>,
    store: Arc<dyn Deployment>,
    router: Router,
    worker: Option<Worker>,
    // After the store: whatever the store lives in.
    home: Box<dyn std::any::Any + Send + Sync>,
}

impl Service {
    /// The default service.
    pub(crate) fn start() -> Self {
        Self::with(|_| {})
    }

    /// A service that differs from the default.
    pub(crate) fn with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let dir = tempfile::tempdir().unwrap();
        let clock = FakeClock::new();
        let mut options = SqliteOptions::new(dir.path());
        options.space = setup.space();
        options.fallback_dim = setup.dim;
        let store = Arc::new(SqliteStore::open(&options, Arc::clone(&clock) as Arc<dyn Clock>).unwrap());
        Self::over(store, clock, setup, Box::new(dir))
    }

    /// The default service on PostgreSQL.
    pub(crate) async fn start_on_postgres() -> Self {
        Self::on_postgres_with(|_| {}).await
    }

    /// A service on PostgreSQL that differs from the default.
    pub(crate) async fn on_postgres_with(change: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup);
        let database = TempDatabase::new().await;
        let url = database.url();
        Self::on_database(&url, FakeClock::new(), setup, Box::new(database)).await
    }

    /// Another process on the database of this one, which has to outlive it.
    pub(crate) async fn beside(&self) -> Self {
        Self::on_database(&self.database().url(), Arc::clone(&self.clock), Setup::default(), Box::new(())).await
    }

    async fn on_database(
        url: &str,
        clock: Arc<FakeClock>,
        setup: Setup,
        home: Box<dyn std::any::Any + Send + Sync>,
    ) -> Self {
        let mut options = PostgresOptions::new(url);
        options.space = setup.space();
        options.connections_max = 8;
        let store = PostgresStore::open(&options, Arc::clone(&clock) as Arc<dyn Clock>).await.unwrap();
        Self::over(Arc::new(store), clock, setup, home)
    }

    fn over(
        store: Arc<dyn Deployment>,
        clock: Arc<FakeClock>,
        setup: Setup,
        home: Box<dyn std::any::Any + Send + Sync>,
    ) -> Self {
        // What a test that fails has to tell of an answer of 500. One subscriber per process: the next call changes nothing.
        _ = tracing_subscriber::fmt().with_test_writer().with_max_level(tracing::Level::ERROR).try_init();
        let (embedder, queries, status): (_, QuerySource, _) = match setup.vectors {
            Vectors::From(embedder) => {
                let queries = QueryEmbedder::new(Arc::clone(&embedder), setup.queries);
                (Some(embedder), Ok(Arc::new(queries)), "ready")
            }
            Vectors::Disabled => (None, Err(NoVectors::Disabled), "disabled"),
            Vectors::ModelMissing => (None, Err(NoVectors::ModelMissing), "model_missing"),
        };
        let shared: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let settings = EngineSettings {
            write: WriteSettings {
                default_tenant: setup.api.default_tenant.clone(),
                text_max_len: 8_000,
                redactor: Some(Redactor::unkeyed()),
                embedding_dim: store.space().dim,
                can_embed: !matches!(queries, Err(NoVectors::Disabled)),
            },
            write_limits: setup.write_limits,
            profiles: setup.profiles,
            adaptive: setup.adaptive,
            recall_gate: setup.recall_gate,
            write_gate: setup.write_gate,
            commit_waiters_max: setup.commit_waiters_max,
            decay: DecayPolicy::default(),
            recall_activates: setup.recall_activates,
            audit_queue_max: 64,
            as_of_nodes_max: 1_000,
            cursor_key: CursorKey::of_secret(b"of the tests").unwrap(),
        };
        let time = Arc::clone(&clock) as Arc<dyn Clock>;
        let engine = Arc::new(Engine::new(Arc::clone(&shared), queries, settings, Arc::clone(&time)));
        let health = HealthState {
            database_target_hash: None,
            engine: store.engine(),
            embedding: EmbeddingState {
                provider: store.space().name.clone(),
                dim: store.space().dim,
                status,
                hint: (status != "ready").then(|| "what to do".to_owned()),
            },
            worker: false,
            outbox_age_max_s: OUTBOX_AGE_MAX_S,
        };
        let bodies = Arc::new(BodyBudget::new(setup.body_bytes_max));
        let state = AppState {
            engine: Arc::clone(&engine),
            bodies: Arc::clone(&bodies),
            limits: Arc::new(Limits::new(&setup.limits, KEYS_MAX, engine.clock())),
            settings: Arc::new(setup.api),
            health: Arc::new(health),
            metrics: setup.metrics,
        };
        let worker = embedder.map(|embedder| {
            let settings = WorkerSettings { name: "worker".to_owned(), ..WorkerSettings::default() };
            Worker::new(shared, embedder, time, settings)
        });
        Self { engine, clock, bodies, store, router: router(state), worker, home }
    }

    /// The router as it shows itself, with all paths.
    pub(crate) fn router_debug(&self) -> String {
        format!("{:?}", self.router)
    }

    /// Sends any request.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Serves real connections too, as long as the test runs.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = self.router.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await.unwrap() });
        address
    }

    /// Posts JSON.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    /// Posts JSON with headers.
    pub(crate) async fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.post_raw(path, headers, body.to_string()).await
    }

    /// Posts bytes as JSON with headers.
    pub(crate) async fn post_raw(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Gets a path.
    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[]).await
    }

    /// Gets a path with headers.
    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(*name, *value));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    /// The store behind its port.
    pub(crate) fn port(&self) -> Arc<dyn Store> {
        Arc::clone(&self.store) as Arc<dyn Store>
    }

    /// Where the embedded engine keeps its files.
    pub(crate) fn data_dir(&self) -> &std::path::Path {
        self.home.downcast_ref::<tempfile::TempDir>().expect("the embedded engine").path()
    }

    /// The database of PostgreSQL.
    pub(crate) fn database(&self) -> &TempDatabase {
        self.home.downcast_ref::<TempDatabase>().expect("PostgreSQL")
    }

    /// Writes, which must succeed.
    pub(crate) async fn write(&self, body: &Value) -> Value {
        self.post(WRITE, body).await.ok()
    }

    /// Recalls by text, which must succeed.
    pub(crate) async fn recall_text(&self, body: &Value) -> Value {
        self.post(RECALL_TEXT, body).await.ok()
    }

    /// Recalls by vector, which must succeed.
    pub(crate) async fn recall(&self, body: &Value) -> Value {
        self.post(RECALL, body).await.ok()
    }

    /// Recalls by text with nothing else said.
    pub(crate) async fn ask(&self, question: &str) -> Value {
        self.recall_text(&json!({ "query_text": question })).await
    }

    /// Lets the worker do all there is to do.
    pub(crate) async fn drain(&self) -> Round {
        self.worker.as_ref().expect("a provider").drain().await.unwrap()
    }

    /// What is stored: heads, counts and the outbox. Equal before and after means that nothing was written.
    pub(crate) async fn stored(&self) -> Stored {
        let scopes = self.store.scopes(None, None).await.unwrap();
        let heads =
            scopes.iter().map(|s| (s.scope_key.clone(), s.head_seq, s.head_hash.to_hex(), s.nodes, s.edges)).collect();
        Stored { heads, outbox: self.store.outbox_status().await.unwrap() }
    }

    /// Walks all chains and recomputes all digests.
    pub(crate) async fn assert_sound(&self) {
        aionis_testkit::assert_sound(&*self.store).await;
    }
}

/// See [`Service::stored`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Stored {
    /// Per scope: key, newest commit, its hash, nodes, edges.
    pub(crate) heads: Vec<(String, u64, String, u64, u64)>,
    pub(crate) outbox: OutboxStatus,
}

impl Stored {
    /// Commits of all scopes.
    pub(crate) fn commits(&self) -> u64 {
        self.heads.iter().map(|head| head.1).sum()
    }
}

/// What the service answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The body of a success.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self.json()
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status and error code.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["error"].as_str().unwrap_or_default().to_owned())
    }

    /// Paths and messages of a validation error.
    pub(crate) fn issues(&self) -> Vec<(String, String)> {
        let text = |issue: &Value, key: &str| issue[key].as_str().unwrap().to_owned();
        let body = self.json();
        let issues = body["issues"].as_array().unwrap_or_else(|| panic!("no issues: {body}"));
        issues.iter().map(|issue| (text(issue, "path"), text(issue, "message"))).collect()
    }
}

/// The process-wide recorder.
pub(crate) fn recorder() -> PrometheusHandle {
    static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().unwrap()).clone()
}

/// A shared event.
pub(crate) fn event(client_id: &str, summary: &str) -> Value {
    json!({ "client_id": client_id, "type": "event", "memory_lane": "shared", "text_summary": summary })
}

/// A write of nodes.
pub(crate) fn writing(nodes: &[Value]) -> Value {
    json!({ "input_text": "what was said", "nodes": nodes })
}

/// A write of nodes to a scope.
pub(crate) fn writing_to(scope: &str, nodes: &[Value]) -> Value {
    json!({ "scope": scope, "input_text": "what was said", "nodes": nodes })
}

/// The summaries of a recall's seeds.
pub(crate) fn seeds(answer: &Value) -> BTreeSet<&str> {
    answer["seeds"].as_array().unwrap().iter().filter_map(|seed| seed["text_summary"].as_str()).collect()
}

/// The codes of an answer's warnings.
pub(crate) fn warnings(answer: &Value) -> Vec<&str> {
    answer["warnings"].as_array().into_iter().flatten().filter_map(|warning| warning["code"].as_str()).collect()
}

/// The vector the deterministic provider gives a text.
pub(crate) fn vector(text: &str) -> Vec<f32> {
    FakeEmbedder::new(DIM).vector(text)
}
