//! A network namespace in the place of a guest. `leapbox-bench --parts egress`, its only user, measures a slot's egress
//! with it and without a VMM; a server never makes one.

use crate::error::NetworkError;
use crate::links;
use crate::plan::WORKLOAD_TAP;
use rtnetlink::LinkVeth;

/// Name of the guest's end of the veth ([`crate::GuestLink::Veth`]). It is made inside the slot; whoever moves it to
/// another namespace must give it there the MAC and IPv4 address that the slot's rules demand of a guest.
pub const STAND_IN: &str = "eth0";

/// Makes the veth in the calling thread's namespace, in the place of the tap behind the workload's card.
pub(crate) async fn create() -> Result<(), NetworkError> {
    let link = LinkVeth::new(WORKLOAD_TAP, STAND_IN).build();
    let made = links::open()?.link().add(link).execute().await;
    made.map_err(|source| NetworkError::Routing { step: "make the veth", interface: WORKLOAD_TAP.to_owned(), source })
}
