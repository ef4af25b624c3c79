//! The application both proxies stand before.

use crate::process::single_threaded;
use crate::web;
use anyhow::{Context, Result};
use leapbox_errors::chain;
use std::net::SocketAddr;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// It runs in a thread of its own until dropped.
pub(super) struct Application {
    pub(super) address: SocketAddr,
    _stop: oneshot::Sender<()>,
}

impl Application {
    pub(super) fn start() -> Result<Self> {
        let runtime = single_threaded()?;
        let bound = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = bound.context("binding the application's port")?;
        let address = listener.local_addr().context("asking for the application's port")?;
        let (stop, stopped) = oneshot::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        });
        Ok(Self { address, _stop: stop })
    }
}

async fn serve(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(error = %chain(&error), "no TCP_NODELAY");
        }
        tokio::spawn(web::serve(socket));
    }
}
