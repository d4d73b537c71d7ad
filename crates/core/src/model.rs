//! The kinds of things a memory is made of.

use std::fmt::{self, Write as _};

macro_rules! text_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// Every value, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text form, on the wire and in storage.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads the text form.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }

            /// All text forms, for messages: `a, b or c`.
            pub fn choices() -> String {
                let texts: Vec<&str> = Self::ALL.iter().map(|v| v.as_str()).collect();
                match texts.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => texts.concat(),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(crate) use text_enum;

text_enum!(
    /// What a node is.
    NodeType {
        /// Something that happened or was said.
        Event = "event",
        /// A person, place or thing.
        Entity = "entity",
        /// A group of events.
        Topic = "topic",
        /// A learned rule.
        Rule = "rule",
        /// A document or observation that supports others.
        Evidence = "evidence",
        /// An abstraction, for example a summary.
        Concept = "concept",
        /// How something is done.
        Procedure = "procedure",
        /// What the agent knows of itself.
        SelfModel = "self_model",
    }
);

text_enum!(
    /// How two nodes relate.
    EdgeType {
        /// Membership, for example of an event in a topic.
        PartOf = "part_of",
        /// Association.
        RelatedTo = "related_to",
        /// Provenance.
        DerivedFrom = "derived_from",
    }
);

impl EdgeType {
    /// Share of activation that passes along an edge of this type (runtime specification 3.10).
    pub const fn activation_factor(self) -> f64 {
        match self {
            Self::DerivedFrom => 1.0,
            Self::PartOf => 0.9,
            Self::RelatedTo => 0.6,
        }
    }
}

text_enum!(
    /// Storage tier; recall seeds come from `hot` and `warm`.
    Tier {
        /// In daily use.
        Hot = "hot",
        /// Less used.
        Warm = "warm",
        /// Out of recall, kept.
        Cold = "cold",
        /// Out of recall, kept for the record.
        Archive = "archive",
    }
);

impl Tier {
    /// Whether recall looks at nodes of this tier.
    pub const fn is_recallable(self) -> bool {
        matches!(self, Self::Hot | Self::Warm)
    }
}

text_enum!(
    /// Who may see a node.
    Lane {
        /// Its owners only.
        Private = "private",
        /// Everyone in the scope.
        Shared = "shared",
    }
);

text_enum!(
    /// State of a node's derived vector.
    EmbeddingStatus {
        /// A vector is stored.
        Ready = "ready",
        /// A vector is being derived.
        Pending = "pending",
        /// There will be no vector unless someone acts; the reason is stored.
        Failed = "failed",
    }
);

text_enum!(
    /// Life cycle of a rule.
    RuleState {
        /// Written, not used.
        Draft = "draft",
        /// Evaluated, not enforced.
        Shadow = "shadow",
        /// Enforced.
        Active = "active",
        /// Switched off.
        Disabled = "disabled",
    }
);

impl RuleState {
    /// Whether a rule of this state takes part in recall and evaluation.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Shadow | Self::Active)
    }
}

text_enum!(
    /// Audience of a rule.
    RuleScope {
        /// Everyone.
        Global = "global",
        /// One team.
        Team = "team",
        /// One agent.
        Agent = "agent",
    }
);

/// The nearest value of `real` (32-bit) storage as the shortest decimal, read back as f64: 0.9 stays 0.9.
/// Scores and weights are kept in this form so that formulas give the same numbers everywhere.
pub fn real(value: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, reason = "narrowing to f32 precision is the purpose")]
    let narrow = value as f32;
    // Every recall does this a few thousand times: the digits are written where nothing has to be allocated.
    let mut digits = Digits { bytes: [0; 64], len: 0 };
    let written = write!(digits, "{narrow}").is_ok();
    let text = std::str::from_utf8(&digits.bytes[..digits.len]);
    text.ok().filter(|_| written).and_then(|text| text.parse().ok()).unwrap_or(f64::from(narrow))
}

/// Room for the digits of a number; the shortest form of a 32-bit one has at most some fifty.
struct Digits {
    bytes: [u8; 64],
    len: usize,
}

impl fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

/// Who asks: the agent and team a recall is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Viewer {
    /// Agent id, if the caller is an agent.
    pub agent: Option<String>,
    /// Team id, if the caller belongs to one.
    pub team: Option<String>,
}

impl Viewer {
    /// Whether they may change a node of this lane and these owners (agent, team): one they can see. A private node
    /// without owner is seen by nobody and may be changed by everybody in its scope: nobody else could give it an owner.
    pub fn may_change(&self, lane: Lane, (agent, team): (Option<&str>, Option<&str>)) -> bool {
        let is = |owner: Option<&str>, name: Option<&String>| owner.is_some() && owner == name.map(String::as_str);
        lane == Lane::Shared
            || (agent.is_none() && team.is_none())
            || is(agent, self.agent.as_ref())
            || is(team, self.team.as_ref())
    }
}

impl Viewer {
    /// The lane predicate of runtime specification 3.10: shared nodes, and private ones of the viewer's agent or team.
    pub fn may_see(&self, lane: Lane, owner_agent: Option<&str>, owner_team: Option<&str>) -> bool {
        let same = |mine: &Option<String>, theirs: Option<&str>| mine.is_some() && mine.as_deref() == theirs;
        lane == Lane::Shared || same(&self.agent, owner_agent) || same(&self.team, owner_team)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reals_are_shortest_decimals() {
        assert!((real(0.9) - 0.9).abs() < f64::EPSILON);
        assert!((real(0.1 + 0.2) - 0.3).abs() < f64::EPSILON);
        for value in [0.0, -0.0, f32::MIN_POSITIVE, f32::MAX, f32::MIN, 1e-45, -1.5e-38, f32::EPSILON, 16_777_217.0] {
            assert_eq!(
                real(f64::from(value)).to_bits(),
                value.to_string().parse::<f64>().unwrap().to_bits(),
                "{value}"
            );
        }
    }

    #[test]
    fn text_forms_round_trip() {
        for value in NodeType::ALL {
            assert_eq!(NodeType::parse(value.as_str()), Some(*value));
            assert_eq!(serde_json::to_value(value).unwrap(), value.as_str());
        }
        assert_eq!(Lane::choices(), "private or shared");
    }

    #[test]
    fn a_private_node_is_seen_by_its_owners_only() {
        let nobody = Viewer::default();
        let ann = Viewer { agent: Some("ann".into()), team: None };
        let red = Viewer { agent: None, team: Some("red".into()) };
        assert!(nobody.may_see(Lane::Shared, None, None));
        assert!(!nobody.may_see(Lane::Private, None, None), "an ownerless private node is seen by nobody");
        assert!(ann.may_see(Lane::Private, Some("ann"), None) && !ann.may_see(Lane::Private, Some("bob"), None));
        assert!(red.may_see(Lane::Private, Some("bob"), Some("red")) && !ann.may_see(Lane::Private, None, Some("ann")));
    }
}
