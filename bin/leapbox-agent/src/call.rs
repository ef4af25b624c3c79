//! Reads and writes the frames of a call, within deadlines. Called by `connection`, `diskless` and `server`.

use crate::budget::Lease;
use leapbox_guest_protocol::{
    CallError, FaultKind, FrameError, GuestFault, MAX_FRAME, PREFIX_LEN, Response, SMALL_FRAME, body_len, encode,
};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

// The host sends the prefix with its first packet. A connection without one is hung up on soon, because in a guest
// without disks it keeps every other caller waiting.
const PREFIX_TIMEOUT: Duration = Duration::from_secs(5);
// Long enough for 10 MiB through an emulated network card on a busy host.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Bounds each write of the answer, not the whole of it: a caller that reads slowly is served, one that stopped is not.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
// A caller that does not close must not keep a worker.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads a call's frame. The outer error is the connection's, of which nobody can be told; the inner one is a fault for
/// the caller.
pub(crate) fn read(stream: &mut TcpStream, lease: &mut Lease<'_>) -> io::Result<Result<Vec<u8>, GuestFault>> {
    // The answer is one write, and Nagle's algorithm would hold back its last packet until the rest is acknowledged.
    stream.set_nodelay(true)?;
    let mut prefix = [0; PREFIX_LEN];
    read_exact_by(stream, &mut prefix, Instant::now() + PREFIX_TIMEOUT)?;
    let len = match body_len(prefix, MAX_FRAME) {
        Ok(len) => len,
        Err(error) => return Ok(Err(refusal(&CallError::Frame(error)))),
    };
    // Only large calls are leased, so that a ping or a command is never refused for other requests' memory. All small
    // ones together hold at most 16 MiB: 64 KiB for each of 256 workers.
    if len > SMALL_FRAME
        && let Err(busy) = lease.grow(len)
    {
        return Ok(Err(busy));
    }
    let mut body = vec![0; len];
    read_exact_by(stream, &mut body, Instant::now() + BODY_TIMEOUT)?;
    Ok(Ok(body))
}

pub(crate) fn write(stream: &mut TcpStream, response: &Response) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
    stream.write_all(&frame_of(response))
}

/// Answers `Busy` to a connection for which there is no worker, without reading its call: this runs on the last worker
/// that still accepts, and may not wait for a caller.
pub(crate) fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(CLOSE_TIMEOUT))?;
    let busy = GuestFault::new(FaultKind::Busy, "the sandbox's agent has too many connections");
    stream.write_all(&frame_of(&Err(busy)))?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// Waits until the caller has closed, for [`CLOSE_TIMEOUT`] at most.
pub(crate) fn wait_for_close(stream: &mut TcpStream) -> io::Result<()> {
    // Whoever closes first keeps the connection in TIME_WAIT. That must be the host: a base snapshot would keep it too,
    // and in its clones a new connection from the same port would be delayed by a second.
    stream.set_read_timeout(Some(CLOSE_TIMEOUT))?;
    stream.read(&mut [0; 1]).map(drop)
}

/// The fault for a call whose frame or version is not understood.
pub(crate) fn refusal(error: &CallError) -> GuestFault {
    let kind = match error {
        CallError::Version { .. } => FaultKind::VersionMismatch,
        CallError::Frame(FrameError::TooLong { .. }) => FaultKind::TooLarge,
        CallError::BadMagic | CallError::Frame(_) => FaultKind::InvalidInput,
    };
    GuestFault::new(kind, error.to_string())
}

/// Fills `wanted`, or fails with `TimedOut` at the deadline.
fn read_exact_by(stream: &mut TcpStream, mut wanted: &mut [u8], deadline: Instant) -> io::Result<()> {
    while !wanted.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        // Set anew before each read: a socket's timeout starts again with every byte, so a trickle would never end.
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

/// Encodes any response; one that is too long for a frame becomes a fault that says so.
fn frame_of(response: &Response) -> Vec<u8> {
    let too_long = |error: FrameError| {
        let fault = GuestFault::new(FaultKind::TooLarge, format!("the answer is too long: {error}"));
        encode::<Response>(&Err(fault))
    };
    encode(response).or_else(too_long).unwrap_or_default()
}
