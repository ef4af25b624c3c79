//! The frames of a call, as the agent reads and writes them. Called by `connection` and `bare`.

use crate::budget::Lease;
use leapbox_guest_protocol::{
    CallError, FaultKind, FrameError, GuestFault, MAX_FRAME, PREFIX_LEN, Response, SMALL_FRAME, body_len, encode,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long a caller may take to say how long its call is.
const PREFIX_PATIENCE: Duration = Duration::from_secs(5);
/// How long the rest of the call may take.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How long one write of the answer may be stuck.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);
/// How long the caller may take to close after the answer.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Reads a call's frame: the outer result is the connection's, the inner what the caller is told.
pub(crate) fn read(stream: &mut TcpStream, lease: &mut Lease<'_>) -> io::Result<Result<Vec<u8>, GuestFault>> {
    stream.set_nodelay(true)?;
    let mut prefix = [0; PREFIX_LEN];
    read_exact_by(stream, &mut prefix, Instant::now() + PREFIX_PATIENCE)?;
    let len = match body_len(prefix, MAX_FRAME) {
        Ok(len) => len,
        Err(error) => return Ok(Err(refusal(&CallError::Frame(error)))),
    };
    if len > SMALL_FRAME
        && let Err(busy) = lease.grow(len)
    {
        return Ok(Err(busy));
    }
    let mut body = vec![0; len];
    read_exact_by(stream, &mut body, Instant::now() + BODY_PATIENCE)?;
    Ok(Ok(body))
}

/// Answers.
pub(crate) fn write(stream: &mut TcpStream, response: &Response) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_PATIENCE))?;
    stream.write_all(&frame_of(response))
}

/// Tells a caller that there is no room for it.
pub(crate) fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(CLOSE_PATIENCE))?;
    let busy = GuestFault::new(FaultKind::Busy, "the sandbox's agent has too many connections");
    stream.write_all(&frame_of(&Err(busy)))?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// The host closes first, so that no connection waits here for stray packets (TIME_WAIT) when a snapshot is taken: in
/// its clones a new connection from the same port would be delayed by a second.
pub(crate) fn wait_for_close(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(CLOSE_PATIENCE))?;
    stream.read(&mut [0; 1]).map(drop)
}

/// Why a call is not taken.
pub(crate) fn refusal(error: &CallError) -> GuestFault {
    let kind = match error {
        CallError::Version { .. } => FaultKind::VersionMismatch,
        CallError::Frame(FrameError::TooLong { .. }) => FaultKind::TooLarge,
        CallError::BadMagic | CallError::Frame(_) => FaultKind::InvalidInput,
    };
    GuestFault::new(kind, error.to_string())
}

/// `read_exact` against a deadline that a trickle of bytes doesn't move.
fn read_exact_by(stream: &mut TcpStream, mut wanted: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !wanted.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(wanted) {
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            Ok(len) => wanted = &mut wanted[len..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A frame for any response; one that is too long becomes a fault that says so.
fn frame_of(response: &Response) -> Vec<u8> {
    let too_long = |error: FrameError| {
        let fault = GuestFault::new(FaultKind::TooLarge, format!("the answer is too long: {error}"));
        encode::<Response>(&Err(fault))
    };
    encode(response).or_else(too_long).unwrap_or_default()
}
