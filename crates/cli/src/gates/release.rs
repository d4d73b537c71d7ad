//! The release gate: its steps one after the other, evidence of each, and the summary a release is decided from.

use std::{sync::Arc, time::Instant};

use aionis_core::{
    gates::{
        Judgement,
        release::{Bounds, Decision, GateStep, decide, judge},
        slo::{SloReport, SloThresholds},
    },
    jobs::consistency::{Asked, CheckSet},
};
use aionis_store::Deployment;
use serde_json::{Value, json};

use super::{
    artifacts::Artifacts,
    chain,
    partition_readiness::{self, ReadinessAsk},
    perf::{Bench, PerfAsk},
    probes,
    scoped::{self, ScopedAsk},
    surroundings,
};
use crate::{
    commands::{bench::Target, serve::StopSignal},
    failure::{Failure, Verdict},
    settings::StorageSettings,
    wiring,
};

const API: &str = "api_probe";
const DATABASE: &str = "db_probe";
const CONTRACT: &str = "contract";
const HEALTH: &str = "health_gate_scope";
const CROSS_TENANT: &str = "consistency_cross_tenant";
const CHAIN: &str = "chain_verification";
const PARTITION: &str = "partition_cutover_readiness";
const PERF: &str = "perf_benchmark";
const PERF_CLEANUP: &str = "perf_cleanup";

/// What the release gate is asked.
pub(crate) struct ReleaseAsk {
    /// Address of the server.
    pub(crate) base_url: String,
    /// The server, with credentials.
    pub(crate) target: Arc<Target>,
    /// The database.
    pub(crate) storage: StorageSettings,
    /// Health of the scope: strict, in release mode.
    pub(crate) health: ScopedAsk,
    /// Tenant and scope that are judged.
    pub(crate) tenant_id: String,
    /// The scope.
    pub(crate) scope: String,
    /// The checks over scopes and tenants.
    pub(crate) cross_tenant: Asked,
    /// The benchmark, unless it is waived.
    pub(crate) perf: Option<PerfAsk>,
    /// Bounds of the benchmark, also when it is waived.
    pub(crate) thresholds: SloThresholds,
    /// Readiness of the partitioned layout: whether it is required, and what is asked.
    pub(crate) partition: (bool, ReadinessAsk),
}

/// What the summary says of the partitioned layout beside its step.
struct Readiness {
    summary_json: String,
    /// What was let through without evidence.
    accepted_inconclusive: Vec<String>,
    dual_write_enabled: Option<bool>,
}

/// A run of the gate.
struct Run<'a> {
    ask: &'a ReleaseAsk,
    artifacts: &'a Artifacts,
    steps: Vec<GateStep>,
    store: Option<(Arc<dyn Deployment>, String)>,
    /// What the server says its database is.
    server_hash: Option<String>,
    target_match: Option<bool>,
    /// By what it was compared with the judged one.
    compared_by: Vec<&'static str>,
    versions: Value,
    slo: Option<SloReport>,
    dataset_sha256: Option<String>,
    partition: Option<Readiness>,
    interrupted: bool,
}

/// Runs the gate, writes its summary, and returns it with the verdict. The summary is written whatever fails.
pub(crate) async fn run(ask: &ReleaseAsk, artifacts: &Artifacts) -> Result<(Value, Verdict), Failure> {
    let mut run = Run {
        ask,
        artifacts,
        steps: Vec::new(),
        store: None,
        server_hash: None,
        target_match: None,
        compared_by: Vec::new(),
        versions: Value::Null,
        slo: None,
        dataset_sha256: None,
        partition: None,
        interrupted: false,
    };
    let mut stop = StopSignal::new()?;
    run.make(&mut stop).await;
    if let Some((store, _)) = run.store.take() {
        store.close().await;
    }
    let (summary, ok) = run.summary();
    artifacts.summary(&summary)?;
    Ok((summary, Verdict::from(ok)))
}

impl Run<'_> {
    /// Every step that has to be there and to hold.
    fn required(&self) -> Vec<&'static str> {
        let mut names = vec![API, DATABASE, CONTRACT, HEALTH, CROSS_TENANT, CHAIN];
        if self.ask.partition.0 {
            names.push(PARTITION);
        }
        if self.ask.perf.is_some() {
            names.extend([PERF, PERF_CLEANUP]);
        }
        names
    }

    async fn make(&mut self, stop: &mut StopSignal) {
        let before = {
            let reading = self.read();
            tokio::pin!(reading);
            tokio::select! {
                go_on = &mut reading => Some(go_on),
                () = stop.wait() => None,
            }
        };
        match before {
            None => self.interrupted = true,
            Some(false) => {}
            Some(true) => self.benchmark(stop).await,
        }
    }

    /// The steps that only read. False when the server or the database cannot be judged: then nothing else is looked at.
    async fn read(&mut self) -> bool {
        self.api().await;
        self.database().await;
        if self.steps.iter().any(|step| !step.ok) {
            return false;
        }
        self.contract().await;
        self.health().await;
        self.cross_tenant().await;
        self.chain().await;
        if self.ask.partition.0 {
            self.partition().await;
        }
        true
    }

    /// Adds a step with its evidence.
    fn add(&mut self, mut step: GateStep, file: &str, evidence: &Value, started: Instant) {
        step.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match self.artifacts.evidence(file, evidence) {
            Ok(name) => step.log_file = Some(name),
            // Without evidence nothing can be decided by it.
            Err(failure) => step = GateStep::broken(step.name, failure.to_string()),
        }
        self.steps.push(step);
    }

    /// Adds a step that could not be made, and why.
    fn break_off(&mut self, name: &'static str, file: &str, failure: &Failure, started: Instant) {
        let error = failure.to_string();
        self.add(GateStep::broken(name, error.clone()), file, &json!({ "error": error }), started);
    }

    fn store(&self) -> Result<Arc<dyn Deployment>, Failure> {
        let store = self.store.as_ref().map(|(store, _)| Arc::clone(store));
        store.ok_or_else(|| Failure::new("the database is not open"))
    }

    async fn api(&mut self) {
        let started = Instant::now();
        let (probed, hash) = probes::api(&self.ask.target).await;
        self.server_hash = hash;
        self.add(GateStep::made(API, probed.reasons, vec![]), "00_api_probe.json", &probed.evidence, started);
    }

    async fn database(&mut self) {
        let (started, file) = (Instant::now(), "00_db_probe.json");
        match self.connected().await {
            Ok((reasons, evidence)) => {
                self.add(GateStep::made(DATABASE, reasons, vec![]), file, &evidence, started);
            }
            Err(failure) => self.break_off(DATABASE, file, &failure, started),
        }
    }

    async fn connected(&mut self) -> Result<(Vec<String>, Value), Failure> {
        let (store, schema) = wiring::open_to_judge(&self.ask.storage).await?;
        self.versions = surroundings::versions(&*store, &schema).await?;
        let probed = probes::database(&*store, self.server_hash.as_deref()).await;
        self.store = Some((store, schema));
        let (probed, matches) = probed?;
        self.target_match = matches;
        if matches.is_some() {
            self.compared_by.push("stored_id");
        }
        let evidence = json!({
            "place": wiring::store_options(&self.ask.storage).place(),
            "versions": self.versions,
            "target": probed.evidence,
            "reasons": probed.reasons,
        });
        Ok((probed.reasons, evidence))
    }

    async fn contract(&mut self) {
        let started = Instant::now();
        let probed = probes::contract(&self.ask.target).await;
        self.add(GateStep::made(CONTRACT, probed.reasons, vec![]), "02_contract.json", &probed.evidence, started);
    }

    async fn health(&mut self) {
        self.scoped(HEALTH, "06_health_gate_scope.json", &self.ask.health).await;
    }

    async fn cross_tenant(&mut self) {
        let ask = ScopedAsk {
            place: None,
            mode: self.ask.health.mode,
            consistency: Some(Asked { check_set: CheckSet::CrossTenant, ..self.ask.cross_tenant.clone() }),
            quality: None,
            execution_loop: None,
            policy_adaptation: None,
        };
        self.scoped(CROSS_TENANT, "07_consistency_cross_tenant.json", &ask).await;
    }

    async fn scoped(&mut self, name: &'static str, file: &str, ask: &ScopedAsk) {
        let started = Instant::now();
        let looked = match self.store() {
            Ok(store) => scoped::look(&store, ask).await,
            Err(failure) => Err(failure),
        };
        match looked {
            Ok(found) => {
                let Judgement { fail_reasons, inconclusive, .. } = found.judgement;
                let of_open =
                    |reason: &String| inconclusive.iter().any(|open| *reason == format!("{open}_inconclusive"));
                let failed = fail_reasons.into_iter().filter(|reason| !of_open(reason)).collect();
                let step = GateStep::made(name, failed, inconclusive.clone());
                self.add(step, file, &Value::Object(found.document), started);
            }
            Err(failure) => self.break_off(name, file, &failure, started),
        }
    }

    async fn chain(&mut self) {
        let (started, file) = (Instant::now(), "07a_chain_verification.json");
        let looked = match self.store() {
            Ok(store) => chain::look(&*store).await,
            Err(failure) => Err(failure),
        };
        match looked {
            Ok(found) => {
                let step = GateStep::made(CHAIN, found.reasons, found.inconclusive);
                self.add(step, file, &found.evidence, started);
            }
            Err(failure) => self.break_off(CHAIN, file, &failure, started),
        }
    }

    async fn partition(&mut self) {
        let (started, file) = (Instant::now(), "07b_partition_cutover_readiness.json");
        let looked = partition_readiness::look(&self.ask.storage, &self.ask.partition.1, self.artifacts).await;
        match looked {
            Ok(found) => {
                let summary_json = found.summary_json.display().to_string();
                let evidence = json!({
                    "reasons": found.reasons,
                    "inconclusive": found.inconclusive,
                    "accepted_inconclusive": found.accepted_inconclusive,
                    "summary_json": summary_json,
                });
                self.partition = Some(Readiness {
                    summary_json,
                    accepted_inconclusive: found.accepted_inconclusive,
                    dual_write_enabled: found.dual_write_enabled,
                });
                self.add(GateStep::made(PARTITION, found.reasons, found.inconclusive), file, &evidence, started);
            }
            Err(failure) => self.break_off(PARTITION, file, &failure, started),
        }
    }

    /// Measures, and removes what was written for it, also when it was told to stop meanwhile.
    async fn benchmark(&mut self, stop: &mut StopSignal) {
        let Some(ask) = &self.ask.perf else { return };
        let (started, file) = (Instant::now(), "08_perf_benchmark.json");
        let store = match self.store() {
            Ok(store) => store,
            Err(failure) => return self.break_off(PERF, file, &failure, started),
        };
        let mut bench = Bench::new(&store, ask);
        let measured = tokio::select! {
            measured = bench.measure(&self.ask.target, &self.artifacts.run_id) => Some(measured),
            () = stop.wait() => None,
        };
        match measured {
            None => self.interrupted = true,
            Some(Err(failure)) => self.break_off(PERF, file, &failure, started),
            Some(Ok(found)) => {
                let slo = found.slo.as_ref();
                let failed = slo.map_or(&[][..], |slo| &slo.fail_reasons[..]);
                let open = slo.map_or_else(Vec::new, |slo| slo.inconclusive.clone());
                let step = GateStep::made(PERF, [&found.reasons[..], failed].concat(), open);
                self.add(step, file, &found.evidence, started);
                self.compared_by.push("written_nodes");
                if !found.is_seen {
                    self.target_match = Some(false);
                }
                (self.slo, self.dataset_sha256) = (found.slo, found.dataset_sha256);
            }
        }
        let (started, file) = (Instant::now(), "09_perf_cleanup.json");
        match bench.clean_up().await {
            Ok((evidence, reasons)) => {
                self.add(GateStep::made(PERF_CLEANUP, reasons, vec![]), file, &evidence, started);
            }
            Err(failure) => self.break_off(PERF_CLEANUP, file, &failure, started),
        }
    }

    fn summary(&self) -> (Value, bool) {
        let required = self.required();
        let mut steps = self.steps.clone();
        let missing = required.iter().filter(|name| !self.steps.iter().any(|step| step.name == **name));
        steps.extend(missing.map(|name| GateStep::not_run(name)));
        let mut further: Vec<String> = if self.interrupted { vec!["interrupted".to_owned()] } else { vec![] };
        let mut open = Vec::new();
        for step in &self.steps {
            // What a step found is named beside it: the bounds of the benchmark by the names of the reference.
            if matches!(step.name, PERF | PERF_CLEANUP | API | DATABASE | CONTRACT | CHAIN) {
                further.extend(step.reasons.iter().cloned());
            }
            if matches!(step.name, PERF | HEALTH | CHAIN) {
                open.extend(step.inconclusive.iter().cloned());
            }
        }
        let judgement = judge(&required, &steps, &further, &open);
        let bounds = surroundings::bounds(self.ask);
        let decision = decide(&judgement, self.ask.perf.is_some(), self.interrupted, &bounds.loosened());
        let ok = judgement.ok;
        (self.document(&steps, &judgement, &decision, &bounds), ok)
    }

    fn document(&self, steps: &[GateStep], judgement: &Judgement, decision: &Decision, bounds: &Bounds) -> Value {
        let (required, readiness) = &self.ask.partition;
        let partition = self.partition.as_ref();
        json!({
            "ok": judgement.ok,
            "verdict": judgement.verdict,
            "decision": decision,
            "run_id": self.artifacts.run_id,
            "timestamp_utc": self.artifacts.started.to_iso(),
            "gate_class": "production_core",
            "target": {
                "base_url": self.ask.base_url,
                "scope": self.ask.scope,
                "tenant_id": self.ask.tenant_id,
                "db_runner": "local",
                "db_target_hash_match": self.target_match,
                "db_target_compared_by": self.compared_by,
            },
            "blocking_metrics": {
                "integrity": [
                    "health_gate_scope(strict_warnings)",
                    "consistency_cross_tenant(strict_warnings)",
                    "chain_verification(all scopes)",
                ],
                "partition_cutover_readiness": {
                    "required": required,
                    "scope": readiness.scope,
                    "tenant_id": readiness.tenant_id,
                    "read_shadow_check": readiness.read_shadow_check,
                    "read_shadow_limit": readiness.read_shadow_limit,
                    "read_shadow_min_overlap": readiness.read_shadow_min_overlap,
                    "summary_json": partition.map(|found| &found.summary_json),
                    "dual_write_enabled": partition.and_then(|found| found.dual_write_enabled),
                    "accepted_inconclusive": partition.map(|found| &found.accepted_inconclusive),
                },
                "availability_and_slo": {
                    "run_perf": self.ask.perf.is_some(),
                    "thresholds": self.ask.thresholds,
                    "observed": self.slo.as_ref().map(|slo| slo.observed).unwrap_or_default(),
                    "samples": self.slo.as_ref().map(|slo| slo.samples),
                    "pass": self.slo.as_ref().map(|slo| slo.pass),
                },
                "bounds": bounds,
                "differs_from_default": bounds.differing(),
                "loosened": bounds.loosened(),
            },
            "aux_regression_only": ["LongMemEval", "LoCoMo"],
            "steps": steps,
            "fail_reasons": judgement.fail_reasons,
            "inconclusive": judgement.inconclusive,
            "versions": self.versions,
            "machine": surroundings::machine(),
            "dataset_sha256": self.dataset_sha256,
            "artifacts": self.artifacts.named(),
        })
    }
}
