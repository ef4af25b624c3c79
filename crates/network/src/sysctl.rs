//! Kernel settings. What is under `/proc/sys/net` belongs to the namespace of the thread that opens it.

use crate::error::NetworkError;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A setting of the host that was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SysctlChange {
    /// Its file.
    pub path: PathBuf,
    /// What it was.
    pub from: String,
    /// What it is now.
    pub to: String,
}

/// The host must forward; without this no sandbox reaches anything.
pub(crate) const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

/// A fresh namespace's settings: forwarding, no IPv6, no source routes or redirects, answers to ARP only for what an
/// interface itself has. `all` and `default` come first, so that interfaces made afterwards inherit them.
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

/// IPv6 off: missing where the kernel has none, which is as good.
const SLOT_IPV6_OFF: &[&str] =
    &["/proc/sys/net/ipv6/conf/all/disable_ipv6", "/proc/sys/net/ipv6/conf/default/disable_ipv6"];

/// Applies a slot's settings. To be called on a thread inside the slot, before its interfaces are made.
pub(crate) fn apply_slot() -> Result<(), NetworkError> {
    for (path, value) in SLOT {
        write(Path::new(path), value)?;
    }
    SLOT_IPV6_OFF.iter().try_for_each(|path| write_if_there(Path::new(path), "1"))
}

/// Settings of the root namespace's end of a slot's veth: no IPv6 on it, no redirects, no foreign ARP.
pub(crate) fn apply_veth(veth: &str) -> Result<(), NetworkError> {
    write_if_there(Path::new(&format!("/proc/sys/net/ipv6/conf/{veth}/disable_ipv6")), "1")?;
    for (name, value) in [("send_redirects", "0"), ("accept_redirects", "0"), ("arp_ignore", "1")] {
        write(Path::new(&format!("/proc/sys/net/ipv4/conf/{veth}/{name}")), value)?;
    }
    Ok(())
}

/// Sets a value unless it is set already, and tells what was changed.
pub(crate) fn ensure(path: &Path, value: &str) -> Result<Option<SysctlChange>, NetworkError> {
    let from = read(path)?;
    if from == value {
        return Ok(None);
    }
    write(path, value)?;
    Ok(Some(SysctlChange { path: path.to_owned(), from, to: value.to_owned() }))
}

/// The current value, without its line end.
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
