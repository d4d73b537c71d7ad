//! Adaptive degradation (runtime specification 4.2): a recall that waited too long for its turn, and whose caller pinned
//! nothing, is done with a cheaper profile.

use std::time::Duration;

use super::Profile;

/// Settings of the degradation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptive {
    /// Whether it is done at all.
    pub enabled: bool,
    /// From which wait on.
    pub wait_min: Duration,
    /// What is used instead, where it is cheaper.
    pub target: Profile,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self { enabled: true, wait_min: Duration::from_millis(200), target: Profile::Lean }
    }
}

/// Why a profile was kept or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AdaptiveReason {
    /// It is switched off.
    Disabled,
    /// The caller pinned a knob.
    ExplicitKnobs,
    /// The wait was short.
    WaitBelowThreshold,
    /// The profile is the target already.
    AlreadyTargetProfile,
    /// The target is no less work than the profile.
    TargetNotCheaper,
    /// The profile was changed.
    QueuePressure,
}

impl AdaptiveReason {
    /// The text form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::ExplicitKnobs => "explicit_knobs",
            Self::WaitBelowThreshold => "wait_below_threshold",
            Self::AlreadyTargetProfile => "already_target_profile",
            Self::TargetNotCheaper => "target_not_cheaper",
            Self::QueuePressure => "queue_pressure",
        }
    }
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adaptation {
    /// The profile to use.
    pub profile: Profile,
    /// Why.
    pub reason: AdaptiveReason,
}

impl Adaptation {
    /// Whether the profile is another one than was resolved.
    pub fn applied(&self) -> bool {
        self.reason == AdaptiveReason::QueuePressure
    }
}

impl Adaptive {
    /// Decides for a recall whose profile was resolved, that pinned knobs or not, and that waited so long.
    pub fn decide(&self, resolved: Profile, pinned: bool, waited: Duration) -> Adaptation {
        let reason = if !self.enabled {
            AdaptiveReason::Disabled
        } else if pinned {
            AdaptiveReason::ExplicitKnobs
        } else if waited < self.wait_min {
            AdaptiveReason::WaitBelowThreshold
        } else if resolved == self.target {
            AdaptiveReason::AlreadyTargetProfile
        } else if !self.target.knobs().is_cheaper_than(&resolved.knobs()) {
            AdaptiveReason::TargetNotCheaper
        } else {
            return Adaptation { profile: self.target, reason: AdaptiveReason::QueuePressure };
        };
        Adaptation { profile: resolved, reason }
    }

    /// Whether there is a profile that the target is cheaper than; else it could never be used.
    pub fn target_is_useful(&self) -> bool {
        Profile::ALL.iter().any(|profile| self.target.knobs().is_cheaper_than(&profile.knobs()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_millis(200);

    #[test]
    fn reasons_come_in_their_order() {
        let adaptive = Adaptive::default();
        let off = Adaptive { enabled: false, ..adaptive };
        let to = |target| Adaptive { target, ..adaptive };
        let short = LONG - Duration::from_nanos(1);
        for (adaptive, resolved, pinned, waited, reason) in [
            (off, Profile::Lean, true, short, "disabled"),
            (adaptive, Profile::Lean, true, short, "explicit_knobs"),
            (adaptive, Profile::Lean, false, short, "wait_below_threshold"),
            (adaptive, Profile::Lean, false, LONG, "already_target_profile"),
            (to(Profile::StrictEdges), Profile::Legacy, false, LONG, "target_not_cheaper"),
            (to(Profile::QualityFirst), Profile::Lean, false, LONG, "target_not_cheaper"),
        ] {
            let decided = adaptive.decide(resolved, pinned, waited);
            assert_eq!((decided.profile, decided.reason.as_str()), (resolved, reason));
            assert!(!decided.applied());
        }
        let decided = adaptive.decide(Profile::StrictEdges, false, LONG);
        assert_eq!((decided.profile, decided.reason.as_str()), (Profile::Lean, "queue_pressure"));
        assert!(decided.applied());
    }

    #[test]
    fn lean_is_cheaper_than_all_and_the_largest_than_none() {
        let useful = |target| Adaptive { target, ..Adaptive::default() }.target_is_useful();
        assert!([Profile::Legacy, Profile::StrictEdges, Profile::Lean].into_iter().all(useful));
        assert!(!useful(Profile::QualityFirst));
        for other in [Profile::Legacy, Profile::StrictEdges, Profile::QualityFirst] {
            assert!(Profile::Lean.knobs().is_cheaper_than(&other.knobs()));
            assert!(!other.knobs().is_cheaper_than(&Profile::Lean.knobs()));
        }
        assert!(!Profile::Lean.knobs().is_cheaper_than(&Profile::Lean.knobs()));
    }

    proptest! {
        /// What is changed is not pinned, waited long, and becomes less work; everything else stays.
        #[test]
        fn only_what_may_be_is_changed_and_always_for_less(
            enabled: bool, pinned: bool, wait_ms in 0u64..1_000, min_ms in 1u64..1_000, from in 0usize..4, to in 0usize..4,
        ) {
            let wait_min = Duration::from_millis(min_ms);
            let adaptive = Adaptive { enabled, wait_min, target: Profile::ALL[to] };
            let resolved = Profile::ALL[from];
            let decided = adaptive.decide(resolved, pinned, Duration::from_millis(wait_ms));
            let (before, after) = (resolved.knobs(), decided.profile.knobs());
            let may = enabled && !pinned && wait_ms >= min_ms;
            prop_assert_eq!(decided.applied(), may && Profile::ALL[to].knobs().is_cheaper_than(&before));
            prop_assert_eq!(decided.applied(), decided.profile != resolved);
            prop_assert_eq!(decided.applied(), after.is_cheaper_than(&before));
        }
    }
}
