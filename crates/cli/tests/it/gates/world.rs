//! Databases to be judged, on both engines.

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use aionis_testkit::postgres::TempDatabase;
use rusqlite::types::Value as Stored;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::{
    db,
    place::Place,
    program::{Ended, aionis, fake, run},
    server::Server,
};

pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A database, and a directory programs work in.
pub(super) struct World {
    pub(super) place: Place,
    postgres: Option<(Runtime, TempDatabase)>,
}

impl World {
    pub(super) fn embedded() -> Self {
        Self { place: Place::new(), postgres: None }
    }

    pub(super) fn postgres() -> Self {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(TempDatabase::new());
        Self { place: Place::new(), postgres: Some((runtime, database)) }
    }

    pub(super) fn both() -> [Self; 2] {
        [Self::embedded(), Self::postgres()]
    }

    pub(super) fn is_postgres(&self) -> bool {
        self.postgres.is_some()
    }

    /// Address of the database; nothing for the embedded engine.
    pub(super) fn url(&self) -> String {
        self.postgres.as_ref().map(|(_, database)| database.url()).unwrap_or_default()
    }

    /// Says where the database is.
    pub(super) fn at<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        fake(command).env("DATABASE_URL", self.url()).env("AIONIS_DATA_DIR", self.place.data())
    }

    /// A server with vectors and a worker, but without jobs of its own, so that rows stand still.
    pub(super) fn serve(&self, more: &[(&str, &str)]) -> Server {
        Server::start_with(&self.place.data(), |command| {
            self.at(command).env("AIONIS_JOBS_ENABLED", "false").envs(more.iter().copied());
        })
    }

    /// Runs statements behind the program's back.
    pub(super) fn execute(&self, sql: &str) {
        match &self.postgres {
            Some((runtime, database)) => runtime.block_on(database.execute(sql.to_owned().leak())),
            None => {
                let database = db::writable(&self.place.data());
                database.pragma_update(None, "foreign_keys", false).unwrap();
                database.execute_batch(sql).unwrap();
            }
        }
    }

    /// The texts a statement reads, on PostgreSQL.
    pub(super) fn read(&self, sql: &'static str) -> Vec<String> {
        let (runtime, database) = self.postgres.as_ref().unwrap();
        runtime.block_on(database.texts(sql))
    }

    /// Scopes of the gate's own that are stored, on PostgreSQL.
    pub(super) fn scopes_of_gates(&self) -> Vec<String> {
        self.read("SELECT scope_key FROM memory_scopes WHERE scope_key LIKE '%/gate\\_%'")
    }

    /// Nodes in them.
    pub(super) fn nodes_of_gates(&self) -> usize {
        self.read("SELECT id::text FROM memory_nodes WHERE scope_key LIKE '%/gate\\_%'").len()
    }

    /// Id by which the database says which one it is, on PostgreSQL.
    pub(super) fn id(&self) -> String {
        self.read("SELECT value FROM aionis_meta WHERE key = 'deployment_id'").remove(0)
    }

    /// Makes the database say that it is another one, as a copy of that one does; on PostgreSQL.
    pub(super) fn passes_for(&self, other: &Self) {
        self.execute(&format!("UPDATE aionis_meta SET value = '{}' WHERE key = 'deployment_id'", other.id()));
        assert_eq!(self.id(), other.id());
    }

    /// A digest of the rows of each table; of all tables but the history of jobs.
    pub(super) fn digests(&self) -> BTreeMap<String, String> {
        let mut digests = match &self.postgres {
            Some((runtime, database)) => runtime.block_on(database.digests()),
            None => embedded_digests(&self.place.data()),
        };
        assert!(digests.remove("job_runs").is_some() && digests.len() > 15, "{digests:?}");
        digests
    }

    /// A gate; its files go to the directory `out`.
    pub(super) fn gate(&self, gate: &str, more: &[&str]) -> Command {
        let mut command = aionis(self.place.path());
        command.args(["gate", gate, "--json", "--out-dir", "out"]).args(more);
        // How fast this machine is says nothing about the gate; a test of a bound gives it as a flag.
        command.env("RECALL_P95_MAX_MS", "60000").env("WRITE_P95_MAX_MS", "60000");
        self.at(&mut command);
        command
    }

    /// Runs a gate to its end and returns its summary, which is the same on stdout and in the file.
    pub(super) fn judged(&self, gate: &str, more: &[&str], code: i32) -> Value {
        self.summary(run(&mut self.gate(gate, more)).exits(code))
    }

    /// The summary of a run that has ended; the next run may use the directory again.
    pub(super) fn summary(&self, ended: Ended) -> Value {
        let out = self.place.path().join("out");
        let text = fs::read_to_string(out.join("summary.json")).unwrap_or_else(|e| panic!("{e}: {ended:#?}"));
        let summary: Value = serde_json::from_str(&text).unwrap();
        if !ended.stdout.is_empty() {
            assert_eq!(ended.json(), summary, "stdout and file say the same");
        }
        assert_eq!(summary["ok"], ended.code == Some(0), "{summary:#}");
        let last = self.place.path().join("last");
        let _ = fs::remove_dir_all(&last);
        fs::rename(&out, &last).unwrap();
        summary
    }

    /// A file of evidence of the last run.
    pub(super) fn evidence(&self, name: &str) -> Value {
        let path = self.place.path().join("last").join(name);
        serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
    }
}

fn embedded_digests(data: &Path) -> BTreeMap<String, String> {
    let database = db::read_only(data);
    let mut tables = database
        // What SQLite plans by is brought up to date by whoever opens the file, and holds nothing of a memory.
        .prepare(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql NOT LIKE 'CREATE VIRTUAL%' \
             AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'",
        )
        .unwrap();
    let names: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    names
        .into_iter()
        .map(|name| {
            let mut rows = database.prepare(&format!("SELECT * FROM \"{name}\"")).unwrap();
            let columns = rows.column_count();
            let mut texts: Vec<String> = rows
                .query_map([], |row| {
                    let values: Vec<Stored> = (0..columns).map(|at| row.get(at)).collect::<Result<_, _>>()?;
                    Ok(format!("{values:?}"))
                })
                .unwrap()
                .map(Result::unwrap)
                .collect();
            texts.sort();
            (name, aionis_core::canon::sha256_hex(texts.join("\n")))
        })
        .collect()
}

/// Writes scopes that hold strictly: `default/pier` with a topic and its event, and `acme/quay`.
pub(super) fn sound(server: &Server) {
    server.write(&json!({ "scope": "pier", "input_text": "x", "memory_lane": "shared", "nodes": [
        { "client_id": "t", "type": "topic", "title": "boats", "slots": { "member_count": 1 } },
        { "client_id": "e", "type": "event", "text_summary": "A boat came in." }],
        "edges": [{ "type": "part_of", "src": { "client_id": "e" }, "dst": { "client_id": "t" } }] }));
    server.write(&json!({ "tenant_id": "acme", "scope": "quay", "input_text": "y", "memory_lane": "shared", "nodes": [
        { "client_id": "e", "type": "event", "text_summary": "A ship left." }] }));
    server.vectors_are_ready("pier", PATIENCE);
    let body = json!({ "tenant_id": "acme", "scope": "quay", "query_text": "ship" });
    crate::support::until("vectors of the other tenant", PATIENCE, || {
        (server.post("/v1/memory/recall_text", &body).ok()["pending"]["nodes"] == 0).then_some(())
    });
}

/// Members of a list of texts.
pub(super) fn texts(list: &Value) -> Vec<&str> {
    list.as_array().unwrap_or_else(|| panic!("no list: {list}")).iter().map(|text| text.as_str().unwrap()).collect()
}

/// A step of the release gate.
pub(super) fn step<'a>(summary: &'a Value, name: &str) -> &'a Value {
    let steps = summary["steps"].as_array().unwrap();
    steps.iter().find(|step| step["name"] == name).unwrap_or_else(|| panic!("no step {name} in {summary:#}"))
}
