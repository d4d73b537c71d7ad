//! Recall profiles: named settings of the seven knobs (runtime specification 4.2, and `lean`).

/// The seven knobs of a recall.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Knobs {
    /// Seeds.
    pub limit: usize,
    /// 1 or 2.
    pub neighborhood_hops: u8,
    /// Nodes in the subgraph.
    pub max_nodes: usize,
    /// Edges in the subgraph.
    pub max_edges: usize,
    /// Entries of `ranked`.
    pub ranked_limit: usize,
    /// Edges below are not followed.
    pub min_edge_weight: f64,
    /// Edges below are not followed.
    pub min_edge_confidence: f64,
}

/// Knobs a caller pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct KnobOverrides {
    /// 1..=200.
    pub limit: Option<usize>,
    /// 1..=2.
    pub neighborhood_hops: Option<u8>,
    /// 1..=200.
    pub max_nodes: Option<usize>,
    /// 1..=100.
    pub max_edges: Option<usize>,
    /// 1..=500.
    pub ranked_limit: Option<usize>,
    /// 0..=1.
    pub min_edge_weight: Option<f64>,
    /// 0..=1.
    pub min_edge_confidence: Option<f64>,
}

/// A named setting of all knobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Every edge counts.
    Legacy,
    /// Weak edges are not followed; the default.
    #[default]
    StrictEdges,
    /// More of everything.
    QualityFirst,
    /// Less of everything, one hop: what recalls get that waited too long.
    Lean,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Legacy, Self::StrictEdges, Self::QualityFirst, Self::Lean];
    /// Their names, for messages.
    pub const NAMES: &'static str = "legacy, strict_edges, quality_first or lean";

    /// Reads the text form.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == text)
    }

    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::StrictEdges => "strict_edges",
            Self::QualityFirst => "quality_first",
            Self::Lean => "lean",
        }
    }

    /// The knobs of the profile.
    pub const fn knobs(self) -> Knobs {
        match self {
            Self::Legacy => Knobs {
                limit: 30,
                neighborhood_hops: 2,
                max_nodes: 50,
                max_edges: 100,
                ranked_limit: 100,
                min_edge_weight: 0.0,
                min_edge_confidence: 0.0,
            },
            Self::StrictEdges => Knobs {
                limit: 24,
                neighborhood_hops: 2,
                max_nodes: 60,
                max_edges: 80,
                ranked_limit: 140,
                min_edge_weight: 0.2,
                min_edge_confidence: 0.2,
            },
            Self::QualityFirst => Knobs {
                limit: 30,
                neighborhood_hops: 2,
                max_nodes: 80,
                max_edges: 100,
                ranked_limit: 180,
                min_edge_weight: 0.05,
                min_edge_confidence: 0.05,
            },
            Self::Lean => Knobs {
                limit: 12,
                neighborhood_hops: 1,
                max_nodes: 24,
                max_edges: 24,
                ranked_limit: 40,
                min_edge_weight: 0.2,
                min_edge_confidence: 0.2,
            },
        }
    }
}

impl Knobs {
    /// Whether a recall with these knobs is less work than one with `other`: none of the knobs that make work is larger,
    /// and one is smaller.
    pub fn is_cheaper_than(&self, other: &Self) -> bool {
        let work = |knobs: &Self| {
            let Self { limit, neighborhood_hops, max_nodes, max_edges, ranked_limit, .. } = *knobs;
            [limit, usize::from(neighborhood_hops), max_nodes, max_edges, ranked_limit]
        };
        let (own, others) = (work(self), work(other));
        own != others && own.iter().zip(others).all(|(own, other)| *own <= other)
    }
}

impl KnobOverrides {
    /// Whether the caller pinned any knob.
    pub fn any(&self) -> bool {
        *self != Self::default()
    }

    /// The profile's knobs with the pinned ones in their place.
    pub fn over(&self, base: Knobs) -> Knobs {
        Knobs {
            limit: self.limit.unwrap_or(base.limit),
            neighborhood_hops: self.neighborhood_hops.unwrap_or(base.neighborhood_hops),
            max_nodes: self.max_nodes.unwrap_or(base.max_nodes),
            max_edges: self.max_edges.unwrap_or(base.max_edges),
            ranked_limit: self.ranked_limit.unwrap_or(base.ranked_limit),
            min_edge_weight: self.min_edge_weight.unwrap_or(base.min_edge_weight),
            min_edge_confidence: self.min_edge_confidence.unwrap_or(base.min_edge_confidence),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pinned_knobs_win_one_by_one() {
        let pinned = KnobOverrides { limit: Some(7), ..Default::default() };
        assert!(pinned.any() && !KnobOverrides::default().any());
        let knobs = pinned.over(Profile::QualityFirst.knobs());
        assert_eq!((knobs.limit, knobs.max_nodes, knobs.ranked_limit), (7, 80, 180));
    }

    #[test]
    fn names_round_trip() {
        for profile in Profile::ALL {
            assert_eq!(Profile::parse(profile.as_str()), Some(profile));
        }
        assert_eq!(Profile::parse("fast"), None);
    }
}
