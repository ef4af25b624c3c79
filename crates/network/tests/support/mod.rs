//! A world of its own for each test: a "root" namespace with an uplink to a fake internet, both made by the test, and
//! guests that are a namespace with a whole network stack behind a slot's taps. Nothing here touches the machine's
//! own network.

#![allow(dead_code)]

pub mod frames;
pub mod guest;
pub mod internet;

use leapbox_egress_policy::Policy;
use leapbox_network::{Network, NetworkConfig, Slot, SlotPolicy};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The root namespace's own address on its uplink: public, so that only "it is the host's" can block it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 2);
/// A public server.
pub const PUBLIC: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
/// The name server of the fake internet.
pub const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 53);
/// How long something that must not arrive is waited for.
pub const SILENCE: Duration = Duration::from_millis(400);
/// How long something that must arrive may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a test gets.
pub struct World {
    /// The namespace the server under test runs in; the test's own threads are in it.
    pub root: Arc<OwnedFd>,
    /// The fake internet.
    pub internet: internet::Internet,
}

/// Runs an async test in a fresh world.
pub fn in_world<F, Fut>(test: F)
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        let root = Arc::new(current_netns());
        let internet = internet::Internet::start(&root);
        ip("link set lo up");
        ip("link set up0 up");
        ip(&format!("addr add {HOST}/24 dev up0"));
        ip("route add default via 93.184.216.1");
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("runtime").block_on(test(World { root, internet }));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A config for tests: the fake internet's name server, two slots ready.
pub fn config() -> NetworkConfig {
    NetworkConfig {
        instance: "7e57".into(),
        max_slots: 64,
        prepared: 2,
        dns_upstreams: Some(vec![SocketAddr::from((NAME_SERVER, 53))]),
        ..NetworkConfig::default()
    }
}

/// A started network, without its pool, and one slot of it whose sandbox may reach everything public.
pub async fn network_and_slot() -> (Arc<Network>, Slot) {
    let network = Network::start(config()).await.expect("network starts");
    let slot = open_slot(&network).await;
    (network, slot)
}

/// Another slot whose sandbox may reach everything public.
pub async fn open_slot(network: &Network) -> Slot {
    slot_under(network, Policy::AllowAll).await
}

/// A slot under a policy.
pub async fn slot_under(network: &Network, policy: Policy) -> Slot {
    let slot = network.take().await.expect("slot");
    slot.policy_installer().install(slot_policy(policy)).await.expect("policy");
    slot
}

/// The policy of a sandbox, without an authority.
pub fn slot_policy(policy: Policy) -> SlotPolicy {
    SlotPolicy { sandbox: "sbx-test".into(), policy: Arc::new(policy), authority: None }
}

/// A `custom` policy from the API's JSON.
pub fn custom(json: serde_json::Value) -> Policy {
    Policy::parse(&json, &[]).expect("a good policy")
}

pub fn current_netns() -> OwnedFd {
    File::open("/proc/thread-self/ns/net").expect("own namespace").into()
}

/// Runs a closure on a thread inside a namespace and waits for it.
pub fn inside<T: Send + 'static>(netns: &OwnedFd, work: impl FnOnce() -> T + Send + 'static) -> T {
    let netns = netns.try_clone().expect("descriptor");
    let thread = std::thread::spawn(move || {
        setns(&netns, CloneFlags::CLONE_NEWNET).expect("enter namespace");
        drop(netns);
        work()
    });
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Makes a namespace.
pub fn new_netns() -> OwnedFd {
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("tests run as root");
        ip("link set lo up");
        current_netns()
    })
    .join()
    .expect("namespace")
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command in the calling thread's namespace and returns what it printed.
pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().expect("program runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A path under which another process can open a namespace we hold.
pub fn path_of(netns: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd())
}

/// Names of this thread's namespace's interfaces that belong to any installation.
pub fn slot_veths() -> Vec<String> {
    let all = nix::net::if_::if_nameindex().expect("interfaces");
    all.iter().map(|one| one.name().to_string_lossy().into_owned()).filter(|name| name.starts_with("lb")).collect()
}

/// Waits for a condition; panics with its last state.
pub async fn eventually<T: std::fmt::Debug>(what: &str, mut state: impl FnMut() -> T, good: impl Fn(&T) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = state();
        if good(&now) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: still {now:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
