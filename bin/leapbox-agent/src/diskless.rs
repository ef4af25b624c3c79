//! Serves a guest that has no disk mounted: it answers `Ping`, and waits for `Mount`.
//!
//! ```text
//! accept ─▶ Ping ──▶ Pong { Diskless }
//!        ─▶ Mount ─▶ the rest of the boot ─▶ server starts ─▶ Done
//!                                         └▶ the cause as a fault; PID 1 ends
//! ```
//!
//! It serves one connection at a time, on the main thread: no other thread may exist before the disks are mounted. In
//! this phase the base is taken from which stopped sandboxes start, each with its own disk. Called by `main`.

use crate::budget::{BUDGET_BYTES, Budget};
use crate::guest::Guest;
use crate::phase::{Class, admit};
use crate::{call, log, server};
use leapbox_errors::chain;
use leapbox_guest_protocol::{FaultKind, GuestFault, PROTOCOL_VERSION, Phase, Pong, Reply, Response, decode_call};
use std::error::Error;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Serves the guest until the host sends `Mount`, calls `mount`, and starts the server that serves it from then on.
///
/// # Errors
/// Returns the error of `mount` or of starting the server, after it was answered to the host.
pub fn serve(
    listener: TcpListener,
    mount: impl FnOnce() -> Result<Arc<Guest>, Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let mut host = wait_for_mount(&listener, started);
    let ready = mount().and_then(|guest| Ok(server::serve(guest, listener)?));
    let response = match &ready {
        Ok(()) => Ok(Reply::Done),
        Err(error) => Err(GuestFault::new(FaultKind::Io, format!("cannot mount: {}", chain(&**error)))),
    };
    // The host may have given up waiting. The guest is mounted all the same, and the host can ping it again.
    let _ = call::write(&mut host, &response).and_then(|()| call::wait_for_close(&mut host));
    ready
}

/// Answers calls until one is `Mount`, and returns its connection unanswered.
fn wait_for_mount(listener: &TcpListener, started: Instant) -> TcpStream {
    let budget = Budget::new(BUDGET_BYTES);
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                if answer_unless_mount(&mut stream, &budget, started).unwrap_or(false) {
                    return stream;
                }
            }
            Err(error) => {
                log::line(format_args!("cannot accept a connection: {}", chain(&error)));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Serves one connection; true if its call is `Mount`, which is left for the caller to answer.
fn answer_unless_mount(stream: &mut TcpStream, budget: &Budget, started: Instant) -> io::Result<bool> {
    let class = call::read(stream, &mut budget.lease())?.and_then(|body| {
        let request = decode_call(&body).map_err(|error| call::refusal(&error))?;
        let class = Class::of(&request);
        admit(Phase::Diskless, class).map(|()| class)
    });
    let response = match class {
        Ok(Class::Mount) => return Ok(true),
        Ok(_) => Response::Ok(Reply::Pong(pong(started))),
        Err(fault) => Err(fault),
    };
    call::write(stream, &response)?;
    call::wait_for_close(stream)?;
    Ok(false)
}

fn pong(started: Instant) -> Pong {
    let uptime_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Pong { version: PROTOCOL_VERSION, uptime_ms, phase: Phase::Diskless }
}
