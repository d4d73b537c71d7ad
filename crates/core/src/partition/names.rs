//! Names of what a change makes.

use crate::{canon::sha256_hex, ids::ScopeKey};

/// Longest name PostgreSQL keeps, in bytes; longer ones are cut off silently.
pub const NAME_MAX_BYTES: usize = 63;
/// Most sub-partitions of the default partition.
pub const HASH_PARTITIONS_MAX: u16 = 256;
/// What a twin, and each of its indexes, is called beyond the flat one's name.
pub const TWIN_SUFFIX: &str = "_v2";
/// What a flat table, and each of its indexes, is called beyond its name after the cutover.
pub const FLAT_SUFFIX: &str = "_flat";

/// Name of a table's or index's twin.
pub fn twin_name(name: &str) -> String {
    format!("{name}{TWIN_SUFFIX}")
}

/// Name of a flat table or index after the cutover.
pub fn flat_name(name: &str) -> String {
    format!("{name}{FLAT_SUFFIX}")
}

/// The name a twin's index has after the cutover; none if it is no twin's name.
pub fn after_cutover(name: &str) -> Option<&str> {
    name.strip_suffix(TWIN_SUFFIX)
}

/// The partition of all scopes that have none of their own.
pub fn default_partition(table: &str) -> String {
    format!("{table}_p_rest")
}

/// One of the parts of the default partition.
pub fn hash_partition(table: &str, remainder: u16) -> String {
    format!("{table}_p_h{remainder:03}")
}

/// The partition that holds one scope alone. The name is made of the scope's digest: scopes may hold any sign and differ
/// in case only.
pub fn own_partition(table: &str, scope: &ScopeKey) -> String {
    format!("{table}_p_{}", &sha256_hex(scope.as_str())[..16])
}

/// A partition that is being filled and not attached yet.
pub fn staged(partition: &str) -> String {
    format!("{partition}_new")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::TenantId;

    fn key(scope: &str) -> ScopeKey {
        ScopeKey::new(&TenantId::parse("acme").unwrap(), scope).unwrap()
    }

    #[test]
    fn scopes_that_are_alike_have_different_partitions() {
        let scopes = ["perf_1", "perfX1", "perf%1", "PERF_1", "perf_1 x"];
        let names: std::collections::HashSet<String> =
            scopes.iter().map(|scope| own_partition("memory_nodes", &key(scope))).collect();
        assert_eq!(names.len(), scopes.len());
    }

    #[test]
    fn a_twin_takes_the_name_it_is_made_of() {
        assert_eq!(after_cutover(&twin_name("memory_nodes_pkey")), Some("memory_nodes_pkey"));
        assert_eq!(after_cutover("memory_nodes_pkey"), None);
    }

    proptest! {
        #[test]
        fn names_of_partitions_are_plain_and_fit(scope in "\\PC{1,40}", remainder in 0..HASH_PARTITIONS_MAX) {
            let table = "memory_consolidation_candidates";
            let Ok(scope) = ScopeKey::new(&TenantId::parse("acme").unwrap(), &scope) else { return Ok(()) };
            let names = [
                staged(&own_partition(table, &scope)),
                staged(&hash_partition(table, remainder)),
                default_partition(table),
            ];
            for name in names {
                prop_assert!(name.len() <= NAME_MAX_BYTES, "{name}");
                prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            }
        }
    }
}
