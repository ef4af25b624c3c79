//! Puts the certificate of the sandbox's own authority where the guest's programs look for it, and removes it.
//!
//! ```text
//! configure ─▶ apply ─▶ the worker's thread: memory ──▶ disk
//!                ◀── when both are done, or with memory alone when the disk takes too long
//! ```
//!
//! Memory (`memory`) is authoritative: it is written before a workload runs, and the environment of every process
//! (`environment`) names the files there. The disk (`disk`) is the guest's, whose root may have frozen its file system:
//! then it is written when it thaws, by the latest request of that time. Called by `guest`.

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

/// The directory at which the guest's programs see the agent's two files: the sandbox's certificate alone, and the
/// system's certificates with it.
pub const FOLDER: &str = "/run/leapbox";
const CERTIFICATE: &str = "/run/leapbox/egress-ca.pem";
const BUNDLE: &str = "/run/leapbox/ca-bundle.pem";

// The host configures again if a `Configure` took a second, because the time it sent is that old by then. A frozen disk
// must not bring it there.
const DISK_TIMEOUT: Duration = Duration::from_millis(700);
// Without the files in memory the guest is not configured, so this waits for longer, also for an earlier request.
const MEMORY_TIMEOUT: Duration = Duration::from_secs(5);

/// The guest's trust in its sandbox's own authority, and a handle to the thread that changes it.
#[derive(Debug)]
pub struct TrustStore {
    worker: Arc<TrustWorker>,
}

#[derive(Debug)]
struct TrustWorker {
    memory: Memory,
    disk: Disk,
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    /// The request that comes next. A newer one replaces it, because only the last counts.
    request: Option<TrustRequest>,
    /// The request that the thread works on; `None` if there is no thread.
    current: Option<TrustRequest>,
    /// The outcome of the last request in memory; `None` until it is there.
    in_memory: Option<Result<(), GuestFault>>,
}

/// The change that a `Configure` asks for.
#[derive(Clone, PartialEq, Eq)]
enum TrustRequest {
    Distrust,
    Trust(Certificate),
}

impl TrustStore {
    /// Prepares a guest whose root directory is `root`. The agent's own files are made in `hidden`, a directory in
    /// memory, which is mounted at `shown` (in a guest: [`FOLDER`]) once a certificate is in it.
    pub fn install(root: &Path, hidden: &Path, shown: &Path) -> io::Result<Self> {
        let (memory, disk) = (Memory::install(hidden, shown)?, Disk::open(root)?);
        let worker = TrustWorker { memory, disk, progress: Mutex::default(), changed: Condvar::new() };
        Ok(Self { worker: Arc::new(worker) })
    }

    /// Trusts a certificate, or none. Fails if memory does not take the change; failures of the disk are only logged on
    /// the console.
    pub(crate) fn apply(&self, trust: &Trust) -> Result<(), GuestFault> {
        let request = TrustRequest::of(trust)?;
        let mut progress = self.worker.lock();
        // A request that is being worked on already is only waited for: after a time-out the host asks again.
        if progress.request.is_some() || progress.current.as_ref() != Some(&request) {
            (progress.request, progress.in_memory) = (Some(request), None);
            if progress.current.is_none() {
                let worker = Arc::clone(&self.worker);
                let thread = std::thread::Builder::new().name("trust".to_owned()).stack_size(128 << 10);
                thread.spawn(move || worker.work()).map_err(|error| failed(&error))?;
                progress.current = progress.request.clone();
            }
        }
        let progress = self.worker.wait(progress, DISK_TIMEOUT, Progress::is_busy);
        if progress.is_busy() {
            log::line(format_args!("the sandbox's certificate: the disk is slow or frozen; it is written there later"));
        }
        let progress = self.worker.wait(progress, MEMORY_TIMEOUT, |progress| progress.in_memory.is_none());
        let no_answer =
            || Err(GuestFault::new(FaultKind::Io, "the sandbox's certificate: the guest's file system hangs"));
        progress.in_memory.clone().unwrap_or_else(no_answer)
    }
}

impl Progress {
    fn is_busy(&self) -> bool {
        self.request.is_some() || self.current.is_some()
    }
}

fn failed(error: &io::Error) -> GuestFault {
    fault::from_io("the sandbox's certificate", error)
}

impl TrustRequest {
    fn of(trust: &Trust) -> Result<Self, GuestFault> {
        match trust {
            Trust::None => Ok(TrustRequest::Distrust),
            Trust::Certificate(pem) => {
                Ok(TrustRequest::Trust(Certificate::parse(pem).map_err(|error| fault::invalid(error.to_string()))?))
            }
        }
    }
}

impl TrustWorker {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &'a self,
        progress: MutexGuard<'a, Progress>,
        timeout: Duration,
        condition: impl Fn(&Progress) -> bool,
    ) -> MutexGuard<'a, Progress> {
        let waited = self.changed.wait_timeout_while(progress, timeout, |progress| condition(progress));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Works on requests until there is none.
    fn work(&self) {
        while let Some(request) = self.next() {
            match request {
                TrustRequest::Distrust => self.distrust(),
                TrustRequest::Trust(certificate) => self.trust(&certificate),
            }
        }
    }

    fn next(&self) -> Option<TrustRequest> {
        let mut progress = self.lock();
        progress.current = progress.request.take();
        self.changed.notify_all();
        progress.current.clone()
    }

    fn trust(&self, certificate: &Certificate) {
        let system = self.disk.system_bundle();
        let joined = bundle::with(&system.bytes, certificate);
        // Memory first and reported at once: `configure` may continue while the disk is still written.
        let kept = self.memory.write(certificate, &joined);
        self.report(kept);
        if let Some(path) = self.disk.install(certificate, &system, &joined)
            && let Err(error) = self.memory.link_bundle_to(path)
        {
            log::line(format_args!("the sandbox's certificate: {BUNDLE}: {}", chain(&error)));
        }
    }

    fn distrust(&self) {
        let forgotten = self.memory.remove(|| self.disk.system_path());
        self.report(forgotten);
        self.disk.remove();
    }

    /// Reports the outcome in memory to whoever waits, unless a newer request has replaced this one.
    fn report(&self, in_memory: io::Result<()>) {
        let mut progress = self.lock();
        if progress.request.is_none() {
            progress.in_memory = Some(in_memory.map_err(|error| failed(&error)));
            self.changed.notify_all();
        }
    }
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("is_busy", &self.is_busy()).finish_non_exhaustive()
    }
}
