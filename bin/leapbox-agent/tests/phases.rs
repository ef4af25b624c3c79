//! Bare, suspended, shut down: the agent's phases, on loopback, through the real client. Needs root and a cgroup2
//! mount, as the agent does.

mod support;

use leapbox_guest_client::protocol::*;
use leapbox_guest_client::{GuestClient, GuestError};
use std::time::{Duration, Instant};
use support::{Sandbox, fault_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Counts on, in a file, for ever.
const HEART: &str = "(n=0; while :; do n=$((n+1)); echo $n > beat; sleep 0.01; done) >/dev/null 2>&1 & echo $!";

/// What `configure` is told when the sandbox stays what it is.
fn keep() -> Configure {
    Configure { identity: None, env: None, ..support::configuration() }
}

fn restored() -> Configure {
    Configure { restored: true, ..keep() }
}

async fn start_heart(sandbox: &Sandbox) -> String {
    let output = sandbox.exec(HEART).await;
    sandbox.until("the heart beats", || beat(sandbox) > 0).await;
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

fn beat(sandbox: &Sandbox) -> u64 {
    let text = std::fs::read_to_string(sandbox.path("beat")).unwrap_or_default();
    text.trim().parse().unwrap_or_default()
}

async fn stands_still(sandbox: &Sandbox) {
    let before = std::fs::metadata(sandbox.path("beat")).and_then(|file| file.modified()).expect("a time");
    tokio::time::sleep(Duration::from_millis(100)).await;
    let after = std::fs::metadata(sandbox.path("beat")).and_then(|file| file.modified()).expect("a time");
    assert_eq!(before, after, "nothing of the workload's runs");
}

async fn lives_on(sandbox: &Sandbox) {
    let before = beat(sandbox);
    sandbox.until("the heart beats on", || beat(sandbox) > before).await;
}

async fn phase(guest: &GuestClient) -> Phase {
    guest.ping().await.expect("answers").phase
}

async fn refuses_work(guest: &GuestClient) {
    let command = ExecRequest { command: "true".into(), cwd: None, env: vec![], timeout_ms: 1000, output_limit: 1024 };
    assert_eq!(fault_of(guest.exec(command).await), FaultKind::Busy);
    assert_eq!(fault_of(guest.write_file("f", None, b"").await), FaultKind::Busy);
    assert_eq!(fault_of(guest.connect_port(80).await), FaultKind::Busy);
    assert_eq!(fault_of(guest.stat("/").await), FaultKind::Busy);
    assert_eq!(fault_of(guest.warm().await), FaultKind::Busy);
    assert_eq!(fault_of(guest.prepare_snapshot().await), FaultKind::Busy);
}

#[tokio::test]
async fn a_suspended_workload_stands_still_until_configure_and_keeps_who_it_is() {
    let sandbox = Sandbox::start().await;
    start_heart(&sandbox).await;
    let before = sandbox.exec("hostname; cat $FROM_SANDBOX 2>/dev/null; echo $FROM_SANDBOX").await.stdout;
    assert_eq!(sandbox.guest.suspend().await.expect("suspends"), Suspended { frozen: true });
    assert_eq!(phase(&sandbox.guest).await, Phase::Suspended);
    stands_still(&sandbox).await;
    refuses_work(&sandbox.guest).await;
    assert_eq!(sandbox.guest.suspend().await.expect("again"), Suspended { frozen: true });
    let confirmed = sandbox.guest.configure(keep()).await.expect("goes on");
    let identity = Identity { machine_id: confirmed.machine_id, boot_id: confirmed.boot_id };
    assert_eq!(support::configuration().identity, Some(identity), "the identity is what it was");
    lives_on(&sandbox).await;
    let after = sandbox.exec("hostname; cat $FROM_SANDBOX 2>/dev/null; echo $FROM_SANDBOX").await.stdout;
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_suspended_guest_that_is_configured_twice_goes_on() {
    let sandbox = Sandbox::start().await;
    start_heart(&sandbox).await;
    sandbox.guest.suspend().await.expect("suspends");
    sandbox.guest.configure(restored()).await.expect("goes on");
    sandbox.guest.configure(restored()).await.expect("and again");
    lives_on(&sandbox).await;
}

#[tokio::test]
async fn a_configuration_that_is_refused_leaves_the_workload_frozen() {
    let sandbox = Sandbox::start().await;
    start_heart(&sandbox).await;
    sandbox.guest.suspend().await.expect("suspends");
    let wrong = Configure { hostname: "no host\nname".into(), ..keep() };
    assert_eq!(fault_of(sandbox.guest.configure(wrong).await), FaultKind::InvalidInput);
    assert_eq!(phase(&sandbox.guest).await, Phase::Suspended);
    stands_still(&sandbox).await;
    sandbox.guest.configure(keep()).await.expect("goes on");
    lives_on(&sandbox).await;
}

#[tokio::test]
async fn a_restored_guest_takes_a_new_identity_and_keeps_its_environment() {
    let sandbox = Sandbox::start().await;
    sandbox.guest.suspend().await.expect("suspends");
    let identity = Identity { machine_id: [3; 16], boot_id: [4; 16] };
    let other = Configure { hostname: "sbx-copy".into(), identity: Some(identity), ..restored() };
    sandbox.guest.configure(other).await.expect("becomes another");
    assert_eq!(sandbox.exec("hostname; echo $FROM_SANDBOX").await.stdout, b"sbx-copy\nsandbox\n");
    let env = Some(vec![("FROM_SANDBOX".to_owned(), "new".to_owned())]);
    sandbox.guest.configure(Configure { env, ..keep() }).await.expect("takes a new environment");
    assert_eq!(sandbox.exec("echo $FROM_SANDBOX").await.stdout, b"new\n");
}

#[tokio::test]
async fn an_unconfigured_guest_has_nothing_to_keep_and_cannot_be_suspended() {
    let sandbox = Sandbox::start_unconfigured().await;
    assert_eq!(fault_of(sandbox.guest.configure(keep()).await), FaultKind::InvalidInput);
    assert_eq!(fault_of(sandbox.guest.suspend().await), FaultKind::Busy);
    assert_eq!(phase(&sandbox.guest).await, Phase::Unconfigured);
    let no_env = Configure { env: None, ..support::configuration() };
    sandbox.guest.configure(no_env).await.expect("becomes a sandbox without variables");
}

/// A server in the sandbox that sends everything back and tells when a connection was reset.
async fn echo_server() -> (u16, tokio::sync::mpsc::Receiver<std::io::Error>) {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = server.local_addr().expect("is bound").port();
    let (told, resets) = tokio::sync::mpsc::channel(1024);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = server.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                if let Err(error) = tokio::io::copy(&mut reader, &mut writer).await {
                    let _ = told.send(error).await;
                }
            });
        }
    });
    (port, resets)
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.expect("writes");
    let mut back = [0; 4];
    stream.read_exact(&mut back).await.expect("reads");
    assert_eq!(&back, b"ping");
}

#[tokio::test]
async fn connections_outlive_a_suspension_and_end_with_a_restore() {
    let sandbox = Sandbox::start().await;
    let (port, mut resets) = echo_server().await;
    let mut stream = sandbox.guest.connect_port(port).await.expect("connects");
    echoes(&mut stream).await;
    sandbox.guest.suspend().await.expect("suspends");
    sandbox.guest.configure(keep()).await.expect("goes on");
    echoes(&mut stream).await;
    sandbox.guest.suspend().await.expect("suspends");
    sandbox.guest.configure(restored()).await.expect("goes on");
    resets.recv().await.expect("the app sees a reset, not an end");
    assert!(stream.read(&mut [0; 4]).await.is_err());
}

#[tokio::test]
async fn fifty_restores_with_every_place_taken_leak_none() {
    let sandbox = Sandbox::start().await;
    let (port, _resets) = echo_server().await;
    let mut forgotten = Vec::new();
    for round in 0..50 {
        // The host's ends stay open, as nobody in a stored guest can tell them from those that are gone.
        for _ in 0..leapbox_agent::server::MAX_LONG {
            let connected = sandbox.guest.connect_port(port).await;
            forgotten.push(connected.unwrap_or_else(|error| panic!("round {round}: {error}")));
        }
        sandbox.guest.suspend().await.expect("suspends");
        sandbox.guest.configure(restored()).await.expect("goes on");
        forgotten.clear();
    }
    let mut stream = sandbox.guest.connect_port(port).await.expect("connects");
    echoes(&mut stream).await;
}

#[tokio::test]
async fn commands_in_flight_go_on_after_a_restore_without_their_callers() {
    let sandbox = Sandbox::start().await;
    let guest = sandbox.guest.clone();
    let command = ExecRequest { command: HEART.replace(" & echo $!", ""), ..long_command() };
    let caller = tokio::spawn(async move { guest.exec(command).await });
    sandbox.until("the heart beats", || beat(&sandbox) > 0).await;
    sandbox.guest.suspend().await.expect("suspends");
    stands_still(&sandbox).await;
    sandbox.guest.configure(restored()).await.expect("goes on");
    assert!(matches!(caller.await.expect("no panic"), Err(GuestError::Closed { .. })));
    lives_on(&sandbox).await;
}

fn long_command() -> ExecRequest {
    ExecRequest { command: String::new(), cwd: None, env: vec![], timeout_ms: 600_000, output_limit: 1024 }
}

#[tokio::test]
async fn shutdown_asks_first_and_then_kills() {
    let sandbox = Sandbox::start().await;
    let stubborn = start_heart(&sandbox).await;
    sandbox.exec("(trap 'echo bye > bye; exit' TERM; : > ready; while :; do sleep 0.02; done) >/dev/null 2>&1 &").await;
    sandbox.exec("(trap '' TERM; : > deaf; while :; do sleep 0.02; done) >/dev/null 2>&1 &").await;
    sandbox.until("both are there", || sandbox.path("ready").exists() && sandbox.path("deaf").exists()).await;
    let start = Instant::now();
    sandbox.guest.shutdown(Duration::from_millis(400)).await.expect("shuts down");
    assert!(start.elapsed() >= Duration::from_millis(400), "the deaf one gets its time");
    assert_eq!(std::fs::read(sandbox.path("bye")).expect("the other heard"), b"bye\n");
    assert!(!support::lives(&stubborn));
    assert_eq!(phase(&sandbox.guest).await, Phase::Ended);
    refuses_work(&sandbox.guest).await;
    assert_eq!(fault_of(sandbox.guest.configure(keep()).await), FaultKind::Busy);
    sandbox.guest.shutdown(Duration::ZERO).await.expect("is harmless again");
}

#[tokio::test]
async fn shutdown_of_a_quiet_workload_does_not_wait_for_its_time() {
    let sandbox = Sandbox::start().await;
    start_heart(&sandbox).await;
    let start = Instant::now();
    sandbox.guest.shutdown(Duration::from_secs(30)).await.expect("shuts down");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_suspended_workload_is_killed_without_running_again() {
    let sandbox = Sandbox::start().await;
    let heart = start_heart(&sandbox).await;
    sandbox.exec("(trap 'echo ran > ran' TERM; : > ready; while :; do sleep 0.02; done) >/dev/null 2>&1 &").await;
    sandbox.until("it listens", || sandbox.path("ready").exists()).await;
    sandbox.guest.suspend().await.expect("suspends");
    let last = beat(&sandbox);
    sandbox.guest.shutdown(Duration::from_secs(5)).await.expect("shuts down");
    assert!(!support::lives(&heart) && !sandbox.path("ran").exists());
    assert_eq!(beat(&sandbox), last);
}

#[tokio::test]
async fn a_bare_guest_answers_and_does_nothing_before_it_is_mounted() {
    let sandbox = Sandbox::start_diskless().await;
    assert_eq!(phase(&sandbox.guest).await, Phase::Diskless);
    refuses_work(&sandbox.guest).await;
    assert_eq!(fault_of(sandbox.guest.configure(support::configuration()).await), FaultKind::Busy);
    assert_eq!(fault_of(sandbox.guest.suspend().await), FaultKind::Busy);
    assert_eq!(fault_of(sandbox.guest.shutdown(Duration::ZERO).await), FaultKind::Busy);
    sandbox.guest.mount().await.expect("mounts");
    assert_eq!(phase(&sandbox.guest).await, Phase::Unconfigured);
    assert_eq!(fault_of(sandbox.guest.mount().await), FaultKind::InvalidInput);
    sandbox.guest.configure(support::configuration()).await.expect("configures");
    assert_eq!(sandbox.exec("echo hello").await.stdout, b"hello\n");
}

#[tokio::test]
async fn a_bare_guest_that_cannot_mount_says_why_and_ends() {
    let (guest, ended) = support::bare_without_disks().await;
    match guest.mount().await {
        Err(GuestError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::Io);
            assert_eq!(fault.message, "cannot mount: no disk");
        }
        other => panic!("{other:?}"),
    }
    assert!(ended.join().expect("no panic").is_err());
}

#[tokio::test]
async fn callers_that_hang_up_or_talk_nonsense_do_not_keep_a_bare_guest_busy() {
    let sandbox = Sandbox::start_diskless().await;
    drop(sandbox.dial().await);
    assert_eq!(sandbox.raw(b"\0\0\0\x06GET / ").await, FaultKind::InvalidInput);
    let start = Instant::now();
    assert_eq!(phase(&sandbox.guest).await, Phase::Diskless);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}
