//! What a guest takes in which phase: pure, and complete.
//!
//! Called by `connection` for every request, and by `guest` again when a change of phase has its turn.

use crate::fault;
use leapbox_guest_protocol::{FaultKind, GuestFault, Phase, Request};

/// What a request is about, as far as the phase matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    /// To know that the agent is there.
    Answer,
    /// A disk.
    Mount,
    /// To look at files.
    Look,
    /// To get the guest ready for a snapshot that sandboxes start from.
    Prepare,
    /// To run, change or reach something of the sandbox's.
    Work,
    Configure,
    Suspend,
    Shutdown,
}

impl Wants {
    pub(crate) fn of(request: &Request<'_>) -> Self {
        match request {
            Request::Ping => Wants::Answer,
            Request::Mount => Wants::Mount,
            Request::ReadFile(_) | Request::List(_) | Request::Stat { .. } | Request::Exists { .. } => Wants::Look,
            Request::Warm | Request::PrepareSnapshot => Wants::Prepare,
            Request::Exec(_)
            | Request::WriteFile(_)
            | Request::Mkdir(_)
            | Request::Delete(_)
            | Request::Connect { .. } => Wants::Work,
            Request::Configure(_) => Wants::Configure,
            Request::Suspend => Wants::Suspend,
            Request::Shutdown { .. } => Wants::Shutdown,
        }
    }
}

/// [`FaultKind::Busy`] with the reason when it is not the time for it.
pub(crate) fn admit(phase: Phase, wants: Wants) -> Result<(), GuestFault> {
    match (phase, wants) {
        (_, Wants::Answer) | (Phase::Bare, Wants::Mount) => Ok(()),
        (Phase::Unconfigured, Wants::Look | Wants::Prepare | Wants::Configure | Wants::Shutdown) => Ok(()),
        (
            Phase::Configured,
            Wants::Look | Wants::Prepare | Wants::Work | Wants::Configure | Wants::Suspend | Wants::Shutdown,
        ) => Ok(()),
        (Phase::Suspended, Wants::Configure | Wants::Suspend | Wants::Shutdown) => Ok(()),
        (Phase::Ended, Wants::Shutdown) => Ok(()),
        (Phase::Unconfigured | Phase::Configured | Phase::Suspended | Phase::Ended, Wants::Mount) => {
            Err(fault::invalid("the guest has its disks already"))
        }
        (
            Phase::Bare,
            Wants::Look | Wants::Prepare | Wants::Work | Wants::Configure | Wants::Suspend | Wants::Shutdown,
        ) => Err(busy("the guest has no disk yet")),
        (Phase::Unconfigured, Wants::Work | Wants::Suspend) => Err(busy("the guest has not been configured yet")),
        (Phase::Suspended, Wants::Look | Wants::Prepare | Wants::Work) => Err(busy("the guest is suspended")),
        (Phase::Ended, Wants::Look | Wants::Prepare | Wants::Work | Wants::Configure | Wants::Suspend) => {
            Err(busy("the guest has been shut down"))
        }
    }
}

fn busy(why: &str) -> GuestFault {
    GuestFault::new(FaultKind::Busy, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Wants; 8] = [
        Wants::Answer,
        Wants::Mount,
        Wants::Look,
        Wants::Prepare,
        Wants::Work,
        Wants::Configure,
        Wants::Suspend,
        Wants::Shutdown,
    ];

    fn admitted(phase: Phase) -> Vec<Wants> {
        ALL.into_iter().filter(|wants| admit(phase, *wants).is_ok()).collect()
    }

    #[test]
    fn only_a_configured_guest_works() {
        for phase in [Phase::Bare, Phase::Unconfigured, Phase::Suspended, Phase::Ended] {
            let refused = admit(phase, Wants::Work).expect_err("refused");
            assert_eq!(refused.kind, FaultKind::Busy, "{phase:?}");
        }
        assert!(admit(Phase::Configured, Wants::Work).is_ok());
    }

    #[test]
    fn a_guest_without_a_disk_answers_and_mounts_and_nothing_else() {
        assert_eq!(admitted(Phase::Bare), [Wants::Answer, Wants::Mount]);
    }

    #[test]
    fn a_suspended_guest_goes_on_by_configure_alone() {
        assert_eq!(admitted(Phase::Suspended), [Wants::Answer, Wants::Configure, Wants::Suspend, Wants::Shutdown]);
    }

    #[test]
    fn a_guest_that_was_shut_down_stays_so() {
        assert_eq!(admitted(Phase::Ended), [Wants::Answer, Wants::Shutdown]);
    }
}
