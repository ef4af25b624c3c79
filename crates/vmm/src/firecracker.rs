//! The Firecracker driver: hardware virtualisation, behind Firecracker's own jailer.
//!
//! ```text
//! boot:     jail ─► kernel, initramfs, drives, taps ─► InstanceStart ─► pause, Diff snapshot: sparse RAM file, state
//! restore:  jail ─► RAM file (mapped privately), state, drives ─► load ─► limits ─► resume    (restore.rs)
//! ```
//!
//! The files in the jail are root's and read-only, most of them hard links to artifacts; only the disk is the
//! VMM's own. All paths and sizes come from the callers.

mod api;
pub mod binaries;
mod console;
mod control;
mod exit;
mod files;
mod floor;
mod jail;
mod key;
mod prefetch;
mod restore;
mod setup;
mod types;
pub mod version;

use crate::blocking::blocking;
use crate::cgroup::{Cgroup, Cgroups, Limits};
use crate::driver::{Capabilities, Vmm};
use crate::error::VmmError;
use crate::machine::Machine;
use crate::process::host_boot_id;
use crate::record::MachineRecord;
use crate::shape::Shape;
use crate::socket::SocketPath;
use crate::spec::{BootSpec, Confinement, GuestImage, RestoreSpec, Snapshot};
use crate::started::{Started, clean_up, make_dir, not_adopted};
use api::Api;
use async_trait::async_trait;
use binaries::Binaries;
use exit::Logs;
use files::{INITRAMFS, KERNEL, ROOTFS, SOCKET};
use jail::Jailed;
use leapbox_errors::FileError;
use prefetch::Prefetch;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Bytes of memory that a Firecracker may use beside its guest's: program, page tables, memory that KVM allocates.
/// Beyond it the kernel kills the VMM.
const OVERHEAD_BYTES: u64 = 256 << 20;
/// Threads that a Firecracker may have beside one per virtual CPU: event loop, API, KVM's helpers.
const EXTRA_TASKS: u32 = 16;
const NAME: &str = "firecracker";

/// The driver's settings in this installation.
#[derive(Debug, Clone)]
pub struct FirecrackerConfig {
    /// Directory for copies of artifacts that lie on another file system than the jails.
    pub dir: PathBuf,
    /// Names this installation's control groups.
    pub instance: String,
    pub binaries: Binaries,
}

/// The Firecracker driver. It stops no machine when it is dropped: VMMs outlive the server.
#[derive(Debug)]
pub struct Firecracker {
    binaries: Binaries,
    /// Directory of artifact copies that jails link to; see [`files::link`].
    copies: PathBuf,
    cgroups: Cgroups,
    /// CPU model and kernel release, for compatibility keys; see [`key::host`].
    host: String,
    host_boot_id: String,
    prefetch: Prefetch,
}

impl Firecracker {
    /// Makes the installation's control groups and empties the directory of copies. Blocking.
    pub fn open(config: FirecrackerConfig) -> Result<Self, VmmError> {
        let cgroups = Cgroups::for_machines(&config.instance)?;
        let copies = config.dir.join("artifacts");
        files::empty_copies(&copies)?;
        Ok(Self {
            binaries: config.binaries,
            copies,
            cgroups,
            host: key::host()?,
            host_boot_id: host_boot_id()?,
            prefetch: Prefetch::default(),
        })
    }

    fn make_group(&self, confinement: &Confinement, shape: Shape) -> Result<Cgroup, VmmError> {
        let limits = Limits {
            memory_bytes: shape.memory_bytes() + OVERHEAD_BYTES,
            tasks: u32::from(shape.vcpus) + EXTRA_TASKS,
            cpus: u32::from(shape.vcpus),
        };
        let made = self.cgroups.create(&confinement.name, limits);
        made.map_err(|source| VmmError::System { step: "making the control group", source })
    }

    /// Launches a Firecracker in a new jail. On failure nothing of it is left.
    async fn launch(
        &self,
        confinement: &Confinement,
        shape: Shape,
        netns: &OwnedFd,
        disk: &Path,
    ) -> Result<Idle, VmmError> {
        // Outside the clean-up below: a directory that exists already is another machine's and must not be removed.
        make_dir(&confinement.dir)?;
        let launched = async {
            let group = self.make_group(confinement, shape)?;
            let meta = std::fs::metadata(disk);
            let disk_bytes = meta.map_err(FileError::of("reading the size of", disk))?.len();
            // Firecracker writes two large files: the disk, and the guest's memory when it takes a snapshot.
            let file_bytes = disk_bytes.max(shape.memory_bytes());
            jail::launch(&self.binaries, confinement, netns, &group, file_bytes).await
        };
        match launched.await {
            Ok(jailed) => Ok(self.idle(confinement, shape, jailed)),
            Err(error) => {
                clean_up(&self.cgroups.named(&confinement.name), &confinement.dir).await;
                Err(error)
            }
        }
    }

    fn idle(&self, confinement: &Confinement, shape: Shape, jailed: Jailed) -> Idle {
        let Jailed { process, api, logs, root } = jailed;
        let record = MachineRecord::of(NAME, &process, shape, confinement, &self.host_boot_id);
        let group = self.cgroups.named(&confinement.name);
        Idle { started: Started { record, process, group }, api, logs, root }
    }

    /// Links the `shared` files and the disk into the jail's `root`. Files of another file system are copied first.
    async fn link(
        &self,
        root: &Path,
        shared: [(&Path, &'static str); 3],
        disk: &Path,
        uid: u32,
    ) -> Result<(), VmmError> {
        let shared = shared.map(|(source, name)| (source.to_path_buf(), name));
        let (root, disk, copies) = (root.to_path_buf(), disk.to_path_buf(), self.copies.clone());
        blocking("linking into the jail", move || {
            shared.iter().try_for_each(|(source, name)| files::link(source, &root, name, &copies))?;
            files::link_disk(&disk, &root, uid)
        })
        .await
    }
}

/// A jailed Firecracker whose API answers and which has no guest yet.
struct Idle {
    started: Started,
    api: Api,
    logs: Logs,
    root: PathBuf,
}

#[async_trait]
impl Vmm for Firecracker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { hardware_virtualisation: true, io_limits: true }
    }

    fn cgroups(&self) -> &Cgroups {
        &self.cgroups
    }

    fn compatibility_key(&self, shape: Shape, image: &GuestImage) -> String {
        key::of(&self.binaries, &self.host, shape, image)
    }

    async fn boot(&self, spec: BootSpec) -> Result<Machine, VmmError> {
        spec.shape.check()?;
        let BootSpec { shape, image, network, confinement, .. } = &spec;
        let Idle { started, api, logs, root } = self.launch(confinement, *shape, &network.netns, &spec.disk).await?;
        let booted = async {
            let shared = [(&*image.kernel, KERNEL), (&*image.initramfs, INITRAMFS), (&*image.rootfs, ROOTFS)];
            self.link(&root, shared, &spec.disk, confinement.uid).await?;
            setup::boot(&api, *shape, network).await
        };
        if let Err(error) = booted.await {
            return Err(started.abort(error, |reason| logs.explain(reason)).await);
        }
        let snapshot = Snapshot {
            shape: *shape,
            memory: spec.snapshot_dir.join("memory"),
            state: spec.snapshot_dir.join("state"),
            disk: spec.disk.clone(),
            compatibility_key: self.compatibility_key(*shape, image),
        };
        Ok(control::watch(started, api, logs, root).booted_into(snapshot))
    }

    async fn restore(&self, spec: RestoreSpec) -> Result<Machine, VmmError> {
        let snapshot = &spec.snapshot;
        snapshot.check_fits(&self.compatibility_key(snapshot.shape, &spec.image))?;
        snapshot.check_memory()?;
        // Before the launch, so that the disk reads while the jailer works. A restore with changes reads the base's
        // whole memory in any case, to overlay a copy of it.
        if spec.changes.is_none() {
            self.prefetch.start(snapshot);
        }
        let (begun, name) = (Instant::now(), spec.confinement.name.clone());
        let idle = self.launch(&spec.confinement, snapshot.shape, &spec.network.netns, &spec.disk).await?;
        let launched = begun.elapsed();
        let machine = self.load_in(idle, spec).await?;
        let (launch_ms, load_ms) = (launched.as_secs_f64() * 1e3, (begun.elapsed() - launched).as_secs_f64() * 1e3);
        tracing::debug!(name, launch_ms, load_ms, "restored a machine");
        Ok(machine)
    }

    async fn forget(&self, snapshot: &Snapshot) {
        self.prefetch.forget(snapshot);
    }

    async fn adopt(&self, record: MachineRecord) -> Result<Machine, VmmError> {
        let process = record.process(NAME, &self.host_boot_id)?;
        let root = jail::root_of(&record.dir, &record.name);
        let found = async {
            let api = Api::new(SocketPath::new(&root, SOCKET)?);
            // First, because whoever reads the console takes from it what a later adoption could not read again.
            api.ping().await?;
            let logs = Logs::adopted(record.pid)?;
            // Log and console were opened by the process's number; if it is alive now, they are its own.
            process.check_alive()?;
            Ok::<_, VmmError>((api, logs))
        };
        match found.await {
            Ok((api, logs)) => {
                let group = self.cgroups.named(&record.name);
                Ok(control::watch(Started { record, process, group }, api, logs, root))
            }
            Err(error) => Err(not_adopted(&process, error).await),
        }
    }
}

impl Drop for Firecracker {
    fn drop(&mut self) {
        self.cgroups.remove_if_empty();
    }
}
