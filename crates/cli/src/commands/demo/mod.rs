//! `aionis demo` and `aionis quickstart`: one memory among distractors, found again by a question in other words.

mod memory;
mod server;

use std::{path::PathBuf, time::Duration};

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use self::server::OwnServer;
use crate::{
    client::Client,
    failure::{Failure, Verdict},
    output,
    settings::{SecretArg, env_file::EnvFileArgs},
};

/// Flags of `aionis demo` and `aionis quickstart`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Use this running server instead of an own one; it is not restarted then.
    #[arg(long, visible_alias = "base-url")]
    url: Option<String>,
    /// API key for the running server.
    #[arg(long, env = "AIONIS_API_KEY", hide_env_values = true)]
    api_key: Option<SecretArg>,
    /// Keep the own server's data here instead of in a directory that is removed afterwards.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Directory of the built-in model's files.
    #[arg(long, env = "AIONIS_MODEL_DIR")]
    model_dir: Option<PathBuf>,
    /// Write the figures to this file as JSON.
    #[arg(long)]
    result_file: Option<PathBuf>,
    /// Exit 2 unless everything was shown.
    #[arg(long)]
    require_success: bool,
    /// How long to wait for vectors, in s.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=600))]
    vectors_wait_s: u64,
    /// Print one JSON document.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    env_file: EnvFileArgs,
}

/// Flags of `aionis quickstart`.
#[derive(Debug, Args)]
pub(crate) struct QuickstartArgs {
    /// Use the running stack at --base-url (by default port 3001 of this machine) instead of a server of its own; exit 2
    /// unless everything was shown.
    #[arg(long)]
    stack: bool,
    #[command(flatten)]
    demo: DemoArgs,
}

/// Where a stack listens unless it is told otherwise.
const STACK_URL: &str = "http://127.0.0.1:3001";

/// What was seen.
#[derive(Debug, Serialize)]
struct DemoResult {
    memory_recall_improved: bool,
    cross_session_recall_stable: bool,
    server_restarted: bool,
    scope: String,
    memories_written: usize,
    questions: Vec<QuestionResult>,
    write_ms: f64,
    vectors_ready_ms: Option<f64>,
    restart_ms: Option<f64>,
}

/// Rank of the right memory for one question, from 1; none when it was not among the first fifty.
#[derive(Debug, Serialize)]
struct QuestionResult {
    question: &'static str,
    kind: &'static str,
    before_rank: Option<usize>,
    after_rank: Option<usize>,
    next_session_rank: Option<usize>,
    recall_ms: f64,
}

/// The right memory must be among this many.
const TOP: usize = 3;

pub(crate) async fn quickstart(args: QuickstartArgs) -> Result<Verdict, Failure> {
    let mut demo = args.demo;
    if args.stack {
        demo.url.get_or_insert_with(|| STACK_URL.to_owned());
        demo.require_success = true;
    } else if demo.url.is_some() {
        return Err(Failure::new(
            "quickstart starts a server of its own; --stack makes it use the running one at --url",
        ));
    }
    run(demo).await
}

pub(crate) async fn run(args: DemoArgs) -> Result<Verdict, Failure> {
    let temporary;
    let own = match (&args.url, &args.data_dir) {
        (Some(_), _) => None,
        (None, Some(dir)) => Some(OwnServer::start(dir, args.model_dir.as_deref()).await?),
        (None, None) => {
            temporary = tempfile::tempdir()?;
            Some(OwnServer::start(temporary.path(), args.model_dir.as_deref()).await?)
        }
    };
    let result = show(&args, own).await?;
    if let Some(path) = &args.result_file {
        std::fs::write(path, serde_json::to_string_pretty(&result)? + "\n")
            .map_err(|e| Failure::new(format!("cannot write --result-file {}: {e}", path.display())))?;
    }
    if args.json {
        output::json(&result)?;
    } else {
        print(&result);
    }
    let shown = result.memory_recall_improved && result.cross_session_recall_stable;
    Ok(Verdict::from(shown || !args.require_success))
}

async fn show(args: &DemoArgs, mut own: Option<OwnServer>) -> Result<DemoResult, Failure> {
    let url = own.as_ref().map(OwnServer::url).or_else(|| args.url.clone()).unwrap_or_default();
    // An own server asks for no key, and an operator's is not for it.
    let key = args.api_key.as_ref().map(|key| key.0.as_str()).filter(|key| own.is_none() && !key.is_empty());
    let mut client = Client::new(&url, Duration::from_secs(30))?.with_key(key)?;
    let scope = format!("demo-{}", Uuid::new_v4().simple());
    write(&client, &memory::distractors(&scope)).await?;
    let wait = Duration::from_secs(args.vectors_wait_s);
    wait_for_vectors(&client, &scope, wait).await?;
    let mut questions = Vec::new();
    for (question, kind) in memory::QUESTIONS {
        let (before_rank, _) = ask(&client, &scope, question).await?;
        questions.push(QuestionResult {
            question,
            kind,
            before_rank,
            after_rank: None,
            next_session_rank: None,
            recall_ms: 0.0,
        });
    }
    let started = std::time::Instant::now();
    let written = write(&client, &memory::the_memory(&scope)).await?;
    let write_ms = started.elapsed().as_secs_f64() * 1e3;
    let vectors_ready_ms = wait_for_vectors(&client, &scope, wait).await?;
    for result in &mut questions {
        (result.after_rank, result.recall_ms) = ask(&client, &scope, result.question).await?;
    }
    let mut restart_ms = None;
    if let Some(server) = own.take() {
        let started = std::time::Instant::now();
        let server = server.restart().await?;
        restart_ms = Some(started.elapsed().as_secs_f64() * 1e3);
        client = Client::new(&server.url(), Duration::from_secs(30))?;
        own = Some(server);
    }
    for result in &mut questions {
        (result.next_session_rank, _) = ask(&client, &scope, result.question).await?;
    }
    let server_restarted = own.is_some();
    if let Some(server) = own {
        server.stop().await?;
    }
    let in_top = |rank: Option<usize>| rank.is_some_and(|rank| rank <= TOP);
    let of_kind = |kind| questions.iter().filter(move |q| q.kind == kind);
    let improved = of_kind("paraphrase").all(|q| !in_top(q.before_rank) && in_top(q.after_rank))
        && of_kind("control").all(|q| !in_top(q.after_rank));
    let stable = of_kind("paraphrase").all(|q| in_top(q.next_session_rank))
        && of_kind("control").all(|q| !in_top(q.next_session_rank));
    Ok(DemoResult {
        memory_recall_improved: improved,
        cross_session_recall_stable: stable,
        server_restarted,
        scope,
        memories_written: memory::DISTRACTORS.len() + written,
        questions,
        write_ms,
        vectors_ready_ms,
        restart_ms,
    })
}

async fn write(client: &Client, body: &Value) -> Result<usize, Failure> {
    let answer = client.post("/v1/memory/write", body).await?;
    Ok(answer["nodes"].as_array().map_or(0, Vec::len))
}

/// Waits until no vector is missing; gives up quietly after `limit`, because what is missing then shows in the ranks.
async fn wait_for_vectors(client: &Client, scope: &str, limit: Duration) -> Result<Option<f64>, Failure> {
    let started = std::time::Instant::now();
    loop {
        let body = json!({ "scope": scope, "query_text": "ready", "limit": 1 });
        let answer = client.post("/v1/memory/recall_text", &body).await?;
        if answer["pending"]["nodes"] == 0 {
            return Ok(Some(started.elapsed().as_secs_f64() * 1e3));
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Rank of the memory and the time the answer took in ms.
async fn ask(client: &Client, scope: &str, question: &str) -> Result<(Option<usize>, f64), Failure> {
    let started = std::time::Instant::now();
    let body = json!({ "scope": scope, "query_text": question, "limit": 50, "max_nodes": 50 });
    let answer = client.post("/v1/memory/recall_text", &body).await?;
    let elapsed_ms = started.elapsed().as_secs_f64() * 1e3;
    let seeds = answer["seeds"].as_array().map_or(&[][..], Vec::as_slice);
    let at = seeds.iter().position(|seed| seed["text_summary"] == memory::MEMORY);
    Ok((at.map(|at| at + 1), elapsed_ms))
}

fn print(result: &DemoResult) {
    let rank = |rank: Option<usize>| rank.map_or("not found".to_owned(), |rank| format!("rank {rank}"));
    output::line(format!("memory:  {}", memory::MEMORY));
    output::line(format!("among {} memories of one scope ({})", result.memories_written, result.scope));
    for q in &result.questions {
        output::line(format!("\n{} question: {}", q.kind, q.question));
        let again = if result.server_restarted { "after a restart" } else { "asked again" };
        output::line(format!(
            "  before the write: {:<10}  after: {:<10}  {again}: {:<10}  ({:.1} ms)",
            rank(q.before_rank),
            rank(q.after_rank),
            rank(q.next_session_rank),
            q.recall_ms
        ));
    }
    let ms = |ms: Option<f64>| ms.map_or("not in time".to_owned(), |ms| format!("{ms:.0} ms"));
    output::line(format!(
        "\nwrite answered in {:.1} ms, vectors ready after {}, restart took {}",
        result.write_ms,
        ms(result.vectors_ready_ms),
        result.restart_ms.map_or("none".to_owned(), |ms| format!("{ms:.0} ms"))
    ));
    output::line(format!("memory_recall_improved = {}", result.memory_recall_improved));
    output::line(format!("cross_session_recall_stable = {}", result.cross_session_recall_stable));
}
