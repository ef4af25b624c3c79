//! Checks what the host's kernel and its network offer: cgroups, namespaces, nftables, name servers, sandbox names.

use super::check::Check;
use crate::config::Config;
use crate::state::State;
use leapbox_errors::chain;
use leapbox_network::{HostFacts, host_facts};
use leapbox_templates::host_command::HostCommand;
use std::net::ToSocketAddrs;
use std::path::Path;

/// Cgroup controllers that the limits of VMMs need, and the limits that are lost without them.
const CONTROLLERS: [(&str, &str); 3] = [("memory", "memory limits"), ("pids", "process limits"), ("cpu", "CPU shares")];

pub(super) fn checks(config: &Config, root: &Path) -> Vec<Check> {
    // Read and never drawn: `doctor` changes nothing. The instance only keeps our own table from being reported as
    // another firewall's, and before set-up there is none.
    let instance = State::at(config.state_dir()).read_instance();
    let facts = host_facts(instance.as_deref().unwrap_or("0000"));
    let mut checks = vec![cgroups(root), namespaces()];
    checks.extend(network(&facts));
    checks.push(name_servers(config, &facts));
    checks.push(resolution(&config.domain));
    checks
}

fn cgroups(root: &Path) -> Check {
    const NAME: &str = "cgroups";
    let mount = root.join("sys/fs/cgroup");
    let v2 = std::fs::read_to_string(mount.join("cgroup.controllers")).ok();
    let version = if v2.is_some() { "v2" } else { "v1" };
    let has = |controller: &str| match &v2 {
        Some(text) => text.split_whitespace().any(|word| word == controller) && reaches_below(&mount, controller),
        None => mount.join(controller).join("cgroup.procs").exists(),
    };
    let (enforced, missing): (Vec<_>, Vec<_>) = CONTROLLERS.iter().partition(|(name, _)| has(name));
    let words = |list: &[&(&str, &str)]| list.iter().map(|(_, what)| *what).collect::<Vec<_>>().join(", ");
    match (version, missing.is_empty(), enforced.is_empty()) {
        ("v2", true, _) => Check::green(NAME, format!("v2: {} are enforced", words(&enforced))),
        // A v2 hierarchy beside v1 has no controllers, but `cgroup.kill` works there.
        (_, true, _) if mount.join("unified/cgroup.procs").exists() => {
            Check::green(NAME, format!("v1, with v2 beside it: {} are enforced", words(&enforced)))
        }
        (_, true, _) => Check::yellow(
            NAME,
            format!("v1: {} are enforced; a VMM cannot be killed as a group in one step", words(&enforced)),
            "boot the host with systemd.unified_cgroup_hierarchy=1",
        ),
        (_, false, true) => Check::yellow(
            NAME,
            format!("{version} without controllers: {} are NOT enforced", words(&missing)),
            "give leapbox a delegated cgroup with the cpu, memory and pids controllers",
        ),
        (_, false, false) => Check::yellow(
            NAME,
            format!("{version}: {} are enforced, {} are NOT", words(&enforced), words(&missing)),
            "enable the missing controllers, and delegate them to leapbox's cgroup",
        ),
    }
}

/// Whether groups below the mounted one get this v2 controller: it is enabled for them, or `serve` can enable it.
fn reaches_below(mount: &Path, controller: &str) -> bool {
    // A group with processes may not enable controllers for its children. The host's own root group may; it alone has
    // no `cgroup.type` (the kernel's cgroup-v2.rst).
    let text = |file: &str| std::fs::read_to_string(mount.join(file)).unwrap_or_default();
    let enabled = text("cgroup.subtree_control").split_whitespace().any(|word| word == controller);
    enabled || !mount.join("cgroup.type").exists() || text("cgroup.procs").trim().is_empty()
}

/// Whether every kind of namespace that a sandbox needs can be made.
fn namespaces() -> Check {
    // Tried with a program that does nothing, because no file says it: a container runtime may forbid it by seccomp.
    const NAME: &str = "namespaces";
    let tried = HostCommand::new("unshare").args(["--net", "--mount", "--pid", "--fork", "--ipc", "--uts", "true"]);
    match tried.query() {
        Ok(_) => Check::green(NAME, "network, mount, pid, ipc and uts namespaces can be made"),
        Err(error) => Check::red(NAME, error.to_string(), "run as root, outside of a restricted container"),
    }
}

fn network(facts: &HostFacts) -> Vec<Check> {
    let mut checks = vec![
        match &facts.nft {
            Ok(version) => Check::green("nftables", version.trim()),
            Err(error) => Check::red("nftables", chain(error), "apt-get install nftables, on a kernel with nf_tables"),
        },
        match &facts.tun {
            Ok(()) => Check::green("/dev/net/tun", "opens"),
            Err(error) => Check::red("/dev/net/tun", chain(error), "modprobe tun, and run as root"),
        },
        match facts.ip_forward {
            Some(true) => Check::green("ip_forward", "on"),
            Some(false) => Check::green("ip_forward", "off; `leapbox serve` turns it on"),
            None => Check::red("ip_forward", "cannot be read", "mount /proc, and run on a kernel with IPv4"),
        },
    ];
    if !facts.forward_drops.is_empty() {
        let chains: Vec<_> =
            facts.forward_drops.iter().map(|d| format!("{} {} {}", d.family, d.table, d.chain)).collect();
        checks.push(Check::yellow(
            "other firewalls",
            format!("forwarded packets are dropped by default in: {}", chains.join(", ")),
            "sandboxes reach nothing outside until those chains accept the links' addresses (link_block)",
        ));
    }
    if facts.legacy_iptables {
        checks.push(Check::yellow(
            "legacy iptables",
            "old-style iptables rules are loaded too; what they drop cannot be seen here",
            "if sandboxes reach nothing, look at: iptables-legacy -S FORWARD",
        ));
    }
    checks
}

fn name_servers(config: &Config, facts: &HostFacts) -> Check {
    const NAME: &str = "name servers";
    let configured = config.dns_upstreams.as_ref();
    let servers = configured.unwrap_or(&facts.name_servers);
    let list: Vec<_> = servers.iter().map(ToString::to_string).collect();
    if list.is_empty() {
        let advice = "sandboxes resolve nothing: set dns_upstreams, or nameserver in /etc/resolv.conf";
        return Check::yellow(NAME, "none", advice);
    }
    let from = if configured.is_some() { "configured" } else { "/etc/resolv.conf" };
    Check::green(NAME, format!("{} ({from})", list.join(", ")))
}

/// Whether the name of a sandbox resolves on this host.
fn resolution(domain: &str) -> Check {
    // Through the C library, as most programs ask: whether `*.localhost` resolves there depends on nsswitch.conf(5).
    const NAME: &str = "sandbox names";
    let name = format!("sbx-example.{domain}");
    match (name.as_str(), 0).to_socket_addrs() {
        Ok(addresses) => {
            let list: Vec<_> = addresses.map(|a| a.ip().to_string()).collect();
            Check::green(NAME, format!("*.{domain} is {}", list.join(", ")))
        }
        Err(error) if domain.ends_with(".localhost") => {
            let found = format!("{name} does not resolve: {error}");
            Check::yellow(NAME, found, "apt-get install libnss-myhostname (curl and browsers need no help)")
        }
        Err(error) => {
            let found = format!("{name} does not resolve: {error}");
            Check::yellow(NAME, found, format!("point *.{domain} at this host in the DNS"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::*;
    use std::fs;

    #[test]
    fn cgroups_v2_with_its_controllers_is_green() {
        let root = tempfile::tempdir().expect("temp dir");
        let mount = root.path().join("sys/fs/cgroup");
        fs::create_dir_all(&mount).expect("mkdir");
        fs::write(mount.join("cgroup.controllers"), "cpuset cpu io memory pids\n").expect("write");
        assert_eq!(cgroups(root.path()).level, Level::Green);
    }

    #[test]
    fn cgroups_v2_whose_controllers_are_not_delegated_enforces_nothing() {
        let root = tempfile::tempdir().expect("temp dir");
        let mount = root.path().join("sys/fs/cgroup");
        fs::create_dir_all(&mount).expect("mkdir");
        let write = |file: &str, text: &str| fs::write(mount.join(file), text).expect("write");
        write("cgroup.controllers", "cpu memory pids\n");
        write("cgroup.type", "domain\n");
        write("cgroup.procs", "1\n");
        write("cgroup.subtree_control", "pids\n");
        let check = cgroups(root.path());
        assert!(check.found.contains("memory limits, CPU shares are NOT"), "{}", check.found);
        write("cgroup.subtree_control", "cpu memory pids\n");
        assert_eq!(cgroups(root.path()).level, Level::Green);
    }

    #[test]
    fn cgroups_v1_tells_what_is_enforced_and_what_is_not() {
        let root = tempfile::tempdir().expect("temp dir");
        let memory = root.path().join("sys/fs/cgroup/memory");
        fs::create_dir_all(&memory).expect("mkdir");
        fs::write(memory.join("cgroup.procs"), "").expect("write");
        let check = cgroups(root.path());
        assert_eq!(check.level, Level::Yellow);
        assert!(check.found.contains("memory limits are enforced"), "{}", check.found);
        assert!(check.found.contains("process limits, CPU shares are NOT"), "{}", check.found);
    }
}
