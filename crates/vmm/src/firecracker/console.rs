//! The guest's console and the VMM's log, both of which Firecracker writes to its standard output: a pipe.
//!
//! ```text
//! firecracker ─stdout─► pipe (64 KiB) ─► this server's reader ─► the last 64 KiB, in memory
//! ```
//!
//! Firecracker's end is open for reading, too, and does not block: while no server reads, what does not fit is
//! dropped, and neither does the guest wait nor is Firecracker told by a signal, whose handler would print again.
//! The next server opens the reading end anew.

use crate::error::VmmError;
use leapbox_errors::FileError;
use nix::fcntl::OFlag;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::watch;

/// Bytes kept.
const KEPT: usize = 64 * 1024;
/// The kernel's last words when it halts or powers off (kernel/reboot.c). Firecracker can't be powered off by its guest
/// and would idle on for ever.
const LAST: [&[u8]; 2] = [b"reboot: System halted", b"reboot: Power down"];
const LONGEST: usize = LAST[0].len();
/// Between two reads: 64 KiB each, so that 3 MiB a second are kept up with.
const PACE: Duration = Duration::from_millis(20);
/// How long after the process's end its last words may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How far the reader is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    halted: bool,
    ended: bool,
}

/// The console of one machine. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Console {
    tail: Arc<Mutex<VecDeque<u8>>>,
    progress: watch::Receiver<Progress>,
}

impl Console {
    /// A new pipe: its reader, and the end to be given to Firecracker and then dropped.
    pub fn new() -> Result<(Self, File), VmmError> {
        let system = |step| move |source| VmmError::System { step, source };
        let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)
            .map_err(|errno| VmmError::System { step: "making the console's pipe", source: errno.into() })?;
        let both = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(format!("/proc/self/fd/{}", write.as_raw_fd()))
            .map_err(system("opening the console's pipe"))?;
        Ok((Self::read(read)?, both))
    }

    /// The console of a process that a former server started, from here on.
    pub fn adopted(pid: i32) -> Result<Self, VmmError> {
        let path = format!("/proc/{pid}/fd/1");
        let opened = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
        let file = opened.map_err(FileError::of("opening", path))?;
        Self::read(file.into())
    }

    fn read(fd: OwnedFd) -> Result<Self, VmmError> {
        let from = pipe::Receiver::from_owned_fd(fd)
            .map_err(|source| VmmError::System { step: "reading the console's pipe", source })?;
        let (told, progress) = watch::channel(Progress::default());
        let tail = Arc::default();
        tokio::spawn(keep_tail(from, Arc::clone(&tail), told));
        Ok(Self { tail, progress })
    }

    /// Its end.
    pub fn text(&self) -> String {
        let tail = self.tail.lock();
        let (first, second) = tail.as_slices();
        String::from_utf8_lossy(&[first, second].concat()).trim().to_owned()
    }

    /// The end of one whose process is gone.
    pub async fn last_words(&self) -> String {
        let mut progress = self.progress.clone();
        // A process that was given the pipe's end by the first one may live on: that is no reason to wait.
        let _ = tokio::time::timeout(LAST_WORDS, progress.wait_for(|p| p.ended)).await;
        self.text()
    }

    /// Comes to an end when the guest has halted itself. A guest that forges the words ends itself, too.
    pub async fn halted(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|p| p.halted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn keep_tail(mut from: pipe::Receiver, tail: Arc<Mutex<VecDeque<u8>>>, told: watch::Sender<Progress>) {
    let mut buffer = vec![0; KEPT];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if keep(&tail, &buffer[..read]) {
            told.send_modify(|p| p.halted = true);
        }
        // A guest that floods its console, byte by byte, must not have this process wake up for every one of them.
        tokio::time::sleep(PACE).await;
    }
    told.send_modify(|p| p.ended = true);
}

/// Appends to the tail. Whether the kernel's last words are in what is new.
fn keep(tail: &Mutex<VecDeque<u8>>, new: &[u8]) -> bool {
    let mut tail = tail.lock();
    tail.extend(new);
    let excess = tail.len().saturating_sub(KEPT);
    tail.drain(..excess);
    // They may have come in two pieces.
    let start = tail.len().saturating_sub(new.len() + LONGEST);
    let recent: Vec<u8> = tail.range(start..).copied().collect();
    drop(tail);
    LAST.iter().any(|last| recent.windows(last.len()).any(|words| words == *last))
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
        let text = console.last_words().await;
        assert!(text.len() <= KEPT && text.ends_with("line 39999"), "{} bytes", text.len());
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
