//! May this be done to a sandbox now? Pure: no locks, no I/O.
//!
//! Every (state × action) is decided here and nowhere else. There is no `_` arm: a new state or action does not
//! compile until everything has been decided.

use leapbox_api_types::sandbox::SandboxState;

/// What can be done to a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A request wants to use what runs inside.
    Use,
    /// Its owner deletes it.
    Delete,
    /// Its time is up.
    TimeOut,
}

/// What is to happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Do it.
    Proceed,
    /// Wait for the state to change, then ask again.
    Wait,
    /// Not now.
    Refuse(Refusal),
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Something else is being done to it.
    InTransition,
    /// It is gone.
    Gone,
    /// Nothing in this version brings a sandbox into that state, so nothing brings it out.
    NotReachable,
}

/// Decides.
pub fn decide(state: SandboxState, action: Action) -> Decision {
    use Action::{Delete, TimeOut, Use};
    use Decision::{Proceed, Refuse, Wait};
    use SandboxState::{Deleted, Deleting, Paused, Running, Snapshotting, Starting, Stopped, Stopping, Unpausing};
    match (state, action) {
        (Starting, Use) => Wait,
        (Starting, Delete | TimeOut) => Refuse(Refusal::InTransition),
        (Running, Use | Delete | TimeOut) => Proceed,
        (Deleting, Use) => Refuse(Refusal::Gone),
        (Deleting, Delete | TimeOut) => Refuse(Refusal::InTransition),
        (Deleted, Use | Delete | TimeOut) => Refuse(Refusal::Gone),
        (Snapshotting | Paused | Unpausing | Stopping | Stopped, Use | Delete | TimeOut) => {
            Refuse(Refusal::NotReachable)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_running_sandbox_can_be_used_deleted_or_timed_out() {
        for state in SandboxState::ALL {
            for action in [Action::Use, Action::Delete, Action::TimeOut] {
                let proceeds = decide(state, action) == Decision::Proceed;
                assert_eq!(proceeds, state == SandboxState::Running, "{state} {action:?}");
            }
        }
    }

    #[test]
    fn a_request_waits_for_a_starting_sandbox_and_a_delete_does_not() {
        assert_eq!(decide(SandboxState::Starting, Action::Use), Decision::Wait);
        assert_eq!(decide(SandboxState::Starting, Action::Delete), Decision::Refuse(Refusal::InTransition));
    }

    #[test]
    fn a_sandbox_is_deleted_once() {
        assert_eq!(decide(SandboxState::Deleting, Action::Delete), Decision::Refuse(Refusal::InTransition));
        assert_eq!(decide(SandboxState::Deleted, Action::Delete), Decision::Refuse(Refusal::Gone));
    }
}
