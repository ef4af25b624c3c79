//! Waiting for a guest that is just starting.
//!
//! A SYN that is lost while the guest has no network yet would be sent again by the kernel only after a second, so a
//! connection gets a short time to be made and is then given up for a new one. Once it is made, the agent may take as
//! long as is left: under emulation its first answer is slow.

use crate::call::{ask, within};
use crate::dial::Dial;
use crate::error::GuestError;
use leapbox_guest_protocol::{Pong, Reply, Request};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long the first attempts may take to connect; doubled up to [`CONNECT_MAX`], so that a busy host is not flooded.
const CONNECT_FIRST: Duration = Duration::from_millis(30);
/// How long any attempt may take to connect.
const CONNECT_MAX: Duration = Duration::from_millis(250);
/// Pause after an attempt that failed at once (nothing listens yet).
const PAUSE: Duration = Duration::from_millis(5);

pub(crate) async fn wait_ready(dial: &dyn Dial, deadline: Duration) -> Result<Pong, GuestError> {
    let mut last = None;
    let waited = within(deadline, "ping", poll(dial, deadline, &mut last)).await;
    match (waited, last) {
        // What the last attempt ran into says more than that time is up.
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
            // Not there yet, or gone in the middle of starting: worth another attempt.
            Err(error @ (GuestError::Dial { .. } | GuestError::Closed { .. })) => {
                *last = Some(error);
                sleep(PAUSE).await;
            }
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
