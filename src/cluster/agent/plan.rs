//! What to do with an object, from what it says and what the disk holds. No input, no output.

use super::super::api::{Desired, Phase};

/// What an object says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// It has a deletionTimestamp.
    pub deleting: bool,
    /// It has the agent's finalizer.
    pub accepted: bool,
    /// An agent has announced it, and the controller has not taken it over.
    pub orphaned: bool,
    /// Whether there is to be data.
    pub desired: Desired,
    /// As last reported.
    pub phase: Phase,
    /// The last report speaks of the object as it is now.
    pub current: bool,
    /// There was data once: nothing is ever made in its place.
    pub ever: bool,
    /// Its spec cannot be what the controller wrote.
    pub flawed: bool,
}

/// What the disk holds under the object's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Data.
    Present {
        /// In another store than the object was in when it was reported.
        elsewhere: bool,
        /// It is smaller than the object asks for.
        small: bool,
    },
    /// Nothing, and everything could be asked.
    Absent,
    /// A pool is away, or what is there cannot be read.
    Unknown,
}

/// The next thing to do. Each ends in a state from which the same question leads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// As it should be.
    Nothing,
    /// Add the finalizer.
    Accept,
    /// Ask the service to make it, or to find it.
    Make,
    /// Report what is there.
    Confirm,
    /// Ask the service to make it larger.
    Grow,
    /// Ask the service to delete the data.
    Remove,
    /// The data is gone: say so, and take the finalizer away.
    Release,
    /// Take the finalizer away. The data, if any, stays.
    LetGo,
    /// Report that what was there is not there any more.
    Mourn,
    /// Report that it cannot be told whether it is there.
    Doubt,
    /// Report that the spec makes no sense.
    Refuse,
}

/// Decides.
pub fn plan(view: &View, facts: Facts) -> Action {
    match view.desired {
        Desired::Absent => plan_removal(view, facts),
        // Somebody has deleted the object, the kind or everything: no wish about data.
        Desired::Present if view.deleting => match view.accepted {
            true => Action::LetGo,
            false => Action::Nothing,
        },
        Desired::Present => plan_presence(view, facts),
    }
}

fn plan_removal(view: &View, facts: Facts) -> Action {
    match (facts, view.accepted) {
        (Facts::Absent, false) if view.current => Action::Nothing,
        (Facts::Absent, _) => Action::Release,
        // The API server takes no new finalizer for an object that is being deleted.
        (_, false) if !view.deleting => Action::Accept,
        _ => Action::Remove,
    }
}

fn plan_presence(view: &View, facts: Facts) -> Action {
    if view.flawed {
        return Action::Refuse;
    }
    if !view.accepted {
        return Action::Accept;
    }
    match facts {
        Facts::Present { elsewhere: true, .. } => Action::Mourn,
        // Somebody died between making it and saying so, or it is another volume of that name: the service tells.
        Facts::Present { .. } if !view.ever => match view.phase == Phase::Failed && view.current {
            true => Action::Nothing,
            false => Action::Make,
        },
        Facts::Present { small: true, .. } => Action::Grow,
        Facts::Present { .. } => Action::Confirm,
        Facts::Absent if view.ever => Action::Mourn,
        Facts::Absent if view.phase == Phase::Failed && view.current => Action::Nothing,
        Facts::Absent => Action::Make,
        Facts::Unknown if view.ever => Action::Doubt,
        // It was never there. Whether it can be made is for the service to say, which looks at what it needs.
        Facts::Unknown => Action::Make,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Facts = Facts::Present { elsewhere: false, small: false };
    const SMALL: Facts = Facts::Present { elsewhere: false, small: true };
    const ELSEWHERE: Facts = Facts::Present { elsewhere: true, small: false };
    const ALL: [Facts; 5] = [HERE, SMALL, ELSEWHERE, Facts::Absent, Facts::Unknown];
    const PHASES: [Phase; 6] =
        [Phase::Pending, Phase::Ready, Phase::Failed, Phase::Deleting, Phase::Lost, Phase::Orphaned];

    fn new() -> View {
        View {
            deleting: false,
            accepted: false,
            orphaned: false,
            desired: Desired::Present,
            phase: Phase::Pending,
            current: false,
            ever: false,
            flawed: false,
        }
    }

    fn ready() -> View {
        View { accepted: true, phase: Phase::Ready, current: true, ever: true, ..new() }
    }

    /// Every view there can be.
    fn views() -> impl Iterator<Item = View> {
        (0..128_u32).flat_map(|bits| {
            let bit = move |n: u32| bits >> n & 1 == 1;
            PHASES.into_iter().map(move |phase| View {
                deleting: bit(0),
                accepted: bit(1),
                orphaned: bit(2),
                desired: if bit(3) { Desired::Absent } else { Desired::Present },
                phase,
                current: bit(4),
                ever: bit(5),
                flawed: bit(6),
            })
        })
    }

    #[test]
    fn data_goes_by_an_explicit_wish_alone() {
        for view in views() {
            for facts in ALL {
                if plan(&view, facts) == Action::Remove {
                    assert_eq!(view.desired, Desired::Absent, "{view:?} {facts:?}");
                }
            }
        }
    }

    #[test]
    fn nothing_is_made_in_the_place_of_what_was_there() {
        for view in views().filter(|view| view.ever) {
            for facts in ALL {
                assert_ne!(plan(&view, facts), Action::Make, "{view:?} {facts:?}");
            }
        }
    }

    #[test]
    fn nothing_is_made_or_grown_for_an_object_that_goes_or_was_not_accepted() {
        for view in views().filter(|view| view.deleting || !view.accepted || view.flawed) {
            for facts in ALL {
                assert!(!matches!(plan(&view, facts), Action::Make | Action::Grow), "{view:?} {facts:?}");
            }
        }
    }

    #[test]
    fn nothing_is_removed_before_it_was_accepted_unless_the_object_goes() {
        for view in views().filter(|view| !view.accepted && !view.deleting) {
            for facts in ALL {
                assert_ne!(plan(&view, facts), Action::Remove, "{view:?} {facts:?}");
            }
        }
    }

    #[test]
    fn an_object_that_goes_is_held_only_while_data_is_to_go() {
        for view in views().filter(|view| view.deleting && view.accepted) {
            for facts in ALL {
                let action = plan(&view, facts);
                assert!(
                    matches!(action, Action::LetGo | Action::Release | Action::Remove),
                    "{view:?} {facts:?}"
                );
            }
        }
    }

    #[test]
    fn a_life() {
        assert_eq!(plan(&new(), Facts::Absent), Action::Accept);
        let accepted = View { accepted: true, ..new() };
        assert_eq!(plan(&accepted, Facts::Absent), Action::Make);
        assert_eq!(plan(&accepted, HERE), Action::Make, "made by who died before saying so");
        assert_eq!(plan(&ready(), HERE), Action::Confirm);
        assert_eq!(plan(&View { current: false, ..ready() }, SMALL), Action::Grow);
        let unwanted = View { desired: Desired::Absent, current: false, ..ready() };
        assert_eq!(plan(&unwanted, HERE), Action::Remove);
        assert_eq!(plan(&unwanted, Facts::Unknown), Action::Remove, "the service says why it cannot");
        assert_eq!(plan(&unwanted, Facts::Absent), Action::Release);
        let done = View { accepted: false, current: true, ..unwanted };
        assert_eq!(plan(&done, Facts::Absent), Action::Nothing);
    }

    #[test]
    fn a_tombstone_purges_what_comes_back() {
        let tombstone = View { desired: Desired::Absent, ..new() };
        assert_eq!(plan(&tombstone, HERE), Action::Accept);
        assert_eq!(plan(&View { accepted: true, ..tombstone.clone() }, HERE), Action::Remove);
        assert_eq!(plan(&View { deleting: true, ..tombstone }, HERE), Action::Remove);
    }

    #[test]
    fn lost_and_found() {
        assert_eq!(plan(&ready(), Facts::Absent), Action::Mourn);
        assert_eq!(plan(&ready(), ELSEWHERE), Action::Mourn);
        assert_eq!(plan(&ready(), Facts::Unknown), Action::Doubt);
        let lost = View { phase: Phase::Lost, ..ready() };
        assert_eq!(plan(&lost, Facts::Absent), Action::Mourn);
        assert_eq!(plan(&lost, HERE), Action::Confirm, "the disk is back");
    }

    #[test]
    fn what_failed_is_not_tried_again_unasked() {
        let failed = View { accepted: true, phase: Phase::Failed, current: true, ..new() };
        assert_eq!(plan(&failed, Facts::Absent), Action::Nothing);
        assert_eq!(plan(&failed, HERE), Action::Nothing, "another volume of that name");
        assert_eq!(plan(&View { current: false, ..failed.clone() }, Facts::Absent), Action::Make);
        assert_eq!(plan(&View { deleting: true, ..failed }, Facts::Absent), Action::LetGo);
    }

    #[test]
    fn an_object_that_somebody_edited() {
        let flawed = View { flawed: true, ..ready() };
        for facts in ALL {
            assert_eq!(plan(&flawed, facts), Action::Refuse);
        }
        assert_eq!(plan(&View { deleting: true, ..flawed }, HERE), Action::LetGo);
    }
}
