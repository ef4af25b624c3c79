//! Becoming a sandbox: randomness, clock, names.
//!
//! Clones of one snapshot continue with the same random state, the snapshot's time and its identity. Before anything of
//! the workload's runs, `Configure` changes all of them, and each is read back before it is confirmed. A guest that was
//! paused and is the same sandbox as before keeps its ids.
//!
//! `/etc/machine-id` and the boot id are files of the agent's own, bound over their paths: they change without touching
//! the disk (which may be full), and the kernel's real boot id, made when it is first read, is never read before the
//! generator was reseeded.

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

/// A clock that is off by less is left alone, so that a second `Configure` doesn't make it run back.
const CLOCK_SLACK: Duration = Duration::from_millis(50);
/// Where the kernel shows its boot id.
pub const BOOT_ID_PATH: &str = "/proc/sys/kernel/random/boot_id";
/// Marks the line of `/etc/hosts` that is the agent's.
const OWN_ADDRESS: &str = "127.0.1.1";

/// The files and devices identity is made of.
#[derive(Debug)]
pub struct IdentityFiles {
    random: File,
    machine_id: Bound,
    boot_id: Bound,
    etc: PathBuf,
}

/// A file of the agent's that is bound over a path of the guest's.
#[derive(Debug)]
struct Bound {
    file: File,
    path: PathBuf,
}

impl IdentityFiles {
    /// Makes the two files in `hidden`, a folder on no disk, and binds them over `etc`'s machine id and `boot_id`.
    pub fn install(hidden: &Path, etc: &Path, boot_id: &Path) -> io::Result<Self> {
        let machine_id = etc.join("machine-id");
        if !machine_id.exists() {
            fs::write(&machine_id, "")?;
        }
        Ok(Self {
            random: OpenOptions::new().read(true).write(true).open("/dev/urandom")?,
            machine_id: Bound::install(&hidden.join("machine-id"), machine_id)?,
            boot_id: Bound::install(&hidden.join("boot-id"), boot_id.to_owned())?,
            etc: etc.to_owned(),
        })
    }

    /// Applies a configuration and reads it back.
    pub(crate) fn apply(&self, configure: &Configure) -> Result<Configured, GuestFault> {
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
        let machine_id = self.machine_id.shown().map_err(step("reading the machine id"))?;
        let boot_id = self.boot_id.shown().map_err(step("reading the boot id"))?;
        let hostname = nix::unistd::gethostname().map_err(io::Error::from);
        Ok(Configured {
            reseeded: true,
            wall_clock_unix_ns: wall_clock_ns().map_err(step("reading the clock"))?,
            hostname: hostname.map_err(step("reading the host name"))?.to_string_lossy().into_owned(),
            machine_id,
            boot_id,
        })
    }

    /// Mixes the bytes into the kernel's pool, credited in full, and makes the generator start from the pool at once.
    fn reseed(&self, entropy: &[u8; 64]) -> io::Result<()> {
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

    /// Sets the kernel's host name unless it is that already, and tells `/etc` where that can be written: `sudo` and others look their own name up,
    /// but a full disk must not keep a sandbox from waking.
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
        if let Err(error) = written {
            crate::log::line(format_args!("cannot write the host name to /etc: {}", chain(&error)));
        }
        Ok(())
    }
}

impl Bound {
    fn install(source: &Path, path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(source)?;
        let bound = Self { file, path };
        bound.bind()?;
        Ok(bound)
    }

    /// Binds through the descriptor: the file's own path may be out of reach after the root was switched.
    fn bind(&self) -> io::Result<()> {
        let source = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        mount(Some(source.as_str()), &self.path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        Ok(())
    }

    /// Writes the text, all of it the same length each time.
    fn write(&self, text: &str) -> io::Result<()> {
        self.file.write_all_at(text.as_bytes(), 0)
    }

    /// The id that a process of the guest's reads there. Binds again if the guest's root took the mount away.
    fn shown(&self) -> io::Result<[u8; 16]> {
        let mut written = [0; 64];
        let len = self.file.read_at(&mut written, 0)?;
        match fs::read(&self.path) {
            Ok(shown) if shown == written[..len] => id_in(&shown),
            _ => {
                self.bind()?;
                id_in(&fs::read(&self.path)?)
            }
        }
    }
}

/// The sixteen bytes a machine id or boot id shows.
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

/// Replaces a file's text. Of the same length, as one sandbox's name is to another's, it goes over the old one in place:
/// no block is allocated, no journal written, and a full disk does not matter. Of another length, it is written beside
/// the old one and renamed over it: on a full disk the old one stays whole.
fn rewrite(path: &Path, old: &str, text: &str) -> io::Result<()> {
    if old == text {
        return Ok(());
    }
    if old.len() == text.len() {
        return OpenOptions::new().write(true).open(path)?.write_all_at(text.as_bytes(), 0);
    }
    let new = path.with_extension("leapbox-new");
    let replaced = fs::write(&new, text).and_then(|()| fs::rename(&new, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

/// `/etc/hosts` with the sandbox's own name; other lines stay as they are.
pub(crate) fn hosts_with(hosts: &str, hostname: &str) -> String {
    let others = hosts.lines().filter(|line| !line.starts_with(OWN_ADDRESS));
    let mut text: String = others.map(|line| format!("{line}\n")).collect();
    text.push_str(&format!("{OWN_ADDRESS}\t{hostname}\n"));
    text
}

/// A host name is a DNS label: it goes into files as it is.
fn check_hostname(name: &str) -> Result<(), GuestFault> {
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

/// As the kernel writes boot ids: 8-4-4-4-12.
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
