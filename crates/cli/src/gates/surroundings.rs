//! What a run was made with and on: versions, machine and bounds.

use aionis_core::{
    gates::{
        release::{Bounds, Looser},
        slo::SloThresholds,
    },
    jobs::{
        checks::Strictness,
        consistency::{Asked, Thresholds},
        execution_loop::LoopThresholds,
        policy_adaptation::PolicyThresholds,
        quality_eval::QualityThresholds,
    },
};
use aionis_store::Deployment;
use serde_json::{Value, json};

use super::{perf, release::ReleaseAsk};
use crate::failure::Failure;

/// Versions of program and database. `schema` is the newest step of the schema.
pub(crate) async fn versions(store: &dyn Deployment, schema: &str) -> Result<Value, Failure> {
    let made_by = store.made_by().await?;
    Ok(json!({
        "aionis": env!("CARGO_PKG_VERSION"),
        "engine": store.engine(),
        "schema": schema,
        "database": made_by.server,
        "pgvector": made_by.vector_extension,
        "embedding_space": { "name": store.space().name, "dim": store.space().dim },
    }))
}

/// The machine the gate runs on; null for what the system does not tell.
pub(crate) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let memory_kib: Option<u64> = read("/proc/meminfo").as_deref().and_then(memory_total_kib);
    json!({
        "cores": std::thread::available_parallelism().ok().map(std::num::NonZero::get),
        "memory_bytes": memory_kib.map(|kib| kib * 1_024),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "kernel": read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
    })
}

fn memory_total_kib(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What the release gate was asked with, beside what it is asked with unless somebody says otherwise.
pub(super) fn bounds(ask: &ReleaseAsk) -> Bounds {
    let mut bounds = Bounds::default();
    let slo = "availability_and_slo";
    bounds.add(slo, "run_perf", (json!(ask.perf.is_some()), json!(true)), Looser::Below);
    bounds.add_all(slo, &json!(ask.thresholds), &json!(SloThresholds::default()), |_| Looser::Above);
    if let Some(perf) = &ask.perf {
        bounds.add("load", "fail_on_delete", (json!(perf.fail_on_delete), json!(false)), Looser::Below);
        bounds.add_all("load", &perf::params(&perf.load), &perf::params(&perf::usual_load()), of_load);
    }
    let health = &ask.health;
    if let Some(asked) = &health.consistency {
        bounds.add_all("consistency", &limits(asked), &limits(&Asked::default()), of_consistency);
    }
    if let Some(quality) = &health.quality {
        bounds.add_all("quality", &json!(quality.thresholds()), &json!(QualityThresholds::default()), by_name);
    }
    let judged = health.execution_loop.is_some();
    bounds.add("health", "run_execution_loop_gate", (json!(judged), json!(false)), Looser::Below);
    if let Some(args) = &health.execution_loop {
        let job = args.job(Strictness::default());
        bounds.add_all("execution_loop", &json!(job.thresholds), &json!(LoopThresholds::default()), by_name);
        bounds.add("execution_loop", "cross_tenant", (json!(job.cross_tenant), json!(true)), Looser::Below);
    }
    let judged = health.policy_adaptation.is_some();
    bounds.add("health", "run_policy_adaptation_gate", (json!(judged), json!(false)), Looser::Below);
    if let Some(args) = &health.policy_adaptation {
        let job = args.job(Strictness::default());
        bounds.add_all("policy_adaptation", &json!(job.thresholds), &json!(PolicyThresholds::default()), of_policy);
        bounds.add("policy_adaptation", "limit", (json!(job.limit), json!(RULES_LOOKED_AT)), Looser::Below);
    }
    let (required, readiness) = &ask.partition;
    bounds.add("partition", "required", (json!(required), json!(false)), Looser::Below);
    if *required {
        for (name, value, usual) in [
            ("read_shadow_check", json!(readiness.read_shadow_check), json!(false)),
            ("read_shadow_limit", json!(readiness.read_shadow_limit), json!(20)),
            ("read_shadow_min_overlap", json!(readiness.read_shadow_min_overlap), json!(0.95)),
        ] {
            bounds.add("partition", name, (value, usual), Looser::Below);
        }
    }
    bounds
}

/// Rules the policy's report looks at unless asked otherwise.
const RULES_LOOKED_AT: u32 = 200;

/// Least values hold more back the larger they are, most values the smaller.
fn by_name(name: &str) -> Looser {
    if name.starts_with("min_") {
        Looser::Below
    } else if name.starts_with("max_") {
        Looser::Above
    } else {
        Looser::Other
    }
}

/// What a policy needs to be refused may be set so that nothing ever is.
fn of_policy(name: &str) -> Looser {
    if name.starts_with("gate.max_") { Looser::Above } else { Looser::Other }
}

fn of_load(name: &str) -> Looser {
    match name {
        "warmup" | "timeout_ms" | "pace_ms" | "drain_timeout_ms" => Looser::Above,
        _ => Looser::Below,
    }
}

fn of_consistency(name: &str) -> Looser {
    match name {
        // More rows than are held are a check that is not made, which fails; a budget is none unless it is set.
        "sample" | "rows_max" | "hot_budget" | "active_budget" => Looser::Never,
        _ => Looser::Above,
    }
}

fn limits(asked: &Asked) -> Value {
    let Thresholds { cold_below, hot_budget, active_budget, attempts_max, claim_timeout, stuck_after, rows_max } =
        &asked.thresholds;
    json!({
        "sample": asked.sample,
        "cold_below": cold_below,
        "hot_budget": hot_budget,
        "active_budget": active_budget,
        "attempts_max": attempts_max,
        "claim_timeout_ms": perf::millis(*claim_timeout),
        "stuck_after_s": stuck_after.as_secs(),
        "rows_max": rows_max,
    })
}

#[cfg(test)]
mod tests {
    use super::memory_total_kib;

    #[test]
    fn memory_is_read_from_its_line() {
        assert_eq!(memory_total_kib("MemFree: 1 kB\nMemTotal:       16384 kB\n"), Some(16_384));
        assert_eq!(memory_total_kib("nothing"), None);
    }
}
