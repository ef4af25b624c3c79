//! Serves one connection: reads the call, does it, answers. Called by `server` on a worker thread.

use crate::budget::Lease;
use crate::guest::Guest;
use crate::long_lived::{LongLivedPermit, LongLivedPermits};
use crate::phase::{Class, admit};
use crate::{call, exec, fault, files, relay};
use leapbox_guest_protocol::{GuestFault, Reply, Request, decode_call};
use std::io;
use std::net::TcpStream;

/// How the connection goes on once the answer is written.
enum After<'a> {
    Close,
    Relay { app: TcpStream, _permit: LongLivedPermit<'a> },
}

/// Serves a connection to its end. An error is of the connection itself: faults of the call are answered.
pub(crate) fn serve(guest: &Guest, long_lived: &LongLivedPermits, mut stream: TcpStream) -> io::Result<()> {
    let mut lease = guest.budget.lease();
    let answered = call::read(&mut stream, &mut lease)?.and_then(|body| {
        let request = decode_call(&body).map_err(|error| call::refusal(&error))?;
        answer(guest, long_lived, request, &stream, &mut lease)
    });
    let (response, after) = match answered {
        Ok((reply, after)) => (Ok(reply), after),
        Err(fault) => (Err(fault), After::Close),
    };
    call::write(&mut stream, &response)?;
    // A relay may last for hours: what the answer held must be free for other requests before.
    drop((response, lease));
    match after {
        After::Relay { app, _permit } => relay::relay(&stream, &app),
        After::Close => call::wait_for_close(&mut stream),
    }
}

/// Does what the request asks for, if the guest's phase allows it.
fn answer<'a>(
    guest: &Guest,
    long_lived: &'a LongLivedPermits,
    request: Request<'_>,
    caller: &TcpStream,
    lease: &mut Lease<'_>,
) -> Result<(Reply, After<'a>), GuestFault> {
    admit(guest.phase(), Class::of(&request))?;
    let reply = match request {
        Request::Ping => Reply::Pong(guest.pong()),
        // A guest without disks is served by `diskless`.
        Request::Mount => return Err(fault::invalid("the guest's disks are mounted already")),
        Request::PrepareSnapshot => guest.prepare_snapshot().map(done)?,
        Request::Configure(configure) => {
            // Before the workload is thawed: its servers must see the resets before they write to clients that are
            // gone.
            if configure.restored {
                long_lived.reset_all();
            }
            Reply::Configured(guest.configure(configure)?)
        }
        Request::Suspend => Reply::Suspended(guest.suspend()?),
        Request::Shutdown { grace_ms } => guest.shutdown(grace_ms).map(done)?,
        Request::Warm => exec::warm_up(guest, lease).map(done)?,
        Request::Exec(request) => {
            let _permit = long_lived.acquire(caller)?;
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
            let permit = long_lived.acquire(caller)?;
            let app = relay::connect(guest, port)?;
            return Ok((Reply::Connected, After::Relay { app, _permit: permit }));
        }
    };
    Ok((reply, After::Close))
}

fn done(_: ()) -> Reply {
    Reply::Done
}
