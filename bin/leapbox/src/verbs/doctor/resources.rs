//! Checks the resources that a server needs: memory, disk, ports, uids, clock.

use super::check::Check;
use super::read;
use crate::config::{Config, with_loopback_twin};
use crate::state::State;
use leapbox_network::default_base_uid;
use nix::sys::statvfs::statvfs;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

pub(super) fn checks(config: &Config, root: &Path) -> Vec<Check> {
    let mut checks = vec![memory(root, config), disk(&config.data_dir)];
    checks.extend(
        [("API port", config.api), ("gateway port", config.gateway), ("metrics port", config.metrics)]
            .map(|(name, address)| port(name, address)),
    );
    checks.push(uids(root, base_uid(config), config.max_slots()));
    checks.push(clock());
    checks
}

/// The first uid of the VMMs, as far as settings and state directory say it: an installation that was made before base
/// uids were derived from the instance keeps its former one, which is in its database.
fn base_uid(config: &Config) -> Option<u32> {
    let instance = State::at(config.state_dir()).read_instance();
    config.base_uid.or_else(|| instance.as_deref().map(default_base_uid))
}

/// Whether the host gives uids of the VMMs to user namespaces as well, by subuid(5) and subgid(5). A program in such a
/// namespace could read a sandbox's disk and signal its VMM.
fn uids(root: &Path, first: Option<u32>, count: u32) -> Check {
    const NAME: &str = "uids";
    let Some(first) = first else {
        return Check::green(NAME, "a range of the installation's own, which set-up decides");
    };
    let (first, end) = (u64::from(first), u64::from(first) + u64::from(count));
    let range = format!("{first} to {}", end - 1);
    let given: Vec<String> = ["etc/subuid", "etc/subgid"]
        .into_iter()
        .flat_map(|file| {
            let text = read(root, file).unwrap_or_default();
            let owners: Vec<String> = owners_within(&text, first, end).map(|who| format!("{who} (/{file})")).collect();
            owners
        })
        .collect();
    if given.is_empty() {
        return Check::green(NAME, format!("{range}, which no user namespace is given"));
    }
    let found = format!("{range} are given to user namespaces as well: {}", given.join(", "));
    Check::yellow(NAME, found, "while no sandbox runs, set base_uid to a range that neither file has")
}

/// Returns who is given ids from `first` on and below `end`, of lines like `alice:100000:65536`.
fn owners_within(text: &str, first: u64, end: u64) -> impl Iterator<Item = &str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.filter_map(move |line| {
        let mut fields = line.split(':');
        let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
        let (start, count): (u64, u64) = (start.parse().ok()?, count.parse().ok()?);
        (start < end && first < start.saturating_add(count)).then_some(owner)
    })
}

fn memory(root: &Path, config: &Config) -> Check {
    const NAME: &str = "memory";
    let text = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix(':'));
        line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok()).map(|kib| kib / 1024)
    };
    let (Some(total), Some(available)) = (value("MemTotal"), value("MemAvailable")) else {
        return Check::yellow(NAME, "/proc/meminfo cannot be read", "mount /proc");
    };
    let budget = config.memory_budget_mib;
    let found = format!("{available} of {total} MiB available; sandboxes may have {budget} MiB in sum");
    if available < 1024 {
        return Check::yellow(NAME, found, "a sandbox and its VMM need about 1 GiB; free some memory");
    }
    Check::green(NAME, found)
}

fn disk(data_dir: &Path) -> Check {
    const NAME: &str = "disk";
    // The directory may not exist yet: what counts is the file system that it will be on.
    let Some(existing) = data_dir.ancestors().find(|p| p.exists()) else {
        return Check::red(NAME, "there is no file system for the data directory", "give another --data-dir");
    };
    match statvfs(existing) {
        Ok(fs) => free_space(existing, fs.blocks_available() * fs.fragment_size()),
        Err(error) => Check::red(NAME, format!("{}: {error}", existing.display()), "give another --data-dir"),
    }
}

fn free_space(path: &Path, free: u64) -> Check {
    const NAME: &str = "disk";
    let found = format!("{} GiB free at {}", free / GIB, path.display());
    if free < GIB {
        return Check::red(NAME, found, "kernel, template and bases need more than 1 GiB");
    }
    if free < 10 * GIB {
        return Check::yellow(NAME, found, "every sandbox may write up to 10 GiB");
    }
    Check::green(NAME, found)
}

fn port(name: &'static str, address: SocketAddr) -> Check {
    for address in with_loopback_twin(address) {
        match TcpListener::bind(address) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::AddrInUse => {
                // Mostly our own server, which is why this is not red.
                let advice = "fine if that is `leapbox serve`; otherwise configure another";
                return Check::yellow(name, format!("{address} is in use"), advice);
            }
            // A host without IPv6 has no ::1, and the server does without it as well.
            Err(e) if e.kind() == ErrorKind::AddrNotAvailable && address.is_ipv6() => {}
            Err(e) => return Check::red(name, format!("{address}: {e}"), "configure another address"),
        }
    }
    Check::green(name, format!("{address} is free"))
}

/// Whether the clock can be right.
fn clock() -> Check {
    const NAME: &str = "clock";
    // A clock before the time at which this program was installed is certainly wrong. Certificates would not be valid
    // yet.
    let built = std::env::current_exe().and_then(std::fs::metadata).and_then(|m| m.modified()).unwrap_or(UNIX_EPOCH);
    if SystemTime::now() < built {
        return Check::red(NAME, "it is before this program was installed", "set the clock, and run an NTP client");
    }
    Check::green(NAME, "plausible")
}

#[cfg(test)]
mod tests {
    use super::super::check::Level;
    use super::super::fake_host::host;
    use super::*;

    #[test]
    fn uids_that_user_namespaces_are_given_as_well_are_told_with_their_owner() {
        let of = |subuid: &str, subgid: &str| {
            uids(host(&[("etc/subuid", subuid), ("etc/subgid", subgid)]).path(), Some(2_000_000), 1032)
        };
        assert_eq!(of("alice:100000:65536\n", "").level, Level::Green);
        assert_eq!(of("alice:1934464:65536\n# bob:2000000:1\nnonsense\n", "").level, Level::Green, "up to 1999999");
        assert_eq!(of("alice:2001032:65536\n", "").level, Level::Green, "from the first one after them");
        let found = of("alice:1934465:65536\n", "bob:2001031:1\ncarol:3000000:9\n");
        assert_eq!(found.level, Level::Yellow);
        assert!(found.found.ends_with("alice (/etc/subuid), bob (/etc/subgid)"), "{}", found.found);
    }

    #[test]
    fn uids_that_are_not_decided_yet_and_a_host_without_such_files_are_fine() {
        let root = host(&[("proc/uptime", "1\n")]);
        assert_eq!(uids(root.path(), None, 1032).level, Level::Green);
        assert_eq!(uids(root.path(), Some(2_097_152), 1032).level, Level::Green);
    }

    #[test]
    fn a_port_that_is_taken_is_told() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = taken.local_addr().expect("an address");
        assert_eq!(port("API port", address).level, Level::Yellow);
        drop(taken);
        assert_eq!(port("API port", address).level, Level::Green);
    }

    #[test]
    fn little_room_is_yellow_and_none_is_red() {
        let at = Path::new("/data");
        assert_eq!(free_space(at, 500 * MIB).level, Level::Red);
        assert_eq!(free_space(at, 5 * GIB).level, Level::Yellow);
        assert_eq!(free_space(at, 50 * GIB).level, Level::Green);
    }
}
