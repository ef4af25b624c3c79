//! Keeps the end of what Firecracker writes to its standard output: the guest's console and the VMM's own log.
//!
//! ```text
//! firecracker ─stdout─► pipe (64 KiB) ─► this server's reader ─► the last 64 KiB, in memory
//! ```
//!
//! While no server runs, nobody reads the pipe; what does not fit is then dropped. The next server opens the reading
//! end anew through /proc.

use crate::error::VmmError;
use crate::process::is_shortage;
use leapbox_errors::{FileError, chain};
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// The most that is kept of a console, in bytes.
const TAIL_BYTES: usize = 64 * 1024;
/// The kernel's message when it halts or powers off (kernel/reboot.c). Firecracker has no power-off: after it the
/// process would idle for ever, so the message is how the end of such a guest is noticed.
const HALT_MESSAGES: [&[u8]; 2] = [b"reboot: System halted", b"reboot: Power down"];
const LONGEST_HALT_MESSAGE: usize = HALT_MESSAGES[0].len();
/// The time between two reads of up to 64 KiB, which keeps up with 3 MiB a second.
const READ_INTERVAL: Duration = Duration::from_millis(20);
/// How long after the process's end its last output is waited for.
const FINAL_TEXT_TIMEOUT: Duration = Duration::from_millis(500);

/// The things that the reader has come across so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    /// A message of [`HALT_MESSAGES`].
    halted: bool,
    /// The end of the pipe: no process has its writing end open.
    ended: bool,
}

/// The console of one machine. Clones share its text.
#[derive(Debug, Clone)]
pub(super) struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
    progress: watch::Receiver<Progress>,
}

impl Console {
    /// Makes a pipe and starts reading it. The returned file is Firecracker's standard output; the caller must drop its
    /// copy after the launch, or the end of the pipe is never seen.
    pub fn new() -> Result<(Self, File), VmmError> {
        let system = |step| move |source| VmmError::System { step, source };
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map_err(|errno| VmmError::System { step: "making the console's pipe", source: errno.into() })?;
        // Firecracker's end is open for reading as well: a pipe without any reader would answer its writes with SIGPIPE
        // while no server runs, and the signal's handler would print again. It does not block, so that neither the VMM
        // nor its guest waits for a server.
        let both = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", write.as_raw_fd()))
            .map_err(system("opening the console's pipe"))?;
        Ok((Self::read(read).map_err(system("reading the console's pipe"))?, both))
    }

    /// Goes on reading the console of process `pid`, which a previous server started. What that server has read is
    /// lost. A console that cannot be read is no reason to give up a machine: it stays empty.
    pub fn adopted(pid: i32) -> Result<Self, VmmError> {
        let path = format!("/proc/{pid}/fd/1");
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        match opened.and_then(|file| Self::read(file.into())) {
            Ok(console) => Ok(console),
            // It passes, and the adoption is tried again.
            Err(source) if is_shortage(&source) => Err(FileError { step: "opening", path: path.into(), source }.into()),
            // A VMM that its guest has taken over has put something else there than its pipe.
            Err(error) => {
                tracing::warn!(pid, error = %chain(&error), "the console of an adopted VMM cannot be read");
                let (_, progress) = watch::channel(Progress::default());
                Ok(Self { tail: Arc::default(), progress })
            }
        }
    }

    fn read(fd: OwnedFd) -> io::Result<Self> {
        let from = pipe::Receiver::from_owned_fd(fd)?;
        let (sender, progress) = watch::channel(Progress::default());
        let tail = Arc::default();
        tokio::spawn(keep_tail(from, Arc::clone(&tail), sender));
        Ok(Self { tail, progress })
    }

    /// The last output so far, at most [`TAIL_BYTES`].
    pub fn text(&self) -> String {
        let tail = self.tail.lock();
        let (first, second) = tail.as_slices();
        String::from_utf8_lossy(&[first, second].concat()).trim().to_owned()
    }

    /// The last output of a process that has ended, once the pipe has been read to its end.
    pub async fn final_text(&self) -> String {
        let mut progress = self.progress.clone();
        // Bounded, because the end never comes if a VMM that its guest has taken over has handed the pipe to another
        // process.
        let _ = tokio::time::timeout(FINAL_TEXT_TIMEOUT, progress.wait_for(|p| p.ended)).await;
        self.text()
    }

    /// Waits until the guest has halted itself. A guest that prints the message without halting is ended as well, which
    /// harms nobody else.
    pub async fn halted(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|p| p.halted).await.is_err() {
            // The reader has stopped, so the process has ended or is about to, and its exit status says more than this.
            std::future::pending::<()>().await;
        }
    }
}

async fn keep_tail(mut from: pipe::Receiver, tail: Arc<Mutex<VecDeque<u8>>>, progress: watch::Sender<Progress>) {
    let mut buffer = vec![0; TAIL_BYTES];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            // The console was dropped. If its machine is adopted again, another reader has to get all of the rest.
            () = progress.closed() => return,
        };
        let Ok(read @ 1..) = read else { break };
        if keep(&tail, &buffer[..read]) {
            progress.send_modify(|p| p.halted = true);
        }
        // A guest that floods its console byte by byte must not wake this process for every one of them.
        tokio::time::sleep(READ_INTERVAL).await;
    }
    progress.send_modify(|p| p.ended = true);
}

/// Appends `new` to the tail. Returns whether that completes one of [`HALT_MESSAGES`].
fn keep(tail: &Mutex<VecDeque<u8>>, new: &[u8]) -> bool {
    let mut tail = tail.lock();
    tail.extend(new);
    let excess = tail.len().saturating_sub(TAIL_BYTES);
    tail.drain(..excess);
    // A message may have arrived in two pieces, so the end of what came before is searched as well.
    let start = tail.len().saturating_sub(new.len() + LONGEST_HALT_MESSAGE);
    let recent: Vec<u8> = tail.range(start..).copied().collect();
    drop(tail);
    HALT_MESSAGES.iter().any(|last| recent.windows(last.len()).any(|words| words == *last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn case_05_of_a_flood_the_end_is_kept() {
        let (console, mut end) = Console::new().expect("made");
        for number in 0..40_000 {
            let line = format!("line {number}\n");
            while end.write_all(line.as_bytes()).is_err() {
                tokio::task::yield_now().await;
            }
        }
        drop(end);
        let text = console.final_text().await;
        assert!(text.len() <= TAIL_BYTES && text.ends_with("line 39999"), "{} bytes", text.len());
    }

    #[tokio::test]
    async fn without_a_reader_what_does_not_fit_is_dropped() {
        let (console, mut end) = Console::new().expect("made");
        // The reader gets no turn here.
        let line = [b'x'; 1024];
        let written = (0..1000).filter(|_| end.write(&line).is_ok()).count();
        assert!((1..1000).contains(&written), "{written}");
        drop(console);
    }

    #[tokio::test]
    async fn a_guest_that_halts_is_noticed_however_its_words_arrive() {
        let (console, mut end) = Console::new().expect("made");
        end.write_all(b"[    1.0] reboot: Sys").expect("written");
        while console.text().is_empty() {
            tokio::task::yield_now().await;
        }
        end.write_all(b"tem halted\n").expect("written");
        console.halted().await;
        assert!(console.text().ends_with("System halted"));
    }

    #[tokio::test]
    async fn a_console_that_is_no_pipe_is_adopted_as_an_empty_one() {
        let null = std::process::Stdio::null();
        let mut child = std::process::Command::new("sleep").arg("1000").stdout(null).spawn().expect("started");
        let console = Console::adopted(child.id() as i32).expect("adopted");
        assert_eq!(console.final_text().await, "");
        let halted = tokio::time::timeout(Duration::from_millis(20), console.halted()).await;
        assert!(halted.is_err(), "nothing is known of it");
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    #[tokio::test]
    async fn a_console_that_is_dropped_leaves_the_rest_to_the_next_reader() {
        let (first, mut end) = Console::new().expect("made");
        drop(first);
        // The first one's task gets its turn, sees that, and ends.
        tokio::task::yield_now().await;
        end.write_all(b"later\n").expect("written");
        let path = format!("/proc/self/fd/{}", end.as_raw_fd());
        let again = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path);
        let second = Console::read(again.expect("opened").into()).expect("read");
        while second.text() != "later" {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_later_server_reads_on() {
        let (_console, mut end) = Console::new().expect("made");
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read go; echo after; read end"])
            .stdin(std::process::Stdio::piped())
            .stdout(end.try_clone().expect("cloned"))
            .spawn()
            .expect("started");
        end.write_all(b"before\n").expect("written");
        drop(_console);
        let adopted = Console::adopted(child.id() as i32).expect("opened");
        let stdin = child.stdin.as_mut().expect("piped");
        stdin.write_all(b"\n").expect("told");
        while !adopted.text().ends_with("after") {
            tokio::task::yield_now().await;
        }
        stdin.write_all(b"\n").expect("told");
        child.wait().expect("ended");
    }
}
