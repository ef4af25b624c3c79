//! One call over one connection.

use crate::dial::Dial;
use crate::error::GuestError;
use leapbox_errors::one_line;
use leapbox_guest_protocol::{
    FaultKind, GuestFault, MAX_FRAME, PREFIX_LEN, Reply, Request, Response, SMALL_FRAME, body_len, decode, encode_call,
};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes of a fault's message that are kept.
const MESSAGE_MAX: usize = 1024;

/// The name a request has in errors and logs.
pub(crate) fn name_of(request: &Request<'_>) -> &'static str {
    match request {
        Request::Ping => "ping",
        Request::PrepareSnapshot => "prepare snapshot",
        Request::Configure(_) => "configure",
        Request::Warm => "warm",
        Request::Exec(_) => "exec",
        Request::ReadFile(_) => "read file",
        Request::WriteFile(_) => "write file",
        Request::List(_) => "list",
        Request::Stat { .. } => "stat",
        Request::Mkdir(_) => "mkdir",
        Request::Exists { .. } => "exists",
        Request::Delete(_) => "delete",
        Request::Connect { .. } => "connect",
        Request::Suspend => "suspend",
        Request::Shutdown { .. } => "shutdown",
        Request::Mount => "mount",
    }
}

/// Bytes the answer to a request may have.
fn answer_cap(request: &Request<'_>) -> usize {
    match request {
        Request::Exec(_) | Request::ReadFile(_) | Request::List(_) => MAX_FRAME,
        Request::Ping
        | Request::PrepareSnapshot
        | Request::Configure(_)
        | Request::Warm
        | Request::WriteFile(_)
        | Request::Stat { .. }
        | Request::Mkdir(_)
        | Request::Exists { .. }
        | Request::Delete(_)
        | Request::Connect { .. }
        | Request::Suspend
        | Request::Shutdown { .. }
        | Request::Mount => SMALL_FRAME,
    }
}

/// Dials, asks, and reads the answer, all within `deadline`. The stream stands right behind the answer.
pub(crate) async fn call(
    dial: &dyn Dial,
    request: &Request<'_>,
    deadline: Duration,
) -> Result<(Reply, TcpStream), GuestError> {
    let attempt = async {
        let stream = dial.dial().await.map_err(|source| GuestError::Dial { source })?;
        ask(stream, request).await
    };
    within(deadline, name_of(request), attempt).await
}

/// Bounds any part of a call.
pub(crate) async fn within<T>(
    deadline: Duration,
    operation: &'static str,
    work: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, GuestError> {
    tokio::time::timeout(deadline, work).await.unwrap_or(Err(GuestError::Deadline { operation, after: deadline }))
}

/// Asks over a fresh connection. Has no deadline of its own.
pub(crate) async fn ask(mut stream: TcpStream, request: &Request<'_>) -> Result<(Reply, TcpStream), GuestError> {
    stream.set_nodelay(true).map_err(|source| GuestError::Dial { source })?;
    if !matches!(request, Request::Connect { .. }) {
        // Everything has been said when we close, so a reset loses nothing. An orderly close to a guest that is stopped
        // or killed meanwhile would leave a socket behind that keeps the sandbox's network namespace for a minute.
        stream.set_zero_linger().map_err(|source| GuestError::Dial { source })?;
    }
    let frame = encode_call(request)?;
    // An agent that is busy answers without having read everything: what it said counts more than the failed write.
    let written = stream.write_all(&frame).await;
    drop(frame);
    let body = match (read_frame(&mut stream, answer_cap(request)).await, written) {
        (Err(GuestError::Closed { .. }), Err(source)) => return Err(GuestError::Closed { source }),
        (answer, _) => answer?,
    };
    match decode::<Response>(&body)? {
        Ok(reply) => Ok((reply, stream)),
        Err(fault) => Err(refusal(fault)),
    }
}

/// The agent says no. Its words end in answers, errors and the log, and a hostile agent chooses them.
fn refusal(GuestFault { kind, message }: GuestFault) -> GuestError {
    let message = one_line(&message, MESSAGE_MAX);
    match kind {
        FaultKind::VersionMismatch => GuestError::Version { message },
        kind => GuestError::Fault(GuestFault { kind, message }),
    }
}

/// Reads one frame. Memory grows with the bytes that arrive, never with those that were announced.
async fn read_frame(stream: &mut TcpStream, cap: usize) -> Result<Vec<u8>, GuestError> {
    let closed = |source| GuestError::Closed { source };
    let mut prefix = [0; PREFIX_LEN];
    stream.read_exact(&mut prefix).await.map_err(closed)?;
    let len = body_len(prefix, cap)?;
    let mut body = Vec::with_capacity(len.min(SMALL_FRAME));
    stream.take(len as u64).read_to_end(&mut body).await.map_err(closed)?;
    if body.len() < len {
        return Err(closed(io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    Ok(body)
}
