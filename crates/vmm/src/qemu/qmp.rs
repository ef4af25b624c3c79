//! A client of QEMU's control protocol (QMP): one JSON object per line, one command at a time, events in between.
//!
//! ```text
//! command ─► {"execute": …, "id": 7} ─► QEMU ─► {"return": …, "id": 7} ─► the command that waits for 7
//!                                           ├─► {"return": …, "id": 6} ─► dropped: command 6 was given up
//!                                           └─► {"event": …}           ─► Events
//! ```
//!
//! A command is given up when its deadline ends or its caller is dropped. Its answer may come later, after minutes if
//! the host stood still, and is told from those of later commands by its id.
//!
//! The other end is a process that a guest may have taken over: lines are bounded, and every answer has a deadline.

use crate::error::{PLAIN_MAX, VmmError};
use leapbox_errors::{FileError, one_line};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::oneshot::error::RecvError;
use tokio::sync::{oneshot, watch};
use tokio::time::error::Elapsed;

/// The longest line that is read, in bytes. The longest real one is the console's 64 KiB, of which every byte may be
/// escaped with six.
const LINE_MAX: u64 = 1 << 20;
/// How long QEMU may take to answer a command before the command is given up.
const CONTROL_DEADLINE: Duration = Duration::from_secs(20);
/// The first thing that is waited for, as errors name it.
const GREETING: &str = "a connection to its control socket";

/// The events that QEMU has sent so far, as far as they matter.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// The guest shut down, rebooted or panicked.
    pub shutdown: bool,
    /// The latest status of the last migration, `completed` for example.
    pub migration: Option<String>,
}

/// An open control connection. Commands from several tasks wait for one another. Dropping it closes the connection, for
/// QEMU serves only one at a time.
#[derive(Debug)]
pub struct Qmp {
    commands: tokio::sync::Mutex<Commands>,
    answers: Arc<Answers>,
    events: watch::Receiver<Events>,
    /// How long a command waits for its answer.
    deadline: Duration,
}

#[derive(Debug)]
struct Commands {
    to: OwnedWriteHalf,
    /// The id of the last command.
    last_id: u64,
}

/// What the reading task and the commands share.
#[derive(Debug, Default)]
struct Answers {
    slot: Mutex<Slot>,
    heard: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    /// The id of the last command, until it is answered, and who is to get the answer.
    awaited: Option<(u64, oneshot::Sender<Value>)>,
    /// No answer will come any more.
    closed: bool,
}

impl Answers {
    /// Makes the place for the answer to command `id`, in place of an earlier command's. `None` if the connection has
    /// ended.
    fn expect(&self, id: u64) -> Option<oneshot::Receiver<Value>> {
        let (sender, receiver) = oneshot::channel();
        let mut slot = self.slot.lock();
        slot.awaited = Some((id, sender));
        (!slot.closed).then_some(receiver)
    }

    /// Hands an answer to the command that waits for it and drops every other: answers to no command, however many, must
    /// neither fill memory nor hold up the events.
    fn deliver(&self, answer: Value) {
        self.heard.fetch_add(1, Ordering::Relaxed);
        // QEMU gives back the id of every command that it could read. It answers without one if a line is no JSON
        // object, which ours always is.
        let id = answer.get("id").and_then(Value::as_u64);
        let awaited = self.slot.lock().awaited.take_if(|(awaited, _)| Some(*awaited) == id);
        if let Some((_, sender)) = awaited {
            // An error if the command was given up.
            let _ = sender.send(answer);
        }
    }

    /// Ends the wait of the command that waits, and that of all later ones.
    fn close(&self) {
        *self.slot.lock() = Slot { awaited: None, closed: true };
    }
}

impl Qmp {
    /// Connects, waits for the greeting, which QEMU sends once it has started, and leaves QMP's negotiation mode.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Self, VmmError> {
        let connected = UnixStream::connect(socket).await;
        let stream = connected.map_err(FileError::of("connecting to the control socket", socket))?;
        let (from, to) = stream.into_split();
        let mut from = BufReader::new(from);
        greeting(&mut from, deadline).await?;
        let (event, events) = watch::channel(Events::default());
        let answers = Arc::<Answers>::default();
        tokio::spawn(read(from, Arc::clone(&answers), event));
        let commands = tokio::sync::Mutex::new(Commands { to, last_id: 0 });
        let qmp = Self { commands, answers, events, deadline: CONTROL_DEADLINE };
        qmp.run("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// The number of answers that have come so far, also of those that came too late for their commands. If it has
    /// grown, QEMU is alive.
    pub fn heard(&self) -> u64 {
        self.answers.heard.load(Ordering::Relaxed)
    }

    /// Runs one command and returns its `return` value. The command is given up if the future is dropped or the error is
    /// [`VmmError::Hung`]; QEMU may still run it.
    pub async fn run(&self, command: &str, arguments: Value) -> Result<Value, VmmError> {
        self.exchange(command, arguments, None).await
    }

    /// Gives QEMU a duplicate of a descriptor, which it can then open as `/dev/fdset/SET`. Of several in one set, QEMU
    /// takes the one added last.
    pub async fn add_fd(&self, set: i32, fd: BorrowedFd<'_>) -> Result<(), VmmError> {
        self.exchange("add-fd", json!({"fdset-id": set}), Some(fd)).await.map(drop)
    }

    async fn exchange(&self, command: &str, arguments: Value, fd: Option<BorrowedFd<'_>>) -> Result<Value, VmmError> {
        let mut commands = self.commands.lock().await;
        commands.last_id += 1;
        let id = commands.last_id;
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments, "id": id}));
        // Before the line is sent: the answer may be there before the sending returns.
        let answer = self.answers.expect(id).ok_or_else(|| closed(command))?;
        let exchanged = async {
            let sent = send(&commands.to, line.as_bytes(), fd).await;
            sent.map_err(|source| VmmError::System { step: "writing to the control socket", source })?;
            answer.await.map_err(|_: RecvError| closed(command))
        };
        // The sending is inside the deadline as well: a QEMU that is stopped takes nothing out of the socket's buffer.
        let answer = tokio::time::timeout(self.deadline, exchanged).await;
        let answer = answer.map_err(|_: Elapsed| hung(command, self.deadline))??;
        drop(commands);
        if let Some(value) = answer.get("return") {
            return Ok(value.clone());
        }
        let message = answer.pointer("/error/desc").and_then(Value::as_str).unwrap_or("no reason given");
        // Cut to one short line: a guest that has taken over its QEMU writes this text into our log.
        Err(VmmError::Refused { command: command.to_owned(), message: one_line(message, PLAIN_MAX) })
    }

    /// Waits until the last migration has ended; an error if it has failed.
    pub async fn migrated(&self, command: &str) -> Result<(), VmmError> {
        // The events are state and not a stream, so one that came before this call is not missed.
        let mut events = self.events.clone();
        let ended = events.wait_for(|e| matches!(e.migration.as_deref(), Some("completed" | "failed")));
        let ended = tokio::time::timeout(self.deadline, ended).await;
        let state = match &ended {
            Err(_) => return Err(hung(command, self.deadline)),
            Ok(Err(_)) => return Err(closed(command)),
            Ok(Ok(events)) => events.migration.clone(),
        };
        if state.as_deref() == Some("completed") {
            return Ok(());
        }
        Err(VmmError::Refused { command: command.to_owned(), message: "the migration failed".to_owned() })
    }

    /// Waits until the guest has shut down.
    pub async fn shutdown(&self) {
        let mut events = self.events.clone();
        if events.wait_for(|e| e.shutdown).await.is_err() {
            // The connection has ended, which is no shutdown: the process's exit or the watchdog gives the reason.
            std::future::pending::<()>().await;
        }
    }
}

/// Sends a line, with a descriptor attached if there is one. If the future is dropped, the line was sent whole or not at
/// all: the kernel copies a line as small as ours (less than 1 KiB) into the socket's buffer in one piece, or refuses it
/// if it does not fit. A command that is given up can therefore never leave half a line, to which the next would be
/// added.
async fn send(to: &OwnedWriteHalf, line: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let fds: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let stream = to.as_ref();
    let send = || {
        let rights = [ControlMessage::ScmRights(&fds)];
        // One message of rights for one descriptor, none for none.
        let control = &rights[..fds.len()];
        let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(line)], control, MsgFlags::MSG_DONTWAIT, None)?;
        if sent == line.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    };
    stream.async_io(Interest::WRITABLE, send).await
}

fn hung(command: &str, deadline: Duration) -> VmmError {
    VmmError::Hung { command: command.to_owned(), seconds: deadline.as_secs() }
}

fn closed(command: &str) -> VmmError {
    VmmError::Protocol { command: command.to_owned(), message: "the control connection ended".to_owned() }
}

/// Waits for the greeting, which is the first line and the only answer without an id. QEMU sends no events before its
/// negotiation mode is left.
async fn greeting(from: &mut BufReader<OwnedReadHalf>, deadline: Duration) -> Result<(), VmmError> {
    let mut line = Vec::new();
    let first = tokio::time::timeout(deadline, next(from, &mut line)).await;
    let first = first.map_err(|_: Elapsed| hung(GREETING, deadline))?.ok_or_else(|| closed(GREETING))?;
    if first.get("QMP").is_some() {
        return Ok(());
    }
    // Cut to one short line, as in `exchange`.
    let message = one_line(&first.to_string(), PLAIN_MAX);
    Err(VmmError::Protocol { command: GREETING.to_owned(), message })
}

/// Reads one line, into `line`, as JSON. `None` if the connection has ended or the other end breaks the protocol.
async fn next(from: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> Option<Value> {
    line.clear();
    from.take(LINE_MAX).read_until(b'\n', line).await.ok()?;
    if line.last() != Some(&b'\n') {
        return None;
    }
    serde_json::from_slice(line).ok()
}

/// Reads until the connection ends or the [`Qmp`] is dropped.
async fn read(from: BufReader<OwnedReadHalf>, answers: Arc<Answers>, events: watch::Sender<Events>) {
    tokio::select! {
        () = sort(from, &answers, &events) => {}
        // The connection must not stay open without its owner: QEMU would greet nobody else.
        () = events.closed() => {}
    }
    answers.close();
}

/// Sorts incoming lines into answers and events until the connection ends or the other end breaks the protocol. It
/// reads without pause, so that QEMU never waits for this process with an event.
async fn sort(mut from: BufReader<OwnedReadHalf>, answers: &Answers, events: &watch::Sender<Events>) {
    let mut line = Vec::new();
    while let Some(value) = next(&mut from, &mut line).await {
        let Some(event) = value.get("event").and_then(Value::as_str) else {
            answers.deliver(value);
            continue;
        };
        match event {
            "SHUTDOWN" => events.send_modify(|e| e.shutdown = true),
            "MIGRATION" => {
                let status = value.pointer("/data/status").and_then(Value::as_str).map(str::to_owned);
                events.send_modify(|e| e.migration = status);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
