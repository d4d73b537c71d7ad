//! An embedding provider that fails in each way one can, and recovers: nothing that was written is lost, and what is
//! the provider's fault alone is not counted against the work. On both engines.

use std::{
    collections::HashSet,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use aionis_testkit::postgres::PrivateServer;
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
};

use crate::support::{
    db,
    place::Place,
    program::{aionis, run},
    server::{Server, seed_ids},
    until,
};

const SCOPE: &str = "pier";
const DIM: usize = 16;
/// Time the service gives the provider for one answer.
const ANSWER_MAX: Duration = Duration::from_millis(1_000);
/// First pause of the worker after a failure, of which a half is left to chance.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest time something may take that has to come: a refused credential makes the worker rest for half a minute.
const PATIENCE: Duration = Duration::from_secs(100);

/// How the provider answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mood {
    Well,
    /// 429, with the seconds to wait.
    RateLimited(u64),
    /// 401.
    Unauthorized,
    /// 500.
    Broken,
    /// Never.
    Silent,
    /// 200, with something else than vectors.
    Garbage,
    /// 200, with vectors of one number too many.
    WrongDimension,
}

/// What the provider and the test share.
#[derive(Debug)]
struct Script {
    /// A mood and for how many more calls it lasts; then the provider is well.
    mood: Mutex<(Mood, usize)>,
    /// When it was called, and how it answered.
    calls: Mutex<Vec<(Instant, Mood)>>,
}

impl Script {
    fn called(&self) -> Mood {
        let mood = match &mut *self.mood.lock().unwrap() {
            (_, 0) => Mood::Well,
            (mood, left) => {
                *left -= 1;
                *mood
            }
        };
        self.calls.lock().unwrap().push((Instant::now(), mood));
        mood
    }
}

/// A provider of OpenAI's kind on loopback; gone when dropped.
struct Provider {
    address: SocketAddr,
    script: Arc<Script>,
    _runtime: Runtime,
}

impl Provider {
    fn start() -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let script = Arc::new(Script { mood: Mutex::new((Mood::Well, 0)), calls: Mutex::default() });
        let app = Router::new().route("/v1/embeddings", post(answer)).with_state(Arc::clone(&script));
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self { address, script, _runtime: runtime }
    }

    /// From now on it answers like this, so many times.
    fn fail(&self, mood: Mood, times: usize) {
        *self.script.mood.lock().unwrap() = (mood, times);
    }

    fn recover(&self) {
        self.fail(Mood::Well, 0);
    }

    fn calls(&self) -> Vec<(Instant, Mood)> {
        self.script.calls.lock().unwrap().clone()
    }

    /// Waits until it was called so many times.
    fn wait_for_calls(&self, times: usize) {
        until("the provider is called", PATIENCE, || (self.calls().len() >= times).then_some(()));
    }
}

async fn answer(State(script): State<Arc<Script>>, Json(request): Json<Value>) -> Response {
    match script.called() {
        Mood::Well => vectors(&request, DIM),
        Mood::RateLimited(seconds) => {
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, seconds.to_string())], "slow down").into_response()
        }
        Mood::Unauthorized => (StatusCode::UNAUTHORIZED, "who is this?").into_response(),
        Mood::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "out of order").into_response(),
        Mood::Silent => std::future::pending::<Response>().await,
        Mood::Garbage => "<html>closed for maintenance</html>".into_response(),
        Mood::WrongDimension => vectors(&request, DIM + 1),
    }
}

/// A vector for each text, which depends on its length only.
fn vectors(request: &Value, dim: usize) -> Response {
    let texts = request["input"].as_array().unwrap();
    let data: Vec<Value> = texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            let length = text.as_str().unwrap().len();
            let vector: Vec<usize> = (1..=dim).map(|at| 1 + length * at % 7).collect();
            json!({ "index": index, "embedding": vector })
        })
        .collect();
    Json(json!({ "object": "list", "data": data })).into_response()
}

/// Where the service keeps what it is told.
#[derive(Clone, Copy)]
enum Engine {
    Embedded,
    Postgres,
}

/// A service that gets its vectors from a provider of the test's own. Declared so that the service goes first.
struct Service {
    server: Server,
    provider: Provider,
    database: Option<PrivateServer>,
    place: Place,
}

impl Service {
    fn start(engine: Engine, attempts_max: u32) -> Self {
        let database = match engine {
            Engine::Embedded => None,
            Engine::Postgres => Some(PrivateServer::start(false)),
        };
        let (place, provider) = (Place::new(), Provider::start());
        let server = Server::start_with(&place.data(), |command| {
            command
                .env("EMBEDDING_PROVIDER", "openai")
                .env("EMBEDDING_DIM", DIM.to_string())
                .env("OPENAI_API_KEY", "key-of-a-test")
                .env("OPENAI_BASE_URL", format!("http://{}/v1", provider.address))
                .env("EMBED_HTTP_TIMEOUT_MS", ANSWER_MAX.as_millis().to_string())
                // One call per round of the worker.
                .env("EMBED_HTTP_MAX_RETRIES", "0")
                .env("OUTBOX_POLL_INTERVAL_MS", "50")
                .env("OUTBOX_MAX_ATTEMPTS", attempts_max.to_string());
            if let Some(database) = &database {
                command.env("DATABASE_URL", database.url("postgres"));
            }
        });
        Self { server, provider, database, place }
    }

    /// Waits until a condition holds for what is stored. It must be one that both engines understand.
    fn becomes(&self, condition: &str) {
        let Some(database) = &self.database else {
            let sql = format!("SELECT {condition}");
            let data = self.place.data();
            return until(condition, PATIENCE, || (db::count(&db::read_only(&data), &sql) == 1).then_some(()));
        };
        // The server itself looks again and again, so that not each look needs a client.
        let tries = PATIENCE.as_millis() / 20;
        database.execute(&format!(
            "DO $$ BEGIN FOR n IN 1..{tries} LOOP IF {condition} THEN RETURN; END IF; PERFORM pg_sleep(0.02); \
             END LOOP; RAISE EXCEPTION 'it never came to this'; END $$"
        ));
    }

    /// Waits until readiness tells so of the queue: items waiting, items given up. It tells a moment late.
    fn queue_becomes(&self, wanted: (u64, u64)) {
        until("readiness tells what is in the queue", PATIENCE, || {
            let ready = self.server.connect().get("/health/ready").unwrap().ok();
            let number = |name: &str| ready["outbox"][name].as_u64().unwrap();
            ((number("pending"), number("dead")) == wanted).then_some(())
        });
    }

    /// Insists that the provider has failed in one way only, by the name that metrics give it.
    fn failed_only_by(&self, kind: &str) {
        let answer = self.server.connect().get("/metrics").unwrap().ok();
        let metrics = answer.as_str().unwrap();
        let counted: Vec<&str> = metrics
            .lines()
            .filter(|line| line.starts_with("aionis_embed_failures_total{") && !line.ends_with(" 0"))
            .collect();
        assert_eq!(counted.len(), 1, "{counted:?}");
        assert!(counted[0].contains(&format!("kind=\"{kind}\"")), "{counted:?}");
    }

    /// Insists that after each failure the provider was left alone for so long.
    fn rested(&self, pause: Duration) {
        for pair in self.provider.calls().windows(2) {
            let ((called, mood), (called_again, _)) = (pair[0], pair[1]);
            let rest = called_again - called;
            assert!(mood == Mood::Well || rest >= pause, "called again {rest:?} after {mood:?}, not {pause:?}");
        }
    }

    /// Everything that was written is found, and what is stored verifies.
    fn ends_well(self, ids: &[String]) {
        let answer = self.server.recall_text(SCOPE, "Which lantern was lit?", 20);
        assert_eq!(answer["pending"]["nodes"], 0, "{answer}");
        let found: HashSet<&str> = seed_ids(&answer).into_iter().collect();
        assert!(ids.iter().all(|id| found.contains(id.as_str())), "not all of {ids:?} are found: {answer}");
        self.server.stop();
        let mut verify = aionis(self.place.path());
        verify.arg("verify").arg("--data-dir").arg(self.place.data());
        if let Some(database) = &self.database {
            verify.env("DATABASE_URL", database.url("postgres"));
        }
        run(&mut verify).exits(0);
    }
}

/// Writes of one commit, and so of one item of the queue.
const FIRST: Range<usize> = 0..3;
const SECOND: Range<usize> = 3..5;

fn lanterns(numbers: Range<usize>) -> Value {
    let nodes: Vec<Value> = numbers
        .map(|number| {
            json!({ "client_id": format!("lantern-{number}"), "type": "event", "memory_lane": "shared",
                    "text_summary": format!("The lantern of pier {number} was lit at dusk.") })
        })
        .collect();
    json!({ "scope": SCOPE, "input_text": format!("{} lanterns", nodes.len()), "nodes": nodes })
}

/// Ids of the nodes of a write.
fn ids(written: &Value) -> Vec<String> {
    written["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect()
}

/// The number of rows of a table for which something holds, as part of a condition.
fn rows(table: &str, which: &str) -> String {
    format!("(SELECT COUNT(*) FROM {table} WHERE {which})")
}

/// That so many nodes have a vector, the same number of vectors is stored, and each was derived at the first try that
/// was the node's own.
fn all_ready(nodes: usize) -> String {
    let ready = rows("memory_nodes", "embedding_status = 'ready' AND embedding_attempts = 1");
    let vectors = rows("memory_vectors", "origin = 'derived'");
    format!("{ready} = {nodes} AND {vectors} = {nodes}")
}

/// That so many items are done, after so many attempts.
fn done(items: usize, attempts: u32) -> String {
    let which = format!(
        "published_at IS NOT NULL AND failed_at IS NULL AND last_error IS NULL AND attempts = {attempts} \
         AND claimed_by IS NULL"
    );
    format!("{} = {items}", rows("memory_outbox", &which))
}

/// A way to fail that is nobody's fault but the provider's.
struct Failure {
    mood: Mood,
    /// Rounds of the worker that meet it.
    rounds: usize,
    /// Its name in metrics.
    kind: &'static str,
    /// Part of what is noted at the item.
    noted: &'static str,
    /// Shortest time between two calls.
    pause: Duration,
}

/// The queue pauses and nothing is counted: here, one attempt that counted would be the end of an item.
fn pauses(engine: Engine, failure: &Failure) {
    let service = Service::start(engine, 1);
    service.provider.fail(failure.mood, usize::MAX);
    let mut written = ids(&service.server.write(&lanterns(FIRST)));
    service.provider.wait_for_calls(failure.rounds);
    let untouched = format!(
        "attempts = 0 AND claimed_by IS NULL AND published_at IS NULL AND failed_at IS NULL AND last_error LIKE '%{}%'",
        failure.noted
    );
    let waiting = rows("memory_nodes", "embedding_status = 'pending' AND embedding_attempts = 0");
    service.becomes(&format!("{} = 1 AND {waiting} = {}", rows("memory_outbox", &untouched), FIRST.len()));
    // Work that arrives meanwhile is taken, and does not make the worker come back early.
    written.extend(ids(&service.server.write(&lanterns(SECOND))));
    service.queue_becomes((2, 0));
    service.failed_only_by(failure.kind);
    service.provider.recover();
    service.becomes(&format!("{} AND {}", all_ready(FIRST.len() + SECOND.len()), done(2, 1)));
    service.queue_becomes((0, 0));
    service.failed_only_by(failure.kind);
    service.rested(failure.pause);
    service.ends_well(&written);
}

fn a_rate_limit_pauses_the_queue_as_long_as_the_provider_asks(engine: Engine) {
    let pause = Duration::from_secs(2);
    let mood = Mood::RateLimited(2);
    pauses(engine, &Failure { mood, rounds: 2, kind: "rate_limited", noted: "429 Too Many Requests", pause });
}

/// `Retry-After: 0` allows to come back, but a queue that comes back at once, again and again, is not what it asks for.
fn a_rate_limit_without_a_wait_pauses_the_queue_too(engine: Engine) {
    let (mood, pause) = (Mood::RateLimited(0), PAUSE_MIN);
    pauses(engine, &Failure { mood, rounds: 2, kind: "rate_limited", noted: "429 Too Many Requests", pause });
}

fn a_refused_credential_pauses_the_queue_for_long(engine: Engine) {
    // Five doublings of a second later, less the half that is left to chance.
    let pause = PAUSE_MIN * 32;
    let mood = Mood::Unauthorized;
    pauses(engine, &Failure { mood, rounds: 1, kind: "unauthorized", noted: "401 Unauthorized", pause });
}

fn a_provider_that_is_out_of_order_pauses_the_queue(engine: Engine) {
    let (mood, pause) = (Mood::Broken, PAUSE_MIN);
    pauses(engine, &Failure { mood, rounds: 2, kind: "unavailable", noted: "500 Internal Server Error", pause });
}

fn a_provider_that_never_answers_pauses_the_queue(engine: Engine) {
    let pause = ANSWER_MAX + PAUSE_MIN;
    let mood = Mood::Silent;
    pauses(engine, &Failure { mood, rounds: 2, kind: "unavailable", noted: "no answer within 1000 ms", pause });
}

/// An answer that cannot be used counts as an attempt, of those only that it was an answer to.
fn counts(engine: Engine, mood: Mood) {
    let service = Service::start(engine, 2);
    service.provider.fail(mood, 1);
    let mut written = ids(&service.server.write(&lanterns(FIRST)));
    service.becomes(&format!("{} AND {}", all_ready(FIRST.len()), done(1, 2)));
    written.extend(ids(&service.server.write(&lanterns(SECOND))));
    service.becomes(&format!("{} AND {} AND {}", all_ready(FIRST.len() + SECOND.len()), done(1, 2), done(1, 1)));
    let moods: Vec<Mood> = service.provider.calls().into_iter().map(|(_, mood)| mood).collect();
    assert_eq!(moods, [mood, Mood::Well, Mood::Well]);
    service.queue_becomes((0, 0));
    service.failed_only_by("bad_response");
    service.rested(PAUSE_MIN);
    service.ends_well(&written);
}

fn garbage_counts_as_an_attempt(engine: Engine) {
    counts(engine, Mood::Garbage);
}

fn vectors_of_another_dimension_count_as_an_attempt(engine: Engine) {
    counts(engine, Mood::WrongDimension);
}

fn nonsense_for_too_long_makes_a_dead_letter_that_the_same_write_arms_again(engine: Engine) {
    const ATTEMPTS_MAX: u32 = 2;
    let service = Service::start(engine, ATTEMPTS_MAX);
    service.provider.fail(Mood::Garbage, usize::MAX);
    let written = service.server.write(&lanterns(FIRST));
    let dead = format!(
        "failed_at IS NOT NULL AND failed_reason = 'max_attempts_exceeded' AND attempts = {ATTEMPTS_MAX} \
         AND last_error LIKE '%not the expected JSON%' AND published_at IS NULL"
    );
    let failed = rows("memory_nodes", "embedding_status = 'failed' AND embedding_last_error IS NOT NULL");
    service.becomes(&format!("{} = 1 AND {failed} = {}", rows("memory_outbox", &dead), FIRST.len()));
    service.queue_becomes((0, 1));
    service.failed_only_by("bad_response");
    service.rested(PAUSE_MIN);
    assert_eq!(service.provider.calls().len(), 2, "what was given up is not asked for any more");
    service.provider.recover();
    let again = service.server.write(&lanterns(FIRST));
    assert_eq!((&again["replayed"], &again["commit_seq"]), (&json!(true), &written["commit_seq"]), "{again}");
    assert_eq!(again["embedding_backfill"]["pending_nodes"], FIRST.len(), "{again}");
    let ready = rows("memory_nodes", "embedding_status = 'ready' AND embedding_last_error IS NULL");
    let items = rows("memory_outbox", "scope_key IS NOT NULL");
    service.becomes(&format!("{ready} = {} AND {items} = 1 AND {}", FIRST.len(), done(1, 1)));
    service.queue_becomes((0, 0));
    service.ends_well(&ids(&written));
}

/// Every test on both engines.
macro_rules! on_both_engines {
    ($($test:ident),+ $(,)?) => {
        mod embedded {
            $(
                #[test]
                fn $test() {
                    super::$test(super::Engine::Embedded);
                }
            )+
        }
        mod postgres {
            $(
                #[test]
                fn $test() {
                    super::$test(super::Engine::Postgres);
                }
            )+
        }
    };
}

on_both_engines!(
    a_rate_limit_pauses_the_queue_as_long_as_the_provider_asks,
    a_rate_limit_without_a_wait_pauses_the_queue_too,
    a_refused_credential_pauses_the_queue_for_long,
    a_provider_that_is_out_of_order_pauses_the_queue,
    a_provider_that_never_answers_pauses_the_queue,
    garbage_counts_as_an_attempt,
    vectors_of_another_dimension_count_as_an_attempt,
    nonsense_for_too_long_makes_a_dead_letter_that_the_same_write_arms_again,
);
