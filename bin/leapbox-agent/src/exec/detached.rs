//! Commands whose caller has hung up.
//!
//! They go on, as they would in a shell whose output nobody reads, until they end or their time is up; so do commands
//! that a pause found running, whose caller is gone when the guest wakes. One thread looks after all of them, so that
//! none keeps a worker for the hours a command may last.

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

/// A command and what belongs to it.
pub(super) struct Command {
    pub(super) child: Child,
    pub(super) group: Group,
    /// When everything it started is killed.
    pub(super) deadline: Instant,
}

/// The way to the thread.
pub(crate) struct Detached {
    shared: Arc<Shared>,
}

struct Shared {
    new: Mutex<Vec<Command>>,
    bell: EventFd,
    cgroups: Arc<Cgroups>,
}

impl Detached {
    /// Starts the thread.
    pub(crate) fn start(cgroups: Arc<Cgroups>) -> io::Result<Self> {
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Shared { new: Mutex::default(), bell, cgroups });
        let keeper = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("detached".to_owned())
            .stack_size(128 << 10)
            .spawn(move || keeper.look_after_all())?;
        Ok(Self { shared })
    }

    /// Looks after this command to its end.
    pub(super) fn take(&self, command: Command) {
        self.shared.new.lock().unwrap_or_else(PoisonError::into_inner).push(command);
        // Fails only when it has been rung 2⁶⁴ times unheard.
        let _ = self.shared.bell.write(1);
    }
}

impl Shared {
    fn look_after_all(&self) {
        let mut commands: Vec<Command> = Vec::new();
        loop {
            let next = commands.iter().map(|command| command.deadline).min();
            let patience = next.map(|next| timeout(next.saturating_duration_since(Instant::now())));
            let mut polled = vec![PollFd::new(self.bell.as_fd(), PollFlags::POLLIN)];
            polled.extend(commands.iter().map(|command| PollFd::new(command.child.pidfd(), PollFlags::POLLIN)));
            let waited = poll(&mut polled, patience.unwrap_or(PollTimeout::NONE));
            // After an error nothing is known to have ended.
            let ended: Vec<bool> = polled[1..].iter().map(|fd| waited.is_ok() && fd.any().unwrap_or(true)).collect();
            if waited.is_err() {
                std::thread::sleep(Duration::from_millis(10));
            }
            let mut ended = ended.into_iter();
            let (gone, left): (Vec<_>, Vec<_>) = commands.into_iter().partition(|_| ended.next().unwrap_or(false));
            commands = left;
            self.bury(gone);
            commands.iter_mut().filter(|command| command.deadline <= Instant::now()).for_each(Command::kill);
            let _ = self.bell.read();
            commands.append(&mut self.new.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn bury(&self, gone: Vec<Command>) {
        for command in gone {
            // When the worker that started it has ended meanwhile, the main thread may have buried it already.
            let _ = command.child.wait();
            self.cgroups.release(command.group);
        }
    }
}

impl Command {
    /// Kills all that it started. Its end is waited for as any other's, however long it takes.
    pub(super) fn kill(&mut self) {
        if let Err(error) = self.group.kill() {
            log::line(format_args!("cannot kill a command's cgroup: {}", chain(&error)));
        }
        // In case it has left its group.
        self.child.kill();
        self.deadline = Instant::now() + Duration::from_secs(3600);
    }
}
