//! Reads and writes kernel settings. Those under `/proc/sys/net` belong to the network namespace of the thread that
//! opens the file.

use crate::error::NetworkError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A setting of the host that was changed, with its previous and its new value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlChange {
    pub path: PathBuf,
    pub from: String,
    pub to: String,
}

/// The setting with which a namespace forwards IPv4 packets. Without it no sandbox reaches anything.
pub(crate) const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

// A new namespace's settings: forwarding, strict checks of source addresses, no source routes, no redirects, and
// answers to ARP only for an interface's own address. `all` and `default` come before the interfaces, which inherit
// them when they are made.
const SLOT: &[(&str, &str)] = &[
    (IP_FORWARD, "1"),
    ("/proc/sys/net/ipv4/conf/all/rp_filter", "1"),
    ("/proc/sys/net/ipv4/conf/default/rp_filter", "1"),
    ("/proc/sys/net/ipv4/conf/all/accept_source_route", "0"),
    ("/proc/sys/net/ipv4/conf/default/accept_source_route", "0"),
    ("/proc/sys/net/ipv4/conf/all/accept_redirects", "0"),
    ("/proc/sys/net/ipv4/conf/default/accept_redirects", "0"),
    ("/proc/sys/net/ipv4/conf/all/send_redirects", "0"),
    ("/proc/sys/net/ipv4/conf/default/send_redirects", "0"),
    ("/proc/sys/net/ipv4/conf/all/arp_ignore", "1"),
    ("/proc/sys/net/ipv4/conf/all/arp_announce", "2"),
];

// IPv6 is off. The files are missing where the kernel has no IPv6, which is just as good.
const SLOT_IPV6_OFF: &[&str] =
    &["/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/default/disable_ipv6"];

/// Applies a slot's settings. The calling thread must be inside the slot, and the slot's interfaces not made yet.
pub(crate) fn apply_slot() -> Result<(), NetworkError> {
    for (path, value) in SLOT {
        write(Path::new(path), value)?;
    }
    SLOT_IPV6_OFF.iter().try_for_each(|path| write_if_there(Path::new(path), "1"))
}

/// Applies the settings of the root namespace's end of a slot's veth: no IPv6, no redirects, and ARP only for its own
/// address.
pub(crate) fn apply_veth(veth: &str) -> Result<(), NetworkError> {
    write_if_there(Path::new(&format!("/proc/sys/net/ipv6/conf/{veth}/disable_ipv6")), "1")?;
    for (name, value) in [("send_redirects", "0"), ("accept_redirects", "0"), ("arp_ignore", "1")] {
        write(Path::new(&format!("/proc/sys/net/ipv4/conf/{veth}/{name}")), value)?;
    }
    Ok(())
}

/// Sets a value unless it is set already, and returns the change if there was one.
pub(crate) fn ensure(path: &Path, value: &str) -> Result<Option<SysctlChange>, NetworkError> {
    let from = read(path)?;
    if from == value {
        return Ok(None);
    }
    write(path, value)?;
    Ok(Some(SysctlChange { path: path.to_owned(), from, to: value.to_owned() }))
}

/// Returns the current value without its line end.
pub(crate) fn read(path: &Path) -> Result<String, NetworkError> {
    let text = std::fs::read_to_string(path).map_err(|source| failed(path, source))?;
    Ok(text.trim_end().to_owned())
}

fn write(path: &Path, value: &str) -> Result<(), NetworkError> {
    std::fs::write(path, value).map_err(|source| failed(path, source))
}

fn write_if_there(path: &Path, value: &str) -> Result<(), NetworkError> {
    match std::fs::write(path, value) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, source: std::io::Error) -> NetworkError {
    NetworkError::Sysctl { path: path.to_owned(), source }
}
