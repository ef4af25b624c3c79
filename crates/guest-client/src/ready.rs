//! Waits for the agent of a guest that is just starting.
//!
//! A connection gets a short time to be made and is then dropped for a new one. Once it is made, the agent may take as
//! long as is left, because under emulation its first answer is slow.

use crate::call::{ask, within};
use crate::dial::Dial;
use crate::error::GuestError;
use leapbox_guest_protocol::{Pong, Reply, Request};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// Time for the first attempt to connect. It doubles with each, up to [`CONNECT_MAX`].
// A SYN that is lost while the guest has no network yet is sent again by the kernel after a second: a new connection is
// faster. The doubling keeps a busy host from being flooded.
const CONNECT_FIRST: Duration = Duration::from_millis(30);
/// Time for any attempt to connect.
const CONNECT_MAX: Duration = Duration::from_millis(250);
/// Pause after an attempt that failed at once, because nothing listens yet.
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn wait_ready(dial: &dyn Dial, deadline: Duration) -> Result<Pong, GuestError> {
    let mut last = None;
    let waited = within(deadline, "ping", poll(dial, deadline, &mut last)).await;
    match (waited, last) {
        // The error of the last attempt says more than that the time is up.
        (Err(GuestError::Deadline { .. }), Some(cause)) => Err(cause),
        (outcome, _) => outcome,
    }
}

async fn poll(dial: &dyn Dial, deadline: Duration, last: &mut Option<GuestError>) -> Result<Pong, GuestError> {
    let end = Instant::now() + deadline;
    let mut patience = CONNECT_FIRST;
    loop {
        match attempt(dial, end.min(Instant::now() + patience)).await {
            Ok(pong) => return Ok(pong),
            // The agent does not listen yet, or the connection broke off while it started: worth another attempt.
            Err(error @ (GuestError::Dial { .. } | GuestError::Closed { .. })) => {
                *last = Some(error);
                sleep(PAUSE).await;
            }
            // Only the connecting took too long. The deadline of the whole is around this loop.
            Err(GuestError::Deadline { .. }) => {}
            Err(error) => return Err(error),
        }
        patience = (patience * 2).min(CONNECT_MAX);
    }
}

async fn attempt(dial: &dyn Dial, connect_by: Instant) -> Result<Pong, GuestError> {
    let no_answer = GuestError::Deadline { operation: "ping", after: CONNECT_MAX };
    let stream = match timeout_at(connect_by, dial.dial()).await {
        Err(_) => return Err(no_answer),
        Ok(dialled) => dialled.map_err(|source| GuestError::Dial { source })?,
    };
    match ask(stream, &Request::Ping).await? {
        (Reply::Pong(pong), _stream) => Ok(pong),
        _ => Err(GuestError::Unexpected { operation: "ping" }),
    }
}
