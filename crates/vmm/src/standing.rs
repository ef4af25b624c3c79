//! What the kernel says of a VMM's process, by which the watchdog tells a VMM that does not answer from one that could
//! not have answered.
//!
//! ```text
//! stat and schedstat in /proc/PID, cgroup.freeze, clocks ──► Standing, once a second during a question
//! all Standings of one question ──► stall ──► the reason for which nobody could have answered, or none
//! ```

use crate::cgroup::Cgroup;
use crate::process::stat_after_name;
use nix::time::{ClockId, clock_gettime};
use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The time between two readings during a question.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// How much later than planned this server may read before it counts as having stood still itself. A busy server is
/// late by some hundred milliseconds.
const LATENESS_MAX: Duration = Duration::from_secs(4);
/// The shortest suspension of the host that counts. The two clocks that show it are read one after the other, so that
/// a shorter time may only lie between the two readings.
const SUSPENSION_MIN: Duration = Duration::from_secs(1);
/// The most threads of a process that are looked at. A VMM has less than a hundred.
const THREADS_MAX: usize = 256;

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The time of the reading.
    pub at: Instant,
    /// How long the host has been suspended since its boot.
    pub suspended: Duration,
    /// The state as proc_pid_stat(5) has it: of a thread that is stopped or in uninterruptible sleep, if there is one,
    /// and otherwise of the main thread. `None` if it could not be read.
    pub state: Option<char>,
    /// The main thread's time on a CPU and for one. `None` if it could not be read: not every kernel counts it.
    pub cpu: Option<CpuTime>,
    /// Whether the control group is frozen.
    pub frozen: bool,
}

/// How long a thread has run and waited since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CpuTime {
    pub ran: Duration,
    /// How long it was ready to run and no CPU was free for it. The kernel adds a wait when it is over.
    pub waited: Duration,
}

impl Standing {
    /// Reads the standing of process `pid`, whose control group is `group`. It reads a few files of /proc and of the
    /// control group, which the kernel makes from its memory: that takes no disk and some hundred microseconds.
    pub fn read(pid: i32, group: &Cgroup) -> Self {
        Self {
            at: Instant::now(),
            suspended: suspended(),
            state: state(pid).ok(),
            cpu: cpu_time(pid),
            frozen: group.is_frozen(),
        }
    }

    /// Whether this server or the whole host stood still since the reading `earlier`, after which this one was planned
    /// `planned` later.
    pub fn stood_still_since(&self, earlier: &Self, planned: Duration) -> bool {
        let late = self.at.duration_since(earlier.at) > planned + LATENESS_MAX;
        late || self.suspended.saturating_sub(earlier.suspended) >= SUSPENSION_MIN
    }
}

/// The reason for which a VMM could not have answered a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stall {
    ServerStoodStill,
    Frozen,
    Stopped,
    WaitsForDisk,
    WaitsForCpu,
    /// It is not known whether it could have.
    Unreadable,
    /// The question did not reach it, for a reason that is not the VMM's.
    NotAsked,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stall::ServerStoodStill => "this server stood still",
            Stall::Frozen => "its control group is frozen",
            Stall::Stopped => "it is stopped by a signal",
            Stall::WaitsForDisk => "it waits for the disk",
            Stall::WaitsForCpu => "the host has no CPU for it",
            Stall::Unreadable => "its state in /proc cannot be read",
            Stall::NotAsked => "this server could not ask it",
        })
    }
}

/// Judges the readings from the beginning of a question to its end: returns the reason for which the VMM could not have
/// answered it. `None` if nothing kept the VMM from answering; only then its silence says something of the VMM itself.
pub(crate) fn stall(seen: &[Standing]) -> Option<Stall> {
    let any = |is: fn(&Standing) -> bool| seen.iter().any(is);
    if seen.windows(2).any(|pair| pair[1].stood_still_since(&pair[0], INTERVAL)) {
        Some(Stall::ServerStoodStill)
    } else if any(|s| s.frozen) {
        Some(Stall::Frozen)
    } else if any(|s| s.state.is_some_and(is_stopped)) {
        Some(Stall::Stopped)
    } else if any(|s| s.state.is_some_and(is_uninterruptible)) {
        Some(Stall::WaitsForDisk)
    } else if any(|s| s.state.is_none()) {
        // Without the state nothing is left that could prove anything.
        Some(Stall::Unreadable)
    } else {
        let [first, .., last] = seen else { return Some(Stall::Unreadable) };
        is_starved(first, last, seen).then_some(Stall::WaitsForCpu)
    }
}

/// Whether the main thread has waited for a CPU for more than half of the time. Whoever gets one for the other half
/// answers at half its speed, which a question's deadline has room for many times over.
fn is_starved(first: &Standing, last: &Standing, seen: &[Standing]) -> bool {
    let is_ready = |standing: &&Standing| standing.state == Some('R');
    let (Some(before), Some(after)) = (first.cpu, last.cpu) else {
        // A kernel that does not count the waiting shows a waiting thread as a running one (`R`). One that sleeps waits
        // for no CPU.
        return seen.iter().any(|standing| is_ready(&standing));
    };
    // The wait that is not over is in no count yet. It is all of the time since the thread was last seen asleep in which
    // it did not run.
    let ready_since = seen.iter().rev().take_while(is_ready).last();
    let lasting = ready_since.and_then(|since| {
        let ran = after.ran.saturating_sub(since.cpu?.ran);
        Some(last.at.duration_since(since.at).saturating_sub(ran))
    });
    let counted = after.waited.saturating_sub(before.waited);
    counted.max(lasting.unwrap_or_default()) * 2 > last.at.duration_since(first.at)
}

/// By a signal (`T`) or a debugger (`t`).
fn is_stopped(state: char) -> bool {
    matches!(state, 'T' | 't')
}

/// Waiting for a disk, also for memory that was swapped out; or frozen by a version 1 control group.
fn is_uninterruptible(state: char) -> bool {
    state == 'D'
}

/// The state of a thread that is kept from running; if there is none, that of the main thread.
fn state(pid: i32) -> io::Result<char> {
    let dir = format!("/proc/{pid}");
    let main = thread_state(&Path::new(&dir).join("stat"))?;
    // All threads are looked at and not only the one that answers: it may wait for a lock of one that waits for memory
    // from the disk.
    for thread in fs::read_dir(Path::new(&dir).join("task"))?.take(THREADS_MAX) {
        match thread_state(&thread?.path().join("stat")) {
            Ok(state) if is_stopped(state) || is_uninterruptible(state) => return Ok(state),
            Ok(_) => {}
            // The thread has ended since the list was read.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(main)
}

fn thread_state(stat: &Path) -> io::Result<char> {
    let fields = stat_after_name(stat)?;
    fields.trim_start().chars().next().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The first two fields of the main thread's `schedstat`, in nanoseconds (Documentation/scheduler/sched-stats.rst).
fn cpu_time(pid: i32) -> Option<CpuTime> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/schedstat")).ok()?;
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse::<u64>().ok());
    let (ran, waited) = (fields.next()??, fields.next()??);
    // Three zeroes are a kernel's that does not count: a process has run by the time that anybody knows its number.
    (ran > 0).then_some(CpuTime { ran: Duration::from_nanos(ran), waited: Duration::from_nanos(waited) })
}

fn suspended() -> Duration {
    // Neither clock can fail: every kernel that this server runs on has both. Only CLOCK_BOOTTIME counts a suspension.
    let clock = |id| clock_gettime(id).map(Duration::from).unwrap_or_default();
    clock(ClockId::CLOCK_BOOTTIME).saturating_sub(clock(ClockId::CLOCK_MONOTONIC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Cgroups;
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    /// Readings once a second over a question of ten, of a process that sleeps.
    fn asleep() -> Vec<Standing> {
        let begun = Instant::now();
        let at = |second| Standing {
            at: begun + Duration::from_secs(second),
            suspended: Duration::from_secs(100),
            state: Some('S'),
            cpu: Some(CpuTime { ran: Duration::from_secs(3), waited: Duration::from_secs(7) }),
            frozen: false,
        };
        (0..=10).map(at).collect()
    }

    fn judged(change: impl Fn(&mut [Standing])) -> Option<Stall> {
        let mut seen = asleep();
        change(&mut seen);
        stall(&seen)
    }

    /// Makes the main thread ready all the time, with `ms` of every second on a CPU and no wait that is over.
    fn ready(seen: &mut [Standing], ms: u64) {
        for (second, standing) in (0..).zip(seen) {
            let ran = Duration::from_millis(3000 + second * ms);
            standing.state = Some('R');
            standing.cpu = Some(CpuTime { ran, waited: Duration::from_secs(7) });
        }
    }

    #[test]
    fn one_that_sleeps_or_runs_all_the_time_could_have_answered() {
        assert_eq!(judged(|_| {}), None);
        assert_eq!(judged(|seen| ready(seen, 1000)), None);
        assert_eq!(stall(&asleep()[..2]), None, "a question that failed at once");
    }

    #[test]
    fn one_that_was_stopped_frozen_or_waited_for_the_disk_at_any_moment_could_not() {
        for (state, why) in [('T', Stall::Stopped), ('t', Stall::Stopped), ('D', Stall::WaitsForDisk)] {
            for moment in [0, 5, 10] {
                assert_eq!(judged(|seen| seen[moment].state = Some(state)), Some(why));
                assert_eq!(judged(|seen| seen[moment].frozen = true), Some(Stall::Frozen));
            }
        }
    }

    #[test]
    fn one_that_waited_for_a_cpu_for_more_than_half_of_the_time_could_not() {
        let waited = |seen: &mut [Standing], ms: u64| {
            let (ran, waited) = (Duration::from_secs(3), Duration::from_millis(7000 + ms));
            seen[10].cpu = Some(CpuTime { ran, waited });
        };
        assert_eq!(judged(|seen| waited(seen, 4900)), None);
        assert_eq!(judged(|seen| waited(seen, 5100)), Some(Stall::WaitsForCpu));
    }

    #[test]
    fn one_that_still_waits_for_a_cpu_could_not_though_no_count_has_grown() {
        assert_eq!(judged(|seen| ready(seen, 0)), Some(Stall::WaitsForCpu));
        assert_eq!(judged(|seen| ready(seen, 400)), Some(Stall::WaitsForCpu));
        assert_eq!(judged(|seen| ready(seen, 600)), None);
        // Asleep for most of the time, and ready only at the end of it.
        assert_eq!(judged(|seen| ready(&mut seen[7..], 0)), None);
    }

    #[test]
    fn without_a_count_of_the_waiting_one_that_sleeps_could_have_answered_and_one_that_is_ready_may_not() {
        let uncounted = |seen: &mut [Standing]| seen.iter_mut().for_each(|s| s.cpu = None);
        assert_eq!(judged(uncounted), None);
        let once_ready = |seen: &mut [Standing]| {
            seen[3].state = Some('R');
            uncounted(seen);
        };
        assert_eq!(judged(once_ready), Some(Stall::WaitsForCpu));
    }

    #[test]
    fn nothing_is_held_against_a_vmm_while_this_server_stood_still() {
        let gap = |seen: &mut [Standing]| seen[6..].iter_mut().for_each(|s| s.at += Duration::from_secs(10));
        assert_eq!(judged(gap), Some(Stall::ServerStoodStill));
        let suspension = |seen: &mut [Standing]| seen[6..].iter_mut().for_each(|s| s.suspended += SUSPENSION_MIN);
        assert_eq!(judged(suspension), Some(Stall::ServerStoodStill));
    }

    #[test]
    fn what_cannot_be_read_proves_nothing() {
        assert_eq!(judged(|seen| seen[4].state = None), Some(Stall::Unreadable));
        assert_eq!(stall(&asleep()[..1]), Some(Stall::Unreadable));
        assert_eq!(stall(&[]), Some(Stall::Unreadable));
    }

    #[test]
    fn a_real_process_is_read_as_asleep_stopped_and_gone() {
        let cgroups = Cgroups::open(Path::new("/nowhere"), "t");
        let group = cgroups.named("none");
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep runs");
        let pid = child.id() as i32;
        let until = |state: char| {
            while Standing::read(pid, &group).state != Some(state) {
                std::thread::yield_now();
            }
        };
        until('S');
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("stopped");
        until('T');
        let stopped = [Standing::read(pid, &group), Standing::read(pid, &group)];
        assert_eq!(stall(&stopped), Some(Stall::Stopped));
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(Standing::read(pid, &group).state, None);
    }
}
