//! The certificate of the sandbox's own authority, where the guest's programs look for it.
//!
//! ```text
//! configure ─▶ apply ─▶ the keeper's thread: memory ──▶ disk
//!                ◀── when both are done, or with memory alone when the disk takes too long
//! ```
//!
//! Memory (`memory`) is what counts: it is there before a workload runs, and the environment of every process
//! (`environment`) leads there. The disk (`disk`) is the guest's, which may have frozen it: then it is written when that
//! ends, with whatever is wanted by then. Called by `guest`.

mod bundle;
mod disk;
mod environment;
mod memory;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use environment::variables;

use crate::{fault, log};
use bundle::Certificate;
use disk::Disk;
use leapbox_errors::chain;
use leapbox_guest_protocol::{FaultKind, GuestFault, Trust};
use memory::Memory;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the guest's programs see the agent's folder, and the two files in it: our certificate alone, and the
/// system's with it.
pub const FOLDER: &str = "/run/leapbox";
const CERTIFICATE: &str = "/run/leapbox/egress-ca.pem";
const BUNDLE: &str = "/run/leapbox/ca-bundle.pem";

/// How long `configure` waits for the guest's disk: a host that waits longer for it tells the time anew.
const DISK_PATIENCE: Duration = Duration::from_millis(700);
/// How long it waits for what it cannot do without.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);

/// One guest's.
#[derive(Debug)]
pub struct TrustStore {
    keeper: Arc<Keeper>,
}

#[derive(Debug)]
struct Keeper {
    memory: Memory,
    disk: Disk,
    state: Mutex<State>,
    news: Condvar,
}

#[derive(Default)]
struct State {
    /// What is wanted next.
    wish: Option<Wish>,
    /// What the thread works on; there is none without.
    current: Option<Wish>,
    /// How memory took the last wish.
    in_memory: Option<Result<(), GuestFault>>,
}

/// What a `Configure` asked for.
#[derive(Clone, PartialEq, Eq)]
enum Wish {
    Distrust,
    Trust(Certificate),
}

impl TrustStore {
    /// Of the guest whose root folder this is. The agent's own files are made in `hidden`, a folder on no disk, and shown
    /// at `shown` (in a guest: [`FOLDER`]) once there is something to show.
    pub fn install(root: &Path, hidden: &Path, shown: &Path) -> io::Result<Self> {
        let (memory, disk) = (Memory::install(hidden, shown)?, Disk::open(root)?);
        let keeper = Keeper { memory, disk, state: Mutex::default(), news: Condvar::new() };
        Ok(Self { keeper: Arc::new(keeper) })
    }

    /// Makes it so. What the disk does not take is told on the console alone.
    pub(crate) fn apply(&self, trust: &Trust) -> Result<(), GuestFault> {
        let wish = Wish::of(trust)?;
        let mut state = self.keeper.lock();
        // Asked again about what the disk has not taken yet, it is as far as it was.
        if state.wish.is_some() || state.current.as_ref() != Some(&wish) {
            (state.wish, state.in_memory) = (Some(wish), None);
            if state.current.is_none() {
                let keeper = Arc::clone(&self.keeper);
                let thread = std::thread::Builder::new().name("trust".to_owned()).stack_size(128 << 10);
                thread.spawn(move || keeper.work()).map_err(|error| failed(&error))?;
                state.current = state.wish.clone();
            }
        }
        let state = self.keeper.wait(state, DISK_PATIENCE, State::is_busy);
        if state.is_busy() {
            log::line(format_args!("the sandbox's certificate: the disk does not take it yet"));
        }
        let state = self.keeper.wait(state, MEMORY_PATIENCE, |state| state.in_memory.is_none());
        let silent =
            || Err(GuestFault::new(FaultKind::Io, "the sandbox's certificate: the guest's files do not answer"));
        state.in_memory.clone().unwrap_or_else(silent)
    }
}

impl State {
    fn is_busy(&self) -> bool {
        self.wish.is_some() || self.current.is_some()
    }
}

fn failed(error: &io::Error) -> GuestFault {
    fault::from_io("the sandbox's certificate", error)
}

impl Wish {
    fn of(trust: &Trust) -> Result<Self, GuestFault> {
        match trust {
            Trust::None => Ok(Wish::Distrust),
            Trust::Certificate(pem) => {
                Ok(Wish::Trust(Certificate::parse(pem).map_err(|error| fault::invalid(error.to_string()))?))
            }
        }
    }
}

impl Keeper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        state: MutexGuard<'a, State>,
        patience: Duration,
        condition: impl Fn(&State) -> bool,
    ) -> MutexGuard<'a, State> {
        let waited = self.news.wait_timeout_while(state, patience, |state| condition(state));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Fulfils wishes, the last one last, until there are none.
    fn work(&self) {
        while let Some(wish) = self.next() {
            match wish {
                Wish::Distrust => self.distrust(),
                Wish::Trust(certificate) => self.trust(&certificate),
            }
        }
    }

    fn next(&self) -> Option<Wish> {
        let mut state = self.lock();
        state.current = state.wish.take();
        self.news.notify_all();
        state.current.clone()
    }

    fn trust(&self, certificate: &Certificate) {
        let system = self.disk.system_bundle();
        let joined = bundle::with(&system.bytes, certificate);
        let kept = self.memory.keep(certificate, &joined);
        self.tell(kept);
        if let Some(path) = self.disk.install(certificate, &system, &joined)
            && let Err(error) = self.memory.lead_to(path)
        {
            log::line(format_args!("the sandbox's certificate: {BUNDLE}: {}", chain(&error)));
        }
    }

    fn distrust(&self) {
        let forgotten = self.memory.forget(|| self.disk.system_path());
        self.tell(forgotten);
        self.disk.remove();
    }

    /// Reports to whoever waits, unless something else is wanted already.
    fn tell(&self, in_memory: io::Result<()>) {
        let mut state = self.lock();
        if state.wish.is_none() {
            state.in_memory = Some(in_memory.map_err(|error| failed(&error)));
            self.news.notify_all();
        }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("is_busy", &self.is_busy()).finish_non_exhaustive()
    }
}
