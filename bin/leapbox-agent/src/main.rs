//! `/init` of every guest. See the library for what it does.

#![forbid(unsafe_code)]

use leapbox_agent::{bare, boot, log, reaper};
use leapbox_errors::chain;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        eprintln!("leapbox-agent is PID 1 of a Leapbox guest and is of no use elsewhere");
        return ExitCode::from(2);
    }
    if let Err(error) = run() {
        // The host reads this on the console and sees the machine end: the kernel panics when PID 1 returns.
        log::line(format_args!("boot failed: {}", chain(&*error)));
    }
    ExitCode::FAILURE
}

fn run() -> Result<(), Box<dyn Error>> {
    let reaper = reaper::Reaper::claim()?;
    let listener = boot::boot_bare()?;
    log::line(format_args!("waiting for a disk"));
    bare::serve(listener, boot::mount)?;
    log::line(format_args!("ready"));
    match reaper.run()? {}
}
