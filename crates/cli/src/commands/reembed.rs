//! `aionis reembed`: changes the embedding model of a store.

use aionis_core::clock::SystemClock;
use aionis_embed::{Provider, settings::ProviderKind};
use aionis_engine::reembed::{ReembedProgress, ReembedReport, ReembedSettings, reembed};
use clap::Args;

use crate::{
    failure::{Failure, Verdict},
    output::{self, Bar},
    settings::{EmbeddingSettings, LogSettings, StorageSettings, env_file::EnvFileArgs},
    telemetry, wiring,
};

/// Flags of `aionis reembed`.
#[derive(Debug, Args)]
pub(crate) struct ReembedArgs {
    /// The new model as provider:model, for example openai:text-embedding-3-large, or local. Keys and addresses are taken
    /// from the usual settings.
    #[arg(long)]
    to: String,
    /// Dimension of the new vectors, where the provider lets one choose; by default the provider's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=8192))]
    dim: Option<u32>,
    /// Only count what would be derived.
    #[arg(long)]
    dry_run: bool,
    /// Switch although nodes that have a caller's vector and no text will have none.
    #[arg(long)]
    accept_loss: bool,
    /// Remove the vectors of other models after the switch; until then a process that still uses them can go on.
    #[arg(long)]
    drop_old: bool,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    storage: StorageSettings,
    #[command(flatten)]
    embedding: EmbeddingSettings,
    #[command(flatten)]
    logs: LogSettings,
}

pub(crate) async fn run(args: ReembedArgs) -> Result<Verdict, Failure> {
    telemetry::logs(&args.logs)?;
    let embedding = target(&args)?;
    let embed = embedding.to_embed(&args.storage.data_dir, false);
    let provider = tokio::task::spawn_blocking(move || aionis_embed::build(&embed))
        .await
        .map_err(|e| Failure::new(format!("the embedding provider could not be set up: {e}")))??;
    let Provider::Ready(embedder) = provider else {
        return Err(Failure::new(format!(
            "--to {}: there is no such provider ready; run `aionis model pull`",
            args.to
        )));
    };
    let store = wiring::open_existing(&args.storage).await?;
    let settings = ReembedSettings {
        dry_run: args.dry_run,
        accept_loss: args.accept_loss,
        drop_old: args.drop_old,
        ..ReembedSettings::default()
    };
    let bar = Bar::default();
    let report = reembed(&*store, &*embedder, &SystemClock, &settings, &bar).await;
    bar.clear();
    store.close().await;
    let report = report.map_err(Failure::new)?;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(Verdict::from(report.dry_run || report.switched))
}

/// The settings of the provider that `--to` names.
fn target(args: &ReembedArgs) -> Result<EmbeddingSettings, Failure> {
    let (provider, model) = args.to.split_once(':').map_or((args.to.as_str(), None), |(p, m)| (p, Some(m)));
    let kind: ProviderKind = provider.parse().map_err(|e| Failure::new(format!("--to: {e}")))?;
    let mut embedding = args.embedding.clone();
    embedding.embedding_provider = kind;
    // The dimension that is set belongs to the model that is in use.
    embedding.embedding_dim = args.dim;
    match (kind, model) {
        (ProviderKind::None, _) => return Err(Failure::new("--to: none derives no vectors; name a provider")),
        (_, None) => {}
        (ProviderKind::OpenAi, Some(model)) => model.clone_into(&mut embedding.openai_embedding_model),
        (ProviderKind::MiniMax, Some(model)) => model.clone_into(&mut embedding.minimax_embed_model),
        (ProviderKind::Local, Some(model)) if model == aionis_embed::model_files::LOCAL_MODEL.name => {}
        (ProviderKind::Local, Some(model)) => {
            let known = aionis_embed::model_files::LOCAL_MODEL.name;
            return Err(Failure::new(format!("--to: the built-in model is {known}, not {model}")));
        }
        (ProviderKind::Fake, Some(_)) => {
            return Err(Failure::new("--to: the fake provider has no models; say --to fake"));
        }
    }
    Ok(embedding)
}

fn print(report: &ReembedReport) {
    let ReembedReport { from, to, dim, .. } = report;
    if report.dry_run {
        output::line(format!(
            "{from} -> {to} ({dim} dimensions): {} of {} nodes have a vector of it; {} would be derived from {} characters",
            report.present, report.wanted, report.to_derive, report.characters
        ));
    } else {
        output::line(format!(
            "{from} -> {to} ({dim} dimensions): {} vectors derived, {} texts refused by the provider, {} nodes left to the queue",
            report.derived, report.refused, report.queued
        ));
    }
    if report.without_text > 0 {
        output::line(format!(
            "{} node(s) have a vector from a caller and no text: they would have none of the new model",
            report.without_text
        ));
    }
    if report.dropped > 0 {
        output::line(format!("{} vectors of other models removed", report.dropped));
    }
    if report.switched {
        output::line(format!("the store compares with {to} now: restart every process with its EMBEDDING settings"));
    } else if !report.dry_run {
        output::line("not switched: give those nodes a text, or pass --accept-loss");
    }
}

impl ReembedProgress for Bar {
    fn expect(&self, vectors: u64) {
        self.start(vectors, "vectors");
    }

    fn advance(&self, steps: u64) {
        self.step(steps);
    }
}
