//! How does the controller run? Opens the organisation, serves administrators, and stops when it is told to.

pub use crate::cli::ServeArgs;

use crate::arrange::NoGateways;
use crate::config::StatePaths;
use crate::local;
use crate::organisation::{LoadError, Organisation};
use crate::rpc::admin::AdminRpc;
use crate::store::Options;
use host::clock::SystemClock;
use host::local::LocalError;
use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// Why the controller does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The organisation does not open.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The local socket cannot be had.
    #[error(transparent)]
    Local(#[from] LocalError),
    /// Serving failed.
    #[error("serving administrators failed: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The system refused.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Sends the log to standard error; `RUST_LOG` chooses, `NO_COLOR` is honoured.
pub fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sled=warn,h2=warn,hyper=warn"));
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A second start in one process (tests) keeps the first log.
    let _ = log.try_init();
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(paths: &StatePaths, socket: &Path, _args: &ServeArgs) -> Result<(), ServeError> {
    let organisation = Organisation::open(paths, Options::default(), Arc::new(SystemClock::new())).await?;
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let listener = local::bind(socket)?;
    tracing::info!(socket = %socket.display(), revision = %organisation.now().revision, "the controller runs");
    local::serve(listener, AdminRpc::new(organisation, Arc::new(NoGateways)), stop).await?;
    tracing::info!("the controller stops");
    Ok(())
}
