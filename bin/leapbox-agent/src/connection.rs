//! One connection: read the call, do it, answer.

use crate::budget::Lease;
use crate::guest::Guest;
use crate::server::{LongSlot, LongSlots};
use crate::{exec, files, relay};
use leapbox_guest_protocol::{
    CallError, FaultKind, FrameError, GuestFault, MAX_FRAME, PREFIX_LEN, Reply, Request, Response, SMALL_FRAME,
    body_len, decode_call, encode,
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

/// What follows the answer.
enum After<'a> {
    Close,
    Relay { app: TcpStream, _slot: LongSlot<'a> },
}

/// Serves a connection to its end. Errors are the connection's: there is nobody left to tell them.
pub(crate) fn serve(guest: &Guest, long: &LongSlots, mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_write_timeout(Some(WRITE_PATIENCE))?;
    let mut lease = guest.budget.lease();
    let answered = read_call(&mut stream, &mut lease)?.and_then(|body| {
        let request = decode_call(&body).map_err(|error| refusal(&error))?;
        answer(guest, long, request, &mut lease)
    });
    let (response, after) = match answered {
        Ok((reply, after)) => (Ok(reply), after),
        Err(fault) => (Err(fault), After::Close),
    };
    stream.write_all(&frame_of(&response))?;
    drop((response, lease));
    match after {
        After::Relay { app, _slot } => relay::relay(&stream, &app),
        After::Close => wait_for_close(&mut stream),
    }
}

/// Tells a caller that there is no room for it.
pub(crate) fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(CLOSE_PATIENCE))?;
    let busy = GuestFault::new(FaultKind::Busy, "the sandbox's agent has too many connections");
    stream.write_all(&frame_of(&Err(busy)))?;
    stream.shutdown(std::net::Shutdown::Write)
}

/// Reads a call's frame: the outer result is the connection's, the inner what the caller is told.
fn read_call(stream: &mut TcpStream, lease: &mut Lease<'_>) -> io::Result<Result<Vec<u8>, GuestFault>> {
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

/// The host closes first, so that no connection waits here for stray packets (TIME_WAIT) when a snapshot is taken: in
/// its clones a new connection from the same port would be delayed by a second.
fn wait_for_close(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(CLOSE_PATIENCE))?;
    stream.read(&mut [0; 1]).map(drop)
}

/// A frame for any response; one that is too long becomes a fault that says so.
fn frame_of(response: &Response) -> Vec<u8> {
    let too_long = |error: FrameError| {
        let fault = GuestFault::new(FaultKind::TooLarge, format!("the answer is too long: {error}"));
        encode::<Response>(&Err(fault))
    };
    encode(response).or_else(too_long).unwrap_or_default()
}

/// Why a call is not taken.
fn refusal(error: &CallError) -> GuestFault {
    let kind = match error {
        CallError::Version { .. } => FaultKind::VersionMismatch,
        CallError::Frame(FrameError::TooLong { .. }) => FaultKind::TooLarge,
        CallError::BadMagic | CallError::Frame(_) => FaultKind::InvalidInput,
    };
    GuestFault::new(kind, error.to_string())
}

/// Does what was asked.
fn answer<'a>(
    guest: &Guest,
    long: &'a LongSlots,
    request: Request<'_>,
    lease: &mut Lease<'_>,
) -> Result<(Reply, After<'a>), GuestFault> {
    let reply = match request {
        Request::Ping => Reply::Pong(guest.pong()),
        Request::PrepareSnapshot => guest.prepare_snapshot().map(done)?,
        Request::Configure(configure) => Reply::Configured(guest.configure(configure)?),
        Request::Warm => exec::warm(guest, lease).map(done)?,
        Request::Exec(request) => {
            let _slot = long.enter()?;
            Reply::Exec(exec::exec(guest, &request, lease)?)
        }
        Request::ReadFile(request) => Reply::Content(files::read(guest, &request, lease)?),
        Request::List(request) => Reply::Entries(files::list(guest, &request, lease)?),
        Request::Stat { path } => Reply::Info(files::stat(guest, &path)?),
        Request::Exists { path } => Reply::Exists(files::exists(guest, &path)?),
        Request::WriteFile(request) => change(guest, || files::write(guest, &request))?,
        Request::Mkdir(request) => change(guest, || files::mkdir(guest, &request))?,
        Request::Delete(request) => change(guest, || files::delete(guest, &request))?,
        Request::Connect { port } => {
            guest.require_configured()?;
            let slot = long.enter()?;
            let app = relay::connect(guest, port)?;
            return Ok((Reply::Connected, After::Relay { app, _slot: slot }));
        }
    };
    Ok((reply, After::Close))
}

/// Changes of the disk are a sandbox's own: a guest that is no sandbox yet takes none.
fn change(guest: &Guest, work: impl FnOnce() -> Result<(), GuestFault>) -> Response {
    guest.require_configured()?;
    work().map(done)
}

fn done(_: ()) -> Reply {
    Reply::Done
}
