//! The published Python clients, unmodified, against the whole service: every method, every class of error, and what their
//! own repetitions do. What they are asked to do stands in `sdk/*.py`.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use aionis_testkit::postgres::TempDatabase;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{
    db,
    place::Place,
    program::{fake, run},
    server::Server,
};

/// The versions that were published.
const VERSIONS: [&str; 2] = ["0.1.3", "0.1.5"];
/// Dimension of vectors, see [`fake`].
const DIM: usize = 16;
const KEYS: &str = r#"{
    "key-of-nora": { "tenant_id": "acme", "agent_id": "nora", "team_id": "night" },
    "key-of-a-reader": { "tenant_id": "acme", "agent_id": "nora", "role": "reader" }
}"#;

/// The interpreter among the directories of a search path.
fn python(path: Option<&OsStr>) -> Result<PathBuf, String> {
    let directories = path.map(std::env::split_paths).into_iter().flatten();
    directories.map(|directory| directory.join("python3")).find(|python| python.is_file()).ok_or_else(|| {
        "python3 is not in PATH; the published clients are Python: install Python 3.9 or newer".to_owned()
    })
}

/// Where a client's package is.
fn package(tools: &Path, version: &str) -> Result<PathBuf, String> {
    let package = tools.join("sdks").join(version);
    if package.join("aionis_sdk/__init__.py").is_file() && package.join(".wheel").is_file() {
        return Ok(package);
    }
    Err(format!("aionis-sdk {version} is not in {}: run scripts/fetch-sdks.sh", package.display()))
}

fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")
}

/// Runs one part of `sdk/client.py` with a version of the client; it must end well.
fn client(version: &str, part: &str, mut settings: Value) {
    let python = python(std::env::var_os("PATH").as_deref()).unwrap_or_else(|problem| panic!("{problem}"));
    let package = package(&tools(), version).unwrap_or_else(|problem| panic!("{problem}"));
    settings["sdk"] = json!(package);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sdk/client.py");
    let mut command = Command::new(python);
    command.arg(script).arg(part).arg(settings.to_string());
    // The client finds no proxy of the developer's, and no compiled files are left among the sources.
    command.env("PYTHONPATH", package).env("PYTHONDONTWRITEBYTECODE", "1").env("NO_PROXY", "*").env("no_proxy", "*");
    println!("aionis-sdk {version}, {part}");
    run(&mut command).exits(0);
}

/// Where the service keeps what it is told.
#[derive(Clone, Copy)]
enum Engine {
    Embedded,
    Postgres,
}

/// Who is asked for a credential.
#[derive(Clone, Copy)]
enum Callers {
    Anybody,
    ByKey,
}

/// A service on one of the engines. Declared so that the service goes first.
struct Deployed {
    server: Server,
    callers: Callers,
    database: Option<(Runtime, TempDatabase)>,
    place: Place,
}

impl Deployed {
    fn start(engine: Engine, callers: Callers, settings: &[(&str, &str)]) -> Self {
        let database = match engine {
            Engine::Embedded => None,
            Engine::Postgres => {
                let runtime = Runtime::new().unwrap();
                let database = runtime.block_on(TempDatabase::new());
                Some((runtime, database))
            }
        };
        let place = Place::new();
        let server = Server::start_with(&place.data(), |command| {
            fake(command).envs(settings.iter().copied());
            if let Some((_, database)) = &database {
                command.env("DATABASE_URL", database.url());
            }
            if matches!(callers, Callers::ByKey) {
                command.env("MEMORY_AUTH_MODE", "api_key").env("MEMORY_API_KEYS_JSON", KEYS);
            }
        });
        Self { server, callers, database, place }
    }

    /// What `sdk/client.py` has to know of it. Each scope is a memory of its own.
    fn settings(&self, scope: &str) -> Value {
        let base_url = format!("http://127.0.0.1:{}", self.server.port);
        let (anybody, tenant) = match self.callers {
            Callers::Anybody => (true, "default"),
            Callers::ByKey => (false, "acme"),
        };
        let mut settings = json!({
            "base_url": base_url, "tenant": tenant, "scope": scope, "dim": DIM, "may_debug": anybody,
        });
        if !anybody {
            settings["api_key"] = json!("key-of-nora");
            settings["reader_key"] = json!("key-of-a-reader");
            settings["agent"] = json!("nora");
            settings["team"] = json!("night");
        }
        settings
    }

    /// One part with each version, each in a scope of its own.
    fn runs(&self, part: &str) {
        for version in VERSIONS {
            client(version, part, self.settings(&format!("{part}-{version}")));
        }
    }

    /// Runs a statement in the database, past the service.
    fn execute(&self, sql: &'static str) {
        match &self.database {
            Some((runtime, database)) => runtime.block_on(database.execute(sql)),
            None => db::writable(&self.place.data()).execute_batch(sql).unwrap(),
        }
    }
}

fn every_method(engine: Engine, callers: Callers) {
    let deployed = Deployed::start(engine, callers, &[]);
    deployed.runs("methods");
    deployed.server.stop();
}

#[test]
fn every_method_works_embedded() {
    every_method(Engine::Embedded, Callers::Anybody);
}

#[test]
fn every_method_works_embedded_by_key() {
    every_method(Engine::Embedded, Callers::ByKey);
}

#[test]
fn every_method_works_on_postgres() {
    every_method(Engine::Postgres, Callers::Anybody);
}

#[test]
fn every_method_works_on_postgres_by_key() {
    every_method(Engine::Postgres, Callers::ByKey);
}

#[test]
fn find_works() {
    for (engine, callers) in [(Engine::Embedded, Callers::Anybody), (Engine::Postgres, Callers::ByKey)] {
        let deployed = Deployed::start(engine, callers, &[]);
        client("0.1.5", "find", deployed.settings("found"));
    }
}

#[test]
fn refusals_arrive_as_the_clients_own_errors() {
    for engine in [Engine::Embedded, Engine::Postgres] {
        Deployed::start(engine, Callers::ByKey, &[]).runs("refusals");
    }
}

#[test]
fn failures_of_the_network_arrive_as_the_clients_own_errors() {
    for version in VERSIONS {
        client(version, "network", json!({ "scope": "nowhere", "base_url": "" }));
    }
}

#[test]
fn a_saturated_service_is_waited_for_as_long_as_it_says() {
    let rarely = [
        ("RATE_LIMIT_ENABLED", "true"),
        ("RATE_LIMIT_BYPASS_LOOPBACK", "false"),
        ("RECALL_RATE_LIMIT_RPS", "1"),
        ("RECALL_RATE_LIMIT_BURST", "1"),
    ];
    Deployed::start(Engine::Embedded, Callers::Anybody, &rarely).runs("saturated");
}

#[test]
fn damage_arrives_as_the_clients_own_error_and_tells_nothing() {
    for (engine, sql) in [
        (Engine::Embedded, "PRAGMA foreign_keys = OFF; DROP TABLE memory_nodes"),
        (Engine::Postgres, "DROP TABLE memory_nodes CASCADE"),
    ] {
        let deployed = Deployed::start(engine, Callers::Anybody, &[]);
        deployed.execute(sql);
        deployed.runs("broken");
        assert_eq!(deployed.server.connect().get("/health/live").unwrap().status, 200);
    }
}

#[test]
fn w_15_requests_the_client_repeats_have_one_effect() {
    for engine in [Engine::Embedded, Engine::Postgres] {
        Deployed::start(engine, Callers::Anybody, &[]).runs("retries");
    }
}

#[test]
fn answers_of_another_shape_are_noticed() {
    client(VERSIONS[0], "shapes", json!({}));
}

#[test]
fn without_python_or_the_clients_it_is_said_what_to_do() {
    let place = Place::new();
    assert!(python(None).unwrap_err().contains("python3 is not in PATH"));
    assert!(python(Some(place.path().as_os_str())).unwrap_err().contains("python3 is not in PATH"));
    let missing = package(place.path(), "0.1.3").unwrap_err();
    assert!(missing.contains("aionis-sdk 0.1.3") && missing.contains("scripts/fetch-sdks.sh"), "{missing}");
}
