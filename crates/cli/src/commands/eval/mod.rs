//! `aionis eval`: retrieval quality, measured through the real recall path.

mod locomo;
mod score;

use std::{path::PathBuf, time::Instant};

use aionis_core::{
    ids::{NodeId, ScopeKey, TenantId},
    model::Viewer,
    recall::KnobOverrides,
};
use aionis_engine::recall::{ArmChoice, RecallRequest};
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use self::{
    locomo::{Conversation, Question},
    score::{Group, Scores},
};
use crate::{
    failure::{Failure, Verdict},
    output,
    settings::{Settings, env_file::EnvFileArgs},
    wiring::{self, Parts},
};

/// Flags of `aionis eval`.
#[derive(Debug, Args)]
pub(crate) struct EvalArgs {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// A file in the format of LoCoMo: long conversations, questions, and the turns that answer them.
    Locomo(Box<LocomoArgs>),
}

/// Which arms are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Arms {
    Hybrid,
    Dense,
    Lexical,
}

impl Arms {
    const fn choice(self) -> ArmChoice {
        match self {
            Self::Hybrid => ArmChoice::Hybrid,
            Self::Dense => ArmChoice::DenseOnly,
            Self::Lexical => ArmChoice::LexicalOnly,
        }
    }
}

#[derive(Debug, Args)]
struct LocomoArgs {
    /// The file.
    #[arg(long)]
    data: PathBuf,
    /// Arms to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "hybrid,dense,lexical")]
    arms: Vec<Arms>,
    /// Exit 2 when recall@10 of the first arm is below.
    #[arg(long)]
    min_recall_at_10: Option<f64>,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
    #[command(flatten)]
    settings: Settings,
}

/// The report: scores of the first arm named at the top, of all beside.
#[derive(Debug, Serialize)]
struct Report {
    suite: &'static str,
    dataset_sha256: String,
    embedding_provider: String,
    conversations: usize,
    nodes: usize,
    edges: usize,
    skipped_questions: usize,
    load_ms: f64,
    overall: Group,
    per_category: std::collections::BTreeMap<String, Group>,
    arms: std::collections::BTreeMap<&'static str, Scores>,
}

/// Seeds asked for: enough for the largest cut-off.
const LIMIT: usize = 50;

pub(crate) async fn run(args: EvalArgs) -> Result<Verdict, Failure> {
    let Suite::Locomo(args) = args.suite;
    let bytes = std::fs::read(&args.data)
        .map_err(|e| Failure::new(format!("cannot read --data {}: {e}", args.data.display())))?;
    let (conversations, skipped_questions) = locomo::parse(&bytes)?;
    // Scores of nothing are zeros, which would pass a bar of zero: no data is no verdict.
    if conversations.iter().all(|conversation| conversation.questions.is_empty()) {
        return Err(Failure::new(format!("--data {} holds no question with usable evidence", args.data.display())));
    }
    let directory = tempfile::tempdir()?;
    let mut settings = args.settings.clone();
    let model_dir = settings.embedding.model_dir(&settings.storage.data_dir);
    settings.embedding.model_dir = Some(model_dir);
    settings.storage.data_dir = directory.path().to_owned();
    let parts = wiring::open(&settings).await?;
    let started = Instant::now();
    let (nodes, edges) = load(&parts, &settings, &conversations).await?;
    let load_ms = started.elapsed().as_secs_f64() * 1e3;
    let mut arms = std::collections::BTreeMap::new();
    for arm in &args.arms {
        let name = match arm {
            Arms::Hybrid => "hybrid",
            Arms::Dense => "dense",
            Arms::Lexical => "lexical",
        };
        arms.insert(name, ask_all(&parts, &conversations, *arm, name).await?);
    }
    let first = match args.arms.first() {
        Some(Arms::Hybrid) | None => "hybrid",
        Some(Arms::Dense) => "dense",
        Some(Arms::Lexical) => "lexical",
    };
    let Some(scores) = arms.get(first) else { return Err(Failure::new("--arms names nothing to measure")) };
    let report = Report {
        suite: "locomo",
        dataset_sha256: aionis_core::canon::sha256_hex(&bytes),
        embedding_provider: parts.store.space().name.clone(),
        conversations: conversations.len(),
        nodes,
        edges,
        skipped_questions,
        load_ms,
        overall: scores.overall.clone(),
        per_category: scores.per_category.clone(),
        arms,
    };
    parts.engine.flush().await;
    parts.store.close().await;
    let recall = report.overall.recall_at_10;
    if args.json {
        output::json(&report)?;
    } else {
        print(&report);
    }
    Ok(Verdict::from(args.min_recall_at_10.is_none_or(|min| recall >= min)))
}

fn scope_of(conversation: &Conversation) -> Result<ScopeKey, Failure> {
    Ok(ScopeKey::new(&TenantId::parse("eval")?, &format!("locomo-{}", conversation.name))?)
}

/// Writes every conversation into a scope of its own and derives all vectors.
async fn load(parts: &Parts, settings: &Settings, conversations: &[Conversation]) -> Result<(usize, usize), Failure> {
    let bar = output::progress(conversations.len() as u64, "writing conversations");
    let (mut nodes, mut edges) = (0, 0);
    for conversation in conversations {
        for request in locomo::writes(conversation, &scope_of(conversation)?, parts.clock.now()) {
            nodes += request.nodes.len();
            edges += request.edges.len();
            parts.engine.write(request).await?;
        }
        bar.inc(1);
    }
    if let Some(worker) = parts.worker(settings) {
        let round = worker.drain().await?;
        if round.failed > 0 {
            return Err(Failure::new(format!("{} batches of vectors could not be derived", round.failed)));
        }
    }
    bar.finish_and_clear();
    Ok((nodes, edges))
}

async fn ask_all(parts: &Parts, conversations: &[Conversation], arm: Arms, name: &str) -> Result<Scores, Failure> {
    let total: usize = conversations.iter().map(|c| c.questions.len()).sum();
    let bar = output::progress(total as u64, &format!("asking ({name})"));
    let mut scores = Scores::default();
    for conversation in conversations {
        let scope = scope_of(conversation)?;
        let turns = locomo::turn_ids(conversation, &scope);
        for question in &conversation.questions {
            ask(parts, &scope, question, arm, &turns, &mut scores).await?;
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    scores.finish();
    Ok(scores)
}

async fn ask(
    parts: &Parts,
    scope: &ScopeKey,
    question: &Question,
    arm: Arms,
    turns: &std::collections::HashMap<NodeId, String>,
    scores: &mut Scores,
) -> Result<(), Failure> {
    let mut request = RecallRequest::text(scope.clone(), Viewer::default(), &question.text);
    request.knobs = KnobOverrides { limit: Some(LIMIT), ..KnobOverrides::default() };
    request.arms = arm.choice();
    let started = Instant::now();
    let answer = parts.engine.recall(request).await?;
    let latency_ms = started.elapsed().as_secs_f64() * 1e3;
    // Sessions are found too and take their places; only turns can be evidence.
    let found: Vec<&str> = answer.seeds.iter().map(|seed| turns.get(&seed.id).map_or("", String::as_str)).collect();
    scores.add(question.category, &question.evidence, &found, answer.context.estimated_tokens, latency_ms);
    Ok(())
}

fn print(report: &Report) {
    output::line(format!(
        "{} conversations, {} nodes, {} edges, loaded in {:.1} s; {} questions skipped (no usable evidence)",
        report.conversations,
        report.nodes,
        report.edges,
        report.load_ms / 1e3,
        report.skipped_questions
    ));
    output::line(format!(
        "{:<8} {:<12} {:>6} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>8} {:>8}",
        "arm", "category", "n", "rec@5", "rec@10", "rec@20", "rec@50", "hit@10", "MRR", "tokens", "p50 ms", "p95 ms"
    ));
    for (arm, scores) in &report.arms {
        let all = std::iter::once(("all", &scores.overall));
        for (category, g) in all.chain(scores.per_category.iter().map(|(name, group)| (name.as_str(), group))) {
            output::line(format!(
                "{arm:<8} {category:<12} {:>6} {:>7.4} {:>7.4} {:>7.4} {:>7.4} {:>7.4} {:>7.4} {:>8.1} {:>8.2} {:>8.2}",
                g.questions,
                g.recall_at_5,
                g.recall_at_10,
                g.recall_at_20,
                g.recall_at_50,
                g.hit_at_10,
                g.mrr,
                g.context_tokens_mean,
                g.latency_ms_p50,
                g.latency_ms_p95
            ));
        }
    }
}
