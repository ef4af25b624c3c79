//! One start of QEMU: its descriptors, its walls, its process.

use super::args::{Macs, Start, command_line, fd};
use super::machine::{self, Parts, QemuMachine};
use super::runtime::PROGRAM;
use super::{Qemu, bare, file_error, ram};
use crate::cgroup::{Cgroup, Limits};
use crate::confine::{ConfineSpec, PassedFd, Rlimits, TapFd, launch};
use crate::error::VmmError;
use crate::machine::{Confinement, GuestImage, MachineRecord, NetworkAttachment, Shape, Vmm};
use crate::process::Process;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Bytes kept of what QEMU prints.
const LOG_BYTES: u64 = 64 * 1024;
/// Memory QEMU may use beside the guest's, in bytes: program, translation cache, buffers.
const OVERHEAD_BYTES: u64 = 384 << 20;
/// Threads beside one per virtual CPU: main loop, I/O workers.
const EXTRA_TASKS: u32 = 80;
const OPEN_FILES: u64 = 256;
/// From the launch to QEMU's greeting, on a busy host.
pub(super) const GREETING_DEADLINE: Duration = Duration::from_secs(30);

/// The RAM a QEMU maps.
pub(super) struct Ram {
    pub fd: Arc<OwnedFd>,
    pub bytes: u64,
}

/// What surrounds the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walls {
    /// Everything of [`crate::confine`] and a control group.
    Confined,
    /// Nothing: the bench's floor.
    None,
}

/// Everything one start needs.
pub(super) struct Plan<'a> {
    pub shape: Shape,
    pub image: &'a GuestImage,
    pub network: &'a NetworkAttachment,
    pub confinement: &'a Confinement,
    pub disk: &'a Path,
    pub ram: Ram,
    /// Device state to load: of a restore.
    pub state: Option<File>,
    pub start: Start,
    pub walls: Walls,
}

/// Files of one start, open.
struct Files {
    kernel: File,
    initramfs: File,
    rootfs: File,
    disk: File,
    disk_bytes: u64,
    log: File,
}

impl Files {
    fn open(image: &GuestImage, disk: &Path) -> Result<Self, VmmError> {
        let open = |path: &Path| File::open(path).map_err(|source| file_error("opening", path, source));
        let writable = File::options().read(true).write(true).open(disk);
        let disk_file = writable.map_err(|source| file_error("opening", disk, source))?;
        let meta = disk_file.metadata().map_err(|source| file_error("reading the size of", disk, source))?;
        Ok(Self {
            kernel: open(&image.kernel)?,
            initramfs: open(&image.initramfs)?,
            rootfs: open(&image.rootfs)?,
            disk: disk_file,
            disk_bytes: meta.len(),
            log: ram::bounded_log(LOG_BYTES)?,
        })
    }
}

impl Qemu {
    /// Starts a process and opens its control connection. On failure nothing of it is left.
    pub(super) async fn start(&self, plan: Plan<'_>) -> Result<QemuMachine, VmmError> {
        let Plan { shape, image, network, confinement, .. } = &plan;
        let files = Files::open(image, plan.disk)?;
        make_dir(&confinement.dir)?;
        let group = self.cgroups.named(&confinement.name);
        let started = async {
            let (control, socket) = listen(&confinement.dir)?;
            let pid = self.spawn(&plan, &files, &control, network).await?;
            // Only QEMU listens from here on (`control` ends): if it dies, a connection fails instead of waiting.
            Ok((Process::open(pid)?, socket))
        };
        match started.await {
            Ok((process, socket)) => {
                let record = self.record(&process, *shape, confinement);
                let parts = Parts { record, process, group, log: files.log, socket };
                QemuMachine::connect(parts, GREETING_DEADLINE).await
            }
            Err(error) => {
                machine::clean_up(&group, &confinement.dir).await;
                Err(error)
            }
        }
    }

    async fn spawn(
        &self,
        plan: &Plan<'_>,
        files: &Files,
        control: &UnixListener,
        network: &NetworkAttachment,
    ) -> Result<i32, VmmError> {
        let macs = Macs { workload: &network.workload_mac, channel: &network.channel_mac };
        let argv = command_line(plan.shape, macs, self.tsc_khz, plan.start);
        let mut passed = vec![
            PassedFd { fd: files.kernel.as_fd(), number: fd::KERNEL },
            PassedFd { fd: files.initramfs.as_fd(), number: fd::INITRAMFS },
            PassedFd { fd: files.rootfs.as_fd(), number: fd::ROOTFS },
            PassedFd { fd: files.disk.as_fd(), number: fd::DISK },
            PassedFd { fd: plan.ram.fd.as_fd(), number: fd::RAM },
            PassedFd { fd: control.as_fd(), number: fd::CONTROL },
        ];
        passed.extend(plan.state.iter().map(|state| PassedFd { fd: state.as_fd(), number: fd::STATE }));
        let taps = vec![
            TapFd { name: network.workload_tap.clone(), fd: fd::WORKLOAD_TAP },
            TapFd { name: network.channel_tap.clone(), fd: fd::CHANNEL_TAP },
        ];
        let netns = network.netns.as_fd();
        if plan.walls == Walls::None {
            let cloned =
                files.log.try_clone().map_err(|source| VmmError::System { step: "sharing the log", source })?;
            return bare::spawn(PROGRAM, &argv, netns, cloned.into(), &taps, &passed);
        }
        let spec = ConfineSpec {
            files: self.runtime.root.clone(),
            root: plan.confinement.dir.clone(),
            argv,
            uid: plan.confinement.uid,
            cgroups: self.make_group(plan)?.procs_files(),
            taps,
            passed: passed.iter().map(|p| p.number).collect(),
            rlimits: Rlimits { files: OPEN_FILES, file_bytes: files.disk_bytes.max(plan.ram.bytes) },
        };
        let launched = launch(&self.launcher, spec, netns, files.log.as_fd(), &passed).await?;
        Ok(launched.pid)
    }

    fn make_group(&self, plan: &Plan<'_>) -> Result<Cgroup, VmmError> {
        let limits = Limits {
            // Twice: the first clone to touch a page of the shared image that was never written is charged for that
            // page of the image as well as for its own copy.
            memory_bytes: 2 * (u64::from(plan.shape.memory_mib) << 20) + OVERHEAD_BYTES,
            tasks: u32::from(plan.shape.vcpus) + EXTRA_TASKS,
            cpus: u32::from(plan.shape.vcpus),
        };
        self.cgroups
            .create(&plan.confinement.name, limits)
            .map_err(|source| VmmError::System { step: "making the control group", source })
    }

    fn record(&self, process: &Process, shape: Shape, confinement: &Confinement) -> MachineRecord {
        MachineRecord {
            driver: self.name().to_owned(),
            pid: process.pid(),
            start_ticks: process.start_ticks(),
            host_boot_id: self.host_boot_id.clone(),
            shape,
            name: confinement.name.clone(),
            uid: confinement.uid,
            dir: confinement.dir.clone(),
        }
    }
}

/// The machine's folder, new and root's alone.
fn make_dir(dir: &Path) -> Result<(), VmmError> {
    std::fs::DirBuilder::new().mode(0o700).create(dir).map_err(|source| file_error("creating", dir, source))
}

/// A path to the control socket that fits a socket address however deep the data folder lies: through a descriptor of
/// the folder.
pub(super) struct SocketPath {
    dir: File,
}

impl SocketPath {
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/control.sock", self.dir.as_raw_fd()).into()
    }
}

pub(super) fn socket_path(dir: &Path) -> Result<SocketPath, VmmError> {
    File::open(dir).map(|dir| SocketPath { dir }).map_err(|source| file_error("opening", dir, source))
}

fn listen(dir: &Path) -> Result<(UnixListener, SocketPath), VmmError> {
    let socket = socket_path(dir)?;
    let listener = UnixListener::bind(socket.path()).map_err(|source| file_error("listening in", dir, source))?;
    Ok((listener, socket))
}
