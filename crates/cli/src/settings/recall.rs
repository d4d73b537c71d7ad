//! Which profile a recall gets, when it gets a cheaper one, and from how large an earlier state it answers.

use std::time::Duration;

use aionis_core::recall::{Adaptive, Profile, ProfilePolicy};
use clap::Args;

use super::boolean;

/// Profiles of recalls.
#[derive(Clone, Debug, Args)]
pub(crate) struct RecallSettings {
    /// legacy, strict_edges, quality_first or lean: what decides on the knobs a recall leaves out.
    #[arg(long, env = "MEMORY_RECALL_PROFILE", default_value = "strict_edges", value_parser = profile)]
    pub(crate) memory_recall_profile: Profile,
    /// Profiles by endpoint, tenant, and both, as a JSON object with `endpoint`, `tenant_default` and `tenant_endpoint`.
    #[arg(long, env = "MEMORY_RECALL_PROFILE_POLICY_JSON", default_value = "{}")]
    pub(crate) memory_recall_profile_policy_json: String,
    /// Give recalls that waited long and pinned no knob a cheaper profile.
    #[arg(long, env = "MEMORY_RECALL_ADAPTIVE_DOWNGRADE_ENABLED", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) memory_recall_adaptive_downgrade_enabled: bool,
    /// How long they must have waited for their turn, in ms.
    #[arg(long, env = "MEMORY_RECALL_ADAPTIVE_WAIT_MS", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub(crate) memory_recall_adaptive_wait_ms: u64,
    /// The cheaper profile.
    #[arg(long, env = "MEMORY_RECALL_ADAPTIVE_TARGET_PROFILE", default_value = "lean", value_parser = profile)]
    pub(crate) memory_recall_adaptive_target_profile: Profile,
    /// Nodes of a scope up to which recall answers from an earlier state (as_of), which it builds in memory first.
    #[arg(long, env = "AIONIS_AS_OF_NODES_MAX", default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(0..=10_000_000))]
    pub(crate) as_of_nodes_max: u64,
    /// Whether the nodes a recall begins with count as used: they fade more slowly and keep their tier.
    #[arg(long, env = "AIONIS_RECALL_ACTIVATES", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) recall_activates: bool,
}

fn profile(text: &str) -> Result<Profile, String> {
    Profile::parse(text).ok_or_else(|| format!("must be {}", Profile::NAMES))
}

impl RecallSettings {
    /// The policy, or what is wrong with it, in one line.
    pub(crate) fn profiles(&self) -> Result<ProfilePolicy, String> {
        ProfilePolicy::parse(self.memory_recall_profile, &self.memory_recall_profile_policy_json)
            .map_err(|e| format!("MEMORY_RECALL_PROFILE_POLICY_JSON: {e}"))
    }

    /// Why the wait for a cheaper profile could never be over: a recall that waits longer than the gate lets it is refused.
    pub(crate) fn adaptive_wait_problem(&self, queue_timeout_ms: u64) -> Option<String> {
        let wait_ms = self.memory_recall_adaptive_wait_ms;
        (self.memory_recall_adaptive_downgrade_enabled && wait_ms >= queue_timeout_ms).then(|| {
            format!(
                "MEMORY_RECALL_ADAPTIVE_WAIT_MS={wait_ms} is never waited: API_RECALL_QUEUE_TIMEOUT_MS={queue_timeout_ms} \
                 refuses a recall before; lower the one, raise the other, or set \
                 MEMORY_RECALL_ADAPTIVE_DOWNGRADE_ENABLED=false"
            )
        })
    }

    /// When a cheaper profile is used, or why it could never be.
    pub(crate) fn adaptive(&self) -> Result<Adaptive, String> {
        let adaptive = Adaptive {
            enabled: self.memory_recall_adaptive_downgrade_enabled,
            wait_min: Duration::from_millis(self.memory_recall_adaptive_wait_ms),
            target: self.memory_recall_adaptive_target_profile,
        };
        if !adaptive.enabled || adaptive.target_is_useful() {
            return Ok(adaptive);
        }
        let target = adaptive.target.as_str();
        Err(format!("MEMORY_RECALL_ADAPTIVE_TARGET_PROFILE={target} is cheaper than no other profile; use lean"))
    }
}
