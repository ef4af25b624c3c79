//! The floor: the VMM of the measured server's own snapshot, started by hand.

use crate::figures::{Millis, ms_since};
use crate::server::Server;
use anyhow::{Context, Result};
use leapbox::config::Config;
use leapbox::verbs::driver::{Driver, DriverFacts, choose};
use leapbox_bases::{attachment, guest_of};
use leapbox_errors::FileError;
use leapbox_guest_protocol::{Configure, Entropy, ExecRequest, Identity};
use leapbox_network::{HostTable, Network, NetworkConfig};
use leapbox_storage::copy_sparse;
use leapbox_templates::{Artifacts, SYSTEM_DEBIAN};
use leapbox_vmm::floor::Floor as UnconfinedVmm;
use leapbox_vmm::{
    Confinement, Firecracker, FirecrackerConfig, GuestImage, IoLimits, Qemu, QemuConfig, RestoreSpec, Snapshot,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Links of the floor's own slots: no overlap with a server's default block, nor the measured server's.
const LINK_BLOCK: &str = "10.251.0.0/24";
const SLOTS: u32 = 16;

/// Everything needed to start the floor's VMM again and again.
pub struct Floor {
    vmm: UnconfinedVmm,
    network: Arc<Network>,
    image: GuestImage,
    snapshot: Arc<Snapshot>,
    dir: PathBuf,
}

impl Floor {
    /// Uses the snapshot that the server has just taken of the default shape.
    pub async fn open(config: &Config, server: &Server) -> Result<Self> {
        let image = Artifacts::open(&config.artifacts_dir)?.guest_image(SYSTEM_DEBIAN)?;
        let instance = format!("{:04x}", std::process::id() as u16);
        let vmm = open_vmm(config, &server.state_dir(), &instance).context("the floor's VMM")?;
        let link_block = LINK_BLOCK.parse().context("the floor's network")?;
        let network = Network::start(NetworkConfig {
            instance,
            link_block,
            max_slots: SLOTS,
            prepared: 4,
            ..NetworkConfig::default()
        });
        let network = network.await.context("the floor's network")?;
        network.start_pool();
        let snapshot = server.warm_snapshot()?;
        let dir = server.state_dir().join("floor");
        std::fs::create_dir_all(&dir).map_err(FileError::of("creating", &dir))?;
        Ok(Self { vmm, network, image, snapshot, dir })
    }

    /// Whether the driver is one with hardware virtualisation.
    pub fn is_virtualised(&self) -> bool {
        self.vmm.vmm().capabilities().hardware_virtualisation
    }

    /// One start to the first answer. Slot and disk are made before the clock starts.
    pub async fn once(&self) -> Result<Millis> {
        let slot = self.network.take().await.context("the floor's network")?;
        let guest = guest_of(&slot);
        let (disk, dir) = (self.dir.join("disk"), self.dir.join("machine"));
        copy_sparse(&self.snapshot.disk, &disk).context("the floor's disk")?;
        let spec = RestoreSpec {
            snapshot: Arc::clone(&self.snapshot),
            changes: None,
            image: self.image.clone(),
            disk: disk.clone(),
            limits: IoLimits::default(),
            network: attachment(&slot),
            confinement: Confinement { name: "floor".to_owned(), uid: slot.uid(), dir },
        };
        let start = Instant::now();
        let machine = self.vmm.restore(spec).await.context("the floor's VMM")?;
        let answered = async {
            // An unconfigured guest runs nothing for anybody.
            guest.configure(identity()).await?;
            guest.exec(first_command()).await?;
            anyhow::Ok(ms_since(start))
        };
        let answered = answered.await;
        machine.destroy().await.context("the floor's VMM")?;
        slot.close().await;
        std::fs::remove_file(&disk).map_err(FileError::of("removing", &disk))?;
        answered.context("the floor's guest")
    }

    pub async fn close(self) -> Result<()> {
        self.network.stop(HostTable::Remove).await.context("the floor's network")
    }
}

/// The driver that the measured server has picked as well, with its files and a name for control groups of its own.
fn open_vmm(config: &Config, state_dir: &Path, instance: &str) -> Result<UnconfinedVmm> {
    let choice = choose(config.driver, &DriverFacts::read(Path::new("/")));
    let instance = instance.to_owned();
    Ok(match choice?.driver {
        Driver::Qemu => {
            // What is launched without walls needs no launcher.
            let (dir, launcher) = (state_dir.join("qemu"), PathBuf::new());
            UnconfinedVmm::Qemu(Qemu::open(QemuConfig { dir, instance, launcher })?)
        }
        Driver::Firecracker(binaries) => {
            let dir = state_dir.join("firecracker");
            UnconfinedVmm::Firecracker(Firecracker::open(FirecrackerConfig { dir, instance, binaries })?)
        }
    })
}

fn identity() -> Configure {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Configure {
        // As long as a sandbox's id, which the guest can then write in place.
        hostname: "sbx-floor-floor-floor-fl".to_owned(),
        entropy: Entropy([7; 64]),
        wall_clock_unix_ns: now.as_nanos() as u64,
        identity: Some(Identity { machine_id: [1; 16], boot_id: [2; 16] }),
        env: Some(Vec::new()),
        restored: false,
        trust: None,
    }
}

fn first_command() -> ExecRequest {
    ExecRequest { command: "true".to_owned(), cwd: None, env: Vec::new(), timeout_ms: 30_000, output_limit: 1024 }
}
