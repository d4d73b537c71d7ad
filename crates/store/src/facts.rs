//! Facts about a deployment for gates and for advice on its size. They look at every scope, so they are for now and then.

use std::collections::BTreeMap;

use aionis_core::{clock::Timestamp, ports::store::StoreError};

use crate::{
    postgres::{self, PostgresStore},
    sqlite::{self, SqliteStore},
};

/// What a database is made by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreVersions {
    /// The database server or library with its version.
    pub server: String,
    /// Version of pgvector, where there is one.
    pub vector_extension: Option<String>,
}

/// What one tenant holds and does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantLoad {
    /// Scopes.
    pub scopes: u64,
    /// Nodes, as the heads of scopes count them.
    pub nodes: u64,
    /// Nodes that were first written in the window of growth.
    pub nodes_grown: u64,
    /// Commits in the tenant's own busiest hour.
    pub commits_busiest_hour: u64,
}

/// Counters of a PostgreSQL database since its statistics were reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseCounters {
    /// Transactions that were committed.
    pub commits: u64,
    /// Transactions that were rolled back.
    pub rollbacks: u64,
    /// Blocks that were read from outside the buffer cache.
    pub blocks_read: u64,
    /// Blocks that were found in it.
    pub blocks_hit: u64,
    /// Deadlocks.
    pub deadlocks: u64,
    /// Connections to this database now.
    pub connections: u64,
    /// Connections the server allows.
    pub connections_max: u64,
}

/// How a deployment is loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadFacts {
    /// Per tenant, by name.
    pub tenants: BTreeMap<String, TenantLoad>,
    /// Commits of all tenants in the busiest hour.
    pub commits_busiest_hour: u64,
    /// Size of the database, in bytes.
    pub database_bytes: u64,
    /// Size of each table with its indexes, in bytes; PostgreSQL only.
    pub table_bytes: BTreeMap<String, u64>,
    /// Counters; PostgreSQL only.
    pub counters: Option<DatabaseCounters>,
}

/// From when on facts are counted.
#[derive(Clone, Copy, Debug)]
pub struct LoadWindows {
    /// Growth: nodes first written since.
    pub grown_since: Timestamp,
    /// Load: commits since, by hours.
    pub busy_since: Timestamp,
}

/// A row of numbers that belong to a tenant.
pub(crate) type OfTenant = (String, i64, i64);

/// What each tenant holds. `{0}` stands for the tenant of a scope key, which the engines write differently.
pub(crate) const HELD: &str = "SELECT {tenant}, CAST(count(*) AS bigint), CAST(sum(s.node_count) AS bigint) \
                               FROM memory_scopes s GROUP BY 1";
/// Only scopes that were written since can hold rows of the window.
pub(crate) const GROWN: &str = "SELECT {tenant}, CAST(count(*) AS bigint), CAST(0 AS bigint) \
                                FROM memory_scopes s JOIN memory_nodes n ON n.scope_key = s.scope_key \
                                WHERE s.updated_at >= $1 AND n.created_at >= $1 GROUP BY 1";
pub(crate) const BUSY: &str = "SELECT {tenant}, c.created_at / 3600000000, CAST(count(*) AS bigint) \
                               FROM memory_scopes s JOIN memory_commits c ON c.scope_key = s.scope_key \
                               WHERE s.updated_at >= $1 AND c.created_at >= $1 GROUP BY 1, 2";

/// Puts rows together.
pub(crate) fn gathered(held: Vec<OfTenant>, grown: Vec<OfTenant>, busy: Vec<OfTenant>) -> LoadFacts {
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    let mut facts = LoadFacts::default();
    for (tenant, scopes, nodes) in held {
        let of = facts.tenants.entry(tenant).or_default();
        (of.scopes, of.nodes) = (count(scopes), count(nodes));
    }
    for (tenant, nodes, _) in grown {
        facts.tenants.entry(tenant).or_default().nodes_grown = count(nodes);
    }
    let mut hours: BTreeMap<i64, u64> = BTreeMap::new();
    for (tenant, hour, commits) in busy {
        let commits = count(commits);
        *hours.entry(hour).or_default() += commits;
        let of = facts.tenants.entry(tenant).or_default();
        of.commits_busiest_hour = of.commits_busiest_hour.max(commits);
    }
    facts.commits_busiest_hour = hours.values().copied().max().unwrap_or(0);
    facts
}

impl SqliteStore {
    pub(crate) async fn made_by(&self) -> Result<StoreVersions, StoreError> {
        Ok(StoreVersions { server: sqlite::library_version(), vector_extension: None })
    }

    pub(crate) async fn load_facts(&self, windows: LoadWindows) -> Result<LoadFacts, StoreError> {
        let [held, grown, busy] = sqlite::load_rows(self, windows).await?;
        let mut facts = gathered(held, grown, busy);
        facts.database_bytes =
            self.read_number("SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()").await?;
        Ok(facts)
    }
}

impl PostgresStore {
    pub(crate) async fn made_by(&self) -> Result<StoreVersions, StoreError> {
        postgres::versions(self).await
    }

    pub(crate) async fn load_facts(&self, windows: LoadWindows) -> Result<LoadFacts, StoreError> {
        postgres::load_facts(self, windows).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_hour_of_all_is_no_sum_of_the_busiest_hours_of_each() {
        let row = |tenant: &str, a, b| (tenant.to_owned(), a, b);
        let facts = gathered(
            vec![row("a", 2, 10), row("b", 1, 5)],
            vec![row("a", 4, 0)],
            vec![row("a", 7, 60), row("a", 8, 10), row("b", 8, 40)],
        );
        assert_eq!(facts.commits_busiest_hour, 60);
        let expected = TenantLoad { scopes: 2, nodes: 10, nodes_grown: 4, commits_busiest_hour: 60 };
        assert_eq!(facts.tenants["a"], expected);
        assert_eq!(facts.tenants["b"].commits_busiest_hour, 40);
        assert_eq!(gathered(vec![], vec![], vec![]), LoadFacts::default());
    }
}
