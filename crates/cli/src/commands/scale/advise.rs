//! `aionis scale advise`.

use std::{path::PathBuf, sync::Arc, time::Duration};

use aionis_core::{
    clock::Timestamp,
    gates::scale::{Advice, Breach, ScaleThresholds, ScaleTier, TIERS, advise},
    jobs::governance::parse_run_id,
};
use aionis_store::{Deployment, LoadFacts, LoadWindows};
use bytes::Bytes;
use clap::Args;
use http::Method;
use serde_json::{Value, json};

use super::{
    history::{History, day},
    prometheus::{Reading, Window},
    signals::{Told, signals},
};
use crate::{
    commands::bench::{Client, Target},
    failure::{Failure, Verdict},
    gates::{artifacts::Artifacts, surroundings},
    output,
    settings::{StorageSettings, env_file::EnvFileArgs},
    wiring,
};

/// Longest time of one question for metrics.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Tenants that are named, those that grew most first.
const TENANTS_NAMED: usize = 20;

/// Flags of `aionis scale advise`.
#[derive(Debug, Args)]
pub(crate) struct AdviseArgs {
    /// The tier the deployment is in: A, B or C [default: what the newest summary of the history says, or A].
    #[arg(long, value_parser = tier)]
    current_tier: Option<ScaleTier>,
    /// Address of a server's metrics, such as http://127.0.0.1:3001/metrics; without it latencies and queues are unknown.
    #[arg(long)]
    metrics_url: Option<String>,
    /// Time between the two readings of metrics, in ms.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(0..=3_600_000))]
    window_ms: u64,
    /// Commits per second the deployment can take, as measured; without it shares of the capacity are unknown.
    #[arg(long, value_parser = positive)]
    write_capacity_per_s: Option<f64>,
    /// 95th percentile of the database server's CPU, in percent of all its cores.
    #[arg(long, value_parser = percent)]
    db_cpu_p95_percent: Option<f64>,
    /// Days back from now in which nodes count as growth.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u16).range(1..=366))]
    growth_days: u16,
    /// Hours back from now among which the busiest one is looked for.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=744))]
    busy_hours: u16,
    /// Nodes a deployment has to grow by in that time before it matters whose they are.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    growth_nodes_min: u64,
    /// Tenants above which one cluster has too many.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    tenants_max: u64,
    /// Directory with the summaries of earlier runs, for what has to last for days.
    #[arg(long, default_value = "artifacts/scale")]
    history_dir: PathBuf,
    /// Exit 2 when a trigger is breached, or could not be measured.
    #[arg(long)]
    strict: bool,
    /// Id of the run [default: the time, as YYYYMMDD_HHMMSS in UTC].
    #[arg(long, value_parser = parse_run_id)]
    run_id: Option<String>,
    /// Directory for the files; without it `artifacts/scale/` and the id of the run.
    #[arg(long)]
    out_dir: Option<PathBuf>,
    /// Print the summary as one JSON document too.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
}

fn tier(text: &str) -> Result<ScaleTier, String> {
    ScaleTier::parse(text).ok_or_else(|| "must be A, B or C".to_owned())
}

fn positive(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|number| *number > 0.0 && *number <= 1e9).ok_or_else(|| "must be a number above 0".to_owned())
}

fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.parse().ok();
    number.filter(|number| (0.0..=100.0).contains(number)).ok_or_else(|| "must be a number from 0 to 100".to_owned())
}

/// What was read of the deployment.
struct Seen {
    facts: LoadFacts,
    /// The same again after the window, for rates.
    after: LoadFacts,
    window: Result<Window, String>,
    database: Option<String>,
    /// The database of the server whose metrics were read, as it tells.
    served: Option<String>,
    versions: Value,
}

pub(super) async fn run(args: AdviseArgs) -> Result<Verdict, Failure> {
    let target = args.metrics_url.as_deref().map(|url| Target::new(url, None)).transpose();
    let target = target.map_err(|e| Failure::new(e.to_string().replace("--url", "--metrics-url")))?.map(Arc::new);
    let artifacts = Artifacts::new("scale", args.run_id.as_deref(), args.out_dir.as_deref())?;
    let (store, schema) = wiring::open_to_judge(&args.storage).await?;
    let seen = look(&args, &store, &schema, target.as_ref(), artifacts.started).await;
    store.close().await;
    let seen = seen?;
    let history = History::read(&args.history_dir, seen.database.as_deref())?;
    let current = args.current_tier.or(history.last_tier).unwrap_or(ScaleTier::A);
    let told = Told { write_capacity_per_s: args.write_capacity_per_s, db_cpu_p95_percent: args.db_cpu_p95_percent };
    #[expect(clippy::cast_precision_loss, reason = "bounds of counts")]
    let thresholds = ScaleThresholds {
        growth_nodes_min: args.growth_nodes_min as f64,
        tenants_max: args.tenants_max as f64,
        ..ScaleThresholds::default()
    };
    let measured = signals(&seen.facts, &seen.window, told);
    let advice = advise(&measured, &thresholds, current, day(artifacts.started), &history.earlier);
    let summary = summary(&args, &artifacts, (&advice, &thresholds), &seen, &history)?;
    artifacts.summary(&summary)?;
    if args.json {
        output::json(&summary)?;
    } else {
        tell(&advice, &artifacts);
    }
    Ok(Verdict::from(advice.ok || !args.strict))
}

async fn look(
    args: &AdviseArgs,
    store: &Arc<dyn Deployment>,
    schema: &str,
    target: Option<&Arc<Target>>,
    now: Timestamp,
) -> Result<Seen, Failure> {
    const HOUR_US: i64 = 3_600_000_000;
    let windows = LoadWindows {
        grown_since: Timestamp(now.0 - i64::from(args.growth_days) * 24 * HOUR_US),
        busy_since: Timestamp(now.0 - i64::from(args.busy_hours) * HOUR_US),
    };
    let before = metrics(target).await;
    let facts = store.load_facts(windows).await?;
    if target.is_some() || facts.counters.is_some() {
        tokio::time::sleep(Duration::from_millis(args.window_ms)).await;
    }
    let after = store.load_facts(windows).await?;
    let window = match (before, metrics(target).await) {
        (Ok(before), Ok(after)) => Ok(Window { before, after }),
        (Err(why), _) | (_, Err(why)) => Err(why),
    };
    let database = wiring::identity(&**store).await?;
    let served = match args.metrics_url.as_deref() {
        Some(url) if window.is_ok() => database_of(url).await,
        _ => Err(String::new()),
    };
    // What another deployment goes through says nothing of this one.
    let window = window.and_then(|window| same_database(database.as_deref(), &served).map(|()| window));
    let versions = surroundings::versions(&**store, schema).await?;
    Ok(Seen { facts, after, window, database, served: served.ok(), versions })
}

/// The database of the server beside whose metrics its health is, or why it is not known.
async fn database_of(metrics_url: &str) -> Result<String, String> {
    let url = metrics_url.trim_end_matches('/');
    let server = Target::new(url.strip_suffix("/metrics").unwrap_or(url), None).map_err(|e| e.to_string())?;
    let mut client = Client::new(Arc::new(server), ANSWER_MAX);
    match client.fetch(Method::GET, "/health", Bytes::new()).await {
        Ok((200, body)) => {
            let told: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let hash = told["database_target_hash"].as_str();
            hash.map(str::to_owned).ok_or_else(|| "/health beside --metrics-url names no database".to_owned())
        }
        Ok((status, _)) => Err(format!("/health beside --metrics-url answers {status}")),
        Err(failure) => Err(format!("/health beside --metrics-url: {failure}")),
    }
}

/// Whether metrics are of a server over the judged database. Unknown is no match.
fn same_database(judged: Option<&str>, served: &Result<String, String>) -> Result<(), String> {
    match (judged, served) {
        (_, Err(why)) => Err(format!("whose metrics these are is unknown: {why}")),
        (None, _) => Err("the judged database has no identity to compare that of the metrics with".to_owned()),
        (Some(judged), Ok(served)) if judged == served => Ok(()),
        (Some(_), Ok(_)) => {
            Err("the server of --metrics-url uses another database than the one that is judged".to_owned())
        }
    }
}

async fn metrics(target: Option<&Arc<Target>>) -> Result<Reading, String> {
    let Some(target) = target else { return Err("no --metrics-url was given".to_owned()) };
    let mut client = Client::new(Arc::clone(target), ANSWER_MAX);
    match client.fetch(Method::GET, "", Bytes::new()).await {
        Ok((200, body)) => Reading::parse(&String::from_utf8_lossy(&body))
            .ok_or_else(|| "--metrics-url answers without metrics".to_owned()),
        Ok((status, _)) => Err(format!("--metrics-url answers {status}")),
        Err(failure) => Err(format!("--metrics-url: {failure}")),
    }
}

fn summary(
    args: &AdviseArgs,
    artifacts: &Artifacts,
    (advice, thresholds): (&Advice, &ScaleThresholds),
    seen: &Seen,
    history: &History,
) -> Result<Value, Failure> {
    let mut summary = json!({
        "kind": "scale_advice",
        "run_id": artifacts.run_id,
        "timestamp_utc": artifacts.started.to_iso(),
        "database_target_hash": seen.database,
        "metrics": {
            "database_target_hash": seen.served,
            "read": seen.window.is_ok(),
            "note": seen.window.as_ref().err(),
        },
        "thresholds": thresholds,
        "tiers": TIERS,
        "history": history.told(&args.history_dir),
        "facts": facts(args, seen),
        "versions": seen.versions,
        "machine": surroundings::machine(),
        "artifacts": artifacts.named(),
    });
    if let (Some(summary), Value::Object(advice)) = (summary.as_object_mut(), serde_json::to_value(advice)?) {
        summary.extend(advice);
    }
    Ok(summary)
}

/// What the database told, as it is.
fn facts(args: &AdviseArgs, seen: &Seen) -> Value {
    let facts = &seen.facts;
    let mut tenants: Vec<_> = facts.tenants.iter().collect();
    tenants.sort_by_key(|(name, tenant)| (std::cmp::Reverse((tenant.nodes_grown, tenant.nodes)), name.as_str()));
    let named: Vec<Value> = tenants
        .iter()
        .take(TENANTS_NAMED)
        .map(|(name, tenant)| {
            json!({
                "tenant_id": name,
                "scopes": tenant.scopes,
                "nodes": tenant.nodes,
                "nodes_grown": tenant.nodes_grown,
                "commits_busiest_hour": tenant.commits_busiest_hour,
                "bytes_by_share_of_nodes": share_of_bytes(facts, tenant.nodes),
            })
        })
        .collect();
    json!({
        "tenants": facts.tenants.len(),
        "tenants_named": named,
        "nodes": facts.tenants.values().map(|tenant| tenant.nodes).sum::<u64>(),
        "nodes_grown": facts.tenants.values().map(|tenant| tenant.nodes_grown).sum::<u64>(),
        "growth_days": args.growth_days,
        "commits_busiest_hour": facts.commits_busiest_hour,
        "busy_hours": args.busy_hours,
        "database_bytes": facts.database_bytes,
        "table_bytes": facts.table_bytes,
        "transactions_per_s": rate(args, seen),
        "connections": facts.counters.map(|counters| counters.connections),
        "connections_max": facts.counters.map(|counters| counters.connections_max),
        "cache_hit_ratio": facts.counters.and_then(|counters| {
            aionis_core::jobs::checks::ratio(counters.blocks_hit, counters.blocks_hit + counters.blocks_read)
        }),
        "deadlocks": facts.counters.map(|counters| counters.deadlocks),
    })
}

/// Bytes of a tenant: its part of all nodes, of the size of the database. Nothing is stored by tenant that could be weighed.
fn share_of_bytes(facts: &LoadFacts, nodes: u64) -> Option<u64> {
    let all: u64 = facts.tenants.values().map(|tenant| tenant.nodes).sum();
    let bytes = u128::from(facts.database_bytes) * u128::from(nodes) / u128::from(std::num::NonZero::new(all)?.get());
    u64::try_from(bytes).ok()
}

/// Transactions that were committed per second, of all programs that use the database; nothing without counters.
fn rate(args: &AdviseArgs, seen: &Seen) -> Option<f64> {
    let (before, after) = (seen.facts.counters?.commits, seen.after.counters?.commits);
    #[expect(clippy::cast_precision_loss, reason = "a count over seconds")]
    let per_s = |commits: u64| commits as f64 * 1_000.0 / args.window_ms.max(1) as f64;
    (args.window_ms > 0).then(|| after.checked_sub(before).map(per_s)).flatten()
}

fn tell(advice: &Advice, artifacts: &Artifacts) {
    for trigger in &advice.triggers {
        let state = match trigger.breached {
            Breach::Yes => "breached",
            Breach::No => "within",
            Breach::Unknown => "unknown",
        };
        let observed = trigger.observed.map_or_else(|| "?".to_owned(), |value| format!("{value:.3}"));
        output::line(format!(
            "{state:<9} {:<32} {observed} {} {} ({} of {} days): {}",
            trigger.name,
            trigger.op,
            trigger.threshold,
            trigger.days_sustained,
            trigger.days_required,
            trigger.evidence
        ));
    }
    let (from, to) = (advice.current_tier, advice.tier);
    output::line(format!("tier {from}, {} at {to}: {}", advice.recommendation, advice.reason));
    for guardrail in advice.guardrails {
        output::line(format!("  {guardrail}"));
    }
    output::line(format!("summary: {}", artifacts.summary_path().display()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_another_database_or_of_an_unknown_one_are_not_taken() {
        let served = |hash: &str| Ok(hash.to_owned());
        assert_eq!(same_database(Some("a"), &served("a")), Ok(()));
        assert!(same_database(Some("a"), &served("b")).unwrap_err().contains("another database"));
        assert!(same_database(None, &served("a")).unwrap_err().contains("no identity"));
        assert!(same_database(Some("a"), &Err("gone".to_owned())).unwrap_err().contains("unknown: gone"));
    }
}
