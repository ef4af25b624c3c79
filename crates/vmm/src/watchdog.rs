//! Finds a VMM that is alive and does not answer its control socket any more. Such a machine can neither be paused nor
//! asked for its state, so the drivers kill it.
//!
//! ```text
//! question ─┬─► answered ──────────────────────────► the count of silences is zero
//!           ├─► no answer, and a stall explains it ──► the count is zero, and the stall is logged
//!           └─► no answer, and nothing explains it ──► the count grows ──SILENT_MAX──► hung
//! ```
//!
//! A sandbox is lost with its VMM, so a silence counts only if the kernel shows that the VMM could have answered
//! (`standing.rs`). A VMM that is stopped, swapped out or starved of CPU, and one whose host was suspended, is waited
//! for without end. After a stall the count begins anew, because a VMM needs time to get its memory and its backlog
//! back, and a hung one only lives a few minutes longer by it.

use crate::cgroup::Cgroup;
use crate::error::ExitReason;
use crate::standing::{INTERVAL, Stall, Standing, stall};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// The time between two questions. Answering one costs a VMM about as much as one timer interrupt of its guest.
const PERIOD: Duration = Duration::from_secs(30);
/// The longest time for one question. The drivers' own deadline of 20 s comes before it, unless other commands wait for
/// their turn before the question.
const DEADLINE: Duration = Duration::from_secs(25);
/// A VMM counts as hung after so many silent questions without anything else in between: at least 120 s from the first
/// one's beginning to the last one's end.
const SILENT_MAX: u32 = 5;

/// What came of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Answered,
    /// The VMM has the question, or refuses to take it, and there is no answer.
    Silent,
    /// The question did not reach the VMM, for a reason that is not the VMM's.
    NotAsked,
}

/// Asks `ask` in intervals whether process `pid` in `group` answers. Returns once it has been silent for too long
/// although it could have answered.
pub(crate) async fn watch<F>(pid: i32, group: &Cgroup, ask: impl Fn() -> F) -> ExitReason
where
    F: Future<Output = Reply>,
{
    watch_with(pid, || Standing::read(pid, group), ask).await
}

async fn watch_with<F>(pid: i32, look: impl Fn() -> Standing, ask: impl Fn() -> F) -> ExitReason
where
    F: Future<Output = Reply>,
{
    let mut last_answer = Instant::now();
    let (mut silent, mut stall_is_logged) = (0, false);
    let mut before = look();
    loop {
        tokio::time::sleep(PERIOD).await;
        let (reply, seen) = question(&look, &ask).await;
        match judge(reply, &before, &seen) {
            Verdict::Alive => {
                last_answer = Instant::now();
                (silent, stall_is_logged) = (0, false);
            }
            Verdict::Slow(why) => {
                silent = 0;
                // Once until it answers again, because a stall can last for hours, and of all VMMs at once.
                if !stall_is_logged {
                    let silent_s = last_answer.elapsed().as_secs();
                    tracing::warn!(
                        event = "vmm_stalled", pid, %why, silent_s,
                        "a virtual machine monitor does not answer, which is not its own fault: it is waited for"
                    );
                }
                stall_is_logged = true;
            }
            Verdict::Silent => silent += 1,
        }
        if silent >= SILENT_MAX {
            return ExitReason::Hung { seconds: last_answer.elapsed().as_secs() };
        }
        before = seen.last().copied().unwrap_or(before);
    }
}

/// Asks one question. Returns what came of it, and the readings from its beginning to its end.
async fn question<F>(look: &impl Fn() -> Standing, ask: &impl Fn() -> F) -> (Reply, Vec<Standing>)
where
    F: Future<Output = Reply>,
{
    let mut seen = vec![look()];
    let answer = tokio::time::timeout(DEADLINE, ask());
    tokio::pin!(answer);
    let reply = loop {
        tokio::select! {
            // An answer that is there counts, however late this server comes to read it.
            biased;
            reply = &mut answer => break reply.unwrap_or(Reply::Silent),
            () = tokio::time::sleep(INTERVAL) => seen.push(look()),
        }
    };
    seen.push(look());
    (reply, seen)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Alive,
    Slow(Stall),
    Silent,
}

/// Judges one question; `before` is the last reading of the question before it.
fn judge(reply: Reply, before: &Standing, seen: &[Standing]) -> Verdict {
    // A server or a host that stood still between two questions has only just gone on when it asked this one.
    let paused = seen.first().is_some_and(|first| first.stood_still_since(before, PERIOD));
    match reply {
        Reply::Answered => Verdict::Alive,
        Reply::NotAsked => Verdict::Slow(Stall::NotAsked),
        Reply::Silent if paused => Verdict::Slow(Stall::ServerStoodStill),
        Reply::Silent => stall(seen).map_or(Verdict::Silent, Verdict::Slow),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::standing::CpuTime;
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};

    const HOUR: Duration = Duration::from_secs(3600);

    fn asleep() -> Standing {
        let cpu = Some(CpuTime { ran: Duration::ZERO, waited: Duration::ZERO });
        Standing { at: Instant::now(), suspended: Duration::ZERO, state: Some('S'), cpu, frozen: false }
    }

    fn stopped() -> Standing {
        Standing { state: Some('T'), ..asleep() }
    }

    /// Whether a VMM with these answers and readings lives through `time`.
    async fn lives<F: Future<Output = Reply>>(
        time: Duration,
        look: impl Fn() -> Standing,
        ask: impl Fn() -> F,
    ) -> bool {
        tokio::time::timeout(time, watch_with(1, look, ask)).await.is_err()
    }

    async fn hung_after<F: Future<Output = Reply>>(ask: impl Fn() -> F) -> u64 {
        match watch_with(1, asleep, ask).await {
            ExitReason::Hung { seconds } => seconds,
            reason => panic!("{reason:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_vmm_that_never_answers_is_hung() {
        let seconds = hung_after(pending).await;
        assert!((5 * 55..5 * 55 + 2).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_refuses_every_question_at_once_has_two_minutes_as_well() {
        let seconds = hung_after(|| async { Reply::Silent }).await;
        assert!((150..152).contains(&seconds), "{seconds}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_now_and_then_is_not() {
        let asked = AtomicU32::new(0);
        let now_and_then = || async {
            let answers = asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(SILENT_MAX);
            if answers { Reply::Answered } else { pending().await }
        };
        assert!(lives(HOUR, asleep, now_and_then).await, "it was judged hung");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_stopped_is_waited_for_without_end() {
        assert!(lives(24 * HOUR, stopped, pending).await, "it was judged hung");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_this_server_cannot_ask_is_waited_for_without_end() {
        assert!(lives(24 * HOUR, asleep, || async { Reply::NotAsked }).await, "it was judged hung");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_stall_the_count_begins_anew() {
        let asked = AtomicU32::new(0);
        let ask = || {
            asked.fetch_add(1, Ordering::Relaxed);
            pending()
        };
        // Never five silent questions between two stalls.
        let look = || if asked.load(Ordering::Relaxed).is_multiple_of(5) { stopped() } else { asleep() };
        assert!(lives(HOUR, look, ask).await, "it was judged hung");
    }

    #[tokio::test(start_paused = true)]
    async fn the_silence_of_a_host_that_is_suspended_again_and_again_does_not_count() {
        let readings = AtomicU32::new(0);
        let look = || {
            let hours = readings.fetch_add(1, Ordering::Relaxed) / 20;
            Standing { suspended: hours * HOUR, ..asleep() }
        };
        assert!(lives(HOUR, look, pending).await, "it was judged hung");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_stood_still_between_two_questions_does_not_count_the_next_one() {
        let before = asleep();
        tokio::time::advance(2 * PERIOD).await;
        let seen = [asleep(), asleep()];
        assert_eq!(judge(Reply::Silent, &before, &seen), Verdict::Slow(Stall::ServerStoodStill));
        assert_eq!(judge(Reply::Answered, &before, &seen), Verdict::Alive);
        assert_eq!(judge(Reply::Silent, &seen[0], &seen), Verdict::Silent);
    }
}
