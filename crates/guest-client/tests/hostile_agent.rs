//! Case 7: malformed, oversized, slow or endless answers from the guest's agent end in a typed error, with bounded
//! memory, within the deadline. The agents here are real listeners on loopback that misbehave.

use async_trait::async_trait;
use leapbox_guest_client::protocol::*;
use leapbox_guest_client::{Dial, GuestClient, GuestError};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

struct Loopback(SocketAddr);

#[async_trait]
impl Dial for Loopback {
    async fn dial(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }
}

/// Serves every connection with `behave`, after the call's frame was read.
async fn agent<F, B>(behave: B) -> GuestClient
where
    B: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut prefix = [0; PREFIX_LEN];
            if stream.read_exact(&mut prefix).await.is_ok() {
                let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
                if stream.read_exact(&mut body).await.is_ok() {
                    tokio::spawn(behave(stream));
                }
            }
        }
    });
    GuestClient::new(Arc::new(Loopback(address)))
}

/// An agent that always sends these bytes and then keeps the connection open.
async fn agent_saying(bytes: Vec<u8>) -> GuestClient {
    agent_saying_after(Duration::ZERO, bytes).await
}

async fn agent_saying_after(pause: Duration, bytes: Vec<u8>) -> GuestClient {
    agent(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            tokio::time::sleep(pause).await;
            let _ = stream.write_all(&bytes).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await
}

fn short_command() -> ExecRequest {
    ExecRequest { command: "true".into(), cwd: None, env: vec![], timeout_ms: 1, output_limit: 1024 }
}

#[tokio::test]
async fn case_07_an_answer_of_garbage_is_malformed() {
    let guest = agent_saying(vec![0, 0, 0, 3, 0xde, 0xad, 0xbe]).await;
    assert!(matches!(guest.ping().await, Err(GuestError::Malformed { .. })));
    assert!(matches!(guest.wait_ready(Duration::from_secs(5)).await, Err(GuestError::Malformed { .. })));
}

#[tokio::test]
async fn case_07_an_answer_to_another_question_is_refused() {
    let guest = agent_saying(encode(&Response::Ok(Reply::Exists(true))).expect("encodes")).await;
    assert!(matches!(guest.ping().await, Err(GuestError::Unexpected { operation: "ping" })));
    assert!(matches!(guest.connect_port(80).await, Err(GuestError::Unexpected { .. })));
}

#[tokio::test]
async fn case_07_an_announced_length_above_the_cap_is_refused_at_once() {
    let guest = agent_saying(vec![0xff; 4]).await;
    let content = guest.read_file(ReadFile { path: "f".into(), ..ReadFile::default() }).await;
    assert!(matches!(content, Err(GuestError::Oversized { cap: MAX_FRAME, .. })));
}

#[tokio::test]
async fn case_07_an_answer_without_content_may_not_be_large() {
    let guest = agent_saying((1u32 << 20).to_be_bytes().to_vec()).await;
    assert!(matches!(guest.ping().await, Err(GuestError::Oversized { cap: SMALL_FRAME, .. })));
}

#[tokio::test]
async fn case_07_a_trickling_answer_ends_at_the_deadline() {
    let guest = agent(|mut stream| async move {
        let _ = stream.write_all(&1000u32.to_be_bytes()).await;
        while stream.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .with_deadline(Duration::from_millis(300));
    assert!(matches!(guest.ping().await, Err(GuestError::Deadline { operation: "ping", .. })));
}

#[tokio::test]
async fn case_07_silence_ends_at_the_deadline_of_the_operation() {
    let guest = agent_saying(vec![]).await.with_deadline(Duration::from_millis(200));
    assert!(matches!(guest.stat("/").await, Err(GuestError::Deadline { operation: "stat", .. })));
    let ended = guest.exec(short_command()).await;
    assert!(matches!(ended, Err(GuestError::Deadline { operation: "exec", .. })));
}

#[tokio::test]
async fn case_07_an_endless_answer_is_read_only_up_to_its_announced_end() {
    let pong = Pong { version: PROTOCOL_VERSION, uptime_ms: 1, phase: Phase::Configured };
    let frame = encode(&Response::Ok(Reply::Pong(pong.clone()))).expect("encodes");
    let guest = agent(move |mut stream| {
        let frame = frame.clone();
        async move {
            let _ = stream.write_all(&frame).await;
            while stream.write_all(&[0; 65536]).await.is_ok() {}
        }
    })
    .await;
    assert_eq!(guest.ping().await.expect("the frame itself is sound"), pong);
}

#[tokio::test]
async fn case_07_an_endless_body_is_cut_at_the_cap() {
    let guest = agent(|mut stream| async move {
        let announced = u32::try_from(MAX_FRAME).expect("fits");
        let _ = stream.write_all(&announced.to_be_bytes()).await;
        while stream.write_all(&[0xff; 65536]).await.is_ok() {}
    })
    .await;
    let ended = guest.exec(short_command()).await;
    assert!(matches!(ended, Err(GuestError::Malformed { .. })));
}

#[tokio::test]
async fn case_07_a_connection_closed_in_the_middle_is_told_apart() {
    let guest = agent(|mut stream| async move {
        let _ = stream.write_all(&[0, 0, 1, 0, 0]).await;
    })
    .await;
    assert!(matches!(guest.ping().await, Err(GuestError::Closed { .. })));
}

#[tokio::test]
async fn case_07_bytes_behind_the_answer_inside_its_frame_are_malformed() {
    let mut frame = encode(&Response::Ok(Reply::Done)).expect("encodes");
    frame[3] += 1;
    frame.push(0);
    let guest = agent_saying(frame).await;
    assert!(matches!(guest.warm().await, Err(GuestError::Malformed { .. })));
}

fn configure() -> Configure {
    Configure {
        hostname: "sbx-1".into(),
        entropy: Entropy([7; 64]),
        wall_clock_unix_ns: 1_700_000_000_000_000_000,
        identity: Some(Identity { machine_id: [1; 16], boot_id: [2; 16] }),
        env: Some(vec![]),
        restored: false,
        trust: None,
    }
}

fn confirmed() -> Configured {
    Configured {
        reseeded: true,
        wall_clock_unix_ns: 1_700_000_000_100_000_000,
        hostname: "sbx-1".into(),
        machine_id: [1; 16],
        boot_id: [2; 16],
    }
}

#[tokio::test]
async fn a_guest_that_does_not_confirm_every_part_is_not_configured() {
    let lies: [(&str, Configured); 5] = [
        ("fresh randomness", Configured { reseeded: false, ..confirmed() }),
        ("clock", Configured { wall_clock_unix_ns: 1_700_000_003_000_000_000, ..confirmed() }),
        ("host name", Configured { hostname: "other".into(), ..confirmed() }),
        ("machine id", Configured { machine_id: [9; 16], ..confirmed() }),
        ("boot id", Configured { boot_id: [9; 16], ..confirmed() }),
    ];
    for (part, answer) in lies {
        let frame = encode(&Response::Ok(Reply::Configured(answer))).expect("encodes");
        match agent_saying(frame).await.configure(configure()).await {
            Err(GuestError::NotConfirmed { what }) => assert_eq!(what, part),
            other => panic!("{part}: {other:?}"),
        }
    }
    let frame = encode(&Response::Ok(Reply::Configured(confirmed()))).expect("encodes");
    let outcome = agent_saying(frame).await.configure(configure()).await;
    assert_eq!(outcome.expect("all is confirmed"), confirmed());
}

#[tokio::test]
async fn a_guest_that_starves_between_setting_its_clock_and_reading_it_is_slow_and_not_wrong() {
    let late = Configured { wall_clock_unix_ns: 1_700_000_002_200_000_000, ..confirmed() };
    let frame = encode(&Response::Ok(Reply::Configured(late.clone()))).expect("encodes");
    let at_once = agent_saying(frame.clone()).await.configure(configure()).await;
    assert!(matches!(at_once, Err(GuestError::NotConfirmed { what: "clock" })));
    let slow = agent_saying_after(Duration::from_millis(300), frame).await;
    assert_eq!(slow.configure(configure()).await.expect("as late as the exchange was long"), late);

    // No slowness sets a clock back.
    let behind = Configured { wall_clock_unix_ns: 1_699_999_997_800_000_000, ..confirmed() };
    let frame = encode(&Response::Ok(Reply::Configured(behind))).expect("encodes");
    let slow = agent_saying_after(Duration::from_millis(300), frame).await;
    assert!(matches!(slow.configure(configure()).await, Err(GuestError::NotConfirmed { what: "clock" })));
}

#[tokio::test]
async fn a_guest_that_keeps_its_identity_still_confirms_all_the_rest() {
    let keep = Configure { identity: None, env: None, ..configure() };
    let told = Configured { machine_id: [8; 16], boot_id: [9; 16], ..confirmed() };
    let frame = encode(&Response::Ok(Reply::Configured(told.clone()))).expect("encodes");
    assert_eq!(agent_saying(frame).await.configure(keep.clone()).await.expect("kept"), told);
    let frame = encode(&Response::Ok(Reply::Configured(Configured { reseeded: false, ..told }))).expect("encodes");
    let outcome = agent_saying(frame).await.configure(keep).await;
    assert!(matches!(outcome, Err(GuestError::NotConfirmed { what: "fresh randomness" })));
}

#[tokio::test]
async fn a_guest_that_cannot_be_frozen_or_ended_is_waited_for_no_longer_than_agreed() {
    let guest = agent_saying(vec![]).await.with_deadline(Duration::from_millis(200));
    assert!(matches!(guest.suspend().await, Err(GuestError::Deadline { operation: "suspend", .. })));
    let ended = guest.shutdown(Duration::from_secs(3600)).await;
    assert!(matches!(ended, Err(GuestError::Deadline { operation: "shutdown", .. })));
    assert!(matches!(guest.mount().await, Err(GuestError::Deadline { operation: "mount", .. })));
}

#[tokio::test]
async fn an_agent_of_another_version_is_named_as_such() {
    let fault = GuestFault::new(FaultKind::VersionMismatch, "the agent speaks 7");
    let guest = agent_saying(encode(&Response::Err(fault)).expect("encodes")).await;
    match guest.ping().await {
        Err(GuestError::Version { message }) => assert_eq!(message, "the agent speaks 7"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_fault_passes_with_its_kind() {
    let fault = GuestFault::new(FaultKind::NotFound, "/x: no such file or directory");
    let guest = agent_saying(encode(&Response::Err(fault.clone())).expect("encodes")).await;
    match guest.stat("/x").await {
        Err(GuestError::Fault(told)) => assert_eq!(told, fault),
        other => panic!("{other:?}"),
    }
}

/// What an agent sends that wants to write into the host's log.
const FORGED: &str = "x\n2026-11-29T00:00:00Z ERROR leapbox: forged\r\u{1b}[2J";
const ESCAPED: &str = r"x\n2026-11-29T00:00:00Z ERROR leapbox: forged\r\u{1b}[2J";

#[tokio::test]
async fn case_07_a_hostile_fault_is_one_line_without_control_characters() {
    for kind in [FaultKind::Io, FaultKind::VersionMismatch] {
        let guest = agent_saying(encode(&Response::Err(GuestFault::new(kind, FORGED))).expect("encodes")).await;
        let error = guest.suspend().await.expect_err("a fault").to_string();
        assert!(error.ends_with(ESCAPED), "{error}");
        let error = guest.wait_ready(Duration::from_secs(5)).await.expect_err("a fault").to_string();
        assert!(error.ends_with(ESCAPED), "{error}");
    }
}

#[tokio::test]
async fn case_07_a_fault_of_a_mebibyte_is_cut_to_a_kibibyte() {
    let fault = GuestFault::new(FaultKind::NotFound, "\n".repeat(1 << 20));
    let guest = agent_saying(encode(&Response::Err(fault)).expect("encodes")).await;
    match guest.exec(short_command()).await {
        Err(GuestError::Fault(GuestFault { kind: FaultKind::NotFound, message })) => {
            assert_eq!(message, r"\n".repeat(512) + "…");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(guest.stat("/").await, Err(GuestError::Oversized { cap: SMALL_FRAME, .. })));
}

#[tokio::test]
async fn what_a_command_writes_is_not_touched() {
    let output = ExecOutput {
        exit_code: 0,
        stdout: FORGED.into(),
        stderr: FORGED.into(),
        timed_out: false,
        stdout_truncated: false,
        stderr_truncated: false,
    };
    let guest = agent_saying(encode(&Response::Ok(Reply::Exec(output.clone()))).expect("encodes")).await;
    assert_eq!(guest.exec(short_command()).await.expect("ended"), output);
}

#[tokio::test]
async fn a_busy_answer_counts_though_the_request_was_not_read() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("is bound");
    tokio::spawn(async move {
        let busy = encode(&Response::Err(GuestFault::new(FaultKind::Busy, "full"))).expect("encodes");
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&busy).await;
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 64]).await;
        }
    });
    let guest = GuestClient::new(Arc::new(Loopback(address)));
    match guest.write_file("big", None, &vec![0; MAX_CONTENT]).await {
        Err(GuestError::Fault(fault)) => assert_eq!(fault.kind, FaultKind::Busy),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn content_above_the_limit_is_not_even_sent() {
    let guest = agent_saying(vec![]).await;
    let written = guest.write_file("big", None, &vec![0; MAX_FRAME]).await;
    assert!(matches!(written, Err(GuestError::Oversized { .. })));
}

#[tokio::test]
async fn waiting_ends_soon_after_the_agent_starts_to_listen() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = reserved.local_addr().expect("is bound");
    drop(reserved);
    let guest = GuestClient::new(Arc::new(Loopback(address)));
    let waiting = tokio::spawn(async move { guest.wait_ready(Duration::from_secs(10)).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let listener = TcpListener::bind(address).await.expect("binds again");
    let start = Instant::now();
    let (mut stream, _) = listener.accept().await.expect("accepts");
    let pong = Pong { version: PROTOCOL_VERSION, uptime_ms: 1, phase: Phase::Unconfigured };
    let frame = encode(&Response::Ok(Reply::Pong(pong.clone()))).expect("encodes");
    stream.write_all(&frame).await.expect("writes");
    assert_eq!(waiting.await.expect("no panic").expect("is ready"), pong);
    // Attempts come every few milliseconds; an order above what a busy machine makes of them.
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// Connections that hang as a lost SYN does, until the given number of attempts.
struct LostSyns {
    lost: std::sync::atomic::AtomicU32,
    then: SocketAddr,
}

#[async_trait]
impl Dial for LostSyns {
    async fn dial(&self) -> io::Result<TcpStream> {
        use std::sync::atomic::Ordering::Relaxed;
        if self.lost.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
            std::future::pending::<()>().await;
        }
        TcpStream::connect(self.then).await
    }
}

#[tokio::test]
async fn a_lost_syn_does_not_cost_a_second() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let then = listener.local_addr().expect("is bound");
    let pong = Pong { version: PROTOCOL_VERSION, uptime_ms: 1, phase: Phase::Unconfigured };
    let frame = encode(&Response::Ok(Reply::Pong(pong))).expect("encodes");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(&frame).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    });
    // Twenty cost seconds at most; at a second each, the time would be over before the one that is answered.
    let guest = GuestClient::new(Arc::new(LostSyns { lost: 20.into(), then }));
    guest.wait_ready(Duration::from_secs(20)).await.expect("is ready");
}

#[tokio::test]
async fn waiting_says_what_the_last_attempt_ran_into() {
    let reserved = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = reserved.local_addr().expect("is bound");
    drop(reserved);
    let guest = GuestClient::new(Arc::new(Loopback(address)));
    match guest.wait_ready(Duration::from_millis(100)).await {
        Err(GuestError::Dial { source }) => assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
}
