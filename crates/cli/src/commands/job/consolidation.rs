//! `aionis job consolidation-…`.

use aionis_core::{
    jobs::consolidation::{PAIRS_MAX, TYPES, Thresholds, UndoWhich, parse_pair_key},
    model::NodeType,
};
use aionis_engine::jobs::{
    CandidateSettings, ConsolidationApply, ConsolidationCandidates, ConsolidationRedirect, ConsolidationUndo, Decisions,
};
use clap::Args;
use uuid::Uuid;

use super::{HowArgs, SelectionArgs, run_job};
use crate::{
    failure::{Failure, Verdict},
    settings::FadingSettings,
};

fn mergeable(name: &str) -> Result<NodeType, String> {
    let names = TYPES.map(NodeType::as_str);
    NodeType::parse(name)
        .filter(|kind| TYPES.contains(kind))
        .ok_or_else(|| format!("must be one of {}", names.join(", ")))
}

fn pair(key: &str) -> Result<String, String> {
    let problem =
        "must be the key of a pair, `<smaller id>|<larger id>|<type>`, as consolidation-candidates reports it";
    parse_pair_key(key).map(|_| key.to_owned()).ok_or_else(|| problem.to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "must be a number from 0 to 1".to_owned())?;
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err("must be a number from 0 to 1".to_owned()) }
}

/// Flags of `aionis job consolidation-candidates`.
#[derive(Debug, Args)]
pub(crate) struct CandidatesArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Kinds of nodes to look at, with commas between: topic, concept, entity, procedure, self_model.
    #[arg(long, value_delimiter = ',', default_value = "topic,concept,entity", value_parser = mergeable)]
    types: Vec<NodeType>,
    /// Nodes looked at in one batch; batches go on until all nodes of the scope were looked at.
    #[arg(long, env = "MEMORY_CONSOLIDATION_MAX_ANCHORS", default_value_t = 300, value_parser = clap::value_parser!(u16).range(1..=2_000))]
    max_anchors: u16,
    /// Nearest nodes that each is compared with.
    #[arg(long, env = "MEMORY_CONSOLIDATION_NEIGHBORS_PER_NODE", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=50))]
    neighbors_per_node: u16,
    /// Least cosine of the vectors of a pair.
    #[arg(long, env = "MEMORY_CONSOLIDATION_MIN_VECTOR_SIM", default_value_t = 0.86, value_parser = share)]
    min_vector: f64,
    /// Least score of a pair.
    #[arg(long, env = "MEMORY_CONSOLIDATION_MIN_SCORE", default_value_t = 0.82, value_parser = share)]
    min_score: f64,
    /// Shared words from which on opposite words send a pair to review.
    #[arg(long, env = "MEMORY_CONSOLIDATION_CONFLICT_MIN_SHARED_TOKENS", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    conflict_min_shared_tokens: u16,
    /// Likeness of the words from which on a negation on one side sends a pair to review.
    #[arg(long, env = "MEMORY_CONSOLIDATION_CONFLICT_NEGATION_LEXICAL_MIN", default_value_t = 0.5, value_parser = share)]
    conflict_negation_lexical_min: f64,
    /// Exit with 2 when a pair waits to be merged or reviewed.
    #[arg(long)]
    strict: bool,
    /// Look for nothing; take this pair for the same. It is merged next, contradictory or not.
    #[arg(long, value_name = "PAIR", value_parser = pair, requires_all = ["tenant", "scope"], conflicts_with = "all")]
    accept: Vec<String>,
    /// Look for nothing; take this pair for two. It is not queued again.
    #[arg(long, value_name = "PAIR", value_parser = pair, requires_all = ["tenant", "scope"], conflicts_with = "all")]
    reject: Vec<String>,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn candidates(args: CandidatesArgs) -> Result<Verdict, Failure> {
    let selection = args.selection.selection();
    let job = if args.accept.is_empty() && args.reject.is_empty() {
        ConsolidationCandidates::new(CandidateSettings {
            types: args.types,
            anchors: usize::from(args.max_anchors),
            neighbors: usize::from(args.neighbors_per_node),
            thresholds: Thresholds {
                min_vector: args.min_vector,
                min_score: args.min_score,
                conflict_min_shared_tokens: usize::from(args.conflict_min_shared_tokens),
                conflict_negation_lexical_min: args.conflict_negation_lexical_min,
            },
            strict: args.strict,
        })
    } else {
        ConsolidationCandidates::deciding(Decisions { accept: args.accept, reject: args.reject })
    };
    run_job(&job, &selection, &args.how).await
}

/// Flags of `aionis job consolidation-apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Kinds of nodes to merge, with commas between: topic, concept, entity, procedure, self_model.
    #[arg(long, value_delimiter = ',', default_value = "topic,concept,entity", value_parser = mergeable)]
    types: Vec<NodeType>,
    /// Most pairs merged in one scope; pairs that cannot be merged do not count.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=i64::from(PAIRS_MAX)))]
    limit_apply: u16,
    /// Merge; without it, only tell what would be merged.
    #[arg(long)]
    apply: bool,
    /// Also merge pairs that wait for review.
    #[arg(long)]
    allow_contradictory: bool,
    #[command(flatten)]
    fading: FadingSettings,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn apply(mut args: ApplyArgs) -> Result<Verdict, Failure> {
    args.how.dry_run |= !args.apply;
    let job = ConsolidationApply {
        types: args.types,
        limit: usize::from(args.limit_apply),
        allow_contradictory: args.allow_contradictory,
        decay: args.fading.policy(),
    };
    run_job(&job, &args.selection.selection(), &args.how).await
}

/// Flags of `aionis job consolidation-redirect-edges`.
#[derive(Debug, Args)]
pub(crate) struct RedirectArgs {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Aliases whose edges are moved in one batch; batches go on until all were looked at.
    #[arg(long, env = "MEMORY_CONSOLIDATION_REDIRECT_MAX_ALIASES", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=5_000))]
    max_aliases: u16,
    /// Move; without it, only tell what would be moved.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn redirect(mut args: RedirectArgs) -> Result<Verdict, Failure> {
    args.how.dry_run |= !args.apply;
    let job = ConsolidationRedirect { aliases: usize::from(args.max_aliases) };
    run_job(&job, &args.selection.selection(), &args.how).await
}

/// Flags of `aionis job consolidation-undo`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true))]
pub(crate) struct UndoArgs {
    /// The scope's tenant.
    #[arg(long)]
    tenant: String,
    /// The scope.
    #[arg(long)]
    scope: String,
    /// The merge to take back, as consolidation-apply reports it.
    #[arg(long, value_name = "ID", group = "what")]
    merge: Option<Uuid>,
    /// The run of consolidation-apply to take back, as `aionis job runs` lists it.
    #[arg(long, value_name = "RUN", group = "what")]
    all_of: Option<Uuid>,
    /// Overwrite what was changed since.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    how: HowArgs,
}

pub(crate) async fn undo(args: UndoArgs) -> Result<Verdict, Failure> {
    let which = match (args.merge, args.all_of) {
        (Some(id), _) => UndoWhich::Merge(id),
        (None, Some(id)) => UndoWhich::Run(id),
        (None, None) => return Err(Failure::new("one of --merge and --all-of is required".to_owned())),
    };
    let selection = aionis_engine::jobs::Selection { tenant: Some(args.tenant), scope: Some(args.scope) };
    run_job(&ConsolidationUndo { which, force: args.force }, &selection, &args.how).await
}
