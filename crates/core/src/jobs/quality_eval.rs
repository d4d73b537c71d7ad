//! Quality of a scope: how much of it has a vector, is double, is put away, is in use.

use serde::Serialize;

use super::{
    checks::{Check, CheckSummary, Measured, Severity, Strictness, ratio, round4},
    counts::QualityCounts,
};
use crate::model::Tier;

/// Bounds of the checks.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QualityThresholds {
    /// Smallest part of nodes with a vector.
    pub min_ready_ratio: f64,
    /// Largest part of topics, concepts and entities that stand for another one.
    pub max_alias_rate: f64,
    /// Largest part of nodes in the archive.
    pub max_archive_ratio: f64,
    /// Smallest part of nodes used or written within 30 days.
    pub min_fresh_30d_ratio: f64,
    /// Nodes a ratio needs to say anything.
    pub min_sample: u64,
}

impl Default for QualityThresholds {
    fn default() -> Self {
        Self {
            min_ready_ratio: 0.8,
            max_alias_rate: 0.3,
            max_archive_ratio: 0.95,
            min_fresh_30d_ratio: 0.2,
            min_sample: 1,
        }
    }
}

/// Nodes by tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TierCounts {
    /// In daily use.
    pub hot: u64,
    /// Less used.
    pub warm: u64,
    /// Out of recall.
    pub cold: u64,
    /// For the record.
    pub archive: u64,
}

/// How well events are gathered in topics.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ClusteringQuality {
    /// Mean weight of `part_of` edges from events to topics.
    pub cohesion: Option<f64>,
    /// Part of eligible events without a topic.
    pub drift_orphan_rate: Option<f64>,
    /// Part of what can be merged that was, within 30 days.
    pub merge_rate_30d: Option<f64>,
    /// `part_of` edges from events to topics.
    pub part_of_edges: u64,
    /// Hot and warm events with a vector.
    pub eligible_event_nodes: u64,
    /// Those of them without a topic.
    pub orphan_event_nodes: u64,
    /// Nodes merged within 30 days.
    pub merged_30d_nodes: u64,
}

/// What was measured. A ratio of nothing is null.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QualityMetrics {
    /// Nodes.
    pub total_nodes: u64,
    /// Nodes by tier.
    pub tier_counts: TierCounts,
    /// Nodes with a vector.
    pub embedding_ready_nodes: u64,
    /// Part of them.
    pub embedding_ready_ratio: Option<f64>,
    /// Topics, concepts and entities.
    pub dedupe_candidates_total: u64,
    /// Those of them that stand for another one.
    pub aliased_nodes: u64,
    /// Part of them.
    pub alias_rate: Option<f64>,
    /// Part of nodes in the archive.
    pub archive_ratio: Option<f64>,
    /// Nodes used or written within 30 days.
    pub fresh_30d_nodes: u64,
    /// Part of them.
    pub fresh_30d_ratio: Option<f64>,
    /// Edges.
    pub edge_count: u64,
    /// Edges per node.
    pub edges_per_node: Option<f64>,
    /// Summaries made by compression.
    pub compression_summaries: u64,
    /// Citations per summary.
    pub compression_avg_citations: Option<f64>,
    /// Topics.
    pub clustering_quality: ClusteringQuality,
}

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QualityReport {
    /// The verdict.
    pub ok: bool,
    /// What was asked for.
    pub thresholds: QualityThresholds,
    /// What was measured.
    pub metrics: QualityMetrics,
    /// What it was compared with.
    pub checks: Vec<Check>,
    /// What the checks say together.
    pub summary: CheckSummary,
}

/// Judges a scope by what was counted in it.
pub fn evaluate(counts: &QualityCounts, thresholds: QualityThresholds, strictness: Strictness) -> QualityReport {
    let t = &thresholds;
    let of = |part, whole| Measured::ratio(part, whole, t.min_sample);
    let archive = counts.tiers[Tier::Archive as usize];
    let error = Severity::Error;
    let checks = vec![
        Check::at_least("embedding_ready_ratio", error, of(counts.ready, counts.nodes), t.min_ready_ratio),
        Check::at_most("alias_rate", error, of(counts.aliased, counts.dedupe_candidates), t.max_alias_rate),
        Check::at_most("archive_ratio", error, of(archive, counts.nodes), t.max_archive_ratio),
        Check::at_least("fresh_30d_ratio", error, of(counts.fresh, counts.nodes), t.min_fresh_30d_ratio),
    ];
    QualityReport {
        ok: strictness.holds(&checks),
        thresholds,
        metrics: metrics(counts),
        summary: CheckSummary::of(&checks),
        checks,
    }
}

fn metrics(counts: &QualityCounts) -> QualityMetrics {
    let part = |part, whole| ratio(part, whole).map(round4);
    let [hot, warm, cold, archive] = counts.tiers;
    #[expect(clippy::cast_precision_loss, reason = "counts of rows")]
    let cohesion = (counts.part_of > 0).then(|| round4(counts.part_of_weight / counts.part_of as f64));
    QualityMetrics {
        total_nodes: counts.nodes,
        tier_counts: TierCounts { hot, warm, cold, archive },
        embedding_ready_nodes: counts.ready,
        embedding_ready_ratio: part(counts.ready, counts.nodes),
        dedupe_candidates_total: counts.dedupe_candidates,
        aliased_nodes: counts.aliased,
        alias_rate: part(counts.aliased, counts.dedupe_candidates),
        archive_ratio: part(archive, counts.nodes),
        fresh_30d_nodes: counts.fresh,
        fresh_30d_ratio: part(counts.fresh, counts.nodes),
        edge_count: counts.edges,
        edges_per_node: part(counts.edges, counts.nodes),
        compression_summaries: counts.summaries,
        compression_avg_citations: part(counts.citations, counts.summaries),
        clustering_quality: ClusteringQuality {
            cohesion,
            drift_orphan_rate: part(counts.orphan_events, counts.eligible_events),
            merge_rate_30d: part(counts.merged, counts.mergeable),
            part_of_edges: counts.part_of,
            eligible_event_nodes: counts.eligible_events,
            orphan_event_nodes: counts.orphan_events,
            merged_30d_nodes: counts.merged,
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::jobs::checks::CheckState;

    fn sound() -> QualityCounts {
        QualityCounts {
            nodes: 100,
            tiers: [60, 30, 5, 5],
            ready: 90,
            dedupe_candidates: 10,
            aliased: 1,
            fresh: 50,
            ..QualityCounts::default()
        }
    }

    fn failed(counts: &QualityCounts) -> Vec<&'static str> {
        let report = evaluate(counts, QualityThresholds::default(), Strictness::default());
        assert_eq!(report.ok, report.summary.failed_errors.is_empty());
        report.summary.failed_errors
    }

    #[test]
    fn each_violation_trips_its_check_and_no_other() {
        assert_eq!(failed(&sound()), [""; 0]);
        for (name, counts) in [
            ("embedding_ready_ratio", QualityCounts { ready: 79, ..sound() }),
            ("alias_rate", QualityCounts { aliased: 4, ..sound() }),
            ("archive_ratio", QualityCounts { tiers: [4, 0, 0, 96], ..sound() }),
            ("fresh_30d_ratio", QualityCounts { fresh: 19, ..sound() }),
        ] {
            assert_eq!(failed(&counts), [name]);
        }
        for counts in [
            QualityCounts { ready: 80, ..sound() },
            QualityCounts { aliased: 3, ..sound() },
            QualityCounts { tiers: [5, 0, 0, 95], ..sound() },
            QualityCounts { fresh: 20, ..sound() },
        ] {
            assert_eq!(failed(&counts), [""; 0], "a bound is reached, not passed");
        }
    }

    #[test]
    fn an_empty_scope_is_inconclusive_and_no_pass() {
        let report = evaluate(&QualityCounts::default(), QualityThresholds::default(), Strictness::default());
        assert!(report.ok && !report.summary.pass);
        assert!(report.checks.iter().all(|check| check.state == CheckState::Inconclusive && check.value.is_none()));
        let strict = Strictness { strict: true, strict_warnings: false };
        assert!(!evaluate(&QualityCounts::default(), QualityThresholds::default(), strict).ok);
    }

    #[test]
    fn a_sample_that_is_too_small_is_inconclusive() {
        let thresholds = QualityThresholds { min_sample: 101, ..QualityThresholds::default() };
        let report = evaluate(&QualityCounts { ready: 0, ..sound() }, thresholds, Strictness::default());
        assert_eq!(report.checks[0].state, CheckState::Inconclusive);
        assert_eq!(report.checks[0].value, Some(0.0));
    }

    proptest! {
        #[test]
        fn more_vectors_never_make_it_worse(nodes in 1..500_u64, a in 0..500_u64, b in 0..500_u64) {
            let (low, high) = (a.min(b).min(nodes), a.max(b).min(nodes));
            let of = |ready| {
                let counts = QualityCounts { nodes, ready, tiers: [nodes, 0, 0, 0], fresh: nodes, ..sound() };
                evaluate(&counts, QualityThresholds::default(), Strictness::default()).ok
            };
            prop_assert!(of(high) || !of(low));
        }
    }
}
