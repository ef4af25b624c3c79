//! The state that all connections share, and its changes of phase. Called by `connection`.
//!
//! ```text
//! configure: entropy, clock, identity ─▶ read back ─▶ trust ─▶ thaw ─▶ Configured
//! suspend:   Suspended ─▶ freeze
//! shutdown:  Ended ─▶ SIGTERM ─▶ SIGKILL ─▶ sync
//! ```
//!
//! One change of phase runs at a time and to its end, holding `transition`. The phase itself is behind a second lock
//! that is held for moments only, so that `Ping` is answered while a change is slow.

use crate::budget::{BUDGET_BYTES, Budget};
use crate::cgroup::Cgroups;
use crate::configure::IdentityFiles;
use crate::exec::detached::Detached;
use crate::exec::drain::Drain;
use crate::exec::variables::check_env;
use crate::fault;
use crate::log;
use crate::phase::{Class, admit};
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

/// The guest that this agent serves. There is one in a process, but for tests.
pub struct Guest {
    pub image: ImageConfig,
    /// The user of [`ImageConfig`] as whom commands run and files are touched.
    pub user: User,
    /// Path of that user's login shell, for `SHELL`; commands themselves always run in `/bin/sh`.
    pub shell: String,
    pub cgroups: Arc<Cgroups>,
    /// Address of `eth0`, for servers that do not listen on loopback.
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

/// State that one change of phase leaves for the next.
#[derive(Default)]
struct Transition {
    /// The workload's cgroups were told to freeze and not yet to thaw, whether or not the freeze succeeded.
    thaw_owed: bool,
}

/// The phase, and the settings of the last `Configure`.
struct Settings {
    phase: Phase,
    env: Vec<(String, String)>,
    /// The guest trusts its sandbox's authority, and commands get the variables that name the certificate.
    trusting: bool,
}

impl Settings {
    fn unconfigured() -> Self {
        Self { phase: Phase::Unconfigured, env: Vec::new(), trusting: false }
    }
}

impl Guest {
    /// Makes an unconfigured guest and starts the threads that serve all commands.
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

    /// Makes the guest a sandbox, or has it continue to be one. The new phase and settings take effect only after all
    /// of it was read back, and a frozen workload is thawed only then.
    pub(crate) fn configure(&self, configure: Configure) -> Result<Configured, GuestFault> {
        // Before anything is changed: a refused request must leave the guest as it was.
        check_env(configure.env.as_deref().unwrap_or_default())?;
        let mut transition = self.begin(Class::Configure)?;
        if configure.identity.is_none() && self.phase() == Phase::Unconfigured {
            return Err(fault::invalid("the guest was never configured and has no identity to keep; give it one"));
        }
        // Randomness and identity are right before a process of the workload runs: one that runs earlier could draw the
        // random numbers that every other clone of its base snapshot draws.
        let configured = self.identity.apply(&configure)?;
        if let Some(trust) = &configure.trust {
            self.trust.apply(trust)?;
        }
        // If anything above failed, the workload stays frozen, and the host may configure again.
        if transition.thaw_owed {
            self.workload.thaw().map_err(|error| fault::from_io("thawing the workload", &error))?;
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

    /// Freezes the workload. The guest is suspended until the next `configure`, also when freezing failed.
    pub(crate) fn suspend(&self) -> Result<Suspended, GuestFault> {
        let mut transition = self.begin(Class::Suspend)?;
        // Before the freeze, so that no command is admitted while it is under way.
        self.settings().phase = Phase::Suspended;
        transition.thaw_owed = true;
        let frozen = self.workload.freeze().map_err(|error| fault::from_io("freezing the workload", &error))?;
        Ok(Suspended { frozen })
    }

    /// Ends the workload and writes everything to disk. A suspended workload is killed without running again.
    pub(crate) fn shutdown(&self, grace_ms: u32) -> Result<(), GuestFault> {
        let transition = self.begin(Class::Shutdown)?;
        self.settings().phase = Phase::Ended;
        // A frozen process cannot handle SIGTERM, and thawing it would run it with stale randomness and time.
        let ended = if transition.thaw_owed {
            self.workload.kill()
        } else {
            let terminated = self.workload.terminate(Duration::from_millis(grace_ms.into()));
            terminated.and_then(|ended| if ended { Ok(true) } else { self.workload.kill() })
        };
        match ended {
            Ok(true) => {}
            // What the workload has written is worth keeping all the same, so this goes on to the sync.
            Ok(false) => log::line(format_args!("some of the workload's processes still run after SIGKILL")),
            Err(error) => log::line(format_args!("cannot end the workload: {}", chain(&error))),
        }
        sync()
    }

    /// Makes the guest unconfigured again for a base snapshot, without certificate and environment, and writes
    /// everything to disk.
    pub(crate) fn prepare_snapshot(&self) -> Result<(), GuestFault> {
        let _transition = self.begin(Class::Prepare)?;
        if self.settings().trusting {
            self.trust.apply(&Trust::None)?;
        }
        *self.settings() = Settings::unconfigured();
        sync()
    }

    /// The variables that name the sandbox's certificate, then the sandbox's own, which win. A
    /// [`FaultKind::Busy`](leapbox_guest_protocol::FaultKind::Busy) unless the guest is configured.
    pub(crate) fn sandbox_env(&self) -> Result<Vec<(String, String)>, GuestFault> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        // Checked again under the lock: the guest may have been suspended since `connection` admitted the command.
        admit(settings.phase, Class::Workload)?;
        let trust = settings.trusting.then(trust::variables).into_iter().flatten();
        Ok(trust.chain(settings.env.iter().cloned()).collect())
    }

    /// Waits until no other change of phase runs, and then checks that the phase still allows this one.
    fn begin(&self, class: Class) -> Result<MutexGuard<'_, Transition>, GuestFault> {
        let transition = self.transition.lock().unwrap_or_else(PoisonError::into_inner);
        admit(self.phase(), class)?;
        Ok(transition)
    }

    fn settings(&self) -> RwLockWriteGuard<'_, Settings> {
        self.settings.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn sync() -> Result<(), GuestFault> {
    // One file system only: sync(2) would wait for whatever else the guest's root has mounted, a hung FUSE too.
    let root = File::open("/").map_err(|error| fault::from_io("/", &error))?;
    nix::unistd::syncfs(root).map_err(|error| fault::from_io("sync", &error.into()))
}
