//! Gives the guest its randomness, clock and identity. Called by `guest` for every `Configure`.
//!
//! Clones of one base snapshot continue with the same random state, its time and its identity, and so do machines that
//! were started from one checkpoint. Before anything of the workload runs, `Configure` changes all three, and each is
//! read back before it is confirmed. A suspended guest that goes on as the same sandbox keeps its ids.
//!
//! `/etc/machine-id` and the boot id are the agent's own files, bind-mounted over their paths: they change without a
//! write to the disk (which may be full), and the kernel's real boot id, which is drawn when it is first read, is never
//! read before the generator was reseeded.

use crate::fault;
use leapbox_errors::chain;
use leapbox_guest_protocol::{Configure, Configured, FaultKind, GuestFault};
use nix::mount::{MsFlags, mount};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

// A pooled clone is configured twice. The host's time is as old as the call took to arrive, so setting a clock that is
// nearly right could make it run back between the two.
const CLOCK_SLACK: Duration = Duration::from_millis(50);
/// The file in which the kernel shows its boot id (random(4)).
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// The address of the agent's own line in `/etc/hosts`, by which it is found again: Debian's convention for the name of
/// the machine itself.
const OWN_ADDRESS: &str = "127.0.1.1";

/// The files and the device that make up the guest's identity.
#[derive(Debug)]
pub struct IdentityFiles {
    random: File,
    machine_id: MountedFile,
    boot_id: MountedFile,
    etc: PathBuf,
}

/// A file of the agent's, bind-mounted over a path of the guest's.
#[derive(Debug)]
struct MountedFile {
    file: File,
    path: PathBuf,
}

impl IdentityFiles {
    /// Makes the two files in `hidden`, a directory in memory, and binds them over `etc/machine-id` and `boot_id`.
    pub fn install(hidden: &Path, etc: &Path, boot_id: &Path) -> io::Result<Self> {
        let machine_id = etc.join("machine-id");
        if !machine_id.exists() {
            fs::write(&machine_id, "")?;
        }
        Ok(Self {
            random: OpenOptions::new().read(true).write(true).open("/dev/urandom")?,
            machine_id: MountedFile::install(&hidden.join("machine-id"), machine_id)?,
            boot_id: MountedFile::install(&hidden.join("boot-id"), boot_id.to_owned())?,
            etc: etc.to_owned(),
        })
    }

    /// Applies a configuration, and returns what was read back from the kernel and the files.
    pub(crate) fn apply(&self, configure: &Configure) -> Result<Configured, GuestFault> {
        // Before anything is changed: a refused request must leave the guest as it was.
        check_hostname(&configure.hostname)?;
        let step = |what: &'static str| move |error: io::Error| fault::from_io(what, &error);
        self.reseed(&configure.entropy.0).map_err(step("reseeding the kernel's randomness"))?;
        set_clock(configure.wall_clock_unix_ns).map_err(step("setting the clock"))?;
        self.set_hostname(&configure.hostname).map_err(step("setting the host name"))?;
        if let Some(identity) = &configure.identity {
            let (machine_id, boot_id) = (hex(&identity.machine_id), uuid(&identity.boot_id));
            self.machine_id.write(&format!("{machine_id}\n")).map_err(step("writing the machine id"))?;
            self.boot_id.write(&format!("{boot_id}\n")).map_err(step("writing the boot id"))?;
        }
        let machine_id = self.machine_id.read_back().map_err(step("reading the machine id"))?;
        let boot_id = self.boot_id.read_back().map_err(step("reading the boot id"))?;
        let hostname = nix::unistd::gethostname().map_err(io::Error::from);
        Ok(Configured {
            reseeded: true,
            wall_clock_unix_ns: wall_clock_ns().map_err(step("reading the clock"))?,
            hostname: hostname.map_err(step("reading the host name"))?.to_string_lossy().into_owned(),
            machine_id,
            boot_id,
        })
    }

    /// Mixes the bytes into the kernel's pool, credited in full, and reseeds the generator from the pool.
    fn reseed(&self, entropy: &[u8; 64]) -> io::Result<()> {
        // Both requests are needed: added entropy alone reaches the generator at its next regular reseed, up to a
        // minute later, and until then all clones of a base snapshot would draw the same numbers.
        #[repr(C)]
        struct PoolInfo {
            entropy_bits: libc::c_int,
            size: libc::c_int,
            bytes: [u8; 64],
        }
        // `struct rand_pool_info` and its requests in <linux/random.h>.
        const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
        const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
        let info = PoolInfo { entropy_bits: 512, size: 64, bytes: *entropy };
        let random = self.random.as_raw_fd();
        // SAFETY: `random` is open, and `info` has the layout the request reads: two ints and `size` bytes.
        let added = unsafe { libc::ioctl(random, RNDADDENTROPY, &raw const info) };
        nix::errno::Errno::result(added)?;
        // SAFETY: the request takes no argument.
        let reseeded = unsafe { libc::ioctl(random, RNDRESEEDCRNG) };
        nix::errno::Errno::result(reseeded)?;
        Ok(())
    }

    /// Sets the kernel's host name, unless it is that already, and writes it to `/etc/hosts` and `/etc/hostname`.
    fn set_hostname(&self, hostname: &str) -> io::Result<()> {
        if nix::unistd::gethostname()?.to_str() == Some(hostname) {
            return Ok(());
        }
        nix::unistd::sethostname(hostname)?;
        let (hosts_file, name_file) = (self.etc.join("hosts"), self.etc.join("hostname"));
        let hosts = fs::read_to_string(&hosts_file).unwrap_or_default();
        let name = fs::read_to_string(&name_file).unwrap_or_default();
        let written = rewrite(&hosts_file, &hosts, &hosts_with(&hosts, hostname))
            .and_then(|()| rewrite(&name_file, &name, &format!("{hostname}\n")));
        // `sudo` and other programs look up their own name, but a full disk must not keep a sandbox from waking.
        if let Err(error) = written {
            crate::log::line(format_args!("cannot write the host name to /etc: {}", chain(&error)));
        }
        Ok(())
    }
}

impl MountedFile {
    fn install(source: &Path, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(source)?;
        let bound = Self { file, path };
        bound.bind()?;
        Ok(bound)
    }

    fn bind(&self) -> io::Result<()> {
        // Through the descriptor, because no path leads to the file any more after the root was switched.
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        mount(Some(source.as_str()), &self.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }

    /// Writes the id. Every text of one file has the same length, so nothing of an older one is left behind it.
    fn write(&self, text: &str) -> io::Result<()> {
        self.file.write_all_at(text.as_bytes(), 0)
    }

    /// Reads the id as a process of the guest would, through the path. Binds again if something else is shown there.
    fn read_back(&self) -> io::Result<[u8; 16]> {
        let mut written = [0; 64];
        let len = self.file.read_at(&mut written, 0)?;
        match fs::read(&self.path) {
            Ok(shown) if shown == written[..len] => id_in(&shown),
            // The guest's root has unmounted it, or mounted something over it.
            _ => {
                self.bind()?;
                id_in(&fs::read(&self.path)?)
            }
        }
    }
}

/// Parses the text of a machine id or boot id: 32 hexadecimal digits, with dashes or without.
fn id_in(text: &[u8]) -> io::Result<[u8; 16]> {
    let mut nibbles = text.iter().filter_map(|byte| char::from(*byte).to_digit(16));
    let mut id = [0u8; 16];
    for byte in &mut id {
        let (Some(high), Some(low)) = (nibbles.next(), nibbles.next()) else {
            return Err(io::Error::from(io::ErrorKind::InvalidData));
        };
        *byte = u8::try_from(high * 16 + low).unwrap_or_default();
    }
    Ok(id)
}

/// Replaces a file's text, so that a full disk leaves either the old or the new one whole.
fn rewrite(path: &Path, old: &str, text: &str) -> io::Result<()> {
    if old == text {
        return Ok(());
    }
    // All sandbox names have the same length, so the file is overwritten in place. That works on a full disk and writes
    // no journal. Together with the pool's warm-up it cut a pooled create from 206 ms to 13 ms.
    if old.len() == text.len() {
        return OpenOptions::new().write(true).open(path)?.write_all_at(text.as_bytes(), 0);
    }
    // Otherwise written beside the old file and renamed over it.
    let new = path.with_extension("leapbox-new");
    let replaced = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// Returns the text of `/etc/hosts` with the line of the sandbox's own name; other lines stay as they are.
pub(crate) fn hosts_with(hosts: &str, hostname: &str) -> String {
    let others = hosts.lines().filter(|line| !line.starts_with(OWN_ADDRESS));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("{OWN_ADDRESS}\t{hostname}\n"));
    text
}

/// Refuses a host name that is not a DNS label (RFC 1123).
fn check_hostname(name: &str) -> Result<(), GuestFault> {
    // It is written into files as it is: a line break in it would add lines to /etc/hosts.
    let fits = (1..=63).contains(&name.len());
    if fits && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
        return Ok(());
    }
    Err(GuestFault::new(FaultKind::InvalidInput, "the host name is not a DNS label"))
}

fn set_clock(unix_ns: u64) -> io::Result<()> {
    if u128::from(wall_clock_ns()?.abs_diff(unix_ns)) > CLOCK_SLACK.as_nanos() {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::from(Duration::from_nanos(unix_ns)))?;
    }
    Ok(())
}

fn wall_clock_ns() -> io::Result<u64> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
    Ok(u64::try_from(now.as_nanos()).unwrap_or(u64::MAX))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes an id as the kernel writes boot ids: 8-4-4-4-12 hexadecimal digits.
fn uuid(id: &[u8; 16]) -> String {
    let hex = hex(id);
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_line_of_the_hosts_file_changes() {
        let hosts = "127.0.0.1\tlocalhost\n127.0.1.1\told\n10.0.0.9\tmine\n";
        assert_eq!(hosts_with(hosts, "new"), "127.0.0.1\tlocalhost\n10.0.0.9\tmine\n127.0.1.1\tnew\n");
    }

    #[test]
    fn a_host_name_that_would_break_a_file_is_refused() {
        for bad in ["", "a b", "a\nb", "a.b", &"x".repeat(64)] {
            assert!(check_hostname(bad).is_err(), "{bad:?}");
        }
        assert!(check_hostname("sbx-1a2b").is_ok());
    }

    #[test]
    fn a_boot_id_looks_like_the_kernels() {
        let id: [u8; 16] = std::array::from_fn(|i| i as u8);
        assert_eq!(uuid(&id), "00010203-0405-0607-0809-0a0b0c0d0e0f");
    }
}
