//! One connection: read the call, do it, answer.

use crate::budget::Lease;
use crate::guest::Guest;
use crate::long::{LongSlot, LongSlots};
use crate::phase::{Wants, admit};
use crate::{call, exec, fault, files, relay};
use leapbox_guest_protocol::{GuestFault, Reply, Request, decode_call};
use std::io;
use std::net::TcpStream;

/// What follows the answer.
enum After<'a> {
    Close,
    Relay { app: TcpStream, _slot: LongSlot<'a> },
}

/// Serves a connection to its end. Errors are the connection's: there is nobody left to tell them.
pub(crate) fn serve(guest: &Guest, long: &LongSlots, mut stream: TcpStream) -> io::Result<()> {
    let mut lease = guest.budget.lease();
    let answered = call::read(&mut stream, &mut lease)?.and_then(|body| {
        let request = decode_call(&body).map_err(|error| call::refusal(&error))?;
        answer(guest, long, request, &stream, &mut lease)
    });
    let (response, after) = match answered {
        Ok((reply, after)) => (Ok(reply), after),
        Err(fault) => (Err(fault), After::Close),
    };
    call::write(&mut stream, &response)?;
    drop((response, lease));
    match after {
        After::Relay { app, _slot } => relay::relay(&stream, &app),
        After::Close => call::wait_for_close(&mut stream),
    }
}

/// Does what was asked, if the guest's phase allows it.
fn answer<'a>(
    guest: &Guest,
    long: &'a LongSlots,
    request: Request<'_>,
    caller: &TcpStream,
    lease: &mut Lease<'_>,
) -> Result<(Reply, After<'a>), GuestFault> {
    admit(guest.phase(), Wants::of(&request))?;
    let reply = match request {
        Request::Ping => Reply::Pong(guest.pong()),
        // A guest without disks is served by `bare`.
        Request::Mount => return Err(fault::invalid("the guest has its disks already")),
        Request::PrepareSnapshot => guest.prepare_snapshot().map(done)?,
        Request::Configure(configure) => {
            if configure.restored {
                long.reset_all();
            }
            Reply::Configured(guest.configure(configure)?)
        }
        Request::Suspend => Reply::Suspended(guest.suspend()?),
        Request::Shutdown { grace_ms } => guest.shutdown(grace_ms).map(done)?,
        Request::Warm => exec::warm(guest, lease).map(done)?,
        Request::Exec(request) => {
            let _slot = long.enter(caller)?;
            Reply::Exec(exec::exec(guest, &request, caller, lease)?)
        }
        Request::ReadFile(request) => Reply::Content(files::read(guest, &request, lease)?),
        Request::List(request) => Reply::Entries(files::list(guest, &request, lease)?),
        Request::Stat { path } => Reply::Info(files::stat(guest, &path)?),
        Request::Exists { path } => Reply::Exists(files::exists(guest, &path)?),
        Request::WriteFile(request) => files::write(guest, &request).map(done)?,
        Request::Mkdir(request) => files::mkdir(guest, &request).map(done)?,
        Request::Delete(request) => files::delete(guest, &request).map(done)?,
        Request::Connect { port } => {
            let slot = long.enter(caller)?;
            let app = relay::connect(guest, port)?;
            return Ok((Reply::Connected, After::Relay { app, _slot: slot }));
        }
    };
    Ok((reply, After::Close))
}

fn done(_: ()) -> Reply {
    Reply::Done
}
