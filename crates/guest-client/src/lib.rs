//! The host's side of the guest protocol.
//!
//! One call is one connection: dial, send the request, read one bounded answer, close. The guest is hostile: it may
//! answer nonsense, too much, too slowly or for ever. Each of these ends in a [`GuestError`] within the call's
//! deadline, and takes no more memory than the answer's cap.
//!
//! `bases` and `lifecycle` prepare guests with it, `api` runs commands and reads and writes files, and `leapbox serve`
//! opens streams to ports for the gateway.

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
