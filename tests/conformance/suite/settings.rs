//! What the environment must say.

use std::path::PathBuf;

/// Where everything is. Nothing has a default: a suite that silently ran with another driver would prove nothing.
#[derive(Debug)]
pub struct Settings {
    /// `LEAPBOX_CONFORMANCE_DRIVER`: `qemu` or `firecracker`.
    pub driver: String,
    /// `LEAPBOX_ARTIFACTS_DIR`: what `leapbox setup` has built.
    pub artifacts: PathBuf,
    /// `LEAPBOX_CONFORMANCE_DIR`: the lab's folder, which the lab names and removes; the run makes one of its own in it.
    pub dir: PathBuf,
}

impl Settings {
    pub fn read() -> Self {
        Self {
            driver: wanted("LEAPBOX_CONFORMANCE_DRIVER"),
            artifacts: wanted("LEAPBOX_ARTIFACTS_DIR").into(),
            dir: wanted("LEAPBOX_CONFORMANCE_DIR").into(),
        }
    }
}

/// `LEAPBOX_LAUNCHER`: the `leapbox` program, for a driver that launches through its `confine` verb.
pub fn launcher() -> PathBuf {
    wanted("LEAPBOX_LAUNCHER").into()
}

fn wanted(name: &str) -> String {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => value,
        _ => panic!(
            "{name} is not set. Run `make conformance`, or set LEAPBOX_CONFORMANCE_DRIVER (qemu or firecracker), \
             LEAPBOX_ARTIFACTS_DIR (from `leapbox setup`), LEAPBOX_CONFORMANCE_DIR (a writable folder) and, \
             for qemu, LEAPBOX_LAUNCHER (the leapbox program), as root in a network namespace of its own"
        ),
    }
}
