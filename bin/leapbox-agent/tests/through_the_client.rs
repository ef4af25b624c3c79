//! The agent without its boot, on loopback, through the real client: commands, files, relays, as an ordinary user.
//! Needs root and a cgroup2 mount, as the agent does.

mod support;

use leapbox_guest_client::GuestError;
use leapbox_guest_client::protocol::*;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::{Duration, Instant};
use support::{Sandbox, fault_of};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

fn command(command: &str) -> ExecRequest {
    ExecRequest { command: command.into(), cwd: None, env: vec![], timeout_ms: 20_000, output_limit: 1 << 20 }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("is UTF-8")
}

#[tokio::test]
async fn a_command_runs_as_the_images_user_with_its_groups_and_session() {
    let sandbox = Sandbox::start().await;
    let output = sandbox.exec("id -u; id -g; id -G; pwd; ps -o sid= -p $$ | tr -d ' '; echo $$").await;
    let lines: Vec<&str> = text(&output.stdout).lines().collect();
    assert_eq!(lines[..3], ["1234", "2345", "2345 3456"]);
    assert_eq!(lines[3], sandbox.home());
    assert_eq!(lines[4], lines[5], "it leads a session of its own");
    assert_eq!((output.exit_code, output.timed_out), (0, false));
}

#[tokio::test]
async fn exit_codes_signals_and_both_streams_come_back() {
    let sandbox = Sandbox::start().await;
    let output = sandbox.exec("echo out; echo err >&2; exit 7").await;
    assert_eq!((output.exit_code, text(&output.stdout), text(&output.stderr)), (7, "out\n", "err\n"));
    assert_eq!(sandbox.exec("kill -9 $$").await.exit_code, 137);
    assert_eq!(sandbox.exec("no-such-program-anywhere").await.exit_code, 127);
}

#[tokio::test]
async fn standard_input_is_empty_and_sigpipe_kills_as_usual() {
    let sandbox = Sandbox::start().await;
    assert_eq!(sandbox.exec("cat; echo end").await.stdout, b"end\n");
    let output = sandbox.exec("sh -c 'yes; echo $? >&2' | head -n 1").await;
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("y\n", "141\n"));
}

#[tokio::test]
async fn variables_of_the_call_win_over_the_sandboxs_the_images_and_the_logins() {
    let sandbox = Sandbox::start().await;
    let mut request = command("echo $HOME $USER $SHELL $FROM_IMAGE $BOTH $FROM_SANDBOX $ALL; env | sort | uniq -d");
    request.env = vec![("ALL".into(), "call".into())];
    let output = sandbox.guest.exec(request).await.expect("runs");
    let expected = format!("{} tester /bin/sh image sandbox sandbox call\n", sandbox.home());
    assert_eq!(text(&output.stdout), expected);
    let path = sandbox.exec("echo $PATH").await;
    assert!(text(&path.stdout).contains("/usr/bin"));
}

#[tokio::test]
async fn names_and_values_no_process_could_have_are_refused() {
    let sandbox = Sandbox::start().await;
    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
        let mut request = command("true");
        request.env = vec![(name.into(), value.into())];
        assert_eq!(fault_of(sandbox.guest.exec(request).await), FaultKind::InvalidInput);
    }
    assert_eq!(fault_of(sandbox.guest.exec(command("a\0b")).await), FaultKind::InvalidInput);
    let long = command(&"x".repeat(200_000));
    assert_eq!(fault_of(sandbox.guest.exec(long).await), FaultKind::TooLarge);
}

#[tokio::test]
async fn a_missing_or_closed_working_directory_is_named() {
    let sandbox = Sandbox::start().await;
    let mut request = command("true");
    request.cwd = Some("/no/such/folder".into());
    match sandbox.guest.exec(request.clone()).await {
        Err(GuestError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::NotFound);
            assert!(fault.message.contains("/no/such/folder"), "{}", fault.message);
        }
        other => panic!("{other:?}"),
    }
    request.cwd = Some(sandbox.root_only());
    assert_eq!(fault_of(sandbox.guest.exec(request.clone()).await), FaultKind::PermissionDenied);
    request.cwd = Some("/dev/null".into());
    assert_eq!(fault_of(sandbox.guest.exec(request).await), FaultKind::NotADirectory);
}

#[tokio::test]
async fn a_time_out_kills_all_that_was_started_even_daemons() {
    let sandbox = Sandbox::start().await;
    let mut request = command("setsid sh -c 'echo $$ > daemon; exec sleep 1000' & echo started; sleep 1000");
    request.timeout_ms = 1000;
    let start = Instant::now();
    let output = sandbox.guest.exec(request).await.expect("runs");
    assert_eq!((output.exit_code, output.timed_out, text(&output.stdout)), (124, true, "started\n"));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    let daemon = sandbox.exec("cat daemon").await;
    assert_eq!(daemon.exit_code, 0, "{daemon:?}");
    let daemon = text(&daemon.stdout).trim().to_owned();
    sandbox.until("the daemon is gone", || !support::lives(&daemon)).await;
}

#[tokio::test]
async fn a_flood_of_output_ends_at_the_time_out_with_bounded_memory() {
    let sandbox = Sandbox::start().await;
    let mut request = command("yes");
    request.timeout_ms = 500;
    request.output_limit = 100_000;
    let output = sandbox.guest.exec(request).await.expect("runs");
    assert_eq!((output.stdout.len(), output.stdout_truncated, output.timed_out), (100_000, true, true));
}

#[tokio::test]
async fn output_above_the_limit_is_read_on_dropped_and_said() {
    let sandbox = Sandbox::start().await;
    let mut request = command("head -c 300000 /dev/zero | tr '\\0' x; head -c 10 /dev/zero >&2; echo done > finished");
    request.output_limit = 1000;
    let output = sandbox.guest.exec(request).await.expect("runs");
    assert_eq!((output.exit_code, output.stdout.len(), output.stderr.len()), (0, 1000, 10));
    assert!(output.stdout_truncated && !output.stderr_truncated);
    assert_eq!(sandbox.exec("cat finished").await.stdout, b"done\n");
    let whole = sandbox.exec("head -c 1000000 /dev/zero").await;
    assert_eq!((whole.stdout.len(), whole.stdout_truncated), (1_000_000, false));
}

#[tokio::test]
async fn background_processes_survive_and_can_go_on_writing() {
    let sandbox = Sandbox::start().await;
    let output = sandbox.exec("(while :; do echo noise; echo alive > beat; sleep 0.05; done) & echo $!").await;
    assert_eq!((output.exit_code, output.timed_out), (0, false), "it is not waited for");
    let first = text(&output.stdout).lines().next().unwrap_or_default().to_owned();
    let pid = text(&output.stdout).lines().find(|line| line.parse::<u32>().is_ok()).unwrap_or(&first).to_owned();
    let beat = sandbox.path("beat");
    for _ in 0..3 {
        let _ = std::fs::remove_file(&beat);
        sandbox.until("it writes again", || beat.exists()).await;
    }
    assert!(support::lives(&pid));
    sandbox.exec(&format!("kill {pid}")).await;
}

#[tokio::test]
async fn commands_run_side_by_side() {
    let sandbox = Sandbox::start().await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..20 {
        let guest = sandbox.guest.clone();
        running.spawn(async move {
            // Each waits until all have begun.
            let wait = "until [ $(ls begun-* | wc -l) = 20 ]; do sleep 0.1; done";
            let output = guest.exec(command(&format!("touch begun-{number}; {wait}; echo {number}"))).await;
            assert_eq!(text(&output.expect("runs").stdout).trim(), number.to_string());
        });
    }
    while let Some(done) = running.join_next().await {
        done.expect("no panic");
    }
}

#[tokio::test]
async fn a_cgroup_removed_behind_the_agents_back_is_replaced() {
    let sandbox = Sandbox::start().await;
    sandbox.exec("true").await;
    for group in std::fs::read_dir(&sandbox.cgroup).expect("lists").flatten() {
        let _ = std::fs::remove_dir(group.path());
    }
    assert_eq!(sandbox.exec("echo still here").await.stdout, b"still here\n");
}

#[tokio::test]
async fn a_file_is_written_with_its_parents_and_belongs_to_the_user() {
    let sandbox = Sandbox::start().await;
    let content = b"line 1\nline 2\n";
    sandbox.guest.write_file("new/folder/file.txt", None, content).await.expect("writes");
    let metadata = std::fs::metadata(sandbox.path("new/folder/file.txt")).expect("is there");
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (1234, 2345, 0o644));
    let folder = std::fs::metadata(sandbox.path("new")).expect("is there");
    assert_eq!((folder.uid(), folder.mode() & 0o7777), (1234, 0o755));
    assert_eq!(sandbox.read("new/folder/file.txt").await.expect("reads"), content);
    sandbox.guest.write_file("new/folder/file.txt", Some(0o700), b"#!").await.expect("overwrites");
    let metadata = std::fs::metadata(sandbox.path("new/folder/file.txt")).expect("is there");
    assert_eq!((metadata.len(), metadata.mode() & 0o7777), (2, 0o700));
    let bad = sandbox.guest.write_file("x", Some(0o100_000), b"").await;
    assert_eq!(fault_of(bad), FaultKind::InvalidInput);
}

#[tokio::test]
async fn parts_of_a_file_are_read_by_bytes_and_by_lines() {
    let sandbox = Sandbox::start().await;
    sandbox.guest.write_file("f", None, b"one\ntwo\nthree\nfour\n").await.expect("writes");
    let part = |offset, limit, head, tail| {
        let request = ReadFile { path: "f".into(), offset, limit, head, tail };
        let guest = sandbox.guest.clone();
        async move { guest.read_file(request).await }
    };
    assert_eq!(part(Some(4), Some(3), None, None).await.expect("reads"), b"two");
    assert_eq!(part(Some(100), None, None, None).await.expect("reads"), b"");
    assert_eq!(part(None, None, Some(2), None).await.expect("reads"), b"one\ntwo\n");
    assert_eq!(part(None, None, Some(0), None).await.expect("reads"), b"");
    assert_eq!(part(None, None, Some(99), None).await.expect("reads"), b"one\ntwo\nthree\nfour\n");
    assert_eq!(part(None, None, None, Some(2)).await.expect("reads"), b"three\nfour\n");
    assert_eq!(part(None, None, None, Some(0)).await.expect("reads"), b"");
    assert_eq!(part(None, Some(7), None, Some(1)).await.expect("reads"), b"two");
    assert_eq!(part(Some(4), None, Some(1), None).await.expect("reads"), b"two\n");
    assert_eq!(fault_of(part(None, None, Some(1), Some(1)).await), FaultKind::InvalidInput);
}

#[tokio::test]
async fn the_largest_file_passes_and_a_larger_one_says_how_to_read_it() {
    let sandbox = Sandbox::start().await;
    let content: Vec<u8> = (0..MAX_CONTENT).map(|i| (i * 7 % 251) as u8).collect();
    sandbox.guest.write_file("big", None, &content).await.expect("writes");
    assert!(sandbox.read("big").await.expect("reads") == content);
    sandbox.exec("printf 'a\\nlast line\\n' >> big").await;
    match sandbox.read("big").await {
        Err(GuestError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::TooLarge);
            assert!(fault.message.contains("offset"), "{}", fault.message);
        }
        other => panic!("{:?}", other.map(|content| content.len())),
    }
    let tail = ReadFile { path: "big".into(), tail: Some(1), ..ReadFile::default() };
    assert_eq!(sandbox.guest.read_file(tail).await.expect("reads"), b"last line\n");
    let part = ReadFile { path: "big".into(), offset: Some(MAX_CONTENT as u64), ..ReadFile::default() };
    assert_eq!(sandbox.guest.read_file(part).await.expect("reads"), b"a\nlast line\n");
}

#[tokio::test]
async fn files_of_proc_are_read_though_they_claim_to_be_empty() {
    let sandbox = Sandbox::start().await;
    assert!(sandbox.read("/proc/meminfo").await.expect("reads").starts_with(b"MemTotal"));
    let tail = ReadFile { path: "/proc/meminfo".into(), tail: Some(1), ..ReadFile::default() };
    assert!(!sandbox.guest.read_file(tail).await.expect("reads").is_empty());
}

#[tokio::test]
async fn what_only_root_may_read_write_or_enter_is_denied() {
    let sandbox = Sandbox::start().await;
    let secret = format!("{}/secret", sandbox.root_only());
    let guest = &sandbox.guest;
    assert_eq!(fault_of(sandbox.read(&secret).await), FaultKind::PermissionDenied);
    assert_eq!(fault_of(guest.write_file(&*secret, None, b"").await), FaultKind::PermissionDenied);
    assert_eq!(fault_of(guest.stat(&*secret).await), FaultKind::PermissionDenied);
    assert_eq!(fault_of(guest.exists(&*secret).await), FaultKind::PermissionDenied);
    assert_eq!(fault_of(sandbox.read("/etc/shadow").await), FaultKind::PermissionDenied);
    assert_eq!(fault_of(sandbox.read("/proc/1/environ").await), FaultKind::PermissionDenied);
    let sysctl = guest.write_file("/proc/sys/kernel/hostname", None, b"x").await;
    assert_eq!(fault_of(sysctl), FaultKind::PermissionDenied);
    let list = List { path: sandbox.root_only(), recursive: false, exclude: vec![] };
    assert_eq!(fault_of(guest.list(list).await), FaultKind::PermissionDenied);
}

#[tokio::test]
async fn the_group_of_a_supplementary_group_counts() {
    let sandbox = Sandbox::start().await;
    let shared = sandbox.path("shared");
    std::fs::write(&shared, "for the group").expect("writes");
    std::os::unix::fs::chown(&shared, Some(0), Some(3456)).expect("chowns");
    std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(0o640)).expect("chmods");
    assert_eq!(sandbox.read("shared").await.expect("reads"), b"for the group");
}

#[tokio::test]
async fn fifos_devices_and_directories_are_neither_read_nor_written() {
    let sandbox = Sandbox::start().await;
    sandbox.exec("mkfifo pipe; mkdir dir").await;
    for path in ["pipe", "/dev/zero", "/dev/tty"] {
        assert_eq!(fault_of(sandbox.read(path).await), FaultKind::InvalidInput, "{path}");
    }
    for path in ["pipe", "/dev/null"] {
        let written = sandbox.guest.write_file(path, None, b"x").await;
        assert_eq!(fault_of(written), FaultKind::InvalidInput, "{path}");
    }
    match sandbox.read("dir").await {
        Err(GuestError::Fault(fault)) => {
            assert_eq!(fault.kind, FaultKind::IsADirectory);
            assert!(fault.message.ends_with("is a directory"), "{}", fault.message);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fault_of(sandbox.guest.write_file("dir", None, b"").await), FaultKind::IsADirectory);
}

#[tokio::test]
async fn faults_keep_their_meaning() {
    let sandbox = Sandbox::start().await;
    let guest = &sandbox.guest;
    guest.write_file("file", None, b"").await.expect("writes");
    let mkdir = |path: &str, recursive| Mkdir { path: path.into(), recursive, permissions: None };
    let delete = |path: &str, recursive| Delete { path: path.into(), recursive };
    assert_eq!(fault_of(sandbox.read("none").await), FaultKind::NotFound);
    assert_eq!(fault_of(sandbox.read("file/below").await), FaultKind::NotADirectory);
    assert_eq!(fault_of(guest.stat("").await), FaultKind::InvalidInput);
    assert_eq!(fault_of(guest.stat("x".repeat(300)).await), FaultKind::InvalidInput);
    guest.mkdir(mkdir("d", false)).await.expect("makes");
    assert_eq!(fault_of(guest.mkdir(mkdir("d", false)).await), FaultKind::AlreadyExists);
    guest.mkdir(mkdir("d", true)).await.expect("is there already");
    assert_eq!(fault_of(guest.mkdir(mkdir("a/b", false)).await), FaultKind::NotFound);
    guest.mkdir(mkdir("a/b", true)).await.expect("makes both");
    assert_eq!(fault_of(guest.mkdir(mkdir("file", true)).await), FaultKind::AlreadyExists);
    assert_eq!(fault_of(guest.delete(delete("a", false)).await), FaultKind::DirectoryNotEmpty);
    guest.delete(delete("a", true)).await.expect("deletes");
    guest.delete(delete("d", false)).await.expect("deletes an empty one");
    assert_eq!(fault_of(guest.delete(delete("a", true)).await), FaultKind::NotFound);
    assert_eq!(fault_of(guest.delete(delete("/", true)).await), FaultKind::InvalidInput);
    let listed = guest.list(List { path: "file".into(), recursive: false, exclude: vec![] }).await;
    assert_eq!(fault_of(listed), FaultKind::NotADirectory);
    let with_mode = Mkdir { path: "open".into(), recursive: false, permissions: Some(0o777) };
    guest.mkdir(with_mode).await.expect("makes");
    assert_eq!(guest.stat("open").await.expect("stats").mode, "777");
}

#[tokio::test]
async fn stat_describes_files_and_links_as_the_api_does() {
    let sandbox = Sandbox::start().await;
    sandbox.exec("printf hello > f; chmod 640 f; ln -s f link; ln -s nowhere broken").await;
    let file = sandbox.guest.stat("./f").await.expect("stats");
    assert_eq!((&*file.name, file.size, &*file.mode, file.is_dir), ("f", 5, "640", false));
    assert_eq!(file.path, format!("{}/f", sandbox.home()));
    assert_eq!((&*file.owner, &*file.group, file.is_symlink), ("1234", "2345", false));
    assert!(file.mtime > 1_600_000_000);
    let link = sandbox.guest.stat("link").await.expect("stats");
    assert_eq!((link.is_symlink, link.link_target.as_deref()), (true, Some("f")));
    let root = sandbox.guest.stat("/").await.expect("stats");
    assert_eq!((&*root.name, &*root.path, root.is_dir, &*root.owner), ("/", "/", true, "root"));
    for (path, expected) in [("f", true), ("link", true), ("broken", false), ("f/x", false), ("none", false)] {
        assert_eq!(sandbox.guest.exists(path).await.expect("answers"), expected, "{path}");
    }
}

#[tokio::test]
async fn deleting_a_link_leaves_what_it_points_to() {
    let sandbox = Sandbox::start().await;
    sandbox.exec("mkdir kept; touch kept/file; ln -s kept link").await;
    let delete = Delete { path: "link".into(), recursive: true };
    sandbox.guest.delete(delete).await.expect("deletes");
    assert!(sandbox.path("kept/file").exists() && !sandbox.path("link").exists());
}

#[tokio::test]
async fn listings_are_sorted_recursive_and_without_what_is_excluded() {
    let sandbox = Sandbox::start().await;
    sandbox
        .exec("mkdir -p t/src/deep t/node_modules/x t/closed; touch t/b t/a t/src/m.rs t/src/m.pyc t/src/deep/n.rs")
        .await;
    sandbox.exec("chmod 000 t/closed; ln -s /etc t/link").await;
    let list = |recursive, exclude: &[&str]| List {
        path: "t".into(),
        recursive,
        exclude: exclude.iter().map(ToString::to_string).collect(),
    };
    let names = |entries: Vec<FileInfo>| -> Vec<String> {
        let prefix = format!("{}/t/", sandbox.home());
        entries.into_iter().map(|entry| entry.path.replacen(&prefix, "", 1)).collect()
    };
    let flat = sandbox.guest.list(list(false, &[])).await.expect("lists");
    assert_eq!(names(flat), ["a", "b", "closed", "link", "node_modules", "src"]);
    let deep = sandbox.guest.list(list(true, &["node_modules", "*.pyc", "src/deep/*"])).await.expect("lists");
    assert_eq!(names(deep), ["a", "b", "closed", "link", "src", "src/deep", "src/m.rs"]);
}

#[tokio::test]
async fn a_listing_that_does_not_fit_says_so() {
    let sandbox = Sandbox::start().await;
    sandbox.exec("mkdir many; cd many; seq 1 50001 | xargs touch").await;
    let list = List { path: "many".into(), recursive: false, exclude: vec![] };
    assert_eq!(fault_of(sandbox.guest.list(list).await), FaultKind::TooLarge);
    let list = List { path: "many".into(), recursive: false, exclude: vec!["5000?".into()] };
    assert_eq!(sandbox.guest.list(list).await.expect("lists").len(), 49_999);
}

#[tokio::test]
async fn nothing_of_the_workloads_starts_before_configure_or_after_prepare_snapshot() {
    let sandbox = Sandbox::start_unconfigured().await;
    let guest = &sandbox.guest;
    let refused = |what: &str, kind: FaultKind| assert_eq!(kind, FaultKind::Busy, "{what}");
    guest.warm().await.expect("warming up is allowed");
    for round in ["before configure", "after prepare snapshot"] {
        assert_eq!(guest.ping().await.expect("answers").phase, Phase::Unconfigured);
        refused(round, fault_of(guest.exec(command("true")).await));
        refused(round, fault_of(guest.connect_port(80).await));
        refused(round, fault_of(guest.write_file("f", None, b"").await));
        guest.configure(support::configuration()).await.expect("configures");
        assert_eq!(guest.ping().await.expect("answers").phase, Phase::Configured);
        assert_eq!(sandbox.exec("echo $FROM_SANDBOX").await.stdout, b"sandbox\n");
        guest.prepare_snapshot().await.expect("prepares");
    }
}

#[tokio::test]
async fn configure_is_confirmed_by_reading_back() {
    let sandbox = Sandbox::start_unconfigured().await;
    let asked = support::configuration();
    let configured = sandbox.guest.configure(asked.clone()).await.expect("configures");
    assert!(configured.reseeded);
    let confirmed = Identity { machine_id: configured.machine_id, boot_id: configured.boot_id };
    assert_eq!(asked.identity, Some(confirmed));
    assert_eq!(sandbox.exec("hostname").await.stdout, b"sbx-test\n");
    let hosts = std::fs::read_to_string(sandbox.etc.join("hosts")).expect("reads");
    assert!(hosts.contains("127.0.1.1\tsbx-test\n"), "{hosts}");
    let mut bad = asked;
    bad.hostname = "two\nlines".into();
    assert_eq!(fault_of(sandbox.guest.configure(bad).await), FaultKind::InvalidInput);
}

#[tokio::test]
async fn warming_up_leaves_nothing_behind() {
    let sandbox = Sandbox::start().await;
    sandbox.guest.warm().await.expect("warms up");
    assert_eq!(sandbox.exec("ls -A").await.stdout, b"");
}

#[tokio::test]
async fn garbage_other_versions_and_oversized_calls_are_told_so() {
    let sandbox = Sandbox::start().await;
    let mut newer = encode_call(&Request::Ping).expect("encodes");
    newer[PREFIX_LEN + 4] = 9;
    for (bytes, expected) in [
        (b"\0\0\0\x06GET / ".to_vec(), FaultKind::InvalidInput),
        (vec![0, 0, 0, 0], FaultKind::InvalidInput),
        (vec![0xff, 0xff, 0xff, 0xff], FaultKind::TooLarge),
        (newer, FaultKind::VersionMismatch),
    ] {
        assert_eq!(sandbox.raw(&bytes).await, expected);
    }
}

#[tokio::test]
async fn a_caller_that_says_nothing_is_hung_up_on() {
    let sandbox = Sandbox::start().await;
    let mut silent = sandbox.dial().await;
    silent.write_all(&[0]).await.expect("writes");
    let start = Instant::now();
    let _ = silent.read(&mut [0; 1]).await;
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(3) && waited < Duration::from_secs(8), "{waited:?}");
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_that_the_agent_is_busy() {
    let sandbox = Sandbox::start().await;
    let mut held = Vec::new();
    for _ in 0..leapbox_agent::server::MAX_WORKERS {
        held.push(sandbox.dial().await);
    }
    let busy = sandbox.guest.ping().await;
    assert_eq!(fault_of(busy), FaultKind::Busy);
    drop(held);
    sandbox.guest.wait_ready(Duration::from_secs(5)).await.map(drop).or_else(retry_busy).expect("recovers");
}

/// The agent may still be closing the held connections.
fn retry_busy(error: GuestError) -> Result<(), GuestError> {
    match error {
        GuestError::Fault(fault) if fault.kind == FaultKind::Busy => Ok(()),
        error => Err(error),
    }
}

#[tokio::test]
async fn relays_and_commands_leave_room_for_short_calls() {
    let sandbox = Sandbox::start().await;
    let server = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = server.local_addr().expect("is bound").port();
    let mut held = Vec::new();
    for _ in 0..leapbox_agent::server::MAX_LONG {
        held.push(sandbox.guest.connect_port(port).await.expect("connects"));
        let (stream, _) = server.accept().await.expect("accepts");
        held.push(stream);
    }
    assert_eq!(fault_of(sandbox.guest.connect_port(port).await), FaultKind::Busy);
    assert_eq!(fault_of(sandbox.guest.exec(command("true")).await), FaultKind::Busy);
    sandbox.guest.ping().await.expect("short calls go on");
    sandbox.guest.stat("/").await.expect("short calls go on");
}

#[tokio::test]
async fn commands_whose_callers_hang_up_go_on_and_keep_no_place() {
    let sandbox = Sandbox::start().await;
    for number in 0..leapbox_agent::server::MAX_LONG + 8 {
        let mut caller = sandbox.dial().await;
        let request = command(&format!("echo $$ > pid-{number}; exec sleep 1000"));
        caller.write_all(&encode_call(&Request::Exec(request)).expect("encodes")).await.expect("asks");
        let started = sandbox.path(&format!("pid-{number}"));
        sandbox.until("it runs", || std::fs::read_to_string(&started).is_ok_and(|pid| pid.ends_with('\n'))).await;
    }
    let first = sandbox.exec("cat pid-0").await;
    assert!(support::lives(text(&first.stdout).trim()), "a command outlives its caller");
}

#[tokio::test]
async fn a_command_without_a_caller_ends_when_its_time_is_up() {
    let sandbox = Sandbox::start().await;
    let mut caller = sandbox.dial().await;
    let mut request = command("setsid sleep 1000 & echo $! > daemon; echo $$ > pid; while :; do echo noise; done");
    request.timeout_ms = 1500;
    caller.write_all(&encode_call(&Request::Exec(request)).expect("encodes")).await.expect("asks");
    sandbox.until("it runs", || std::fs::read(sandbox.path("pid")).is_ok_and(|pid| !pid.is_empty())).await;
    drop(caller);
    let pids = sandbox.exec("cat pid daemon").await;
    let pids: Vec<&str> = text(&pids.stdout).lines().collect();
    assert!(pids.len() == 2 && pids.iter().all(|pid| support::lives(pid)), "they go on at first: {pids:?}");
    sandbox.until("both are gone", || !pids.iter().any(|pid| support::lives(pid))).await;
}
