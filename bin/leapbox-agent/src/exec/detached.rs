//! Supervises commands whose caller has hung up.
//!
//! They continue, as they would in a shell whose output nobody reads, until they end or their time is up; so do
//! commands that were running when the sandbox was paused, whose caller is gone when it wakes. One thread waits for all
//! of them, so that none keeps a worker for the hours a command may last. Called by `exec`.

use super::capture::timeout;
use super::spawn::Child;
use crate::cgroup::{Cgroups, Group};
use crate::log;
use leapbox_errors::chain;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A running command, and the cgroup that everything it starts is in.
pub(super) struct Command {
    pub(super) child: Child,
    pub(super) group: Group,
    /// The time at which everything that it started is killed.
    pub(super) deadline: Instant,
}

/// A handle to the supervising thread.
pub(crate) struct Detached {
    shared: Arc<Shared>,
}

struct Shared {
    new: Mutex<Vec<Command>>,
    wakeup: EventFd,
    cgroups: Arc<Cgroups>,
}

impl Detached {
    /// Starts the thread, which lives as long as the process.
    pub(crate) fn start(cgroups: Arc<Cgroups>) -> io::Result<Self> {
        let wakeup = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { new: Mutex::default(), wakeup, cgroups });
        let supervisor = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("detached".to_owned())
            .stack_size(128 << 10)
            .spawn(move || supervisor.supervise())?;
        Ok(Self { shared })
    }

    /// Hands a command to the thread, to be supervised to its end.
    pub(super) fn take(&self, command: Command) {
        self.shared.new.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        // Fails only if 2⁶⁴ wake-ups are pending, and then the thread wakes anyway.
        let _ = self.shared.wakeup.write(1);
    }
}

impl Shared {
    fn supervise(&self) {
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let next = commands.iter().map(|command| command.deadline).min();
            let wait = next.map(|next| timeout(next.saturating_duration_since(Instant::now())));
            let mut polled = vec![PollFd::new(self.wakeup.as_fd(), PollFlags::POLLIN)];
            polled.extend(commands.iter().map(|command| PollFd::new(command.child.pidfd(), PollFlags::POLLIN)));
            let waited = poll(&mut polled, wait.unwrap_or(PollTimeout::NONE));
            // After a failed poll nothing is known to have ended: the pause below keeps that from becoming a busy loop.
            let ended: Vec<bool> = polled[1..].iter().map(|fd| waited.is_ok() && fd.any().unwrap_or(true)).collect();
            if waited.is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut ended = ended.into_iter();
            let (gone, left): (Vec<_>, Vec<_>) = commands.into_iter().partition(|_| ended.next().unwrap_or(false));
            commands = left;
            self.reap(gone);
            commands.iter_mut().filter(|command| command.deadline <= Instant::now()).for_each(Command::kill);
            let _ = self.wakeup.read();
            commands.append(&mut self.new.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn reap(&self, gone: Vec<Command>) {
        for command in gone {
            // A command is a child of the worker thread that started it. If that thread has ended meanwhile, it became
            // the main thread's, which may have reaped it already: then this fails, and nobody asks for the exit code.
            let _ = command.child.wait();
            self.cgroups.release(command.group);
        }
    }
}

impl Command {
    /// Kills all that it started. Its end is waited for as before.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.group.kill() {
            log::line(format_args!("cannot kill a command's cgroup: {}", chain(&error)));
        }
        // The guest's root may have moved it to another group.
        self.child.kill();
        // It may be inside the kernel for long; it is killed again after this time instead of in a busy loop.
        self.deadline = Instant::now() + Duration::from_secs(3600);
    }
}
