//! What a VMM prints, bounded by the kernel however much it prints.

use crate::error::VmmError;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;

/// A bounded file for a VMM's standard error: `bytes` long from the start and sealed against growing, so that what
/// does not fit is refused by the kernel.
pub fn bounded_log(bytes: u64) -> Result<File, VmmError> {
    let system = |step| move |errno: nix::errno::Errno| VmmError::System { step, source: errno.into() };
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let log = File::from(memfd_create(c"leapbox-vmm-log", flags).map_err(system("making a memfd"))?);
    log.set_len(bytes).map_err(|source| VmmError::System { step: "sizing the log", source })?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&log, FcntlArg::F_ADD_SEALS(seals)).map_err(system("sealing the log"))?;
    Ok(log)
}

/// Bytes read of any log.
const LOG_MAX: u64 = 64 * 1024;

/// What a [`bounded_log`] holds by now.
pub fn log_text(log: &File) -> String {
    use std::os::unix::fs::FileExt;
    // An adopted machine's log is whatever its VMM made of that descriptor.
    let length = log.metadata().map_or(0, |meta| meta.len()).min(LOG_MAX);
    let mut bytes = vec![0; length as usize];
    let read = log.read_at(&mut bytes, 0).unwrap_or(0);
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
}
