//! How memories fade, and when they move to a colder tier.

use aionis_core::lifecycle::{DecayPolicy, TierPolicy};
use clap::Args;

use super::boolean;

/// A number within bounds.
fn number(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from {least} to {most}")),
    }
}

fn share(text: &str) -> Result<f64, String> {
    number(text, 0.0, 1.0)
}

/// How salience fades.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Forgetting")]
pub(crate) struct FadingSettings {
    /// What is left of a node's salience after a day, at the pace 1; 1 for no fading.
    #[arg(long, env = "MEMORY_SALIENCE_DECAY_FACTOR", default_value_t = 0.995, value_parser = |text: &str| number(text, 0.9, 1.0))]
    pub(crate) salience_decay_factor: f64,
    /// Whether use and feedback change the pace.
    #[arg(long, env = "MEMORY_ADAPTIVE_DECAY_ENABLED", default_value = "true", value_parser = boolean, action = clap::ArgAction::Set)]
    pub(crate) adaptive_decay_enabled: bool,
    /// Days after a use in which a node counts as recently used.
    #[arg(long, env = "MEMORY_ADAPTIVE_RECENT_DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(0..=3_650))]
    pub(crate) adaptive_recent_days: u32,
    /// Pace of what was used recently.
    #[arg(long, env = "MEMORY_ADAPTIVE_RECENT_SCALE", default_value_t = 0.6, value_parser = |text: &str| number(text, 0.1, 2.0))]
    pub(crate) adaptive_recent_scale: f64,
    /// How much good feedback slows it down.
    #[arg(long, env = "MEMORY_ADAPTIVE_FEEDBACK_POS_STRENGTH", default_value_t = 0.5, value_parser = share)]
    pub(crate) adaptive_feedback_pos_strength: f64,
    /// How much bad feedback speeds it up.
    #[arg(long, env = "MEMORY_ADAPTIVE_FEEDBACK_NEG_STRENGTH", default_value_t = 1.0, value_parser = |text: &str| number(text, 0.0, 2.0))]
    pub(crate) adaptive_feedback_neg_strength: f64,
    /// Slowest pace.
    #[arg(long, env = "MEMORY_ADAPTIVE_DECAY_SCALE_MIN", default_value_t = 0.25, value_parser = |text: &str| number(text, 0.1, 1.0))]
    pub(crate) adaptive_decay_scale_min: f64,
    /// Fastest pace.
    #[arg(long, env = "MEMORY_ADAPTIVE_DECAY_SCALE_MAX", default_value_t = 2.0, value_parser = |text: &str| number(text, 1.0, 3.0))]
    pub(crate) adaptive_decay_scale_max: f64,
}

impl FadingSettings {
    /// The policy.
    pub(crate) fn policy(&self) -> DecayPolicy {
        DecayPolicy {
            factor: self.salience_decay_factor,
            adaptive: self.adaptive_decay_enabled,
            recent_days: f64::from(self.adaptive_recent_days),
            recent_scale: self.adaptive_recent_scale,
            positive_strength: self.adaptive_feedback_pos_strength,
            negative_strength: self.adaptive_feedback_neg_strength,
            scale_min: self.adaptive_decay_scale_min,
            scale_max: self.adaptive_decay_scale_max,
        }
    }
}

/// How salience fades, and the tiers.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Forgetting")]
pub(crate) struct DecaySettings {
    #[command(flatten)]
    pub(crate) fading: FadingSettings,
    /// Salience below which a hot node may turn warm.
    #[arg(long, env = "MEMORY_TIER_WARM_BELOW", default_value_t = 0.35, value_parser = share)]
    pub(crate) tier_warm_below: f64,
    /// Salience below which a warm node may turn cold.
    #[arg(long, env = "MEMORY_TIER_COLD_BELOW", default_value_t = 0.12, value_parser = share)]
    pub(crate) tier_cold_below: f64,
    /// Salience below which a cold node may be archived.
    #[arg(long, env = "MEMORY_TIER_ARCHIVE_BELOW", default_value_t = 0.03, value_parser = share)]
    pub(crate) tier_archive_below: f64,
    /// Days without use before a hot node may turn warm.
    #[arg(long, env = "MEMORY_TIER_WARM_INACTIVE_DAYS", default_value_t = 14, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) tier_warm_inactive_days: u32,
    /// Days without use before a warm node may turn cold.
    #[arg(long, env = "MEMORY_TIER_COLD_INACTIVE_DAYS", default_value_t = 45, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) tier_cold_inactive_days: u32,
    /// Days without use before a cold node may be archived.
    #[arg(long, env = "MEMORY_TIER_ARCHIVE_INACTIVE_DAYS", default_value_t = 120, value_parser = clap::value_parser!(u32).range(0..=36_500))]
    pub(crate) tier_archive_inactive_days: u32,
    /// Share of a scope's movable nodes that may move within 24 hours; one always may.
    #[arg(long, env = "MEMORY_TIER_MAX_DAILY_MUTATION_RATIO", default_value_t = 0.05, value_parser = |text: &str| number(text, 0.001, 1.0))]
    pub(crate) tier_max_daily_mutation_ratio: f64,
    /// Hot nodes a scope may have; 0 for no limit.
    #[arg(long, env = "MEMORY_SCOPE_HOT_NODE_BUDGET", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub(crate) scope_hot_node_budget: u64,
    /// Hot and warm nodes a scope may have; 0 for no limit.
    #[arg(long, env = "MEMORY_SCOPE_ACTIVE_NODE_BUDGET", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    pub(crate) scope_active_node_budget: u64,
}

impl DecaySettings {
    /// What of the settings contradicts itself.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.tier_cold_below > self.tier_warm_below {
            return Some("MEMORY_TIER_COLD_BELOW must not be above MEMORY_TIER_WARM_BELOW".to_owned());
        }
        (self.tier_archive_below > self.tier_cold_below)
            .then(|| "MEMORY_TIER_ARCHIVE_BELOW must not be above MEMORY_TIER_COLD_BELOW".to_owned())
    }

    /// The policy.
    pub(crate) fn policy(&self) -> TierPolicy {
        TierPolicy {
            decay: self.fading.policy(),
            warm_below: self.tier_warm_below,
            cold_below: self.tier_cold_below,
            archive_below: self.tier_archive_below,
            warm_inactive_days: self.tier_warm_inactive_days,
            cold_inactive_days: self.tier_cold_inactive_days,
            archive_inactive_days: self.tier_archive_inactive_days,
            daily_mutation_ratio: self.tier_max_daily_mutation_ratio,
            hot_node_budget: self.scope_hot_node_budget,
            active_node_budget: self.scope_active_node_budget,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        decay: DecaySettings,
    }

    fn parse(args: &[&str]) -> Result<DecaySettings, clap::Error> {
        Line::try_parse_from([&["x"], args].concat()).map(|line| line.decay)
    }

    #[test]
    fn defaults_are_those_of_the_policy() {
        assert_eq!(parse(&[]).unwrap().policy(), TierPolicy::default());
        assert_eq!(parse(&[]).unwrap().problem(), None);
    }

    #[test]
    fn what_is_out_of_bounds_or_contradicts_itself_is_refused() {
        for (flag, wrong) in [
            ("--salience-decay-factor", "0.89"),
            ("--salience-decay-factor", "NaN"),
            ("--adaptive-recent-scale", "0"),
            ("--adaptive-decay-scale-max", "0.9"),
            ("--tier-warm-below", "1.1"),
            ("--tier-warm-inactive-days", "x"),
            ("--tier-max-daily-mutation-ratio", "0"),
            ("--scope-hot-node-budget", "-1"),
        ] {
            assert!(parse(&[&format!("{flag}={wrong}")]).is_err(), "{flag} {wrong}");
        }
        let above = parse(&["--tier-cold-below=0.4"]).unwrap();
        assert!(above.problem().unwrap().contains("MEMORY_TIER_COLD_BELOW"));
        let above = parse(&["--tier-archive-below=0.2"]).unwrap();
        assert!(above.problem().unwrap().contains("MEMORY_TIER_ARCHIVE_BELOW"));
    }
}
