//! A guest without a machine: the agent's server on loopback, with an unprivileged user, a cgroup, a UTS and a mount
//! namespace of its own.

// Each test program uses a part of it.
#![allow(dead_code)]

use async_trait::async_trait;
use leapbox_agent::cgroup::Cgroups;
use leapbox_agent::configure::IdentityFiles;
use leapbox_agent::diskless;
use leapbox_agent::guest::Guest;
use leapbox_agent::server;
use leapbox_agent::trust::{self, TrustStore};
use leapbox_agent::workload::Workload;
use leapbox_guest_client::protocol::*;
use leapbox_guest_client::{Dial, GuestClient, GuestError};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

struct Loopback(SocketAddr);

#[async_trait]
impl Dial for Loopback {
    async fn dial(&self) -> io::Result<TcpStream> {
        TcpStream::connect(self.0).await
    }
}

/// One such guest; cleans up when dropped.
pub struct Sandbox {
    pub guest: GuestClient,
    pub cgroup: PathBuf,
    pub etc: PathBuf,
    folder: TempDir,
    address: SocketAddr,
}

static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Sandbox {
    pub async fn start() -> Self {
        let sandbox = Self::start_unconfigured().await;
        sandbox.guest.configure(configuration()).await.expect("configures");
        sandbox
    }

    pub async fn start_unconfigured() -> Self {
        Self::serve(|guest, listener| {
            server::serve(Arc::new(guest), listener).expect("serves");
        })
    }

    /// One whose disks are "mounted" when it is told so.
    pub async fn start_diskless() -> Self {
        Self::serve(|guest, listener| {
            diskless::serve(listener, move || Ok(Arc::new(guest))).expect("serves");
        })
    }

    fn serve(serve: impl FnOnce(Guest, TcpListener) + Send + 'static) -> Self {
        let folder = TempDir::new().expect("temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("opens it");
        for name in ["home", "root-only", "etc", "hidden"] {
            fs::create_dir(folder.path().join(name)).expect("makes");
        }
        chown(folder.path().join("home"), Some(1234), Some(2345)).expect("gives away");
        let root_only = folder.path().join("root-only");
        fs::write(root_only.join("secret"), "secret").expect("writes");
        fs::set_permissions(root_only, fs::Permissions::from_mode(0o700)).expect("closes it");
        let cgroup = make_cgroup();
        let address = serve_apart(folder.path().to_owned(), cgroup.clone(), serve);
        Self {
            guest: GuestClient::new(Arc::new(Loopback(address))),
            cgroup,
            etc: folder.path().join("etc"),
            folder,
            address,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("home").join(name)
    }

    /// A path of the guest's disk.
    pub fn on_disk(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn home(&self) -> String {
        self.folder.path().join("home").display().to_string()
    }

    pub fn root_only(&self) -> String {
        self.folder.path().join("root-only").display().to_string()
    }

    pub async fn exec(&self, command: &str) -> ExecOutput {
        let request =
            ExecRequest { command: command.into(), cwd: None, env: vec![], timeout_ms: 20_000, output_limit: 1 << 20 };
        self.guest.exec(request).await.expect("runs")
    }

    pub async fn read(&self, path: &str) -> Result<Vec<u8>, GuestError> {
        self.guest.read_file(ReadFile { path: path.into(), ..ReadFile::default() }).await
    }

    pub async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("connects")
    }

    /// The kind of fault these bytes are answered with.
    pub async fn raw(&self, bytes: &[u8]) -> FaultKind {
        let mut stream = self.dial().await;
        stream.write_all(bytes).await.expect("writes");
        let mut prefix = [0; PREFIX_LEN];
        stream.read_exact(&mut prefix).await.expect("reads");
        let mut body = vec![0; body_len(prefix, SMALL_FRAME).expect("is short")];
        stream.read_exact(&mut body).await.expect("reads");
        match decode::<Response>(&body).expect("decodes") {
            Err(fault) => fault.kind,
            Ok(reply) => panic!("{reply:?}"),
        }
    }

    pub async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let end = std::time::Instant::now() + Duration::from_secs(10);
        while !condition() {
            assert!(std::time::Instant::now() < end, "still not: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        for group in fs::read_dir(&self.cgroup).into_iter().flatten().flatten() {
            for _ in 0..100 {
                match fs::remove_dir(group.path()) {
                    Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}

fn make_cgroup() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("reads");
    let root = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields[2] == "cgroup2")
        .map(|fields| PathBuf::from(fields[1]))
        .expect("this machine has a cgroup2 mount");
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = root.join(format!("leapbox-agent-test-{}-{number}", std::process::id()));
    fs::create_dir(&path).expect("makes a cgroup");
    path
}

/// Serves from threads with namespaces of their own, so that neither host name nor mounts of this machine change.
fn serve_apart(
    folder: PathBuf,
    cgroup: PathBuf,
    serve: impl FnOnce(Guest, TcpListener) + Send + 'static,
) -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS).expect("unshares");
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("makes mounts private");
        let boot_id = folder.join("etc/boot-id");
        fs::write(&boot_id, "").expect("writes");
        let etc = folder.join("etc");
        let identity = IdentityFiles::install(&folder.join("hidden"), &etc, &boot_id).expect("installs");
        // A folder of its own where a guest's would be shown.
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), None::<&str>).expect("mounts");
        let trust = TrustStore::install(&folder, &folder.join("hidden"), Path::new(trust::FOLDER)).expect("installs");
        let home = folder.join("home");
        let (cgroups, workload) = (Cgroups::new(&cgroup), Workload::in_group(&cgroup));
        let guest = Guest::new(image(&home), "/bin/sh".into(), cgroups, workload, identity, trust, Ipv4Addr::LOCALHOST)
            .expect("makes a guest");
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        told.send(listener.local_addr().expect("is bound")).expect("is awaited");
        serve(guest, listener);
    });
    address.recv().expect("starts")
}

/// A bare guest whose disks are missing, and the end of its serving.
pub async fn bare_without_disks() -> (GuestClient, std::thread::JoinHandle<Result<(), String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("is bound");
    let serving =
        std::thread::spawn(move || diskless::serve(listener, || Err("no disk".into())).map_err(|e| e.to_string()));
    (GuestClient::new(Arc::new(Loopback(address))), serving)
}

fn image(home: &Path) -> ImageConfig {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    ImageConfig {
        user: "tester".into(),
        uid: 1234,
        gid: 2345,
        groups: vec![3456],
        home: home.display().to_string(),
        workdir: home.display().to_string(),
        env: vec![pair("FROM_IMAGE", "image"), pair("BOTH", "image"), pair("ALL", "image")],
        port: None,
    }
}

/// A configuration that leaves this machine's clock alone.
pub fn configuration() -> Configure {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let pair = |name: &str| (name.to_owned(), "sandbox".to_owned());
    Configure {
        hostname: "sbx-test".into(),
        entropy: Entropy([7; 64]),
        wall_clock_unix_ns: u64::try_from(now.as_nanos()).expect("before 2500"),
        identity: Some(Identity { machine_id: [0x1a; 16], boot_id: [0x2b; 16] }),
        env: Some(vec![pair("FROM_SANDBOX"), pair("BOTH"), pair("ALL")]),
        restored: false,
        trust: None,
    }
}

/// The kind of fault a call ended with.
pub fn fault_of<T: std::fmt::Debug>(outcome: Result<T, GuestError>) -> FaultKind {
    match outcome {
        Err(GuestError::Fault(fault)) => fault.kind,
        other => panic!("not a fault: {other:?}"),
    }
}

/// Whether a process exists and is no zombie.
pub fn lives(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
