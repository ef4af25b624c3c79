//! The QEMU driver: the `microvm` machine under TCG, for hosts where no hardware virtualisation can be used.
//!
//! ```text
//! boot:     RAM in a file (shared) ──stop, devices' state──► base: that file, and the state
//! restore:  sealed memfd of that file, mapped privately ──(changes into it)──devices' state, cont──► clone
//! save:     clone ──stop──► devices' state, and the difference of its memory
//! ```
//!
//! QEMU is confined by [`crate::confine`] and has no path of the host: kernel, disks, RAM, taps and its control socket
//! are descriptors. Its translator isolates a guest less well than hardware virtualisation does (SECURITY.md).

mod args;
mod console;
mod control;
mod floor;
mod memfd;
mod qmp;
mod ram;
mod runtime;
mod start;
mod state;
mod tsc;

use crate::cgroup::Cgroups;
use crate::driver::{Capabilities, Vmm};
use crate::error::VmmError;
use crate::log::adopted_log;
use crate::machine::Machine;
use crate::memory::{self, Mapping};
use crate::process::host_boot_id;
use crate::record::MachineRecord;
use crate::shape::Shape;
use crate::socket::SocketPath;
use crate::spec::{BootSpec, GuestImage, RestoreSpec, Snapshot};
use crate::started::{Started, not_adopted};
use args::{Macs, Start, command_line};
use async_trait::async_trait;
use leapbox_errors::FileError;
use leapbox_storage::Runs;
use nix::unistd::{Gid, Uid, chown};
use qmp::Qmp;
use runtime::Runtime;
use sha2::{Digest, Sha256};
pub(crate) use start::ProcessConfinement;
use start::{CONTROL_SOCKET, GREETING_DEADLINE, Plan, Ram};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The driver's settings in this installation.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// Directory for QEMU's own root and the measured TSC rate.
    pub dir: PathBuf,
    /// Names this installation's control groups.
    pub instance: String,
    /// The program whose `confine` verb is [`crate::confine::main`].
    pub launcher: PathBuf,
}

/// The QEMU driver. It stops no machine when it is dropped: VMMs outlive the server.
#[derive(Debug)]
pub struct Qemu {
    runtime: Runtime,
    launcher: PathBuf,
    cgroups: Cgroups,
    tsc_khz: u64,
    images: ram::RamImages,
    host_boot_id: String,
}

impl Qemu {
    /// Prepares QEMU's own root and the installation's control groups, and measures the TSC rate. Blocking.
    pub fn open(config: QemuConfig) -> Result<Self, VmmError> {
        let dir = &config.dir;
        let cgroups = Cgroups::for_machines(&config.instance)?;
        std::fs::create_dir_all(dir).map_err(FileError::of("creating", dir))?;
        Ok(Self {
            runtime: Runtime::prepare(dir)?,
            cgroups,
            launcher: config.launcher,
            tsc_khz: tsc::host_khz(&config.dir.join("tsc-khz"))?,
            images: ram::RamImages::default(),
            host_boot_id: host_boot_id()?,
        })
    }

    /// The first line that `qemu-system-x86_64 --version` prints.
    pub fn version(&self) -> &str {
        &self.runtime.version
    }

    /// Restores with the given confinement of the process; only [`crate::floor`] asks for none.
    pub(crate) async fn restore_within(
        &self,
        mut spec: RestoreSpec,
        process_confinement: ProcessConfinement,
    ) -> Result<Machine, VmmError> {
        let changes = spec.changes.take();
        let snapshot = &spec.snapshot;
        snapshot.check_fits(&self.compatibility_key(snapshot.shape, &spec.image))?;
        snapshot.check_memory()?;
        let (memory, state) = match changes {
            None => {
                let state = File::open(&snapshot.state);
                (None, state.map_err(FileError::of("opening", &snapshot.state))?)
            }
            Some(changes) => {
                changes.check_state()?;
                (Some(changes.memory), state::to_load(&changes.state)?)
            }
        };
        let plan = Plan {
            shape: snapshot.shape,
            image: &spec.image,
            network: &spec.network,
            confinement: &spec.confinement,
            disk: &spec.disk,
            ram: Ram { fd: self.images.sealed(&snapshot.memory).await?, bytes: 0 },
            state: Some(state),
            start: Start::Restore,
            process_confinement,
        };
        let (machine, qmp) = self.start(plan).await?;
        match load(&machine, &qmp, memory).await {
            Ok(()) => Ok(machine),
            Err(error) => {
                // The error of the restore is the one to report; what cannot be removed is logged.
                let _ = machine.destroy().await;
                Err(error)
            }
        }
    }
}

/// Loads a started machine: first the changes of its memory, then the devices, whose loading reads the memory.
async fn load(machine: &Machine, qmp: &Qmp, memory: Option<Runs>) -> Result<(), VmmError> {
    if let Some(changes) = memory {
        let injected = memory::inject(machine.proc()?, Mapping::Memfd(ram::NAME), machine.record.shape, changes);
        machine.while_alive("loading its memory", injected).await?;
    }
    machine.while_alive("loading its device state", state::load(qmp)).await
}

#[async_trait]
impl Vmm for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { hardware_virtualisation: false, io_limits: false }
    }

    fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    fn compatibility_key(&self, shape: Shape, image: &GuestImage) -> String {
        // The MAC addresses are left out, because they are the same in every machine.
        let macs = Macs { workload: "", channel: "" };
        let mut hash = Sha256::new();
        hash.update(format!("{} {} {}\n", self.name(), self.runtime.digest, image.digest));
        for argument in command_line(shape, macs, self.tsc_khz, Start::Restore) {
            hash.update(argument);
            hash.update("\n");
        }
        hex::encode(hash.finalize())
    }

    async fn boot(&self, spec: BootSpec) -> Result<Machine, VmmError> {
        spec.shape.check()?;
        let memory = spec.snapshot_dir.join("memory");
        let state = spec.snapshot_dir.join("state");
        let ram = boot_ram(&memory, spec.shape, spec.confinement.uid)?;
        let plan = Plan {
            shape: spec.shape,
            image: &spec.image,
            network: &spec.network,
            confinement: &spec.confinement,
            disk: &spec.disk,
            ram,
            state: None,
            start: Start::Boot,
            process_confinement: ProcessConfinement::Confined,
        };
        let (machine, _) = self.start(plan).await?;
        let snapshot = Snapshot {
            shape: spec.shape,
            memory,
            state,
            disk: spec.disk,
            compatibility_key: self.compatibility_key(spec.shape, &spec.image),
        };
        Ok(machine.booted_into(snapshot))
    }

    async fn restore(&self, spec: RestoreSpec) -> Result<Machine, VmmError> {
        self.restore_within(spec, ProcessConfinement::Confined).await
    }

    async fn forget(&self, snapshot: &Snapshot) {
        self.images.forget(&snapshot.memory).await;
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Machine, VmmError> {
        let process = record.process(self.name(), &self.host_boot_id)?;
        let connected = async {
            let log = adopted_log(record.pid)?;
            let socket = SocketPath::new(&record.dir, CONTROL_SOCKET)?;
            let qmp = control::connect(&process, &log, &socket, GREETING_DEADLINE, "being adopted").await?;
            // The log was opened by the process's number; if it is alive now, the log is its own.
            process.check_alive()?;
            Ok::<_, VmmError>((qmp, log))
        };
        match connected.await {
            Ok((qmp, log)) => {
                let group = self.cgroups.named(&record.name);
                Ok(control::watch(Started { record, process, group }, qmp, log))
            }
            Err(error) => Err(not_adopted(&process, error).await),
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.cgroups.remove_if_empty();
    }
}

/// Makes the RAM file of a machine that boots, owned by the VMM's user, who must be able to write it.
fn boot_ram(path: &Path, shape: Shape, uid: u32) -> Result<Ram, VmmError> {
    let bytes = shape.memory_bytes();
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .map_err(FileError::of("creating", path))?;
    file.set_len(bytes).map_err(FileError::of("sizing", path))?;
    // QEMU opens the inherited descriptor anew, by its path in /proc, and the kernel then checks the file's owner.
    chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))
        .map_err(FileError::of("changing the owner of", path))?;
    Ok(Ram { fd: Arc::new(file.into()), bytes })
}
