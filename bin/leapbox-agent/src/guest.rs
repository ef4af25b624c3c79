//! The state all connections share.

use crate::budget::{BUDGET_BYTES, Budget};
use crate::cgroup::Cgroups;
use crate::configure::Identity;
use crate::exec::Drain;
use crate::fault;
use crate::user::User;
use leapbox_guest_protocol::{
    Configure, Configured, FaultKind, GuestFault, ImageConfig, PROTOCOL_VERSION, Phase, Pong,
};
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::sync::{PoisonError, RwLock};
use std::time::Instant;

/// One guest.
pub struct Guest {
    /// How the image's processes run.
    pub image: ImageConfig,
    /// Whom they run as.
    pub user: User,
    /// The user's login shell.
    pub shell: String,
    /// Where they are put.
    pub cgroups: Cgroups,
    /// Address of `eth0`, for servers that listen there alone.
    pub workload_ip: Ipv4Addr,
    pub(crate) budget: Budget,
    pub(crate) dev_null: File,
    pub(crate) drain: Drain,
    identity: Identity,
    started: Instant,
    settings: RwLock<Settings>,
}

/// What a `Configure` brought.
struct Settings {
    phase: Phase,
    env: Vec<(String, String)>,
}

impl Guest {
    /// An unconfigured guest.
    pub fn new(
        image: ImageConfig,
        shell: String,
        cgroups: Cgroups,
        identity: Identity,
        workload_ip: Ipv4Addr,
    ) -> io::Result<Self> {
        Ok(Self {
            user: User::of_image(&image),
            image,
            shell,
            cgroups,
            workload_ip,
            budget: Budget::new(BUDGET_BYTES),
            dev_null: File::open("/dev/null")?,
            drain: Drain::start()?,
            identity,
            started: Instant::now(),
            settings: RwLock::new(Settings { phase: Phase::Unconfigured, env: Vec::new() }),
        })
    }

    pub(crate) fn pong(&self) -> Pong {
        Pong {
            version: PROTOCOL_VERSION,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            phase: self.settings.read().unwrap_or_else(PoisonError::into_inner).phase,
        }
    }

    /// Becomes a sandbox. Nothing counts before everything was read back.
    pub(crate) fn configure(&self, configure: Configure) -> Result<Configured, GuestFault> {
        crate::exec::check_env(&configure.env)?;
        let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
        let configured = self.identity.apply(&configure)?;
        *settings = Settings { phase: Phase::Configured, env: configure.env };
        Ok(configured)
    }

    /// Forgets which sandbox this was and writes everything to disk.
    pub(crate) fn prepare_snapshot(&self) -> Result<(), GuestFault> {
        {
            let mut settings = self.settings.write().unwrap_or_else(PoisonError::into_inner);
            *settings = Settings { phase: Phase::Unconfigured, env: Vec::new() };
        }
        let root = File::open("/").map_err(|error| fault::from_io("/", &error))?;
        nix::unistd::syncfs(root).map_err(|error| fault::from_io("sync", &error.into()))
    }

    /// The sandbox's environment; [`FaultKind::Busy`] while the guest doesn't know which sandbox it is.
    pub(crate) fn sandbox_env(&self) -> Result<Vec<(String, String)>, GuestFault> {
        let settings = self.settings.read().unwrap_or_else(PoisonError::into_inner);
        match settings.phase {
            Phase::Configured => Ok(settings.env.clone()),
            Phase::Unconfigured => Err(unconfigured()),
        }
    }

    /// [`FaultKind::Busy`] while the guest doesn't know which sandbox it is.
    pub(crate) fn require_configured(&self) -> Result<(), GuestFault> {
        match self.settings.read().unwrap_or_else(PoisonError::into_inner).phase {
            Phase::Configured => Ok(()),
            Phase::Unconfigured => Err(unconfigured()),
        }
    }
}

fn unconfigured() -> GuestFault {
    GuestFault::new(FaultKind::Busy, "the guest has not been configured yet")
}
