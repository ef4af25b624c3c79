//! Reading on for background processes.
//!
//! A server that a command started in the background still has the command's pipes as its output. If they were closed
//! with the command, its next log line would kill it. One thread reads all such pipes and drops what it reads.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

/// The pipes of finished commands.
pub(crate) struct Drain {
    epoll: Arc<Epoll>,
}

impl Drain {
    /// Starts the thread.
    pub(crate) fn start() -> io::Result<Self> {
        let epoll = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let reader = Arc::clone(&epoll);
        std::thread::Builder::new()
            .name("drain".to_owned())
            .stack_size(128 << 10)
            .spawn(move || read_for_ever(&reader))?;
        Ok(Self { epoll })
    }

    /// Reads this pipe to its end. The descriptor is the thread's from here on.
    pub(crate) fn take(&self, pipe: PipeReader) {
        let token = pipe.as_raw_fd().unsigned_abs().into();
        if self.epoll.add(&pipe, EpollEvent::new(EpollFlags::EPOLLIN, token)).is_ok() {
            let _ = pipe.into_raw_fd();
        }
    }
}

fn read_for_ever(epoll: &Epoll) {
    let mut events = [EpollEvent::empty(); 16];
    let mut dropped = [0; 64 << 10];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE).unwrap_or_default();
        for event in &events[..count] {
            let Ok(fd) = i32::try_from(event.data()) else { continue };
            // SAFETY: `take` gave this descriptor up to this thread, which alone uses and closes it.
            let mut pipe = PipeReader::from(unsafe { OwnedFd::from_raw_fd(fd) });
            match pipe.read(&mut dropped) {
                // Off the list before it is closed: that would not take it off while another process has a copy, as every
                // command has that is just being started, and the number is somebody else's next.
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
