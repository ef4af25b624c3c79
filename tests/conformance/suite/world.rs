//! What all tests share: the driver, the network, the artifacts and the base snapshots. Made by the first test, taken
//! apart when the program ends.

#![allow(unsafe_code)]

use crate::driver;
use crate::settings::Settings;
use leapbox_bases::{BaseKind, Bases};
use leapbox_network::{HostTable, Network, NetworkConfig};
use leapbox_templates::{Artifacts, SYSTEM_DEBIAN};
use leapbox_vmm::floor::Floor;
use leapbox_vmm::{GuestImage, Shape, Snapshot, Vmm};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, OnceCell};

/// Links of the suite's own slots: no overlap with any server's.
const LINK_BLOCK: &str = "10.249.0.0/24";
const SLOTS: u32 = 64;
/// Slots kept ready: what two tests take at once.
const PREPARED: usize = 4;
/// The machines' disks, in MiB: as sparse as a sandbox's 10 GiB, and quicker to look through.
const DISK_MIB: u64 = 1024;

/// One runtime for all tests, because the network's tasks live in it.
pub static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));
static WORLD: Mutex<Option<Arc<World>>> = Mutex::const_new(None);

pub struct World {
    pub vmm: Arc<dyn Vmm>,
    pub network: Arc<Network>,
    pub image: GuestImage,
    /// The run's own folder.
    pub dir: PathBuf,
    warm: Bases,
    settings: Settings,
    instance: String,
    restarted: OnceCell<Arc<dyn Vmm>>,
    floor: OnceCell<Floor>,
    names: AtomicU32,
}

impl World {
    /// The world, made at the first call.
    pub async fn get() -> Arc<Self> {
        let mut world = WORLD.lock().await;
        match &*world {
            Some(world) => Arc::clone(world),
            None => Arc::clone(world.insert(Arc::new(Self::make().await))),
        }
    }

    async fn make() -> Self {
        let settings = Settings::read();
        // Not from the process id: control groups are the whole host's, what a killed run left lies there still, and
        // every lab has its own process ids.
        let mut instance = [0; 2];
        getrandom::fill(&mut instance).expect("randomness");
        let instance = format!("{:04x}", u16::from_ne_bytes(instance));
        let artifacts = Artifacts::open(&settings.artifacts).expect("artifacts; `leapbox setup` builds them");
        let image = artifacts.guest_image(SYSTEM_DEBIAN).expect("the system template is built");
        std::fs::create_dir_all(&settings.dir).expect("LEAPBOX_CONFORMANCE_DIR can be written");
        let dir = settings.dir.canonicalize().expect("a path").join(format!("run-{instance}"));
        std::fs::create_dir(&dir).expect("a folder of the run's own");
        note_control_groups(&settings.dir, &instance);
        // SAFETY: a function without arguments that is in the program until its end.
        assert_eq!(unsafe { libc::atexit(take_apart) }, 0, "the world will be taken apart at the end");
        leapbox_vmm::become_subreaper().expect("VMMs can be reaped");
        let vmm = driver::open(&settings, &dir, &instance);
        let network = NetworkConfig {
            instance: instance.clone(),
            link_block: LINK_BLOCK.parse().expect("a block"),
            max_slots: SLOTS,
            prepared: PREPARED,
            ..NetworkConfig::default()
        };
        let network = Network::start(network).await.expect("the network starts");
        network.start_pool();
        let warm = Bases::open(&dir.join("warm"), DISK_MIB, Arc::clone(&vmm), Arc::clone(&network));
        let warm = warm.expect("a folder for base snapshots");
        let (restarted, floor, names) = (OnceCell::new(), OnceCell::new(), AtomicU32::new(0));
        Self { vmm, network, image, dir, warm, settings, instance, restarted, floor, names }
    }

    /// The base snapshot of a shape, taken at the first call.
    pub async fn warm(&self, shape: Shape) -> Arc<Snapshot> {
        self.base(shape, BaseKind::Ready).await
    }

    /// A base of a shape, taken at the first call.
    pub async fn base(&self, shape: Shape, kind: BaseKind) -> Arc<Snapshot> {
        let base = self.warm.get(&self.image, shape, kind).await.expect("a base is taken");
        Arc::clone(&base.snapshot)
    }

    /// Another instance of the driver, as the next server process would have it. Kept to the end, as the first is: the
    /// last thing an instance does is to remove the parent of its control groups.
    pub async fn restarted(&self) -> Arc<dyn Vmm> {
        let open = || async { driver::open(&self.settings, &self.dir, &self.instance) };
        Arc::clone(self.restarted.get_or_init(open).await)
    }

    /// An instance of the driver that starts clones without walls. Kept to the end for the same reason.
    pub async fn floor(&self) -> &Floor {
        self.floor.get_or_init(async || driver::open_floor(&self.settings, &self.dir, &self.instance)).await
    }

    /// A name no other machine of this run has.
    pub fn new_name(&self) -> String {
        format!("conform-{}-{}", self.instance, self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// An empty disk as booted machines get it.
    pub fn disk_mib(&self) -> u64 {
        DISK_MIB
    }
}

/// Tells the lab which control groups are this run's: it removes what is left of them if the run is stopped half way.
fn note_control_groups(lab: &Path, instance: &str) {
    let mut notes =
        OpenOptions::new().create(true).append(true).open(lab.join("cgroups.txt")).expect("the lab's notes");
    writeln!(notes, "leapbox-{instance}").expect("noted");
}

extern "C" fn take_apart() {
    RUNTIME.block_on(async {
        let Some(world) = WORLD.lock().await.take() else { return };
        if let Err(error) = world.network.stop(HostTable::Remove).await {
            eprintln!("the network's table is left: {error}");
        }
        if let Err(error) = std::fs::remove_dir_all(&world.dir) {
            eprintln!("{} is left: {error}", world.dir.display());
        }
    });
}
