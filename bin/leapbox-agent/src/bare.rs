//! A guest without a disk: it answers `Ping`, and waits for `Mount`.
//!
//! ```text
//! accept ─▶ Ping ──▶ Pong { Bare }
//!        ─▶ Mount ─▶ the rest of the boot ─▶ server starts ─▶ Done
//!                                         └▶ the cause as a fault; PID 1 ends
//! ```
//!
//! One connection at a time, on the main thread: no other thread exists before the disks are there. This is where a
//! snapshot is taken that stopped sandboxes start from, each with its own disk. Called by `main`.

use crate::budget::{BUDGET_BYTES, Budget};
use crate::guest::Guest;
use crate::phase::{Wants, admit};
use crate::{call, log, server};
use leapbox_errors::chain;
use leapbox_guest_protocol::{FaultKind, GuestFault, PROTOCOL_VERSION, Phase, Pong, Reply, Response, decode_call};
use std::error::Error;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Serves a guest without a disk until `mount` has made it a whole one, which is served from then on.
///
/// # Errors
/// What `mount` failed with, after whoever asked for it was told.
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
    // Who asked may have given up; what came of it counts all the same.
    let _ = call::write(&mut host, &response).and_then(|()| call::wait_for_close(&mut host));
    ready
}

/// Answers until somebody wants the disks mounted: that connection.
fn wait_for_mount(listener: &TcpListener, started: Instant) -> TcpStream {
    let budget = Budget::new(BUDGET_BYTES);
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                if wants_mount(&mut stream, &budget, started).unwrap_or(false) {
                    return stream;
                }
            }
            Err(error) => {
                log::line(format_args!("accept: {}", chain(&error)));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

/// Serves one connection, unless it wants the disks mounted, which is left to answer.
fn wants_mount(stream: &mut TcpStream, budget: &Budget, started: Instant) -> io::Result<bool> {
    let wants = call::read(stream, &mut budget.lease())?.and_then(|body| {
        let request = decode_call(&body).map_err(|error| call::refusal(&error))?;
        let wants = Wants::of(&request);
        admit(Phase::Bare, wants).map(|()| wants)
    });
    let response = match wants {
        Ok(Wants::Mount) => return Ok(true),
        Ok(_) => Response::Ok(Reply::Pong(pong(started))),
        Err(fault) => Err(fault),
    };
    call::write(stream, &response)?;
    call::wait_for_close(stream)?;
    Ok(false)
}

fn pong(started: Instant) -> Pong {
    let uptime_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Pong { version: PROTOCOL_VERSION, uptime_ms, phase: Phase::Bare }
}
