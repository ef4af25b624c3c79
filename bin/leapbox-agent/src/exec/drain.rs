//! Drains the pipes of commands that have ended or lost their caller.
//!
//! A server that a command started in the background still has the command's pipes as its output. If they were closed
//! with the command, its next log line would kill it with SIGPIPE; if nobody read them, it would block once they are
//! full. One thread reads all such pipes and drops the bytes. Called by `exec`.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

/// A handle to the draining thread: the epoll instance that holds all the pipes.
pub(crate) struct Drain {
    epoll: Arc<Epoll>,
}

impl Drain {
    /// Starts the thread, which lives as long as the process.
    pub(crate) fn start() -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let reader = Arc::clone(&epoll);
        std::thread::Builder::new()
            .name("drain".to_owned())
            .stack_size(128 << 10)
            .spawn(move || discard_output(&reader))?;
        Ok(Self { epoll })
    }

    /// Hands a pipe to the thread, which reads it to its end and closes it.
    pub(crate) fn take(&self, pipe: PipeReader) {
        let token = pipe.as_raw_fd().unsigned_abs().into();
        // If the kernel has no memory to add it, the pipe is closed here, and its writer has to live with that.
        if self.epoll.add(&pipe, EpollEvent::new(EpollFlags::EPOLLIN, token)).is_ok() {
            let _ = pipe.into_raw_fd();
        }
    }
}

fn discard_output(epoll: &Epoll) {
    let mut events = [EpollEvent::empty(); 16];
    let mut dropped = [0; 64 << 10];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or_default();
        for event in &events[..count] {
            let Ok(fd) = i32::try_from(event.data()) else { continue };
            // SAFETY: `take` gave this descriptor up to this thread, which alone uses and closes it.
            let mut pipe = PipeReader::from(unsafe { OwnedFd::from_raw_fd(fd) });
            match pipe.read(&mut dropped) {
                // Removed from the epoll set before it is closed. Closing alone does not remove it while another
                // process has a copy, as every command that is just being started has, and the set would go on
                // reporting a number that belongs to another file by then. This was seen: one command in a thousand was
                // answered with 502.
                Ok(0) | Err(_) => {
                    let _ = epoll.delete(&pipe);
                    drop(pipe);
                }
                Ok(_) => {
                    let _ = pipe.into_raw_fd();
                }
            }
        }
    }
}
