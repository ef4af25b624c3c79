//! A network namespace in the place of a guest. `leapbox-bench egress`, its only user, measures the way out of a slot
//! with it, without a VMM before the slot; a server never makes one.

use crate::error::NetworkError;
use crate::links;
use crate::plan::WORKLOAD_TAP;
use rtnetlink::LinkVeth;

/// The guest's end of a slot's veth ([`crate::GuestLink::Veth`]), made inside the slot. Whoever moves it to a namespace
/// of its own gives it there the MAC and IPv4 address that the slot's rules demand of a guest.
pub const STAND_IN: &str = "eth0";

/// Makes the veth in the calling thread's namespace, in the place of the workload's tap.
pub(crate) async fn create() -> Result<(), NetworkError> {
    let link = LinkVeth::new(WORKLOAD_TAP, STAND_IN).build();
    let made = links::open()?.link().add(link).execute().await;
    made.map_err(|source| NetworkError::Routing { step: "make the veth", interface: WORKLOAD_TAP.to_owned(), source })
}
