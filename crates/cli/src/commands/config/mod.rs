//! `aionis config check|print|reference`.

mod reference;

use std::ffi::OsString;

use aionis_api::ROUTES;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    failure::{Failure, Problem, Verdict},
    output,
    settings::{HttpSettings, Settings, env_file::EnvFileArgs, environment},
};

/// Flags of `aionis config`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Check all settings as `serve` would, without starting anything.
    Check(Box<Everything>),
    /// Print all settings as they would be used; secrets are shown as set or unset.
    Print(Box<Everything>),
    /// Print what settings there are, as `.env.example` or `docs/configuration.md` hold it.
    Reference(reference::ReferenceArgs),
}

#[derive(Debug, Args)]
struct Everything {
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    http: HttpSettings,
}

pub(crate) fn run(args: ConfigArgs) -> Result<Verdict, Failure> {
    match args.action {
        Action::Check(all) => check(&all),
        Action::Print(all) => print(&all),
        Action::Reference(args) => reference::run(&args),
    }
}

/// Whether the arguments ask for the problems as JSON.
pub(crate) fn wants_json(args: &[OsString]) -> bool {
    let mut words = args.iter().skip(1);
    words.next().is_some_and(|word| word == "config")
        && words.next().is_some_and(|word| word == "check")
        && words.any(|word| word == "--json")
}

/// The problems of a check as JSON on stdout: one document, whatever is wrong, for programs that read it.
pub(crate) fn tell_problems(failure: &Failure) -> Result<(), Failure> {
    let problems = failure.problems().iter().cloned().map(|mut problem| {
        let undo = problem.variable.as_ref().map(|name| format!("correct {name}, or unset it for its default"));
        problem.fix = problem.fix.or(undo);
        problem
    });
    let problems: Vec<Problem> = problems.collect();
    output::json(&json!({ "ok": false, "problems": problems, "warnings": warnings() }))
}

/// Variables that have no effect.
fn warnings() -> Vec<Problem> {
    let unknown = environment::unknown().into_iter().map(|unknown| Problem {
        fix: Some(format!("correct it to {}, or remove it", unknown.nearest)),
        variable: Some(unknown.name),
        problem: "no such setting".to_owned(),
    });
    let retired = environment::retired_and_set().into_iter().map(|retired| Problem {
        variable: Some(retired.name.to_owned()),
        problem: format!("is not read: {}", retired.reason),
        fix: Some(retired.instead.to_owned()),
    });
    unknown.chain(retired).collect()
}

fn check(all: &Everything) -> Result<Verdict, Failure> {
    all.settings.check_with(&all.http)?;
    let data_dir = &all.settings.storage.data_dir;
    let embed = all.settings.embedding.to_embed(data_dir, all.settings.memory.is_production());
    let provider = aionis_embed::build(&embed)?;
    let (known, set, routes) = (environment::names().len(), environment::count_set(), ROUTES.len());
    let (unknown, retired) = (environment::unknown(), environment::retired_and_set());
    if all.json {
        let unknown_names: Vec<_> = unknown.iter().map(|unknown| &unknown.name).collect();
        let retired: Vec<_> = retired.iter().map(|retired| retired.name).collect();
        output::json(&json!({
            "ok": true,
            "problems": [],
            "warnings": warnings(),
            "provider": format!("{provider:?}"),
            "variables": { "known": known, "set": set, "unknown": unknown.len() },
            "http_routes": routes,
            "unknown_variables": unknown_names,
            "retired_variables": retired,
        }))?;
        return Ok(Verdict::Positive);
    }
    output::line(format!("the settings are sound; embedding: {provider:?}"));
    output::line(format!(
        "{known} variables are known, {set} are set, {} are unknown; {routes} HTTP routes",
        unknown.len()
    ));
    for unknown in unknown {
        output::line(format!("note: {unknown}"));
    }
    for retired in retired {
        output::line(format!("note: {} is not read: {}; instead: {}", retired.name, retired.reason, retired.instead));
    }
    Ok(Verdict::Positive)
}

/// The settings as `name: value` lines, from their debug form: one place to keep secrets out of it.
fn print(all: &Everything) -> Result<Verdict, Failure> {
    let shown = format!("{:#?}\n{:#?}", all.settings, all.http);
    let mut pairs = serde_json::Map::new();
    for line in shown.lines() {
        let line = line.trim().trim_end_matches(',');
        let Some((name, value)) = line.split_once(": ") else { continue };
        // A text that stands on a line of its own is the value of an optional setting, shown below if it may be.
        if !name.starts_with('"') && !value.ends_with('{') && !value.ends_with('(') {
            pairs.insert(name.to_owned(), json!(value.trim_matches('"')));
        }
    }
    let model_dir = all.settings.embedding.model_dir(&all.settings.storage.data_dir);
    pairs.insert("model_dir".to_owned(), json!(model_dir));
    for (name, value) in [
        ("openai_base_url", &all.settings.embedding.openai_base_url),
        ("minimax_embed_endpoint", &all.settings.embedding.minimax_embed_endpoint),
    ] {
        pairs.insert(name.to_owned(), json!(value));
    }
    let production = all.settings.memory.is_production();
    let limits = all.http.limits.limits(production);
    for (name, value) in [
        ("rate_limit_enabled", json!(limits.addresses.is_some())),
        ("tenant_quota_enabled", json!(limits.tenants.is_some())),
        ("rate_limit_bypass_loopback", json!(all.http.limits.bypass_loopback(production))),
        ("api_recall_max_inflight", json!(all.settings.gates.recall_max_inflight(&all.settings.storage))),
    ] {
        pairs.insert(name.to_owned(), value);
    }
    pairs.insert(
        "log_format".to_owned(),
        json!(all.settings.telemetry.logs.log_format.map(|f| format!("{f:?}").to_lowercase())),
    );
    pairs.insert("env_file".to_owned(), json!(all.env_file.env_file));
    pairs.insert("embedding_dim".to_owned(), json!(all.settings.embedding.embedding_dim));
    pairs.insert("port_file".to_owned(), json!(all.http.port_file));
    if all.json {
        output::json(&pairs)?;
    } else {
        for (name, value) in &pairs {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output::line(format!("{name} = {value}"));
        }
    }
    Ok(Verdict::Positive)
}
