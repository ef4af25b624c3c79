//! Reads a command's output while it runs, within limits. Called by `exec`.

use super::spawn::Child;
use crate::budget::Lease;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

// What the command itself wrote is in its pipes when it ends; this gives processes that it started a moment to finish.
// Background processes may hold the pipes for ever, and the answer does not wait for those.
const GRACE: Duration = Duration::from_millis(50);
/// Bytes read at a time.
const CHUNK: usize = 16 << 10;
/// Bytes of each stream kept without a lease, so that short answers are complete even while others hold all memory.
const UNLEASED: usize = 16 << 10;
/// Bytes of output by which the lease grows. Twice as many are leased: for the output, and for the frame it is sent in.
const LEASE_STEP: usize = 128 << 10;

/// The output of stdout or stderr.
pub(crate) struct Stream {
    pub(crate) bytes: Vec<u8>,
    /// There was more output than the limit or the free memory allowed; it was read and dropped.
    pub(crate) truncated: bool,
    pipe: Option<PipeReader>,
    limit: usize,
    granted: usize,
}

/// The output of stdout and stderr, in this order.
pub(crate) struct Capture {
    streams: [Stream; 2],
}

impl Capture {
    /// Starts with empty output; at most `limit` bytes of each stream will be kept.
    pub(crate) fn new(pipes: [PipeReader; 2], limit: usize) -> Self {
        let stream = |pipe| Stream { bytes: Vec::new(), truncated: false, pipe: Some(pipe), limit, granted: UNLEASED };
        Self { streams: pipes.map(stream) }
    }

    /// Reads until the command has ended, its time is up, or its caller has hung up.
    pub(crate) fn until_end(
        &mut self,
        child: &Child,
        caller: Option<BorrowedFd<'_>>,
        deadline: Instant,
        lease: &mut Lease<'_>,
    ) -> End {
        loop {
            match self.step(Some(child), caller, deadline, lease) {
                Step::Ended => return End::Ended,
                Step::TimeOut => return End::TimeOut,
                Step::HungUp => return End::HungUp,
                Step::Read => {}
            }
        }
    }

    /// Reads the output that is left after the command has ended, for 50 ms at most.
    pub(crate) fn read_remaining(&mut self, lease: &mut Lease<'_>) {
        let deadline = Instant::now() + GRACE;
        while self.streams.iter().any(|stream| stream.pipe.is_some()) {
            match self.step(None, None, deadline, lease) {
                Step::Read => {}
                Step::Ended | Step::TimeOut | Step::HungUp => return,
            }
        }
    }

    /// Returns the output, and those of the pipes that some process still holds open.
    pub(crate) fn into_parts(mut self) -> ([Stream; 2], impl Iterator<Item = PipeReader>) {
        let open = [self.streams[0].pipe.take(), self.streams[1].pipe.take()];
        (self.streams, open.into_iter().flatten())
    }

    /// Waits for output or the end, and reads one chunk of each stream that has some.
    fn step(
        &mut self,
        child: Option<&Child>,
        caller: Option<BorrowedFd<'_>>,
        deadline: Instant,
        lease: &mut Lease<'_>,
    ) -> Step {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(4);
        polled.extend(child.map(|child| PollFd::new(child.pidfd(), PollFlags::POLLIN)));
        // The caller sends nothing after its call: if this is readable, it has closed the connection or reset it.
        polled.extend(caller.map(|caller| PollFd::new(caller, PollFlags::POLLIN)));
        let pipes = self.streams.iter().filter_map(|stream| stream.pipe.as_ref());
        polled.extend(pipes.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        match poll(&mut polled, timeout(left)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Step::Read,
            Err(_) => return Step::TimeOut,
        }
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true)).collect::<Vec<_>>().into_iter();
        let ended = child.is_some() && ready.next() == Some(true);
        let hung_up = caller.is_some() && ready.next() == Some(true);
        for stream in self.streams.iter_mut().filter(|stream| stream.pipe.is_some()) {
            if ready.next() == Some(true) {
                stream.read(lease);
            }
        }
        match (ended, hung_up, left.is_zero()) {
            (true, _, _) => Step::Ended,
            (false, true, _) => Step::HungUp,
            // Checked after every read, and not only when nothing is ready: output may never stop.
            (false, false, true) => Step::TimeOut,
            (false, false, false) => Step::Read,
        }
    }
}

/// The reason why reading a running command's output came to an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Ended,
    /// The command's own time-out has passed.
    TimeOut,
    /// The caller has closed its connection.
    HungUp,
}

enum Step {
    Read,
    Ended,
    TimeOut,
    HungUp,
}

/// The time left as poll(2) takes it, in milliseconds, rounded up: rounded down, the last millisecond would be polled
/// with 0, over and over.
pub(super) fn timeout(left: Duration) -> PollTimeout {
    let millis = left.as_nanos().div_ceil(1_000_000);
    i32::try_from(millis).ok().and_then(|millis| PollTimeout::try_from(millis).ok()).unwrap_or(PollTimeout::MAX)
}

impl Stream {
    /// Reads one chunk from a pipe that is ready. No other thread reads it, so this does not block.
    fn read(&mut self, lease: &mut Lease<'_>) {
        let Some(pipe) = &mut self.pipe else { return };
        let mut chunk = [0; CHUNK];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(len) => self.keep(&chunk[..len], lease),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => self.pipe = None,
        }
    }

    fn keep(&mut self, chunk: &[u8], lease: &mut Lease<'_>) {
        let wanted = (self.bytes.len() + chunk.len()).min(self.limit);
        if wanted > self.granted && !self.truncated && lease.try_grow(2 * LEASE_STEP) {
            self.granted += LEASE_STEP;
        }
        // Once bytes were dropped, none after them are kept: what is answered must be the beginning of the output.
        let free = if self.truncated { 0 } else { self.limit.min(self.granted) - self.bytes.len() };
        let kept = chunk.len().min(free);
        self.bytes.extend_from_slice(&chunk[..kept]);
        self.truncated |= kept < chunk.len();
    }
}
