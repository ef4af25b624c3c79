//! Plays QEMU's end of a control connection.

use super::*;
use std::path::PathBuf;
use tokio::io::{AsyncWriteExt, Lines};
use tokio::net::UnixListener;

/// Far longer than anything here takes, on a busy machine as well.
const PATIENCE: Duration = Duration::from_secs(60);
/// A deadline for commands that are not to be answered in time.
const SHORT: Duration = Duration::from_millis(20);

/// The other end.
struct Peer {
    commands: Lines<BufReader<OwnedReadHalf>>,
    to: OwnedWriteHalf,
}

impl Peer {
    async fn accept(listener: UnixListener) -> Self {
        let (from, to) = listener.accept().await.expect("a connection").0.into_split();
        Self { commands: BufReader::new(from).lines(), to }
    }

    async fn send(&mut self, line: Value) {
        self.to.write_all(format!("{line}\n").as_bytes()).await.expect("sent");
    }

    /// The next command; `None` if the connection was closed.
    async fn next(&mut self) -> Option<Value> {
        let line = tokio::time::timeout(PATIENCE, self.commands.next_line()).await.expect("a line, or the end");
        line.expect("read").map(|line| serde_json::from_str(&line).expect("a whole command"))
    }

    /// Answers command `id` with its own number, so that a mistaken answer is seen.
    async fn answer(&mut self, id: u64) {
        self.send(json!({"return": {"answers": id}, "id": id})).await;
    }
}

fn listen() -> (tempfile::TempDir, PathBuf, UnixListener) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("qmp.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    (dir, path, listener)
}

/// A connection that is ready for its second command, and its other end.
async fn connected() -> (tempfile::TempDir, Qmp, Peer) {
    let (dir, path, listener) = listen();
    let accepted = async {
        let mut peer = Peer::accept(listener).await;
        peer.send(json!({"QMP": {}})).await;
        let command = peer.next().await.expect("a command");
        assert_eq!((&command["execute"], &command["id"]), (&json!("qmp_capabilities"), &json!(1)));
        peer.answer(1).await;
        peer
    };
    let (qmp, peer) = tokio::join!(Qmp::connect(&path, PATIENCE), accepted);
    (dir, qmp.expect("connected"), peer)
}

async fn run(qmp: &Qmp) -> Result<Value, VmmError> {
    qmp.run("query-status", json!({})).await
}

/// Has `peer` answer command `id`, which is the next one that `qmp` sends.
async fn assert_answered(qmp: &Qmp, peer: &mut Peer, id: u64) {
    let answers = async {
        // Commands that were given up may be in between.
        while peer.next().await.expect("a command")["id"] != json!(id) {}
        peer.answer(id).await;
    };
    let (answer, ()) = tokio::join!(run(qmp), answers);
    assert_eq!(answer.expect("answered"), json!({"answers": id}));
}

/// Gives up `count` commands that nobody answers in time.
async fn give_up(qmp: &mut Qmp, count: u64) {
    qmp.deadline = SHORT;
    for _ in 0..count {
        let error = run(qmp).await.expect_err("no answer");
        assert!(matches!(error, VmmError::Hung { .. }), "{error:?}");
    }
    qmp.deadline = PATIENCE;
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_the_next_commands() {
    let (_dir, mut qmp, mut peer) = connected().await;
    give_up(&mut qmp, 1).await;
    let heard = qmp.heard();
    let answers = async {
        let ids = [peer.next().await, peer.next().await].map(|command| command.expect("a command")["id"].clone());
        assert_eq!(ids, [json!(2), json!(3)]);
        peer.answer(2).await;
        peer.answer(3).await;
    };
    let (answer, ()) = tokio::join!(run(&qmp), answers);
    assert_eq!(answer.expect("answered"), json!({"answers": 3}));
    assert_eq!(qmp.heard(), heard + 2, "a late answer is a sign of life");
    assert_answered(&qmp, &mut peer, 4).await;
}

#[tokio::test]
async fn fifty_late_answers_at_once_harm_nobody() {
    let (_dir, mut qmp, mut peer) = connected().await;
    give_up(&mut qmp, 50).await;
    for id in 2..52 {
        peer.answer(id).await;
    }
    assert_answered(&qmp, &mut peer, 52).await;
}

#[tokio::test]
async fn a_caller_that_is_dropped_in_the_middle_harms_nobody() {
    let (_dir, qmp, mut peer) = connected().await;
    tokio::select! {
        answer = run(&qmp) => panic!("{answer:?}"),
        command = peer.next() => assert_eq!(command.expect("a command")["id"], json!(2)),
    }
    peer.answer(2).await;
    assert_answered(&qmp, &mut peer, 3).await;
}

#[tokio::test]
async fn a_flood_of_answers_to_no_command_holds_up_neither_answers_nor_events() {
    let (_dir, qmp, mut peer) = connected().await;
    let answers = async {
        peer.next().await.expect("a command");
        for number in 0..5000u64 {
            peer.answer(1000 + number).await;
            peer.send(json!({"return": {}})).await;
            peer.send(json!({"error": {"desc": "no"}, "id": "2"})).await;
        }
        peer.send(json!({"event": "SHUTDOWN"})).await;
        peer.answer(2).await;
    };
    let (answer, ()) = tokio::join!(run(&qmp), answers);
    assert_eq!(answer.expect("answered"), json!({"answers": 2}));
    tokio::time::timeout(PATIENCE, qmp.shutdown()).await.expect("the event has come");
}

#[tokio::test]
async fn a_full_buffer_ends_no_command_in_the_middle() {
    let (_dir, mut qmp, mut peer) = connected().await;
    qmp.deadline = Duration::from_millis(1);
    // More than the buffer has room for. Of those that do not fit nothing is sent.
    for _ in 0..600 {
        run(&qmp).await.expect_err("no answer");
    }
    qmp.deadline = PATIENCE;
    // `next` fails at half a line.
    assert_answered(&qmp, &mut peer, 602).await;
}

#[tokio::test]
async fn when_the_connection_ends_the_waiting_command_and_later_ones_are_told_at_once() {
    let (_dir, qmp, mut peer) = connected().await;
    let ends = async {
        peer.next().await.expect("a command");
        drop(peer);
    };
    let (answer, ()) = tokio::join!(tokio::time::timeout(PATIENCE / 4, run(&qmp)), ends);
    for answer in [answer, tokio::time::timeout(PATIENCE / 4, run(&qmp)).await] {
        let error = answer.expect("at once").expect_err("closed");
        assert!(matches!(error, VmmError::Protocol { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_line_that_is_no_json_ends_the_connection() {
    let (_dir, qmp, mut peer) = connected().await;
    let breaks = async {
        peer.next().await.expect("a command");
        peer.to.write_all(b"{\"return\": \n").await.expect("sent");
    };
    let (answer, ()) = tokio::join!(run(&qmp), breaks);
    assert!(matches!(answer, Err(VmmError::Protocol { .. })), "{answer:?}");
}

#[tokio::test]
async fn a_client_that_is_dropped_leaves_its_place_to_the_next() {
    let (_dir, qmp, mut peer) = connected().await;
    drop(qmp);
    assert_eq!(peer.next().await, None);
    // Both directions are closed, not only the one that carried commands.
    let closed = async {
        while peer.to.write_all(b"{\"event\": \"RESUME\"}\n").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("closed");
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
    let (_dir, qmp, mut peer) = connected().await;
    let refuses = async {
        peer.next().await.expect("a command");
        peer.send(json!({"error": {"class": "GenericError", "desc": hostile()}, "id": 2})).await;
    };
    let (answer, ()) = tokio::join!(run(&qmp), refuses);
    let refused = answer.expect_err("refused");
    assert!(matches!(refused, VmmError::Refused { .. }), "{refused:?}");
    assert_short_line(&refused, r"no\r\n2026-11-29T00:00:00Z ERROR leapbox: forged");
}

#[tokio::test]
async fn a_greeting_that_is_none_is_told_in_one_short_line() {
    let (_dir, path, listener) = listen();
    let greets = async {
        let mut peer = Peer::accept(listener).await;
        peer.send(json!({"hello": hostile()})).await;
        peer
    };
    let (answer, _peer) = tokio::join!(Qmp::connect(&path, PATIENCE), greets);
    let refused = answer.expect_err("no greeting");
    assert!(matches!(refused, VmmError::Protocol { .. }), "{refused:?}");
    assert_short_line(&refused, r#"{"hello":"no\r\n2026"#);
}

#[tokio::test]
async fn a_greeting_that_does_not_come_is_waited_for_until_the_deadline() {
    let (_dir, path, _listener) = listen();
    let error = Qmp::connect(&path, SHORT).await.expect_err("no greeting");
    assert!(matches!(error, VmmError::Hung { .. }), "{error:?}");
}
