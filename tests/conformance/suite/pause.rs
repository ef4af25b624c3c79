//! Standing still and going on.

use crate::rig::conform;
use crate::vm::Vm;
use crate::waiting::{PATIENCE, eventually, within};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A guest that has not answered for so long does not answer: the slowest living one takes a tenth of it.
const SILENCE: Duration = Duration::from_secs(3);
const PORT: u16 = 7000;
const ECHO_SERVER: &str = "\
import socketserver
class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)
class Server(socketserver.ThreadingTCPServer):
    # More than any test opens at once: an emulated guest is slow to accept, and Python's own queue has five places.
    request_queue_size = 128
Server(('127.0.0.1', 7000), Echo).serve_forever()
";

/// Starts a server in the guest that repeats every line, and connects to it.
pub async fn echo_server(vm: &Vm) -> TcpStream {
    vm.guest.write_file("/tmp/echo.py", None, ECHO_SERVER.as_bytes()).await.expect("a file is written");
    vm.start("python3 /tmp/echo.py").await;
    eventually("the server listens", PATIENCE, async || vm.guest.connect_port(PORT).await.is_ok()).await;
    connect(vm).await
}

/// Another connection to that server.
pub async fn connect(vm: &Vm) -> TcpStream {
    vm.guest.connect_port(PORT).await.expect("it listens")
}

/// Has that server repeat a line.
pub async fn assert_echoes(stream: &mut TcpStream, line: &str) {
    let echoed = async {
        stream.write_all(format!("{line}\n").as_bytes()).await.expect("it is sent");
        let mut answer = vec![0; line.len() + 1];
        stream.read_exact(&mut answer).await.expect("an answer");
        answer
    };
    assert_eq!(within(PATIENCE, "an echo", echoed).await, format!("{line}\n").into_bytes());
}

#[test]
fn a_paused_guest_does_not_answer_and_a_resumed_one_goes_on_where_it_was() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        vm.start_heart().await;
        let beat = vm.beat().await;
        vm.machine.pause().await.expect("it is paused");
        assert!(vm.guest.clone().with_deadline(SILENCE).ping().await.is_err(), "a paused guest answered");
        vm.machine.resume().await.expect("it is resumed");
        vm.guest.wait_ready(PATIENCE).await.expect("it answers again");
        vm.lives_on(beat).await;
    });
}

#[test]
fn pausing_a_paused_machine_and_resuming_a_running_one_are_harmless() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        for _ in 0..3 {
            vm.machine.pause().await.expect("paused");
            vm.machine.pause().await.expect("still paused");
            vm.machine.resume().await.expect("running");
            vm.machine.resume().await.expect("still running");
        }
        assert_eq!(vm.sh("echo fine").await, "fine\n");
    });
}

#[test]
#[ignore = "with Firecracker in make test-firecracker only: e2e test_faults has connections that go on"]
fn case_38_open_connections_go_on_after_a_pause() {
    conform(async |rig| {
        let vm = rig.sandbox().await;
        let mut stream = echo_server(&vm).await;
        assert_echoes(&mut stream, "before").await;
        vm.machine.pause().await.expect("paused");
        stream.write_all(b"meanwhile\n").await.expect("the host's kernel keeps it");
        vm.machine.resume().await.expect("running");
        let mut answer = [0; 10];
        within(PATIENCE, "what was sent meanwhile", stream.read_exact(&mut answer)).await.expect("an answer");
        assert_eq!(&answer, b"meanwhile\n");
        assert_echoes(&mut stream, "after").await;
    });
}
