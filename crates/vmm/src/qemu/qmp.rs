//! A client of QEMU's control protocol (QMP): one JSON object per line, one command at a time, events in between.
//!
//! The other end is a process that a guest may have taken over: lines are bounded, and every answer has a deadline.

use crate::error::{PLAIN_MAX, VmmError};
use leapbox_errors::{FileError, one_line};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::{Value, json};
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, mpsc, watch};

/// The longest line that is read, in bytes. The longest real one is the console's 64 KiB, of which every byte may be
/// escaped with six.
const LINE_MAX: u64 = 1 << 20;
/// The most answers that wait to be read. As there is one command at a time, more of them are a fault of the other end.
const ANSWERS_MAX: usize = 8;
/// How long QEMU may take to answer a command before it counts as hung.
const CONTROL_DEADLINE: Duration = Duration::from_secs(20);

/// The events that QEMU has sent so far, as far as they matter.
#[derive(Debug, Clone, Default)]
pub struct Events {
    /// The guest shut down, rebooted or panicked.
    pub shutdown: bool,
    /// The latest status of the last migration, `completed` for example.
    pub migration: Option<String>,
}

/// An open control connection. Commands from several tasks wait for one another.
#[derive(Debug)]
pub struct Qmp {
    commands: Mutex<Commands>,
    events: watch::Receiver<Events>,
}

#[derive(Debug)]
struct Commands {
    to: OwnedWriteHalf,
    answers: mpsc::Receiver<Value>,
    /// Set while an answer is due. If it is still set at the next command, that answer was not waited for and would be
    /// taken for the next command's.
    out_of_step: bool,
}

impl Qmp {
    /// Connects, waits for the greeting, which QEMU sends once it has started, and leaves QMP's negotiation mode.
    pub async fn connect(socket: &Path, deadline: Duration) -> Result<Self, VmmError> {
        let connected = UnixStream::connect(socket).await;
        let stream = connected.map_err(FileError::of("connecting to the control socket", socket))?;
        let (from, to) = stream.into_split();
        let (answer, answers) = mpsc::channel(ANSWERS_MAX);
        let (event, events) = watch::channel(Events::default());
        tokio::spawn(read(BufReader::new(from), answer, event));
        let qmp = Self { commands: Mutex::new(Commands { to, answers, out_of_step: false }), events };
        qmp.greeting(deadline).await?;
        qmp.run("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    async fn greeting(&self, deadline: Duration) -> Result<(), VmmError> {
        let mut commands = self.commands.lock().await;
        let greeting = next(&mut commands.answers, "a connection to its control socket", deadline).await?;
        if greeting.get("QMP").is_some() {
            return Ok(());
        }
        Err(VmmError::Protocol {
            command: "a connection to its control socket".to_owned(),
            // Cut to one short line, as in `exchange`.
            message: one_line(&greeting.to_string(), PLAIN_MAX),
        })
    }

    /// Runs one command and returns its `return` value.
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
        if commands.out_of_step {
            return Err(VmmError::Hung { command: command.to_owned(), seconds: 0 });
        }
        let line = format!("{}\n", json!({"execute": command, "arguments": arguments}));
        // Before the write: the caller may be dropped at any await from here on, and its answer would stay unread.
        commands.out_of_step = true;
        let written = match fd {
            None => commands.to.write_all(line.as_bytes()).await,
            Some(fd) => send_with_fd(&commands.to, line.as_bytes(), fd).await,
        };
        written.map_err(|source| VmmError::System { step: "writing to the control socket", source })?;
        let answer = next(&mut commands.answers, command, CONTROL_DEADLINE).await?;
        commands.out_of_step = false;
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
        let ended = tokio::time::timeout(CONTROL_DEADLINE, ended).await;
        let state = match &ended {
            Err(_) => return Err(hung(command, CONTROL_DEADLINE)),
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

/// Sends a line with a descriptor attached. The line is far smaller than the socket's buffer, so it is sent whole or
/// not at all.
async fn send_with_fd(to: &OwnedWriteHalf, line: &[u8], fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd.as_raw_fd()];
    let stream = to.as_ref();
    let send = || {
        let control = [ControlMessage::ScmRights(&fds)];
        let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(line)], &control, MsgFlags::MSG_DONTWAIT, None)?;
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

async fn next(answers: &mut mpsc::Receiver<Value>, command: &str, deadline: Duration) -> Result<Value, VmmError> {
    match tokio::time::timeout(deadline, answers.recv()).await {
        Err(_) => Err(hung(command, deadline)),
        Ok(None) => Err(closed(command)),
        Ok(Some(answer)) => Ok(answer),
    }
}

/// Sorts incoming lines into answers and events until the connection ends or the other end breaks the protocol. It
/// reads without pause, so that QEMU never waits for this process with an event.
async fn read(mut from: BufReader<OwnedReadHalf>, answers: mpsc::Sender<Value>, events: watch::Sender<Events>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut from).take(LINE_MAX).read_until(b'\n', &mut line).await;
        if !matches!(read, Ok(length) if length > 0) || line.last() != Some(&b'\n') {
            return;
        }
        let Ok(value) = serde_json::from_slice::<Value>(&line) else { return };
        let Some(event) = value.get("event").and_then(Value::as_str) else {
            // Without waiting: answers to no command, however many, must neither fill memory nor hold up the events.
            if answers.try_send(value).is_err() {
                return;
            }
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
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tokio::net::UnixListener;

    /// A QEMU that sends the first of `lines` as its greeting and one more for every command, whatever that is.
    fn sending(lines: Vec<Value>) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("qmp.sock");
        let listener = UnixListener::bind(&path).expect("bound");
        tokio::spawn(async move {
            let (from, mut to) = listener.accept().await.expect("a connection").0.into_split();
            let mut commands = BufReader::new(from).lines();
            for line in lines {
                let _ = to.write_all(format!("{line}\n").as_bytes()).await;
                let _ = commands.next_line().await;
            }
        });
        (dir, path)
    }

    /// A text that forges a line of the log and goes on for 64 KiB.
    fn hostile() -> String {
        format!("no\r\n2026-11-29T00:00:00Z ERROR leapbox: forged\u{85}\u{1b}[2J{}", "x".repeat(64 << 10))
    }

    fn assert_short_line(error: &VmmError, beginning: &str) {
        let (VmmError::Refused { message, .. } | VmmError::Protocol { message, .. }) = error else {
            panic!("{error:?}");
        };
        assert!(message.starts_with(beginning), "{message}");
        assert!(message.len() < 2 * PLAIN_MAX && !message.chars().any(char::is_control), "{message:?}");
    }

    #[tokio::test]
    async fn a_refusal_is_one_short_line() {
        let error = json!({"error": {"class": "GenericError", "desc": hostile()}});
        let (_dir, path) = sending(vec![json!({"QMP": {}}), json!({"return": {}}), error]);
        let qmp = Qmp::connect(&path, CONTROL_DEADLINE).await.expect("connected");
        let refused = qmp.run("cont", json!({})).await.expect_err("refused");
        assert!(matches!(refused, VmmError::Refused { .. }), "{refused:?}");
        assert_short_line(&refused, r"no\r\n2026-11-29T00:00:00Z ERROR leapbox: forged");
    }

    #[tokio::test]
    async fn a_greeting_that_is_none_is_told_in_one_short_line() {
        let (_dir, path) = sending(vec![json!({"hello": hostile()})]);
        let refused = Qmp::connect(&path, CONTROL_DEADLINE).await.expect_err("no greeting");
        assert!(matches!(refused, VmmError::Protocol { .. }), "{refused:?}");
        assert_short_line(&refused, r#"{"hello":"no\r\n2026"#);
    }
}
