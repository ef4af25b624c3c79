//! Checks environment variables. In a file of its own, because `guest` and `exec::environment` both need it.

use crate::fault;
use leapbox_guest_protocol::GuestFault;

/// Refuses variables that no process can have: the kernel takes `NAME=value`, ended by a NUL byte (environ(7)).
pub(crate) fn check_env(env: &[(String, String)]) -> Result<(), GuestFault> {
    for (name, value) in env {
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(fault::invalid(format!("{name:?} cannot be an environment variable's name")));
        }
        if value.contains('\0') {
            return Err(fault::invalid(format!("the value of {name} contains a NUL byte")));
        }
    }
    Ok(())
}
