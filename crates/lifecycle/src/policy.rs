//! May this be done to a sandbox now? Pure: no locks, no I/O.
//!
//! ```text
//!                     ┌── snapshot, failed pause ──┐
//!                     ▼                            │
//! starting ──────► running ──pause, timeout──► snapshotting ──► paused ──a request──► unpausing ──► running
//!    ▲                │ └──stop──► stopping ──► stopped              ▲──── failed wake ────┘
//!    └────────────────┼────────────start───────────┘
//!                     └──delete, timeout──► deleting ──► deleted        (from paused and stopped, too)
//! ```
//!
//! Every (state × action) is decided here and nowhere else. There is no `_` arm: a new state or action does not
//! compile until everything has been decided.

use leapbox_api_types::sandbox::SandboxState;

/// What can be done to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// A request wants to use what runs inside.
    Use,
    /// Its owner pauses it.
    Pause,
    /// Its owner stops it.
    Stop,
    /// Its owner starts it again.
    Start,
    /// Its owner takes a snapshot.
    Snapshot,
    /// Its owner deletes it.
    Delete,
    /// Its time is up.
    TimeOut,
}

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Do it.
    Proceed,
    /// Wake it, then ask again.
    Wake,
    /// Wait for the state to change, then ask again.
    Wait,
    /// Not now.
    Refuse(Refusal),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Something else is being done to it.
    InTransition,
    /// That needs a sandbox that runs.
    NotRunning,
    /// That needs a sandbox that is stopped.
    NotStopped,
    /// It is gone.
    Gone,
}

/// Decides.
pub(crate) fn decide(state: SandboxState, action: Action) -> Decision {
    use Action::{Delete, Pause, Snapshot, Start, Stop, TimeOut, Use};
    use Decision::{Proceed, Refuse, Wait, Wake};
    use Refusal::{Gone, InTransition, NotRunning, NotStopped};
    use SandboxState::{Deleted, Deleting, Paused, Running, Snapshotting, Starting, Stopped, Stopping, Unpausing};
    match (state, action) {
        (Starting | Snapshotting | Unpausing, Use) => Wait,
        (Starting | Snapshotting | Unpausing, Pause | Stop | Start | Snapshot | Delete | TimeOut) => {
            Refuse(InTransition)
        }
        (Running, Use | Pause | Stop | Snapshot | Delete | TimeOut) => Proceed,
        (Running, Start) => Refuse(NotStopped),
        (Paused, Use) => Wake,
        // What is stored of it is what a snapshot would store.
        (Paused, Snapshot | Delete) => Proceed,
        (Paused, Pause | Stop | TimeOut) => Refuse(NotRunning),
        (Paused, Start) => Refuse(NotStopped),
        (Stopping, Use | Pause | Stop | Start | Snapshot | TimeOut) => Refuse(InTransition),
        // After the attempt to store its disk that is under way: one whose disk cannot be stored must not stay for ever.
        (Stopping, Delete) => Proceed,
        (Stopped, Start | Delete) => Proceed,
        (Stopped, Use | Pause | Stop | Snapshot | TimeOut) => Refuse(NotRunning),
        (Deleting, Use) => Refuse(Gone),
        (Deleting, Pause | Stop | Start | Snapshot | Delete | TimeOut) => Refuse(InTransition),
        (Deleted, Use | Pause | Stop | Start | Snapshot | Delete | TimeOut) => Refuse(Gone),
    }
}

/// Whether a sandbox may go from one state to another: what a history may look like.
#[cfg(test)]
pub(crate) fn may_follow(from: SandboxState, to: SandboxState) -> bool {
    use SandboxState::{Deleted, Deleting, Paused, Running, Snapshotting, Starting, Stopped, Stopping, Unpausing};
    match from {
        // `deleted` without `deleting`: it failed. `stopped`: it could not be started again.
        Starting => matches!(to, Running | Deleted | Stopped),
        Running => matches!(to, Snapshotting | Stopping | Deleting | Deleted),
        Snapshotting => matches!(to, Running | Paused | Deleting | Deleted),
        Paused => matches!(to, Unpausing | Deleting),
        Unpausing => matches!(to, Running | Paused),
        Stopping => matches!(to, Stopped | Deleting | Deleted),
        Stopped => matches!(to, Starting | Deleting),
        Deleting => matches!(to, Deleted),
        Deleted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SandboxState::{Paused, Running, Stopped};

    const ALL: [Action; 7] =
        [Action::Use, Action::Pause, Action::Stop, Action::Start, Action::Snapshot, Action::Delete, Action::TimeOut];

    #[test]
    fn nothing_but_waiting_is_possible_in_a_transition_and_giving_up_a_stop() {
        for state in SandboxState::ALL {
            if matches!(state, Running | Paused | Stopped) {
                continue;
            }
            for action in ALL {
                let is_refused = matches!(decide(state, action), Decision::Wait | Decision::Refuse(_));
                let gives_up = (state, action) == (SandboxState::Stopping, Action::Delete);
                assert!(is_refused || gives_up, "{state} {action:?}");
            }
        }
    }

    #[test]
    fn only_a_request_wakes_and_only_from_a_pause() {
        for state in SandboxState::ALL {
            for action in ALL {
                let wakes = decide(state, action) == Decision::Wake;
                assert_eq!(wakes, (state, action) == (Paused, Action::Use), "{state} {action:?}");
            }
        }
    }

    #[test]
    fn what_rests_can_be_deleted_as_it_is() {
        for state in [Running, Paused, Stopped] {
            assert_eq!(decide(state, Action::Delete), Decision::Proceed, "{state}");
        }
        assert_eq!(decide(SandboxState::Deleting, Action::Delete), Decision::Refuse(Refusal::InTransition));
        assert_eq!(decide(SandboxState::Deleted, Action::Delete), Decision::Refuse(Refusal::Gone));
    }

    #[test]
    fn requests_do_not_start_what_was_stopped() {
        assert_eq!(decide(Stopped, Action::Use), Decision::Refuse(Refusal::NotRunning));
        assert_eq!(decide(Stopped, Action::Start), Decision::Proceed);
        assert_eq!(decide(Running, Action::Start), Decision::Refuse(Refusal::NotStopped));
    }

    #[test]
    fn a_timeout_means_something_to_a_running_sandbox_alone() {
        for state in SandboxState::ALL {
            let proceeds = decide(state, Action::TimeOut) == Decision::Proceed;
            assert_eq!(proceeds, state == Running, "{state}");
        }
    }
}
