//! The state all connections share, and its changes of phase.
//!
//! ```text
//! configure: entropy, clock, identity ─▶ read back ─▶ trust ─▶ thaw ─▶ Configured
//! suspend:   Suspended ─▶ freeze
//! shutdown:  Ended ─▶ SIGTERM ─▶ SIGKILL ─▶ sync
//! ```
//!
//! One change at a time, each to its end: `transition` is held meanwhile. The phase itself is behind a lock that is
//! held for a moment only, so that `Ping` always answers.

use crate::budget::{BUDGET_BYTES, Budget};
use crate::cgroup::Cgroups;
use crate::configure::IdentityFiles;
use crate::exec::detached::Detached;
use crate::exec::drain::Drain;
use crate::exec::variables::check_env;
use crate::fault;
use crate::log;
use crate::phase::{Wants, admit};
use crate::trust::{self, TrustStore};
use crate::user::User;
use crate::workload::Workload;
use leapbox_errors::chain;
use leapbox_guest_protocol::{
    Configure, Configured, GuestFault, ImageConfig, PROTOCOL_VERSION, Phase, Pong, Suspended, Trust,
};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::{Duration, Instant};

/// One guest.
pub struct Guest {
    /// How the image's processes run.
    pub image: ImageConfig,
    /// Whom they run as.
    pub user: User,
    /// The user's login shell.
    pub shell: String,
    /// Where they are put.
    pub cgroups: Arc<Cgroups>,
    /// Address of `eth0`, for servers that listen there alone.
    pub workload_ip: Ipv4Addr,
    pub(crate) budget: Budget,
    pub(crate) dev_null: File,
    pub(crate) drain: Drain,
    pub(crate) detached: Detached,
    workload: Workload,
    identity: IdentityFiles,
    trust: TrustStore,
    started: Instant,
    transition: Mutex<Transition>,
    settings: RwLock<Settings>,
}

/// What changes of phase leave for the next.
#[derive(Default)]
struct Transition {
    /// The workload was told to freeze and not yet to go on.
    thaw_owed: bool,
}

/// What a `Configure` brought.
struct Settings {
    phase: Phase,
    env: Vec<(String, String)>,
    /// The guest's programs are told where the certificate is.
    trusting: bool,
}

impl Settings {
    fn unconfigured() -> Self {
        Self { phase: Phase::Unconfigured, env: Vec::new(), trusting: false }
    }
}

impl Guest {
    /// An unconfigured guest.
    pub fn new(
        image: ImageConfig,
        shell: String,
        cgroups: Cgroups,
        workload: Workload,
        identity: IdentityFiles,
        trust: TrustStore,
        workload_ip: Ipv4Addr,
    ) -> io::Result<Self> {
        let cgroups = Arc::new(cgroups);
        Ok(Self {
            user: User::of_image(&image),
            image,
            shell,
            workload_ip,
            budget: Budget::new(BUDGET_BYTES),
            dev_null: File::open("/dev/null")?,
            drain: Drain::start()?,
            detached: Detached::start(Arc::clone(&cgroups))?,
            cgroups,
            workload,
            identity,
            trust,
            started: Instant::now(),
            transition: Mutex::default(),
            settings: RwLock::new(Settings::unconfigured()),
        })
    }

    pub(crate) fn phase(&self) -> Phase {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).phase
    }

    pub(crate) fn pong(&self) -> Pong {
        Pong {
            version: PROTOCOL_VERSION,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            phase: self.phase(),
        }
    }

    /// Becomes a sandbox, or goes on being one. Nothing counts before everything was read back, and nothing that was
    /// frozen runs before that.
    pub(crate) fn configure(&self, configure: Configure) -> Result<Configured, GuestFault> {
        check_env(configure.env.as_deref().unwrap_or_default())?;
        let mut transition = self.begin(Wants::Configure)?;
        if configure.identity.is_none() && self.phase() == Phase::Unconfigured {
            return Err(fault::invalid("the guest has no identity that it could keep"));
        }
        let configured = self.identity.apply(&configure)?;
        if let Some(trust) = &configure.trust {
            self.trust.apply(trust)?;
        }
        if transition.thaw_owed {
            self.workload.thaw().map_err(|error| fault::from_io("letting the workload go on", &error))?;
            transition.thaw_owed = false;
        }
        let mut settings = self.settings();
        settings.phase = Phase::Configured;
        if let Some(env) = configure.env {
            settings.env = env;
        }
        if let Some(trust) = configure.trust {
            settings.trusting = trust != Trust::None;
        }
        Ok(configured)
    }

    /// Freezes the workload until the next `configure`, whatever came of it.
    pub(crate) fn suspend(&self) -> Result<Suspended, GuestFault> {
        let mut transition = self.begin(Wants::Suspend)?;
        self.settings().phase = Phase::Suspended;
        transition.thaw_owed = true;
        let frozen = self.workload.freeze().map_err(|error| fault::from_io("freezing the workload", &error))?;
        Ok(Suspended { frozen })
    }

    /// Ends the workload and writes everything to disk. A suspended workload is killed as it stands.
    pub(crate) fn shutdown(&self, grace_ms: u32) -> Result<(), GuestFault> {
        let transition = self.begin(Wants::Shutdown)?;
        self.settings().phase = Phase::Ended;
        let ended = if transition.thaw_owed {
            self.workload.kill()
        } else {
            let terminated = self.workload.terminate(Duration::from_millis(grace_ms.into()));
            terminated.and_then(|ended| if ended { Ok(true) } else { self.workload.kill() })
        };
        match ended {
            Ok(true) => {}
            // What it wrote so far is kept all the same.
            Ok(false) => log::line(format_args!("some of the workload's processes do not die")),
            Err(error) => log::line(format_args!("cannot end the workload: {}", chain(&error))),
        }
        sync()
    }

    /// Forgets which sandbox this was and writes everything to disk.
    pub(crate) fn prepare_snapshot(&self) -> Result<(), GuestFault> {
        let _transition = self.begin(Wants::Prepare)?;
        if self.settings().trusting {
            self.trust.apply(&Trust::None)?;
        }
        *self.settings() = Settings::unconfigured();
        sync()
    }

    /// The sandbox's environment, on top of where its certificate is; [`FaultKind::Busy`](leapbox_guest_protocol::FaultKind::Busy) unless it is in use.
    pub(crate) fn sandbox_env(&self) -> Result<Vec<(String, String)>, GuestFault> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        admit(settings.phase, Wants::Work)?;
        let trust = settings.trusting.then(trust::variables).into_iter().flatten();
        Ok(trust.chain(settings.env.iter().cloned()).collect())
    }

    /// Waits for the turn of a change of phase, and whether it is still the time for it.
    fn begin(&self, wants: Wants) -> Result<MutexGuard<'_, Transition>, GuestFault> {
        let transition = self.transition.lock().unwrap_or_else(PoisonError::into_inner);
        admit(self.phase(), wants)?;
        Ok(transition)
    }

    fn settings(&self) -> RwLockWriteGuard<'_, Settings> {
        self.settings.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sync() -> Result<(), GuestFault> {
    let root = File::open("/").map_err(|error| fault::from_io("/", &error))?;
    nix::unistd::syncfs(root).map_err(|error| fault::from_io("sync", &error.into()))
}
