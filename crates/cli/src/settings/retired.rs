//! Variables of the earlier TypeScript implementation that are not read here, each with the reason and what to use.

/// One of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Retired {
    /// Its name.
    pub(crate) name: &'static str,
    /// Why it is not read.
    pub(crate) reason: &'static str,
    /// What to do instead.
    pub(crate) instead: &'static str,
}

/// All of them.
pub(crate) const fn retired() -> &'static [Retired] {
    RETIRED
}

const fn of(name: &'static str, (reason, instead): (&'static str, &'static str)) -> Retired {
    Retired { name, reason, instead }
}

type Why = (&'static str, &'static str);

const IDLE: Why =
    ("connections are kept; closed ones are replaced when they are used", "nothing; DB_POOL_MAX bounds them");
const BUCKETS: Why = ("a bucket is forgotten once it is full again", "nothing; unset it");
const CROSS_SCOPE: Why =
    ("the ends of an edge are always in the edge's own scope", "nothing; write both nodes into one scope");
const TOPICS: Why = (
    "topics are clustered by a job of the workers, never within a write",
    "`trigger_topic_cluster` in writes that should not wait for the next hour",
);
const SHADOW: Why = ("there is one set of tables, so nothing is written twice", "nothing; unset it");
const PAIRS: Why = ("pairs that are alike are queued, all of them", "`--limit-apply` bounds what is merged at once");
const ALIAS_EDGES: Why = ("all edges of an alias are moved, however many there are", "nothing; unset it");
const CONTRADICTORY: Why =
    ("pairs that may contradict each other wait for review", "`--accept` one pair, or `--allow-contradictory`");

const RETIRED: &[Retired] = &[
    of("DB_POOL_IDLE_TIMEOUT_MS", IDLE),
    of("RATE_LIMIT_TTL_MS", BUCKETS),
    of("ALLOW_CROSS_SCOPE_EDGES", CROSS_SCOPE),
    of("AUTO_TOPIC_CLUSTER_ON_WRITE", TOPICS),
    of("TOPIC_CLUSTER_ASYNC_ON_WRITE", TOPICS),
    of("MEMORY_SHADOW_DUAL_WRITE_ENABLED", SHADOW),
    of("MEMORY_SHADOW_DUAL_WRITE_STRICT", SHADOW),
    of("MEMORY_CONSOLIDATION_MAX_PAIRS", PAIRS),
    of("MEMORY_CONSOLIDATION_REDIRECT_MAX_EDGES_PER_ALIAS", ALIAS_EDGES),
    of("MEMORY_CONSOLIDATION_BLOCK_CONTRADICTORY", CONTRADICTORY),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_not_retired() {
        let known = crate::settings::environment::names();
        for retired in RETIRED {
            assert!(!known.iter().any(|name| name == retired.name), "{} is read: take it off the list", retired.name);
            assert!(!retired.reason.is_empty() && !retired.instead.is_empty());
        }
        let mut names: Vec<_> = RETIRED.iter().map(|retired| retired.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RETIRED.len());
    }
}
