//! The host's side of the guest protocol.
//!
//! One call is one connection: dial, send the request, read one bounded answer, close. The guest is hostile: it may
//! answer nonsense, too much, too slowly or for ever, and each of these ends in a [`GuestError`] within the call's
//! deadline and with no more memory than the answer's cap.
//!
//! `lifecycle` readies guests with it, `api` runs commands and touches files through it, `gateway` opens ports.

#![forbid(unsafe_code)]

mod call;
mod client;
mod dial;
mod error;
mod ready;

pub use client::GuestClient;
pub use dial::Dial;
pub use error::GuestError;
pub use leapbox_guest_protocol as protocol;
