//! `leapbox serve`: starts the parts of the server in order, and stops them in reverse.
//!
//! ```text
//! lock ─► database ─► do its parts belong together (identity)? do the settings fit what runs? ─► driver ─► network
//!      ─► lifecycle (begins to adopt what runs) ─► API, gateway, metrics
//! SIGTERM, SIGINT: no new requests, open ones finish, sandboxes stay for the next server
//! ```

mod backends;
mod error;
mod http;
mod identity;
mod metrics;
mod renew;
mod tls;
mod vmm;

pub use error::ServeError;
pub use identity::Accepted as Args;

use crate::config::{Config, PREPARED_SLOTS, with_loopback_twin};
use crate::state::{Serving, State};
use backends::Sandboxes;
use error::{listen, system};
use identity::Identity;
use leapbox_api::ApiState;
use leapbox_auth::{Auth, RateLimit};
use leapbox_db::{Db, Installation};
use leapbox_errors::chain;
use leapbox_gateway::Gateway;
use leapbox_gateway::tls::Tls;
use leapbox_lifecycle::{CapacityLimits, Lifecycle, LifecycleConfig, Parts, PoolLimits, UnknownMachines};
use leapbox_network::{GuestLink, HostTable, Network, NetworkConfig};
use leapbox_storage::{ArchiveStore, RemoteConfig, StoreConfig};
use leapbox_templates::Artifacts;
use leapbox_vmm::IoLimits;
use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The window of the rate limit: the contract counts an organisation's requests per minute.
const RATE_PERIOD: Duration = Duration::from_secs(60);
/// The time that open API requests have after a signal. Those that last longer are cut off; their sandboxes keep
/// running.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs the server until SIGTERM or SIGINT.
pub fn run(config: Config, accepted: Args) -> Result<(), ServeError> {
    // First, because everything below may change what a server that runs already uses.
    let _lock = lock(&config)?;
    // Before any VMM is started: launchers and jailers end before their VMM, which then becomes this process's child.
    leapbox_vmm::become_subreaper()?;
    raise_open_files();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system("starting the runtime"))?;
    runtime.block_on(serve(config, accepted))
}

/// Takes the lock of the state directory, of which only one server may be the owner.
fn lock(config: &Config) -> Result<File, ServeError> {
    State::at(config.state_dir()).create()?;
    let file = File::create(State::at(config.state_dir()).lock())
        .map_err(system("opening the lock of the state directory"))?;
    // A lock of the kernel's and not the file's existence: it is released however the process ends.
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::AlreadyServing { dir: config.state_dir() }),
        Err(std::fs::TryLockError::Error(source)) => Err(system("locking the state directory")(source)),
    }
}

/// Raises the soft limit of open files to the hard one.
fn raise_open_files() {
    // A connection takes a descriptor or two. The usual soft limit of 1024 protects programs that use select(2), which
    // this one does not.
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && let Err(errno) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(error = %chain(&errno), "the limit of open files could not be raised: fewer connections fit");
    }
}

async fn serve(config: Config, accepted: Args) -> Result<(), ServeError> {
    let state = State::at(config.state_dir());
    let db = Db::open(&state.database()).await?;
    // First of all, and before anything is changed on the host: with the wrong parts every later step could lose what
    // is stored.
    let mut identity = identity::establish(&state, &db, accepted).await?;
    let archives = archives(&config, &state, &db, &mut identity, accepted).await?;
    let Identity { installation, key } = identity;
    // Before any machine is touched: a port in use or a bad certificate must not leave pooled clones behind.
    let listeners = Listeners::open(&config).await?;
    let auth = Arc::new(Auth::new(db.clone(), RateLimit { requests: config.rate_limit, period: RATE_PERIOD }));
    let vmm = vmm::open(&config, &config.state_dir(), &installation.instance)?;
    let network_config = network_config(&config, &installation);
    leapbox_lifecycle::check_takeover(&db, vmm.as_ref(), &network_config, &config.state_dir()).await?;
    let network = Network::start(network_config).await?;
    let artifacts = Artifacts::open(&config.artifacts_dir)?;
    let parts = Parts { db: db.clone(), vmm, network: Arc::clone(&network), artifacts, archives, key };
    // Returns when the state of every sandbox is known. Machines of the former server are taken over by the sandboxes'
    // own tasks, and a request waits for its own sandbox alone.
    let lifecycle = Lifecycle::start(lifecycle_config(&config, &installation, accepted), parts).await?;
    let served = serve_all(&config, listeners, &lifecycle, auth, &network).await;
    // In this order: tasks of the lifecycle use network and database until they have stopped.
    lifecycle.stop().await;
    // Sandboxes keep their network: the table stays until the next server replaces it.
    network.stop(HostTable::Keep).await?;
    db.close().await;
    served
}

/// Opens the store of stored sandboxes. If the bucket has something newer than the database knows, that is an error, or
/// accepted and recorded.
async fn archives(
    config: &Config,
    state: &State,
    db: &Db,
    identity: &mut Identity,
    accepted: Args,
) -> Result<ArchiveStore, ServeError> {
    let place = config.object_store.clone().unwrap_or_default();
    loop {
        let archives = open_archives(config, state, identity)?;
        match identity::check_bucket(&archives, &identity.installation, &place, accepted).await? {
            None => return Ok(archives),
            // Recorded, and opened and asked again: the store compares the bucket with what it was opened with.
            Some(installation) => {
                db.installation_update(&installation).await?;
                identity.installation = installation;
            }
        }
    }
}

fn open_archives(config: &Config, state: &State, identity: &Identity) -> Result<ArchiveStore, ServeError> {
    let remote = config.object_store.as_deref().map(RemoteConfig::from_env).transpose()?;
    // Without an object store the directory is the only copy, so nothing may be evicted from it.
    let cache_bytes = remote.is_some().then(|| config.archive_cache_bytes());
    Ok(ArchiveStore::open(StoreConfig {
        dir: state.archives_dir(),
        key: identity.key.clone(),
        remote,
        cache_bytes,
        installation: identity.installation.id.clone(),
        known_sequence: identity.installation.sequence,
    })?)
}

/// The sockets that the server listens on, and the gateway's certificate.
struct Listeners {
    api: Vec<TcpListener>,
    gateway: Vec<TcpListener>,
    metrics: TcpListener,
    tls: Tls,
}

impl Listeners {
    async fn open(config: &Config) -> Result<Self, ServeError> {
        Ok(Self {
            tls: tls::of(config)?,
            api: bind(config.api).await?,
            gateway: bind(config.gateway).await?,
            metrics: bind_one(config.metrics).await?,
        })
    }
}

fn network_config(config: &Config, installation: &Installation) -> NetworkConfig {
    NetworkConfig {
        instance: installation.instance.clone(),
        link_block: config.link_block,
        base_uid: config.base_uid.unwrap_or(installation.base_uid),
        max_slots: config.max_slots(),
        prepared: PREPARED_SLOTS as usize,
        dns_upstreams: config.dns_upstreams.clone(),
        guest_link: GuestLink::Tap,
        egress_private_cidrs: config.egress_private_cidrs.clone(),
    }
}

fn lifecycle_config(config: &Config, installation: &Installation, accepted: Args) -> LifecycleConfig {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    LifecycleConfig {
        pod_id: format!("pod-{}", installation.instance),
        installation: installation.id.clone(),
        state_dir: config.state_dir(),
        capacity: CapacityLimits { sandboxes: config.max_sandboxes, memory_mib: config.memory_budget_mib },
        pool: PoolLimits { per_shape: config.pool_size as usize, memory_mib: config.pool_memory_mib },
        io_limits: io_limits(config),
        // One more than there are CPUs, because one launch waits for the disk or the guest while the others compute.
        launches_at_once: cpus + 1,
        unknown_machines: match accepted.accept_older_database {
            true => UnknownMachines::SetAside,
            false => UnknownMachines::Refuse,
        },
        garbage_grace: config.garbage_grace,
    }
}

/// Makes the limits of one sandbox; 0 in the configuration is no limit.
fn io_limits(config: &Config) -> IoLimits {
    let limit = |value: u64, unit: u64| (value > 0).then(|| value.saturating_mul(unit));
    IoLimits {
        disk_bytes_per_s: limit(config.disk_mib_per_s, 1 << 20),
        disk_ops_per_s: limit(config.disk_ops_per_s, 1),
        network_bytes_per_s: limit(config.network_mib_per_s, 1 << 20),
    }
}

/// Serves API, gateway and metrics until a signal, and then until open requests are done or [`DRAIN`] has passed.
async fn serve_all(
    config: &Config,
    listeners: Listeners,
    lifecycle: &Lifecycle,
    auth: Arc<Auth>,
    network: &Arc<Network>,
) -> Result<(), ServeError> {
    let api = leapbox_api::router(ApiState {
        lifecycle: lifecycle.clone(),
        auth: Arc::clone(&auth),
        private_networks: config.egress_private_cidrs.as_slice().into(),
    });
    let backends = Sandboxes::new(auth, lifecycle.clone());
    let gateway = Gateway::new(backends, api.clone(), leapbox_gateway::Config::new(&config.domain));
    let metrics = metrics::router(lifecycle.clone(), gateway.clone(), Arc::clone(network));
    // For `leapbox env`, which may be called with other flags than this server was.
    State::at(config.state_dir()).write_serving(&Serving::as_configured(config))?;
    tracing::info!(api = %config.api, gateway = %config.gateway, domain = %config.domain, "serving");

    let (stop, stopped) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners.api {
        servers.spawn(http::serve(listener, api.clone(), stopped.clone()));
    }
    servers.spawn(http::serve(listeners.metrics, metrics, stopped.clone()));
    servers.spawn(renew::keep_certificate(config.clone(), stopped.clone()));
    servers.spawn(close_ended(lifecycle.clone(), gateway.clone(), stopped.clone()));
    let until = stopped.clone();
    servers.spawn(async move {
        if let Err(error) = gateway.serve(listeners.gateway, listeners.tls, when(until)).await {
            tracing::error!(error = %chain(&error), "the gateway ended");
        }
    });
    terminated().await?;
    tracing::info!("stopping; sandboxes keep running");
    // `send` would fail, and change nothing, if every receiver were gone already.
    stop.send_replace(true);
    let _ = tokio::time::timeout(DRAIN, async { while servers.join_next().await.is_some() {} }).await;
    Ok(())
}

/// Listens on an address and, for IPv4 loopback, on its IPv6 twin.
async fn bind(address: SocketAddr) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = vec![bind_one(address).await?];
    for twin in with_loopback_twin(address).into_iter().skip(1) {
        // Only a warning, because a host may have IPv6 turned off.
        match TcpListener::bind(twin).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => tracing::warn!(address = %twin, error = %chain(&error), "cannot listen on the IPv6 twin"),
        }
    }
    Ok(listeners)
}

async fn bind_one(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(listen(address))
}

/// Resolves once the server stops.
async fn when(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, and with it the server.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Closes the gateway's connections into sandboxes whose machine ends: each keeps a network namespace alive.
async fn close_ended(lifecycle: Lifecycle, gateway: Gateway<Sandboxes>, stopped: watch::Receiver<bool>) {
    use tokio::sync::broadcast::error::RecvError;
    let mut ending = lifecycle.ending();
    let stopped = when(stopped);
    tokio::pin!(stopped);
    loop {
        let ended = tokio::select! {
            ended = ending.recv() => ended,
            () = &mut stopped => return,
        };
        match ended {
            Ok(id) => gateway.forget(&id),
            // Connections into the missed ones end later, by their own errors and time-outs.
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "sandboxes ended faster than the gateway could close connections into them");
            }
            Err(RecvError::Closed) => return,
        }
    }
}

/// Waits for SIGTERM or SIGINT.
async fn terminated() -> Result<(), ServeError> {
    let mut term = signal(SignalKind::terminate()).map_err(system("listening for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listening for SIGINT"))?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
