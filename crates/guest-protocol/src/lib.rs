//! The wire between the host and the agent in a guest: types, framing, fixed addresses.
//!
//! One TCP connection per operation, over the guest channel:
//!
//! ```text
//! host                                        guest
//!  │ frame { Hello, Request }                   │
//!  │ ──────────────────────────────────────────▶│
//!  │                 frame { Result<Reply, GuestFault> }
//!  │◀────────────────────────────────────────── │
//!  │ after Connect → Connected: raw bytes both ways, half-close respected
//!  │◀──────────────────────────────────────────▶│
//! ```
//!
//! A frame is a 32-bit big-endian length and that many bytes of postcard. The length is checked against a cap before
//! anything is allocated for it. The host closes first: whoever does keeps the connection in TIME_WAIT, and a base
//! snapshot or a checkpoint of the guest would keep it, too.
//!
//! The requests that a guest accepts depend on its [`Phase`]:
//!
//! ```text
//! Diskless ──Mount──▶ Unconfigured ──Configure──▶ Configured ──Suspend──▶ Suspended ──Configure──▶ Configured
//!                          ▲                           │                      │
//!                          └──────PrepareSnapshot──────┘                      │
//!                     Ended ◀──Shutdown── from each of the three ◀────────────┘
//! ```
//!
//! `leapbox-guest-client` is the host's side, `leapbox-agent` the guest's. `tests/wire.rs` pins the bytes: a change of
//! them raises [`PROTOCOL_VERSION`].

#![forbid(unsafe_code)]

mod bounded;
mod fault;
mod frame;
mod image;
pub mod net;
mod reply;
mod request;

pub use bounded::{MAX_CERTIFICATE, MAX_ENTRIES, MAX_PAIRS, MAX_PATTERNS};
pub use fault::{FaultKind, GuestFault};
pub use frame::{
    CallError, FrameError, Hello, MAGIC, MAX_CONTENT, MAX_FRAME, MAX_STREAM_OUTPUT, PREFIX_LEN, PROTOCOL_VERSION,
    SMALL_FRAME, body_len, decode, decode_call, encode, encode_call,
};
pub use image::ImageConfig;
pub use reply::{Configured, ExecOutput, FileInfo, Phase, Pong, Reply, Response, Suspended};
pub use request::{
    Configure, Delete, Entropy, ExecRequest, Identity, List, Mkdir, ReadFile, Request, SANDBOX_CA_NAME, Trust,
    WriteFile,
};
