//! One call over one connection: encodes the request, and reads an answer of bounded size in bounded time.

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
// It is in answers, errors and the log, where a hostile agent could otherwise write up to 10 MiB with each call.
const MESSAGE_MAX: usize = 1024;

/// The name of a request in errors and logs.
pub(crate) fn name_of(request: &Request<'_>) -> &'static str {
    match request {
        Request::Ping => "ping",
        Request::PrepareSnapshot => "prepare snapshot",
        Request::Configure(_) => "configure",
        Request::Warm => "warm up",
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

/// Bytes that the answer to a request may have.
fn answer_cap(request: &Request<'_>) -> usize {
    // Without a `_` arm: whoever adds a request decides how much memory its answer may take.
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

/// Dials, sends the request and reads the answer, all within `deadline`. The next byte of the returned stream is the
/// first one after the answer.
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

/// Bounds the time of any part of a call.
pub(crate) async fn within<T>(
    deadline: Duration,
    operation: &'static str,
    work: impl Future<Output = Result<T, GuestError>>,
) -> Result<T, GuestError> {
    tokio::time::timeout(deadline, work).await.unwrap_or(Err(GuestError::Deadline { operation, after: deadline }))
}

/// Sends a request over a new connection and reads the answer. The caller bounds its time.
pub(crate) async fn ask(mut stream: TcpStream, request: &Request<'_>) -> Result<(Reply, TcpStream), GuestError> {
    stream.set_nodelay(true).map_err(|source| GuestError::Dial { source })?;
    if !matches!(request, Request::Connect { .. }) {
        // Nothing is on its way any more when we close, so a reset loses nothing. An orderly close towards a guest that
        // is stopped or killed meanwhile would leave a socket that keeps the sandbox's network namespace for a minute.
        // A relayed connection is closed in order, because its last bytes may still be on their way.
        stream.set_zero_linger().map_err(|source| GuestError::Dial { source })?;
    }
    let frame = encode_call(request)?;
    // A busy agent answers and closes without having read the request: its answer says more than the failed write.
    let written = stream.write_all(&frame).await;
    // Up to 10 MiB, which would otherwise be held while the guest works.
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

/// The error for a fault, with the agent's message cut to one line.
fn refusal(GuestFault { kind, message }: GuestFault) -> GuestError {
    // The only place where such a message comes in: from here on it can be logged and answered as it is.
    let message = one_line(&message, MESSAGE_MAX);
    match kind {
        FaultKind::VersionMismatch => GuestError::Version { message },
        kind => GuestError::Fault(GuestFault { kind, message }),
    }
}

/// Reads one frame of at most `cap` bytes.
async fn read_frame(stream: &mut TcpStream, cap: usize) -> Result<Vec<u8>, GuestError> {
    let closed = |source| GuestError::Closed { source };
    let mut prefix = [0; PREFIX_LEN];
    stream.read_exact(&mut prefix).await.map_err(closed)?;
    let len = body_len(prefix, cap)?;
    // Beyond this, memory grows with the bytes that arrive, and never with those that were only announced.
    let mut body = Vec::with_capacity(len.min(SMALL_FRAME));
    stream.take(len as u64).read_to_end(&mut body).await.map_err(closed)?;
    if body.len() < len {
        return Err(closed(io::Error::from(io::ErrorKind::UnexpectedEof)));
    }
    Ok(body)
}
