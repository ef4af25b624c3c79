//! Writes the files of `/etc` that belong to the platform: name server, hosts and host name. Called once at boot.

use crate::configure::hosts_with;
use leapbox_errors::FileError;
use leapbox_guest_protocol::net;
use std::fs;
use std::path::Path;

/// The host name until the first `Configure`. It is as long as a sandbox's id (24 bytes), so that the id is written
/// over it in place; see `rewrite` in `configure`.
const FIRST_NAME: &str = "leapbox-is-not-yet-named";
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Writes `resolv.conf`, `hosts` and `hostname`, and sets the kernel's host name to the same provisional one.
pub(super) fn write() -> Result<(), FileError> {
    let resolver = format!("nameserver {}\n", net::WORKLOAD_GATEWAY);
    let resolv_conf = Path::new("/etc/resolv.conf");
    // In many images it is a link to a file of systemd-resolved, which does not run here: writing through the link
    // would make that file, or fail.
    if fs::symlink_metadata(resolv_conf).is_ok_and(|metadata| metadata.is_symlink()) {
        fs::remove_file(resolv_conf).map_err(FileError::of("removing", resolv_conf))?;
    }
    write_new(resolv_conf, &resolver)?;
    let hosts = fs::read_to_string("/etc/hosts").unwrap_or_default();
    let hosts = if hosts.trim().is_empty() { HOSTS } else { &hosts };
    write_new(Path::new("/etc/hosts"), &hosts_with(hosts, FIRST_NAME))?;
    write_new(Path::new("/etc/hostname"), &format!("{FIRST_NAME}\n"))?;
    nix::unistd::sethostname(FIRST_NAME).map_err(FileError::of("setting the host name", FIRST_NAME))
}

/// Writes a file, with its parent directories, unless it has this text already.
fn write_new(path: &Path, text: &str) -> Result<(), FileError> {
    // Opening a file of the image for writing makes the overlay copy it to the sandbox's disk, even if nothing changes.
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(FileError::of("making", folder))?;
    }
    fs::write(path, text).map_err(FileError::of("writing", path))
}
