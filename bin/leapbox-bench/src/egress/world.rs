//! The namespaces of the run, wired, and the slots in them.

use super::netns::Netns;
use super::{OPAQUE, TRANSFORMED};
use crate::process::{Process, this_program};
use crate::scratch::Scratch;
use anyhow::{Context, Result, anyhow, ensure};
use leapbox_egress_policy::Policy;
use leapbox_guest_protocol::net::{WORKLOAD_GATEWAY, WORKLOAD_GUEST, WORKLOAD_GUEST_MAC, WORKLOAD_PREFIX, mac_string};
use leapbox_network::{Authority, GuestLink, Network, NetworkConfig, STAND_IN, Slot, SlotPolicy};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tokio::runtime::Runtime;

/// The servers out there.
pub(super) const SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 34);
/// Who knows their names.
pub(super) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 53);
/// The root namespace's own address out there.
const HOST: Ipv4Addr = Ipv4Addr::new(93, 184, 216, 2);
/// The root namespace's address towards the stand-in without a slot: where haproxy and nginx listen.
pub(super) const PLAIN_GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const PLAIN_GUEST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// Each answers a ClientHello and hangs up. One for each host that dials them: the server remembers a connection's ports
/// for a minute, and takes them again only from whom it knows. Ours and haproxy both dial as the root namespace.
pub(super) const ANSWER_PORTS: [u16; 3] = [DIALLED_BY_SLOT, DIALLED_BY_PLAIN, DIALLED_BY_PROXY];
pub(super) const DIALLED_BY_SLOT: u16 = 4001;
pub(super) const DIALLED_BY_PLAIN: u16 = 4003;
pub(super) const DIALLED_BY_PROXY: u16 = 4005;
/// Answers a ClientHello with bytes that have no end.
pub(super) const STREAM_PORT: u16 = 4002;
/// Real TLS.
pub(super) const HTTPS_PORT: u16 = 443;

/// Slots of stand-ins.
const SLOTS: u32 = 4;

/// Everything the loads run in. The calling process is in the root namespace.
pub(super) struct World {
    /// Behind the root namespace's own NAT.
    pub(super) plain: Netns,
    /// Behind a slot with policy `allow-all`.
    pub(super) open: Guest,
    /// Behind a slot with policy `custom`.
    pub(super) custom: Guest,
    _network: Arc<Network>,
    /// Ends when its standard input does.
    _internet: Process,
}

/// A namespace in a guest's place.
pub(super) struct Guest {
    pub(super) netns: Netns,
    _slot: Slot,
}

impl World {
    /// Makes all of it around the calling thread, which must be the process's only one but for the runtime's, and in
    /// the root namespace like these.
    pub fn make(root: &Netns, runtime: &Runtime, scratch: &Scratch) -> Result<Self> {
        let internet = wire_internet(root, scratch)?;
        let plain = wire_plain(root)?;
        let authority = Arc::new(Authority::generate().context("the authority of the stand-in's sandbox")?);
        scratch.write(&scratch.sandbox_authority(), authority.certificate_pem())?;
        runtime.block_on(async {
            let network = Network::start(NetworkConfig {
                instance: "be9c".to_owned(),
                max_slots: SLOTS,
                prepared: 0,
                dns_upstreams: Some(vec![SocketAddr::from((NAME_SERVER, 53))]),
                guest_link: GuestLink::Veth,
                ..NetworkConfig::default()
            });
            let network = network.await.context("the network of the stand-ins")?;
            let open = Guest::admit(&network, "bench-open", &json!({"mode": "allow-all"}), None).await?;
            let custom = Guest::admit(&network, "bench-custom", &custom(), Some(authority)).await?;
            Ok(Self { plain, open, custom, _network: network, _internet: internet })
        })
    }
}

/// One name that is passed through, and one with a header that the sandbox does not know.
fn custom() -> Value {
    json!({
        "mode": "custom",
        "allow_domains": [OPAQUE],
        "transforms": [{"domain": TRANSFORMED, "inject_headers": {"x-bench": "0123456789abcdef"}}],
    })
}

/// What the API would make of it.
pub(super) fn policy(object: &Value) -> Result<Arc<Policy>> {
    Policy::parse(object, &[]).map(Arc::new).map_err(|problems| {
        let problems = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        anyhow!("the policy of the stand-in's sandbox: {problems}")
    })
}

impl Guest {
    async fn admit(
        network: &Arc<Network>,
        sandbox: &str,
        object: &Value,
        authority: Option<Arc<Authority>>,
    ) -> Result<Self> {
        let slot = network.take().await.context("the slot of a stand-in")?;
        let admission = SlotPolicy { sandbox: sandbox.to_owned(), policy: policy(object)?, authority };
        slot.policy_installer().install(admission).await.context("putting a stand-in's policy in force")?;
        let netns = Netns::fresh()?;
        Netns::of(slot.netns()).ip(&[&format!("link set {STAND_IN} netns {}", netns.path())])?;
        netns.ip(&[
            &format!("link set {STAND_IN} address {}", mac_string(WORKLOAD_GUEST_MAC)),
            &format!("address add {WORKLOAD_GUEST}/{WORKLOAD_PREFIX} dev {STAND_IN}"),
            &format!("link set {STAND_IN} up"),
            &format!("route add default via {WORKLOAD_GATEWAY}"),
        ])?;
        Ok(Self { netns, _slot: slot })
    }
}

/// The far end of the root namespace's uplink, with its servers.
fn wire_internet(root: &Netns, scratch: &Scratch) -> Result<Process> {
    let internet = Netns::fresh()?;
    root.ip(&[
        &format!("link add up0 type veth peer name inet0 netns {}", internet.path()),
        &format!("address add {HOST}/24 dev up0"),
        "link set up0 up",
    ])?;
    internet.ip(&[
        &format!("address add {SERVER}/24 dev inet0"),
        &format!("address add {NAME_SERVER}/24 dev inet0"),
        "link set inet0 up",
    ])?;
    let mut command = this_program()?;
    command.args(["egress", "internet", "--scratch"]).arg(scratch.folder());
    let mut process = internet.spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    let said = process.first_line().context("waiting for the servers")?;
    ensure!(said.trim() == "ready", "the servers' process said {said:?}");
    Ok(process)
}

/// A stand-in that has no slot: one veth to the root namespace, which masquerades it.
fn wire_plain(root: &Netns) -> Result<Netns> {
    let plain = Netns::fresh()?;
    root.ip(&[
        &format!("link add plain0 type veth peer name eth0 netns {}", plain.path()),
        &format!("address add {PLAIN_GATEWAY}/30 dev plain0"),
        "link set plain0 up",
    ])?;
    plain.ip(&[
        &format!("address add {PLAIN_GUEST}/30 dev eth0"),
        "link set eth0 up",
        &format!("route add default via {PLAIN_GATEWAY}"),
    ])?;
    let masquerade = [
        "add table ip bench_plain",
        "add chain ip bench_plain postrouting { type nat hook postrouting priority srcnat; }",
        "add rule ip bench_plain postrouting ip saddr 10.99.0.0/30 masquerade",
    ];
    root.output(Command::new("nft").arg(masquerade.join("; ")))?;
    Ok(plain)
}
