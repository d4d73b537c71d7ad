//! What is held in memory of rows, for checks over several of them: as little as they need. A node takes 48 bytes in the
//! table, an edge 24 and what its commit says; a million nodes take about 100 MB.

use hashbrown::{HashMap, HashSet};
use uuid::Uuid;

use crate::{canon::Digest, model::NodeType};

/// It is stored.
pub(super) const STORED: u8 = 1;
/// It is private.
pub(super) const PRIVATE: u8 = 2;
/// It is said to have a vector.
pub(super) const READY: u8 = 4;
/// It has a vector of the model recall uses.
pub(super) const HAS_VECTOR: u8 = 8;
/// It has an executable part.
pub(super) const HAS_RULE: u8 = 16;
/// Another node stands for it.
pub(super) const ALIASED: u8 = 32;
/// Its type could be read.
pub(super) const TYPED: u8 = 64;

/// A node.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NodeFact {
    /// The first bytes of the digest its commits say, later of the one beside it.
    pub(super) digest: u64,
    /// The commit that made its content.
    pub(super) content_seq: u32,
    /// Number of its owner's name; 0 for none.
    pub(super) agent: u32,
    /// Number of its owning team's name; 0 for none.
    pub(super) team: u32,
    /// Position of its type.
    pub(super) kind: u8,
    pub(super) bits: u8,
}

impl NodeFact {
    pub(super) const fn has(&self, bits: u8) -> bool {
        self.bits & bits == bits
    }

    pub(super) fn is(&self, kind: NodeType) -> bool {
        self.has(TYPED) && NodeType::ALL.get(usize::from(self.kind)) == Some(&kind)
    }

    /// Whether it is seen by somebody who does not see a source that belongs to others.
    pub(super) const fn is_wider_than(&self, source: &Self) -> bool {
        let same_agent = source.agent != 0 && source.agent == self.agent;
        let same_team = source.team != 0 && source.team == self.team;
        if !source.has(PRIVATE) || same_agent || same_team {
            return false;
        }
        // A private node without owner is seen by nobody.
        !self.has(PRIVATE) || self.agent != 0 || self.team != 0
    }
}

/// What a node's slots say of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefKind {
    Citation,
    Alias,
    Superseded,
    Source,
}

/// A rule's counters, as stored and as counted. A node that stopped being a rule and became one again begins to count anew,
/// and its earlier feedback is kept.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RuleFact {
    pub(super) said: (u64, u64),
    pub(super) counted: (u64, u64),
    /// When its executable part was made.
    pub(super) since: i64,
    /// What was counted from then on.
    pub(super) counted_since: (u64, u64),
}

impl RuleFact {
    pub(super) fn count(&mut self, outcome: &str, at: i64) {
        let add = |counts: &mut (u64, u64)| {
            counts.0 += u64::from(outcome == "positive");
            counts.1 += u64::from(outcome == "negative");
        };
        add(&mut self.counted);
        if at >= self.since {
            add(&mut self.counted_since);
        }
    }

    pub(super) fn fits(&self) -> bool {
        self.said == self.counted || self.said == self.counted_since
    }
}

/// A topic's members, as said and as counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Members {
    pub(super) said: u64,
    pub(super) counted: u64,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Facts {
    pub(super) nodes: HashMap<Uuid, NodeFact>,
    /// Edges that commits name and that were not seen yet: the first bytes of their digest.
    pub(super) edges: HashMap<Uuid, u64>,
    /// Earlier contents, by node and the commit that made them.
    pub(super) earlier: HashMap<(Uuid, u32), u64>,
    /// Commits in the order of their numbers.
    pub(super) commits: Vec<(u64, Uuid)>,
    pub(super) aliases: HashMap<Uuid, Uuid>,
    pub(super) refs: Vec<(Uuid, Uuid, RefKind)>,
    pub(super) members: HashMap<Uuid, Members>,
    pub(super) rules: HashMap<Uuid, RuleFact>,
    /// Decisions with a hash of their run; 0 for none.
    pub(super) decisions: HashMap<Uuid, u64>,
    pub(super) scopes: HashSet<String>,
    names: HashMap<String, u32>,
    pub(super) stored_nodes: u64,
    pub(super) stored_edges: u64,
    pub(super) hot: u64,
    pub(super) warm: u64,
}

impl Facts {
    /// Rows that are held.
    pub(super) fn held(&self) -> usize {
        let of_nodes = self.nodes.len() + self.aliases.len() + self.refs.len() + self.members.len();
        of_nodes + self.edges.len() + self.earlier.len() + self.commits.len() + self.rules.len() + self.decisions.len()
    }

    /// The number of a name; the same name has the same one.
    pub(super) fn name(&mut self, name: Option<&str>) -> u32 {
        let Some(name) = name else { return 0 };
        if let Some(number) = self.names.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len() + 1).unwrap_or(u32::MAX);
        self.names.insert(name.to_owned(), number);
        number
    }

    /// A node that is stored.
    pub(super) fn stored(&self, id: &Uuid) -> Option<&NodeFact> {
        self.nodes.get(id).filter(|fact| fact.has(STORED))
    }

    /// Id of a commit.
    pub(super) fn commit(&self, seq: u64) -> Option<Uuid> {
        let at = self.commits.binary_search_by_key(&seq, |(seq, _)| *seq).ok()?;
        Some(self.commits[at].1)
    }

    /// One node of each circle of aliases, the smallest, and how many are in it. A node that is its own alias is none.
    pub(super) fn circles(&self) -> Vec<(Uuid, usize)> {
        let (mut done, mut circles) = (HashSet::new(), Vec::new());
        for start in self.aliases.keys() {
            let (mut path, mut at) = (Vec::new(), *start);
            while done.insert(at) {
                path.push(at);
                match self.aliases.get(&at) {
                    Some(next) => at = *next,
                    None => break,
                }
            }
            // The walk met itself: what is from there on is a circle. Where it met another walk there is none.
            if let Some(from) = path.iter().position(|id| *id == at).filter(|from| path.len() - from > 1) {
                let circle = &path[from..];
                let closed = circle.last().and_then(|last| self.aliases.get(last)) == Some(&at);
                if let Some(smallest) = circle.iter().min().filter(|_| closed) {
                    circles.push((*smallest, circle.len()));
                }
            }
        }
        circles.sort_unstable();
        circles
    }
}

/// The first bytes of a digest: enough to notice damage. `aionis verify` compares all of them.
pub(super) fn first_bytes(digest: &Digest) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.0[..8]);
    u64::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(aliases: &[(u128, u128)]) -> Facts {
        let aliases = aliases.iter().map(|(from, to)| (Uuid::from_u128(*from), Uuid::from_u128(*to))).collect();
        Facts { aliases, ..Facts::default() }
    }

    #[test]
    fn a_chain_is_no_circle_and_neither_is_a_node_by_itself() {
        assert!(facts(&[(1, 2), (2, 3), (4, 3), (5, 5)]).circles().is_empty());
        let two = facts(&[(9, 1), (1, 2), (2, 1), (3, 4), (4, 5), (5, 3)]);
        assert_eq!(two.circles(), [(Uuid::from_u128(1), 2), (Uuid::from_u128(3), 3)]);
    }

    #[test]
    fn visibility_is_compared_by_who_sees_it() {
        let fact = |private: bool, agent, team| NodeFact {
            bits: if private { PRIVATE } else { 0 },
            agent,
            team,
            ..NodeFact::default()
        };
        let of_ann = fact(true, 1, 0);
        assert!(fact(false, 0, 0).is_wider_than(&of_ann), "everybody sees a shared one");
        assert!(fact(true, 2, 0).is_wider_than(&of_ann) && fact(true, 0, 7).is_wider_than(&of_ann));
        assert!(!fact(true, 1, 0).is_wider_than(&of_ann) && !fact(true, 0, 0).is_wider_than(&of_ann));
        assert!(!fact(false, 1, 0).is_wider_than(&of_ann), "its owner may publish it");
        assert!(!fact(false, 0, 0).is_wider_than(&fact(false, 1, 0)), "what is shared may be used by all");
        assert!(fact(true, 1, 0).is_wider_than(&fact(true, 0, 0)), "what nobody may see is quarantined");
    }

    proptest! {
        /// Every circle is found once, whatever leads into it.
        #[test]
        fn circles_are_those_that_following_finds(edges in prop::collection::hash_map(0_u128..12, 0_u128..12, 0..12)) {
            let list: Vec<(u128, u128)> = edges.iter().map(|(from, to)| (*from, *to)).collect();
            let mut expected = std::collections::BTreeSet::new();
            for start in 0..12 {
                let mut seen = vec![start];
                while let Some(next) = edges.get(seen.last().unwrap()) {
                    if *next == start && seen.len() > 1 {
                        expected.insert((Uuid::from_u128(*seen.iter().min().unwrap()), seen.len()));
                    }
                    if seen.contains(next) {
                        break;
                    }
                    seen.push(*next);
                }
            }
            prop_assert_eq!(facts(&list).circles(), expected.into_iter().collect::<Vec<_>>());
        }
    }
}
