//! `aionis config check|print`.

use clap::{Args, Subcommand};
use serde_json::json;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{HttpSettings, Settings, unknown_variables},
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
}

#[derive(Debug, Args)]
struct Everything {
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    http: HttpSettings,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: ConfigArgs) -> Result<Verdict, Failure> {
    match args.action {
        Action::Check(all) => check(&all),
        Action::Print(all) => print(&all),
    }
}

fn check(all: &Everything) -> Result<Verdict, Failure> {
    all.settings.check()?;
    all.http.check(&all.settings)?;
    let data_dir = &all.settings.storage.data_dir;
    let embed = all.settings.embedding.to_embed(data_dir, all.settings.memory.is_production());
    let provider = aionis_embed::build(&embed)?;
    let unknown = unknown_variables();
    if all.json {
        output::json(&json!({ "ok": true, "provider": format!("{provider:?}"), "unknown_variables": unknown }))?;
    } else {
        output::line(format!("the settings are sound; embedding: {provider:?}"));
        for name in unknown {
            output::line(format!("note: {name} is no setting; is it misspelt?"));
        }
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
