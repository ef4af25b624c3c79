//! The log of a VMM's standard error. The kernel bounds its size, however much the VMM prints.

use crate::error::VmmError;
use crate::process::is_shortage;
use leapbox_errors::{FileError, chain};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;

/// Makes a file for a VMM's standard error: `bytes` long from the start and sealed against growing, so that the kernel
/// refuses every write past its end.
pub fn bounded_log(bytes: u64) -> Result<File, VmmError> {
    let system = |step| move |errno: nix::errno::Errno| VmmError::System { step, source: errno.into() };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // A memfd and not a pipe: a pipe needs a server that reads it, and VMMs outlive servers. The next server finds this
    // file as the VMM's /proc/PID/fd/2.
    let log = File::from(memfd_create(c"leapbox-vmm-log", flags).map_err(system("making a memfd"))?);
    log.set_len(bytes).map_err(|source| VmmError::System { step: "sizing the log", source })?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&log, FcntlArg::F_ADD_SEALS(seals)).map_err(system("sealing the log"))?;
    Ok(log)
}

/// Opens the log of process `pid`, which a previous server started. A log that cannot be opened is no reason to give up
/// a machine: an empty one takes its place.
pub fn adopted_log(pid: i32) -> Result<File, VmmError> {
    let path = format!("/proc/{pid}/fd/2");
    // A VMM that its guest has taken over may have put a pipe there, and opening one waits for a writer.
    match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
        Ok(log) => Ok(log),
        // It passes, and the adoption is tried again.
        Err(source) if is_shortage(&source) => Err(FileError { step: "opening", path: path.into(), source }.into()),
        Err(error) => {
            tracing::warn!(pid, error = %chain(&error), "the log of an adopted VMM cannot be read");
            bounded_log(0)
        }
    }
}

/// The most that is read of any log, in bytes.
const LOG_MAX: u64 = 64 * 1024;

/// Returns the text that a VMM has written to its [`bounded_log`] so far.
pub fn log_text(log: &File) -> String {
    use std::os::unix::fs::FileExt;
    // The length is bounded here as well: the log of an adopted machine is whatever file its VMM, which a guest may
    // have taken over, has put at descriptor 2.
    let length = log.metadata().map_or(0, |meta| meta.len()).min(LOG_MAX);
    let mut bytes = vec![0; length as usize];
    // `read_at` leaves the file's position alone: the VMM shares it and goes on writing there.
    let read = log.read_at(&mut bytes, 0).unwrap_or(0);
    // The file has its full length from the start, so the text ends at the first byte that was never written.
    let written = bytes[..read].iter().position(|b| *b == 0).unwrap_or(read);
    String::from_utf8_lossy(&bytes[..written]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn case_05_a_log_flood_is_bounded() {
        let mut log = bounded_log(4096).expect("made");
        log.write_all(b"first words\n").expect("written");
        let mut refused = false;
        for _ in 0..100 {
            refused |= log.write(&[b'x'; 1000]).is_err();
        }
        assert!(refused);
        assert!(log_text(&log).starts_with("first words\nxxx"));
        assert_eq!(log.metadata().expect("metadata").len(), 4096);
    }

    #[test]
    fn a_log_that_is_closed_is_adopted_as_an_empty_one() {
        let mut child = std::process::Command::new("sh");
        let mut child = child.args(["-c", "exec 2>&- sleep 1000"]).spawn().expect("sh runs");
        while std::path::Path::new(&format!("/proc/{}/fd/2", child.id())).exists() {
            std::thread::yield_now();
        }
        let log = adopted_log(child.id() as i32).expect("adopted");
        assert_eq!(log_text(&log), "");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }
}
