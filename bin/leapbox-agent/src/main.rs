//! The program that the initramfs starts as `/init` in every guest. The library describes what it does.

#![forbid(unsafe_code)]

use leapbox_agent::{boot, diskless, log, reaper};
use leapbox_errors::chain;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        // Boot mounts over /dev and /proc, loads modules and switches the root: on anybody's own machine that is harm.
        eprintln!("leapbox-agent runs only as PID 1 of a Leapbox guest; on a host, use `leapbox`");
        return ExitCode::from(2);
    }
    if let Err(error) = run() {
        // The host reads this on the console and sees the machine end: the kernel panics when PID 1 returns.
        log::line(format_args!("boot failed: {}", chain(&*error)));
    }
    ExitCode::FAILURE
}

fn run() -> Result<(), Box<dyn Error>> {
    // Before any thread exists: threads inherit the signal mask that `claim` sets.
    let reaper = reaper::Reaper::claim()?;
    let listener = boot::boot_diskless()?;
    log::line(format_args!("no disk is mounted yet; waiting for the host to send `Mount`"));
    diskless::serve(listener, boot::mount)?;
    log::line(format_args!("ready"));
    match reaper.run()? {}
}
