//! Which role a route needs, which members of its bodies name identities, and what it costs: one entry per route. A route without an
//! entry is answered to nobody.

use aionis_engine::admission::Category;

use super::Role;

/// Which members of a body are bound to the caller, besides the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binding {
    /// None.
    Tenant,
    /// `consumer_agent_id`, `consumer_team_id` and `rules_context`.
    Consumer,
    /// Producer and owners, of the write and of each of its nodes.
    Producer,
    /// `context`.
    Context,
}

/// What a route needs.
pub(crate) struct Access {
    pub(crate) path: &'static str,
    pub(crate) role: Role,
    pub(crate) binding: Binding,
    /// Whose tokens a request costs.
    pub(crate) category: Category,
}

const fn reads(path: &'static str, role: Role, binding: Binding) -> Access {
    Access { path, role, binding, category: Category::Recall }
}

const fn writes(path: &'static str, role: Role, binding: Binding) -> Access {
    Access { path, role, binding, category: Category::Write }
}

/// Every route below `/v1`.
const ROUTES: &[Access] = &[
    writes("/v1/memory/write", Role::Writer, Binding::Producer),
    reads("/v1/memory/recall", Role::Reader, Binding::Consumer),
    reads("/v1/memory/recall_text", Role::Reader, Binding::Consumer),
    writes("/v1/memory/feedback", Role::Writer, Binding::Tenant),
    writes("/v1/memory/rules/state", Role::Writer, Binding::Tenant),
    reads("/v1/memory/rules/evaluate", Role::Reader, Binding::Context),
    // Stores a decision, so reading is not enough.
    reads("/v1/memory/tools/select", Role::Writer, Binding::Context),
    writes("/v1/memory/tools/feedback", Role::Writer, Binding::Context),
    writes("/v1/memory/nodes/activate", Role::Writer, Binding::Tenant),
    writes("/v1/memory/archive/rehydrate", Role::Writer, Binding::Tenant),
    reads("/v1/memory/decisions/{id}/replay", Role::Reader, Binding::Tenant),
    reads("/v1/memory/find", Role::Reader, Binding::Consumer),
    reads("/v1/memory/nodes/{id}", Role::Reader, Binding::Consumer),
    reads("/v1/memory/nodes/{id}/history", Role::Reader, Binding::Consumer),
    reads("/v1/memory/commits", Role::Reader, Binding::Consumer),
    reads("/v1/memory/commits/{id}", Role::Reader, Binding::Consumer),
    writes("/v1/memory/forget", Role::Writer, Binding::Tenant),
    // Reads everything the scope holds.
    reads("/v1/memory/verify", Role::Admin, Binding::Tenant),
];

/// The entry of a route, by the path it is registered with.
pub(crate) fn of(path: &str) -> Option<&'static Access> {
    ROUTES.iter().find(|access| access.path == path)
}

/// The least role a route is answered to, by the path it is registered with; none when it is answered to nobody.
pub fn required_role(path: &str) -> Option<Role> {
    of(path).map(|access| access.role)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_route_has_two_entries() {
        for (at, access) in ROUTES.iter().enumerate() {
            assert!(access.path.starts_with("/v1/"), "{}", access.path);
            assert!(ROUTES[at + 1..].iter().all(|other| other.path != access.path), "{}", access.path);
        }
    }
}
