//! Learned rules, as pure functions: which of them apply to a context, and what tool policy they make.
//!
//! A caller compiles each stored rule once ([`CompiledRule`]), gives all live ones of a scope to [`evaluate`], and passes
//! the merged policy to [`select_tool`]. [`check_promotion`] and [`lint`] look at a rule before it goes live;
//! [`attributed_rules`] says which rules a feedback concerns.

mod attribution;
mod condition;
mod definition;
mod evaluate;
mod identity;
mod lint;
mod merge;
mod number;
mod patch;
mod pattern;
mod promote;
mod select;
mod tools;
mod value;

pub use attribution::{FeedbackTarget, attributed_rules, attributed_to_decision};
pub use condition::{Condition, MAX_DEPTH, MAX_PATTERNS, MAX_VALUES, TooLarge, condition_paths};
pub use definition::{CompiledRule, Rank, RuleDef, priority, weight};
pub use evaluate::{
    AgentSummary, EvaluateOptions, Evaluation, InvalidThen, LaneSummary, RuleMatch, RuleScopeSummary,
    VisibilitySummary, evaluate,
};
pub use identity::ContextIdentity;
pub use lint::{lint, lint_condition};
pub use merge::{Applied, Conflict, ConflictExplain, Loser, Merged, Source, Winner, merge};
pub use patch::{PatchError, PolicyPatch, TOOL_LIST_MAX, ToolLists};
pub use pattern::{PATTERN_MAX_CHARS, Pattern, PatternProblem};
pub use promote::check_promotion;
pub use select::{Denied, DenyReason, Fallback, Selection, normalize_candidates, select_tool, tool_conflicts_summary};
pub use tools::{Contribution, ToolConflict, ToolExplain, ToolPolicy, ToolWinners};
