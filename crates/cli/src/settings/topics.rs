//! Topics and their summaries.

use aionis_engine::jobs::{RollupSettings, Strategy, TopicSettings};
use clap::Args;

/// What jobs derive by themselves.
#[derive(Clone, Debug, Args)]
pub(crate) struct DerivedSettings {
    #[command(flatten)]
    pub(crate) topics: TopicClusterSettings,
    #[command(flatten)]
    pub(crate) compression: CompressionSettings,
}

/// How events are put into topics.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Topics")]
pub(crate) struct TopicClusterSettings {
    /// Least similarity (cosine, −1 to 1) at which an event joins a topic.
    #[arg(long, env = "TOPIC_SIM_THRESHOLD", default_value_t = 0.78, allow_negative_numbers = true, value_parser = cosine)]
    pub(crate) topic_sim_threshold: f64,
    /// Members from which on a topic is active.
    #[arg(long, env = "TOPIC_MIN_EVENTS_PER_TOPIC", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) topic_min_events_per_topic: u32,
    /// Stored topics an event is compared with at most.
    #[arg(long, env = "TOPIC_MAX_CANDIDATES_PER_EVENT", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pub(crate) topic_max_candidates_per_event: u16,
    /// Events that are put into topics in one transaction.
    #[arg(long, env = "TOPIC_CLUSTER_BATCH_SIZE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub(crate) topic_cluster_batch_size: u16,
    /// One after the other to the nearest topic, or by density, which leaves out what lies alone.
    #[arg(long, env = "TOPIC_CLUSTER_STRATEGY", value_enum, default_value = "online_knn")]
    pub(crate) topic_cluster_strategy: StrategyKind,
}

/// How events are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum StrategyKind {
    /// Each event to the nearest topic.
    OnlineKnn,
    /// By density (HDBSCAN).
    OfflineHdbscan,
}

/// How topics are summed up.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Summaries of topics")]
pub(crate) struct CompressionSettings {
    /// How old an event may be, in days.
    #[arg(long, env = "MEMORY_COMPRESSION_LOOKBACK_DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub(crate) compression_lookback_days: u32,
    /// Least events of a topic.
    #[arg(long, env = "MEMORY_COMPRESSION_TOPIC_MIN_EVENTS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) compression_topic_min_events: u32,
    /// Topics that are summed up in one transaction; a run goes on until all are.
    #[arg(long, env = "MEMORY_COMPRESSION_MAX_TOPICS_PER_RUN", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=500))]
    pub(crate) compression_max_topics_per_run: u16,
    /// Most events one summary is made of, the newest.
    #[arg(long, env = "MEMORY_COMPRESSION_MAX_EVENTS_PER_TOPIC", default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=100))]
    pub(crate) compression_max_events_per_topic: u16,
    /// Longest text of a summary, in UTF-16 units.
    #[arg(long, env = "MEMORY_COMPRESSION_MAX_TEXT_LEN", default_value_t = 1_800, value_parser = clap::value_parser!(u32).range(100..=100_000))]
    pub(crate) compression_max_text_len: u32,
}

fn cosine(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "must be a number from -1 to 1".to_owned())?;
    if (-1.0..=1.0).contains(&value) { Ok(value) } else { Err("must be a number from -1 to 1".to_owned()) }
}

impl TopicClusterSettings {
    /// As the job takes them.
    pub(crate) fn to_job(&self, default_tenant: &str) -> TopicSettings {
        TopicSettings {
            similarity_min: self.topic_sim_threshold,
            events_min: self.topic_min_events_per_topic,
            candidates_max: usize::from(self.topic_max_candidates_per_event),
            batch_size: usize::from(self.topic_cluster_batch_size),
            strategy: match self.topic_cluster_strategy {
                StrategyKind::OnlineKnn => Strategy::OnlineKnn,
                StrategyKind::OfflineHdbscan => Strategy::OfflineHdbscan,
            },
            default_tenant: default_tenant.to_owned(),
        }
    }
}

impl CompressionSettings {
    /// As the job takes them.
    pub(crate) fn to_job(&self, default_tenant: &str, can_embed: bool) -> RollupSettings {
        RollupSettings {
            lookback_days: self.compression_lookback_days,
            events_min: self.compression_topic_min_events,
            topics_max: usize::from(self.compression_max_topics_per_run),
            events_max: usize::from(self.compression_max_events_per_topic),
            text_max_len: self.compression_max_text_len as usize,
            default_tenant: default_tenant.to_owned(),
            can_embed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cosine;

    #[test]
    fn a_threshold_is_a_cosine() {
        assert_eq!((cosine("-1"), cosine("0.78")), (Ok(-1.0), Ok(0.78)));
        assert!(["1.01", "NaN", "much"].iter().all(|text| cosine(text).is_err()));
    }
}
