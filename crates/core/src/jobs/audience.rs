//! Who may see a node, as something that can be compared: what is derived is seen by nobody who does not see its sources.

use serde_json::{Value, json};

use crate::model::{Lane, Viewer};

/// Who may see a node: its lane and its owners.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Audience {
    /// Lane.
    pub lane: Lane,
    /// Owning agent.
    pub owner_agent_id: Option<String>,
    /// Owning team.
    pub owner_team_id: Option<String>,
}

impl Audience {
    /// Whether nobody is meant: private and without owner. Such a node is in quarantine; nothing is derived from it.
    pub const fn is_nobody(&self) -> bool {
        matches!(self.lane, Lane::Private) && self.owner_agent_id.is_none() && self.owner_team_id.is_none()
    }

    /// Whether everyone who may see this may see the other too, whatever other agents and teams they are.
    pub fn is_within(&self, other: &Self) -> bool {
        if other.lane == Lane::Shared || self.is_nobody() {
            return true;
        }
        let same = |mine: &Option<String>, theirs: &Option<String>| mine.is_none() || mine == theirs;
        self.lane == Lane::Private
            && same(&self.owner_agent_id, &other.owner_agent_id)
            && same(&self.owner_team_id, &other.owner_team_id)
    }

    /// Whether a viewer is among them.
    pub fn includes(&self, viewer: &Viewer) -> bool {
        viewer.may_see(self.lane, self.owner_agent_id.as_deref(), self.owner_team_id.as_deref())
    }

    /// Lane and owners, for ids that are made of them.
    pub fn value(&self) -> Value {
        json!([self.lane, self.owner_agent_id, self.owner_team_id])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Option<String>> {
        prop::option::of(prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned))
    }

    fn audience() -> impl Strategy<Value = Audience> {
        (any::<bool>(), name(), name()).prop_map(|(shared, owner_agent_id, owner_team_id)| Audience {
            lane: if shared { Lane::Shared } else { Lane::Private },
            owner_agent_id,
            owner_team_id,
        })
    }

    proptest! {
        #[test]
        fn one_is_within_another_exactly_when_every_viewer_says_so(one in audience(), other in audience()) {
            let names = [None, Some("a".to_owned()), Some("b".to_owned()), Some("x".to_owned())];
            let viewers = names.iter().flat_map(|agent| {
                names.iter().map(move |team| Viewer { agent: agent.clone(), team: team.clone() })
            });
            let says_so = viewers.filter(|viewer| one.includes(viewer)).all(|viewer| other.includes(&viewer));
            prop_assert_eq!(one.is_within(&other), says_so);
        }
    }
}
