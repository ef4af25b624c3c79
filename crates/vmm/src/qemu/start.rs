//! Starts one QEMU: opens its files, launches the process in its confinement and connects to it.

use super::args::{Macs, Start, command_line, fd};
use super::qmp::Qmp;
use super::runtime::PROGRAM;
use super::{Qemu, control, floor};
use crate::cgroup::{Cgroup, Limits};
use crate::confine::{ConfineSpec, PassedFd, Rlimits, TapFd, launch};
use crate::driver::Vmm;
use crate::error::VmmError;
use crate::log::bounded_log;
use crate::machine::Machine;
use crate::process::Process;
use crate::record::MachineRecord;
use crate::shape::Shape;
use crate::socket::SocketPath;
use crate::spec::{Confinement, GuestImage, NetworkAttachment};
use crate::started::{Started, clean_up, make_dir};
use leapbox_errors::FileError;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The control socket's name in the machine's directory.
pub(super) const CONTROL_SOCKET: &str = "control.sock";
/// The size of QEMU's standard error log in bytes.
const LOG_BYTES: u64 = 64 * 1024;
/// Bytes of memory that QEMU may use beside the guest's: program, translation cache, buffers. Beyond it the kernel
/// kills the VMM.
const OVERHEAD_BYTES: u64 = 384 << 20;
/// Threads that QEMU may have beside one per virtual CPU: main loop, and a pool of at most 64 for disk operations.
const EXTRA_TASKS: u32 = 80;
/// The most descriptors that a QEMU may have open.
const OPEN_FILES: u64 = 256;
/// Bounds the time from the launch to QEMU's greeting, on a busy host.
pub(super) const GREETING_DEADLINE: Duration = Duration::from_secs(30);

/// The file or memfd that a QEMU maps as its guest's RAM.
pub(super) struct Ram {
    pub fd: Arc<OwnedFd>,
    /// The bytes of it that QEMU may write: all of a boot's file, none of a restore's sealed memfd.
    pub bytes: u64,
}

/// Whether a process is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProcessConfinement {
    /// By [`crate::confine`] and in a control group.
    Confined,
    /// Not at all: for [`crate::floor`] alone.
    None,
}

/// All that one start needs.
pub(super) struct Plan<'a> {
    pub shape: Shape,
    pub image: &'a GuestImage,
    pub network: &'a NetworkAttachment,
    pub confinement: &'a Confinement,
    pub disk: &'a Path,
    pub ram: Ram,
    /// The device state that a restore loads; `None` for a boot.
    pub state: Option<File>,
    pub start: Start,
    pub process_confinement: ProcessConfinement,
}

/// The open files of one start. QEMU inherits them, because it can open no path of the host.
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
        let open = |path: &Path| File::open(path).map_err(FileError::of("opening", path));
        let writable = File::options().read(true).write(true).open(disk);
        let disk_file = writable.map_err(FileError::of("opening", disk))?;
        let meta = disk_file.metadata().map_err(FileError::of("reading the size of", disk))?;
        Ok(Self {
            kernel: open(&image.kernel)?,
            initramfs: open(&image.initramfs)?,
            rootfs: open(&image.rootfs)?,
            disk: disk_file,
            disk_bytes: meta.len(),
            log: bounded_log(LOG_BYTES)?,
        })
    }
}

impl Qemu {
    /// Starts a QEMU and opens its control connection. On failure nothing of it is left.
    pub(super) async fn start(&self, plan: Plan<'_>) -> Result<(Machine, Arc<Qmp>), VmmError> {
        let Plan { shape, image, network, confinement, .. } = &plan;
        let files = Files::open(image, plan.disk)?;
        // Outside the clean-up below: a directory that exists already is another machine's and must not be removed.
        make_dir(&confinement.dir)?;
        let group = self.cgroups.named(&confinement.name);
        let started = async {
            let (control, socket) = listen(&confinement.dir)?;
            let pid = self.spawn(&plan, &files, &control, network).await?;
            // This process's copy of the listening socket (`control`) is closed here. From now on only QEMU listens: if
            // it dies, a connection fails at once instead of waiting for nobody.
            Ok((Process::open(pid)?, socket))
        };
        match started.await {
            Ok((process, socket)) => {
                let record = MachineRecord::of(self.name(), &process, *shape, confinement, &self.host_boot_id);
                let qmp = control::connect(&process, &files.log, &socket, GREETING_DEADLINE, "starting").await;
                let (started, log) = (Started { record, process, group }, files.log);
                match qmp {
                    Ok(qmp) => Ok((control::watch(started, Arc::clone(&qmp), log), qmp)),
                    Err(error) => Err(started.abort(error, async |reason| control::with_log(reason, &log)).await),
                }
            }
            Err(error) => {
                clean_up(&group, &confinement.dir).await;
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
        if plan.process_confinement == ProcessConfinement::None {
            let cloned =
                files.log.try_clone().map_err(|source| VmmError::System { step: "sharing the log", source })?;
            return floor::spawn(PROGRAM, &argv, netns, cloned.into(), &taps, &passed);
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
            // Twice, because the shared image has holes: the kernel charges a page of it to the group that touches it
            // first, so a clone may be charged for that page as well as for its own copy.
            memory_bytes: 2 * (u64::from(plan.shape.memory_mib) << 20) + OVERHEAD_BYTES,
            tasks: u32::from(plan.shape.vcpus) + EXTRA_TASKS,
            cpus: u32::from(plan.shape.vcpus),
        };
        self.cgroups
            .create(&plan.confinement.name, limits)
            .map_err(|source| VmmError::System { step: "making the control group", source })
    }
}

/// Makes the control socket in `dir` and listens on it for QEMU, whose user could not create it there.
fn listen(dir: &Path) -> Result<(UnixListener, SocketPath), VmmError> {
    let socket = SocketPath::new(dir, CONTROL_SOCKET)?;
    let listener = UnixListener::bind(socket.path()).map_err(FileError::of("listening in", dir))?;
    Ok((listener, socket))
}
