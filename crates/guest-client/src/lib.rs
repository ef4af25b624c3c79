//! Skeleton; the insides follow.

/// The host's side of the guest protocol for one sandbox. Cheap to clone.
#[derive(Clone)]
pub struct GuestClient {}
