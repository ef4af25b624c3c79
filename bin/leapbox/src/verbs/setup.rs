//! `leapbox setup`: prepares a host, step by step. Each step first looks whether its result is there, makes it beside
//! its place, and renames it there; so set-up can be interrupted anywhere and run again.
//!
//! ```text
//! Firecracker (only looked at) ─► packages ─► kernel ─► initramfs ─► system template ─► local CA ─► first key
//! ```

mod firecracker;
pub mod first_key;
pub use first_key::organisation;
pub mod local_ca;

use crate::config::Config;
use crate::state::State;
use crate::verbs::driver::{self, Driver, DriverFacts, DriverRefused};
use first_key::FirstKeyError;
use leapbox_errors::FileError;
use leapbox_templates::host_packages::{self, HostPackagesError, QemuVersion, Soundness};
use leapbox_templates::{
    ArtifactBuilder, ArtifactError, KernelRefresh, Progress, ensure_initramfs, ensure_kernel, ensure_rootfs,
    system_debian,
};
use local_ca::LocalCaError;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Flags of `leapbox setup`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Also look for a newer guest kernel, and build with it.
    #[arg(long)]
    upgrade: bool,
}

/// The reason why set-up stopped. When it is run again, steps that were finished are only looked at.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("`leapbox setup` installs packages and builds file systems: run it as root")]
    NotRoot,
    /// Firecracker is configured and cannot be used on this host.
    #[error(transparent)]
    Driver(#[from] DriverRefused),
    #[error("installing the host's packages")]
    HostPackages {
        #[source]
        source: HostPackagesError,
    },
    /// The installed QEMU is known to crash guests under emulation.
    #[error(
        "QEMU {version} is installed, which crashes the guest kernel under emulation; \
         install Debian bookworm's 7.2: apt-get install --allow-downgrades 'qemu-system-x86=1:7.2*'"
    )]
    UnsoundQemu { version: QemuVersion },
    /// The guest agent, which set-up puts into the initramfs, has not been built.
    #[error("no leapbox-agent beside {beside} or in PATH: run `make build`")]
    NoAgent { beside: PathBuf },
    #[error("building guest kernel, initramfs or template")]
    Artifact {
        #[source]
        source: ArtifactError,
    },
    #[error("making the local CA or its certificate")]
    LocalCa {
        #[source]
        source: LocalCaError,
    },
    #[error("making the first API key")]
    FirstKey {
        #[source]
        source: FirstKeyError,
    },
    #[error("preparing the state directory")]
    State {
        #[source]
        source: FileError,
    },
}

/// Runs every step, and says what to do next.
pub fn run(config: &Config, args: &Args) -> Result<(), SetupError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(SetupError::NotRoot);
    }
    // Looked for first, because the steps before the one that needs it take minutes.
    let agent = find_agent()?;
    let progress = Progress::on_stderr();
    eprintln!("Preparing Leapbox in {}", config.data_dir.display());
    host(config, &progress)?;
    artifacts(config, args, &agent, &progress).map_err(|source| SetupError::Artifact { source })?;
    state(config, &progress)?;
    next_steps(config);
    Ok(())
}

/// Finds the agent that runs in every guest: beside this executable, else in PATH.
pub fn find_agent() -> Result<PathBuf, SetupError> {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new(".")).to_owned();
    let candidate = beside.join("leapbox-agent");
    if candidate.is_file() {
        return Ok(candidate);
    }
    host_packages::find_program("leapbox-agent").ok_or(SetupError::NoAgent { beside })
}

fn host(config: &Config, progress: &Progress) -> Result<(), SetupError> {
    let facts = DriverFacts::read(Path::new("/"));
    // Before a driver is chosen, which may fail: the advice is then what the operator needs.
    firecracker::report(config.driver, &facts, progress);
    let needs_qemu = driver::choose(config.driver, &facts)?.driver == Driver::Qemu;
    host_packages::ensure(needs_qemu, progress.step("host packages"))
        .map_err(|source| SetupError::HostPackages { source })?;
    match host_packages::installed_version() {
        Some(version) if needs_qemu && version.soundness() == Soundness::KnownBad => {
            Err(SetupError::UnsoundQemu { version })
        }
        _ => Ok(()),
    }
}

fn artifacts(config: &Config, args: &Args, agent: &Path, progress: &Progress) -> Result<(), ArtifactError> {
    let mut builder = ArtifactBuilder::open(&config.artifacts_dir, || {
        eprintln!("  … another `leapbox setup` is building in {}; waiting", config.artifacts_dir.display());
    })?;
    let refresh = if args.upgrade { KernelRefresh::Newest } else { KernelRefresh::Keep };
    let kernel = ensure_kernel(&mut builder, progress.step("guest kernel"), refresh)?;
    ensure_initramfs(&mut builder, progress.step("initramfs"), agent, &kernel)?;
    let recipe = system_debian();
    ensure_rootfs(&mut builder, progress.step(&format!("template {}", recipe.name)), &recipe)?;
    Ok(())
}

fn state(config: &Config, progress: &Progress) -> Result<(), SetupError> {
    let state = State::at(config.state_dir());
    let failed = |source| SetupError::State { source };
    state.create().map_err(failed)?;
    state.instance().map_err(failed)?;

    let step = progress.step("local CA and certificate");
    let made = local_ca::ensure(&state.tls_dir(), &config.domain, OffsetDateTime::now_utc())
        .map_err(|source| SetupError::LocalCa { source })?;
    match made {
        local_ca::Made::Nothing => step.unchanged(&format!("*.{}", config.domain)),
        local_ca::Made::Certificate => step.done(&format!("new certificate for *.{}", config.domain)),
        local_ca::Made::Authority => step.done(&format!("new CA and certificate for *.{}", config.domain)),
    }
    let step = progress.step("first API key");
    if first_key::ensure(&state).map_err(|source| SetupError::FirstKey { source })? {
        step.done(&format!("organisation {}, key in {}", first_key::ORGANISATION, state.default_key().display()));
    } else {
        step.unchanged(&format!("organisation {}", first_key::ORGANISATION));
    }
    Ok(())
}

fn next_steps(config: &Config) {
    let own = std::env::current_exe().map_or_else(|_| "leapbox".to_owned(), |p| p.display().to_string());
    let data = match config.data_dir.to_str() {
        Some("/var/lib/leapbox") | None => String::new(),
        Some(dir) => format!(" --data-dir {dir}"),
    };
    eprintln!("\nReady. Next:");
    eprintln!("  {own} serve{data}            # run the server");
    eprintln!("  eval \"$({own} env{data})\"    # in another shell: point SDK, curl and browser at it");
    eprintln!("  {own} doctor{data}           # see what is used, and what could be better");
}
