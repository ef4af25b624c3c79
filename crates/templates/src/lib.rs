//! Skeleton of the interface `lifecycle` uses; the insides follow.

pub use leapbox_guest_protocol::ImageConfig;
