//! `aionis doctor`: can this machine and these settings run the service?

use std::{net::TcpListener, sync::Arc};

use aionis_core::clock::SystemClock;
use aionis_embed::Provider;
use clap::Args;
use serde::Serialize;

use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{HttpSettings, Settings, env_file::EnvFileArgs, environment},
    wiring,
};

/// Flags of `aionis doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
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

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    status: &'static str,
    detail: String,
}

pub(crate) async fn run(args: DoctorArgs) -> Result<Verdict, Failure> {
    let mut findings = Vec::new();
    let mut add = |check, result: Result<String, String>| {
        let (status, detail) = match result {
            Ok(detail) => ("ok", detail),
            Err(detail) => ("failed", detail),
        };
        findings.push(Finding { check, status, detail });
    };
    add("settings", args.settings.check().map(|()| "sound".to_owned()).map_err(|e| e.to_string()));
    add("address", args.http.check(&args.settings).map(|_| args.http.host.to_string()).map_err(|e| e.to_string()));
    add("port", check_port(&args.http));
    let data_dir = &args.settings.storage.data_dir;
    let embed = args.settings.embedding.to_embed(data_dir, args.settings.memory.is_production());
    let provider = aionis_embed::build(&embed);
    add("embedding", check_provider(&provider));
    if let Ok(provider) = &provider {
        add("store", check_store(&args, provider).await);
    }
    let unknown: Vec<String> = environment::unknown().iter().map(ToString::to_string).collect();
    add("variables", if unknown.is_empty() { Ok("all known".to_owned()) } else { Err(unknown.join("; ")) });
    let sound = findings.iter().all(|finding| finding.status == "ok");
    if args.json {
        output::json(&findings)?;
    } else {
        for finding in &findings {
            output::line(format!("{:<7} {:<10} {}", finding.status, finding.check, finding.detail));
        }
    }
    Ok(Verdict::from(sound))
}

fn check_port(http: &HttpSettings) -> Result<String, String> {
    TcpListener::bind((http.host, http.port))
        .map(|_| format!("{} is free", http.port))
        .map_err(|e| format!("{}:{} cannot be listened on: {e}", http.host, http.port))
}

fn check_provider(provider: &Result<Provider, aionis_embed::BuildError>) -> Result<String, String> {
    match provider {
        Ok(Provider::Ready(embedder)) => Ok(format!("{} ({} dimensions)", embedder.name(), embedder.dim())),
        Ok(Provider::Disabled) => Ok("none: recall searches words only".to_owned()),
        Ok(Provider::ModelMissing { dir }) => {
            Err(format!("the built-in model is not in {}: run `aionis model pull`", dir.display()))
        }
        Err(e) => Err(e.to_string()),
    }
}

async fn check_store(args: &DoctorArgs, provider: &Provider) -> Result<String, String> {
    let settings = &args.settings;
    let store = wiring::open_store(settings, provider, Arc::new(SystemClock)).await.map_err(|e| e.to_string())?;
    let scopes = store.scopes(None, None).await.map_err(|e| e.to_string())?;
    let problems = store.physical_check().await.map_err(|e| e.to_string())?;
    let production = settings.memory.is_production();
    let keys = args.http.auth.require_key(&*store, &SystemClock, production).await;
    store.close().await;
    keys.map_err(|e| e.to_string())?;
    match problems.first() {
        None => {
            Ok(format!("sound, {} scope(s), in {}", scopes.len(), wiring::store_options(&settings.storage).place()))
        }
        Some(problem) => Err(format!("the database file is damaged: {problem}")),
    }
}
