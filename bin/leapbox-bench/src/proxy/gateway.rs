//! The hidden role `gateway`: our gateway before a fixed address, with real keys.

use anyhow::{Context, Result};
use leapbox_api_types::ApiError;
use leapbox_auth::{Auth, RateLimit};
use leapbox_db::{Db, OrganisationRow};
use leapbox_errors::chain;
use leapbox_gateway::tls::Tls;
use leapbox_gateway::{Backend, Backends, Config, Gateway, OpenError};
use leapbox_ids::{OrganisationId, SandboxId};
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

/// The gateway's domain in the bench.
pub(super) const DOMAIN: &str = "bench.localhost";

/// Arguments of the role `gateway`.
#[derive(Debug, clap::Args)]
pub struct GatewayArgs {
    /// The certificate, in PEM.
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, in PEM.
    #[arg(long)]
    key: PathBuf,
    /// Where the key table goes.
    #[arg(long)]
    database: PathBuf,
    /// The application.
    #[arg(long)]
    application: SocketAddr,
}

/// One sandbox, which is a plain address.
struct Fixed {
    auth: Auth,
    sandbox: SandboxId,
    application: SocketAddr,
}

struct FixedApplication(SocketAddr);

impl Backends for Fixed {
    type Backend = FixedApplication;

    async fn authenticate(&self, headers: &http::HeaderMap) -> Result<OrganisationId, ApiError> {
        Ok(self.auth.authenticate(headers).await?.organisation)
    }

    async fn find(
        &self,
        _organisation: &OrganisationId,
        id: &SandboxId,
        _port: Option<u16>,
    ) -> Result<FixedApplication, ApiError> {
        if *id == self.sandbox {
            Ok(FixedApplication(self.application))
        } else {
            Err(ApiError::NotFound("sandbox not found".to_owned()))
        }
    }
}

impl Backend for FixedApplication {
    fn port(&self) -> u16 {
        self.0.port()
    }

    async fn open(&self) -> Result<TcpStream, OpenError> {
        TcpStream::connect(self.0).await.map_err(|source| OpenError::Unreachable { source: Box::new(source) })
    }

    async fn left(&self) {
        std::future::pending().await
    }
}

/// Serves until standard input ends. Says `<address> <host name> <key>` on standard output once it is ready.
pub async fn bench_gateway(args: GatewayArgs) -> Result<()> {
    let db = Db::open(&args.database).await.context("making the key table")?;
    let organisation = OrganisationId::generate();
    let row = OrganisationRow { id: organisation.clone(), name: "bench".to_owned(), created_at_ms: 0 };
    db.organisation_insert(&row).await.context("making the key table")?;
    let auth = Auth::new(db, RateLimit::default());
    let (_, secret) = auth.create_key(&organisation, "bench").await.context("making a key")?;
    let sandbox = SandboxId::generate();
    let host = format!("{sandbox}.{DOMAIN}");

    let tls = Tls::from_files(&args.certificate, &args.key).context("setting up TLS")?;
    let listener = TcpListener::bind("127.0.0.1:0").await.context("binding the gateway's port")?;
    let address = listener.local_addr().context("asking for the gateway's port")?;
    let backends = Fixed { auth, sandbox, application: args.application };
    let gateway = Gateway::new(backends, axum::Router::new(), Config::new(DOMAIN));
    println!("{address} {host} {secret}");
    let parent_has_gone = async {
        let mut rest = Vec::new();
        if let Err(error) = tokio::io::stdin().read_to_end(&mut rest).await {
            tracing::debug!(error = %chain(&error), "standard input broke off");
        }
    };
    gateway.serve(vec![listener], tls, parent_has_gone).await.context("serving")
}
