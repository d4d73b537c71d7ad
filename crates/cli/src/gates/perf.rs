//! The benchmark of the release gate: over HTTP, in a scope of its own, which is removed however it ends.
//!
//! One node is written first and looked for in the judged database: a copy of the server's database is told by the same id,
//! and what is written over HTTP would stay with the server, out of reach of whoever only has the copy.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use aionis_core::gates::slo::{CaseFigures, SloReport, SloThresholds, judge};
use aionis_store::Deployment;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};

use super::perf_scope::{PerfScope, Removed, Stored, remove_left};
use crate::{
    commands::bench::{CaseReport, Client, Counted, CountedReport, DrainState, Target},
    failure::Failure,
};

/// Text of the node that is written first; recalls ask for it in the end.
const FIRST_TEXT: &str = "The release gate looks whether this node is in the database it judges.";
/// How often the first write is sent again when the server refuses it for load.
const ATTEMPTS: u32 = 120;
/// Pause before it is.
const BACKOFF: Duration = Duration::from_millis(250);
/// Pause between two looks at what is pending.
const POLL: Duration = Duration::from_millis(200);
/// Most characters of a refusal that are told.
const TOLD: usize = 300;

/// How much is asked.
#[derive(Clone, Debug)]
pub(crate) struct PerfAsk {
    /// Tenant the scope belongs to.
    pub(crate) tenant_id: String,
    /// Bounds.
    pub(crate) thresholds: SloThresholds,
    /// What is asked; its scope is filled in by the run.
    pub(crate) load: Counted,
    /// How long the scope stays taken when this process dies.
    pub(crate) lease: Duration,
    /// Name of the scope; without one it is the run's own.
    pub(crate) scope: Option<String>,
    /// Whether it is a failure when removing it deletes rows one by one.
    pub(crate) fail_on_delete: bool,
}

/// The load unless another is asked for; the scope is filled in by the run.
pub(super) fn usual_load() -> Counted {
    Counted {
        tenant: None,
        scope: String::new(),
        nodes: 2_000,
        warmup: 10,
        recalls: 80,
        recall_connections: 6,
        writes: 40,
        write_connections: 3,
        timeout: Duration::from_secs(20),
        pace: Duration::ZERO,
        drain: Duration::from_secs(120),
    }
}

/// What is asked of the server, as it is shown.
pub(super) fn params(load: &Counted) -> Value {
    json!({
        "nodes": load.nodes,
        "warmup": load.warmup,
        "recall_requests": load.recalls,
        "recall_concurrency": load.recall_connections,
        "write_requests": load.writes,
        "write_concurrency": load.write_connections,
        "timeout_ms": millis(load.timeout),
        "pace_ms": millis(load.pace),
        "drain_timeout_ms": millis(load.drain),
    })
}

/// What the benchmark found.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) evidence: Value,
    /// The bounds; nothing where nothing was measured, because the server uses another database.
    pub(super) slo: Option<SloReport>,
    /// Reasons beside the bounds.
    pub(super) reasons: Vec<String>,
    /// Whether the judged database has what was written over HTTP.
    pub(super) is_seen: bool,
    pub(super) dataset_sha256: Option<String>,
}

/// Where the first node went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// It was not sent, or the server refused it.
    Nowhere,
    /// It was sent, and nobody knows what became of it.
    Unknown,
    /// The server stored it, and the judged database does not have it.
    Elsewhere,
    /// It is in the judged database.
    Here,
}

/// A benchmark under way: what it has to clean up outlives whatever stops it.
pub(super) struct Bench<'a> {
    store: &'a Arc<dyn Deployment>,
    ask: &'a PerfAsk,
    scope: Option<PerfScope>,
    first: First,
    left: Vec<Removed>,
}

impl<'a> Bench<'a> {
    pub(super) const fn new(store: &'a Arc<dyn Deployment>, ask: &'a PerfAsk) -> Self {
        Self { store, ask, scope: None, first: First::Nowhere, left: Vec::new() }
    }

    /// Makes sure of the database, removes what earlier runs left, seeds a scope and measures it.
    pub(super) async fn measure(&mut self, target: &Arc<Target>, run_id: &str) -> Result<Measured, Failure> {
        let PerfAsk { tenant_id, lease, .. } = self.ask;
        let scope = PerfScope::open(self.store, tenant_id, (run_id, self.ask.scope.as_deref()), *lease).await?;
        let scope = self.scope.insert(scope);
        let mut client = Client::new(Arc::clone(target), self.ask.load.timeout);
        client.connect().await.map_err(|failure| Failure::new(format!("the first write: {failure}")))?;
        self.first = First::Unknown;
        if let Err((first, failure)) = write_first(&mut client, tenant_id, scope.scope()).await {
            self.first = first;
            return Err(failure);
        }
        if !scope.is_seen().await? {
            self.first = First::Elsewhere;
            return Ok(not_seen(self.ask, scope.scope()));
        }
        self.first = First::Here;
        self.left = remove_left(self.store, tenant_id, *lease, scope.key()).await?;
        let load = Counted { scope: scope.scope().to_owned(), ..self.ask.load.clone() };
        let report = load.run(target).await.map_err(Failure::new)?;
        let told = told_of_vectors(&mut client, self.ask, scope.scope()).await;
        let stored = scope.stored().await?;
        Ok(measured(self.ask, scope.scope(), &report, &told, stored))
    }

    /// Removes the scope. To be called in the end, whatever happened. Returns the evidence, and what it fails by.
    pub(super) async fn clean_up(mut self) -> Result<(Value, Vec<String>), Failure> {
        let own = match self.scope.take() {
            Some(scope) => {
                let out_of_reach = self.out_of_reach(&scope).await;
                Some(scope.remove(out_of_reach, self.ask.fail_on_delete).await?)
            }
            None => None,
        };
        if let Some(note) = own.as_ref().and_then(|own| own.note.clone()) {
            return Err(Failure::new(format!("the scope of the benchmark was not removed: {note}")));
        }
        let fell_back = own.as_ref().is_some_and(|own| own.delete_fallback.is_some());
        let reasons = if fell_back { vec!["perf_delete_fallback".to_owned()] } else { Vec::new() };
        let fail_on_delete = self.ask.fail_on_delete;
        let evidence = json!({
            "own": own,
            "left_by_earlier_runs": self.left,
            "fail_on_delete": fail_on_delete,
            "reasons": reasons,
        });
        Ok((evidence, reasons))
    }

    /// Why something of the scope may stay where this gate cannot remove it.
    async fn out_of_reach(&self, scope: &PerfScope) -> Option<String> {
        let why = match self.first {
            First::Nowhere | First::Here => return None,
            First::Elsewhere => "the server stored it in another database than the one that is judged".to_owned(),
            First::Unknown => match scope.is_seen().await {
                Ok(true) => return None,
                Ok(false) => "its first write was not answered, and the judged database does not have it".to_owned(),
                Err(failure) => {
                    format!("its first write was not answered, and the database cannot be asked: {failure}")
                }
            },
        };
        let (tenant, name) = (&self.ask.tenant_id, scope.scope());
        Some(format!(
            "the scope {name} of the tenant {tenant} may have to be removed by hand: {why}; run `aionis job scope-purge \
             --tenant {tenant} --scope {name}` with the DATABASE_URL of the server"
        ))
    }
}

/// Writes one node over HTTP; what failed comes with where the node went.
async fn write_first(client: &mut Client, tenant: &str, scope: &str) -> Result<(), (First, Failure)> {
    let body = json!({
        "tenant_id": tenant,
        "scope": scope,
        "memory_lane": "shared",
        "input_text": "release gate",
        "trigger_topic_cluster": false,
        "nodes": [{ "type": "event", "client_id": "gate-first", "text_summary": FIRST_TEXT }],
    });
    let body = Bytes::from(body.to_string());
    let mut attempt = 0;
    loop {
        attempt += 1;
        match client.fetch(Method::POST, "/v1/memory/write", body.clone()).await {
            Ok((200..=299, _)) => return Ok(()),
            // The same write again is no second one.
            Ok((429 | 503, _)) if attempt < ATTEMPTS => tokio::time::sleep(BACKOFF).await,
            Ok((status, answer)) => {
                let answer: String = String::from_utf8_lossy(&answer).chars().take(TOLD).collect();
                let first = if status < 500 { First::Nowhere } else { First::Unknown };
                return Err((first, Failure::new(format!("the first write was answered {status}: {answer}"))));
            }
            Err(failure) => return Err((First::Unknown, Failure::new(format!("the first write: {failure}")))),
        }
    }
}

/// What a recall says of the scope's vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Told {
    /// Nodes that wait for theirs; nothing where the server does not say, or does not answer.
    pending: Option<u64>,
    /// Whether only words were searched.
    lexical_only: bool,
}

/// Asks until nothing is pending any more, at most as long as seeding waited.
async fn told_of_vectors(client: &mut Client, ask: &PerfAsk, scope: &str) -> Told {
    let body = json!({ "tenant_id": ask.tenant_id, "scope": scope, "query_text": FIRST_TEXT });
    let body = Bytes::from(body.to_string());
    let begin = Instant::now();
    let mut told = Told::default();
    loop {
        let answered = match client.fetch(Method::POST, "/v1/memory/recall_text", body.clone()).await {
            Ok((200..=299, answer)) => {
                told = said(&answer);
                true
            }
            // Refused for load, or not answered in time: what it says is asked for again.
            Ok(_) | Err(_) => false,
        };
        if (answered && told.pending.is_none_or(|pending| pending == 0)) || begin.elapsed() + POLL > ask.load.drain {
            return told;
        }
        tokio::time::sleep(POLL).await;
    }
}

fn said(answer: &[u8]) -> Told {
    let answer: Value = serde_json::from_slice(answer).unwrap_or(Value::Null);
    let mut warnings = answer["warnings"].as_array().into_iter().flatten();
    Told {
        pending: answer["pending"]["nodes"].as_u64(),
        lexical_only: warnings.any(|warning| warning["code"] == "lexical_only"),
    }
}

/// The server answered the first write, and the judged database does not have it: nothing more is written.
fn not_seen(ask: &PerfAsk, scope: &str) -> Measured {
    let reasons = vec!["db_target_mismatch".to_owned()];
    let evidence = json!({
        "scope": scope,
        "tenant_id": ask.tenant_id,
        "params": params(&ask.load),
        "seen_in_the_database": false,
        "reasons": reasons,
    });
    Measured { evidence, slo: None, reasons, is_seen: false, dataset_sha256: None }
}

fn measured(ask: &PerfAsk, scope: &str, report: &CountedReport, told: &Told, stored: Stored) -> Measured {
    let case = |name: &str| report.cases.iter().find(|case| case.name == name).map(figures);
    let slo = judge(ask.thresholds, case("recall_text"), case("write"));
    let mut reasons = Vec::new();
    // The first node, the seeded ones, and those of every measured write that was answered.
    let written = 1 + ask.load.nodes + case("write").map_or(0, |case| case.ok);
    let is_seen = stored.nodes >= written;
    if !is_seen {
        reasons.push("db_target_mismatch".to_owned());
    }
    let derived = report.seeding.drain.state == DrainState::Drained
        && told.pending == Some(0)
        && !told.lexical_only
        && stored.ready == stored.nodes;
    if !derived {
        reasons.push("perf_vectors_not_derived".to_owned());
    }
    if report.found_something < report.looked_at {
        reasons.push("perf_recall_found_nothing".to_owned());
    }
    let evidence = json!({
        "scope": scope,
        "tenant_id": ask.tenant_id,
        "params": params(&ask.load),
        "seen_in_the_database": is_seen,
        "vectors": {
            "nodes_written_at_least": written,
            "nodes": stored.nodes,
            "ready": stored.ready,
            "told_by_the_server": told,
        },
        "report": report,
        "slo": slo,
        "reasons": reasons,
    });
    let dataset_sha256 = Some(report.dataset_sha256.clone());
    Measured { evidence, slo: Some(slo), reasons, is_seen, dataset_sha256 }
}

fn figures(case: &CaseReport) -> CaseFigures {
    CaseFigures { total: case.total, ok: case.ok, p95_ms: case.latency_ms.map(|latency| latency.p95) }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
