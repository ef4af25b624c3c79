//! Decides which requests a guest takes in which phase. Pure, and exhaustive over all phases and classes of requests,
//! so that a new one of either does not compile before this has decided.
//!
//! Called by `connection` and `diskless` for every request, and by `guest` again when a change of phase begins.

use crate::fault;
use leapbox_guest_protocol::{FaultKind, GuestFault, Phase, Request};

/// A class of requests that every phase treats alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Ping,
    Mount,
    /// Reads files and directories, and changes nothing.
    Inspect,
    /// Gets the guest ready for a base snapshot.
    Prepare,
    /// Runs a process, changes files, or connects to a port.
    Workload,
    Configure,
    Suspend,
    Shutdown,
}

impl Class {
    pub(crate) fn of(request: &Request<'_>) -> Self {
        match request {
            Request::Ping => Class::Ping,
            Request::Mount => Class::Mount,
            Request::ReadFile(_) | Request::List(_) | Request::Stat { .. } | Request::Exists { .. } => Class::Inspect,
            Request::Warm | Request::PrepareSnapshot => Class::Prepare,
            Request::Exec(_)
            | Request::WriteFile(_)
            | Request::Mkdir(_)
            | Request::Delete(_)
            | Request::Connect { .. } => Class::Workload,
            Request::Configure(_) => Class::Configure,
            Request::Suspend => Class::Suspend,
            Request::Shutdown { .. } => Class::Shutdown,
        }
    }
}

/// Whether a guest in this phase takes requests of this class. If not: [`FaultKind::Busy`] with the reason, or
/// [`FaultKind::InvalidInput`] for a second `Mount`, which no waiting would make right.
pub(crate) fn admit(phase: Phase, class: Class) -> Result<(), GuestFault> {
    match (phase, class) {
        (_, Class::Ping) | (Phase::Diskless, Class::Mount) => Ok(()),
        // No `Workload`: a process that runs before `Configure` shares its randomness with every clone of the base
        // snapshot.
        (Phase::Unconfigured, Class::Inspect | Class::Prepare | Class::Configure | Class::Shutdown) => Ok(()),
        (
            Phase::Configured,
            Class::Inspect | Class::Prepare | Class::Workload | Class::Configure | Class::Suspend | Class::Shutdown,
        ) => Ok(()),
        // No `Inspect` either: a read could wait for a frozen process, of a FUSE file system for instance.
        (Phase::Suspended, Class::Configure | Class::Suspend | Class::Shutdown) => Ok(()),
        (Phase::Ended, Class::Shutdown) => Ok(()),
        (Phase::Unconfigured | Phase::Configured | Phase::Suspended | Phase::Ended, Class::Mount) => {
            Err(fault::invalid("the guest's disks are mounted already"))
        }
        (
            Phase::Diskless,
            Class::Inspect | Class::Prepare | Class::Workload | Class::Configure | Class::Suspend | Class::Shutdown,
        ) => Err(busy("the guest's disks are not mounted yet")),
        (Phase::Unconfigured, Class::Workload | Class::Suspend) => Err(busy("the guest has not been configured yet")),
        (Phase::Suspended, Class::Inspect | Class::Prepare | Class::Workload) => Err(busy("the guest is suspended")),
        (Phase::Ended, Class::Inspect | Class::Prepare | Class::Workload | Class::Configure | Class::Suspend) => {
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

    const ALL: [Class; 8] = [
        Class::Ping,
        Class::Mount,
        Class::Inspect,
        Class::Prepare,
        Class::Workload,
        Class::Configure,
        Class::Suspend,
        Class::Shutdown,
    ];

    fn admitted(phase: Phase) -> Vec<Class> {
        ALL.into_iter().filter(|class| admit(phase, *class).is_ok()).collect()
    }

    #[test]
    fn only_a_configured_guest_works() {
        for phase in [Phase::Diskless, Phase::Unconfigured, Phase::Suspended, Phase::Ended] {
            let refused = admit(phase, Class::Workload).expect_err("refused");
            assert_eq!(refused.kind, FaultKind::Busy, "{phase:?}");
        }
        assert!(admit(Phase::Configured, Class::Workload).is_ok());
    }

    #[test]
    fn a_guest_without_a_disk_answers_and_mounts_and_nothing_else() {
        assert_eq!(admitted(Phase::Diskless), [Class::Ping, Class::Mount]);
    }

    #[test]
    fn a_suspended_guest_goes_on_by_configure_alone() {
        assert_eq!(admitted(Phase::Suspended), [Class::Ping, Class::Configure, Class::Suspend, Class::Shutdown]);
    }

    #[test]
    fn a_guest_that_was_shut_down_stays_so() {
        assert_eq!(admitted(Phase::Ended), [Class::Ping, Class::Shutdown]);
    }
}
