//! How does the controller run? Opens the organisation, serves administrators, and stops when it is told to.

pub use crate::cli::ServeArgs;

use crate::arrange::restore::RestoreError;
use crate::arrange::{Arrangements, Arranger, NoGateways};
use crate::config::{StatePaths, Timing};
use crate::directory::Org;
use crate::front::{Front, FrontError, FrontOptions};
use crate::local;
use crate::organisation::{LoadError, Organisation};
use crate::rpc::accept::Connections;
use crate::rpc::admin::AdminRpc;
use crate::store::{Key, Options, Record as _, Store};
use crate::tools::Alive;
use host::clock::SystemClock;
use host::keyfile;
use host::local::LocalError;
use host::privilege::{Left, PrivilegeError};
use model::secret::Secret;
use node::{Manager, Runtime};
use std::path::Path;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

/// The port of a node when nothing says otherwise.
const DEFAULT_PORT: u16 = 443;

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
    /// The grants cannot be read back.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The network side does not start.
    #[error(transparent)]
    Front(#[from] FrontError),
    /// What an older version made cannot be brought up to date.
    #[error("the administrators' roles could not be made: {0}")]
    Roles(crate::directory::Refusal),
    /// Its keys would turn over too fast.
    #[error("--controller-key-life and --controller-key-overlap: {0}")]
    Keys(#[from] crate::directory::Refusal),
    /// It may do more than it needs.
    #[error(transparent)]
    Privilege(#[from] PrivilegeError),
    /// The system refused.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(paths: &StatePaths, socket: &Path, args: &ServeArgs) -> Result<(), ServeError> {
    let mut manager = Manager::start(crate::front::PROGRAM)?;
    let mut organisation = Organisation::open(paths, Options::default(), Arc::new(SystemClock::new())).await?;
    organisation.timing = Timing {
        session: args.session_life,
        devices: args.devices_per_user,
        svid: args.svid_life,
        review: args.review_every,
        authority: args.controller_key_life,
        overlap: args.controller_key_overlap,
    };
    crate::authority::check_timing(&organisation)?;
    let key = paths.break_glass();
    let keep = |secret: &Secret<String>| keyfile::replace(&key, format!("{}\n", secret.expose()).as_bytes());
    if let Some(owners) = crate::administrator::upgrade(&organisation, keep).await.map_err(ServeError::Roles)? {
        let owners: Vec<_> = owners.iter().map(|name| name.as_str()).collect();
        tracing::warn!(
            key = %key.display(), owners = owners.join(", "),
            "the members of the group `owners` have the role of an owner now; a break-glass key was made: move it away from this machine"
        );
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let farewell = manager.farewell();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        farewell();
    };
    let listener = node::local::bind(socket)?;
    let refused = Arc::clone(&organisation.refused);
    let (arranger, admin, runtime): (Arc<dyn Arranger>, _, _) = match args.local_only {
        true => (Arc::new(NoGateways), administrators(&organisation, Arc::new(NoGateways), None), None),
        false => {
            let (arranger, admin, runtime) = serve_network(&organisation, args).await?;
            (arranger, admin, Some(runtime))
        }
    };
    // All that takes more is open. The listeners inside the overlay have ports that anybody may open.
    node::confine(Left::default())?;
    tracing::info!(socket = %socket.display(), revision = %organisation.now().revision, "the controller runs");
    tokio::spawn(crate::authority::keep_forever(organisation.clone()));
    tokio::spawn(crate::signin::check_forever(organisation.clone(), Arc::clone(&arranger)));
    let store = Arc::clone(&organisation.store);
    let alive: Alive = Arc::new(move || Box::pin(is_alive(Arc::clone(&store), runtime.clone())));
    let asked = Arc::clone(&alive);
    manager.ready("serving", move || asked());
    local::serve(listener, admin, alive, refused, stop).await?;
    arranger.ending().await;
    if !args.local_only
        && let Err(error) = host::nft::remove(crate::front::PROGRAM).await
    {
        tracing::warn!(%error, "the firewall tables could not be removed");
    }
    tracing::info!("the controller stops");
    Ok(())
}

/// Opens everything outside and serves it in tasks of its own.
async fn serve_network(
    organisation: &Organisation,
    args: &ServeArgs,
) -> Result<(Arc<dyn Arranger>, AdminRpc, Arc<Runtime>), ServeError> {
    let connections = Arc::new(Connections::counting(Arc::clone(&organisation.refused)));
    let arrangements = Arrangements::restore(
        Arc::clone(&organisation.store),
        organisation.directory.clone(),
        Arc::clone(&organisation.sealer),
        Arc::clone(&organisation.clock),
        Arc::clone(&connections),
    )
    .await?;
    let options = FrontOptions {
        device: args.device.clone(),
        port: port(organisation, args),
        steps: args.offload,
        dark: args.dark,
        allow_in: args.allow_in.clone(),
        cut_ssh: args.cut_ssh,
    };
    let (front, inbox) = Front::open(organisation.clone(), &options).await?;
    tracing::info!(port = front.runtime().udp.local_port(), dark = options.dark, "listening");
    let runtime = Arc::clone(front.runtime());
    tokio::spawn(Arc::clone(&arrangements).review_forever(organisation.timing.review));
    tokio::spawn(crate::vanish::Watch::new(organisation.clone()).keep_forever());
    tokio::spawn(Arc::clone(&arrangements).sign_heads_forever(Arc::clone(&organisation.keyring)));
    let admin =
        administrators(organisation, Arc::clone(&arrangements) as Arc<dyn Arranger>, Some(Arc::clone(&runtime)));
    let (served, remote) = (Arc::clone(&arrangements), admin.clone());
    tokio::spawn(async move {
        if let Err(error) = front.serve(inbox, served, connections, remote).await {
            tracing::error!(%error, "the network side of the controller ended");
        }
    });
    Ok((arrangements, admin, runtime))
}

/// Who answers administrators, at the local socket and inside the overlay.
fn administrators(organisation: &Organisation, arranger: Arc<dyn Arranger>, runtime: Option<Arc<Runtime>>) -> AdminRpc {
    let of_calls = Arc::clone(&organisation.refused);
    let counters = move || {
        let of_packets = runtime.as_ref().map(|runtime| runtime.engine.drops()).unwrap_or_default();
        of_packets.into_iter().chain(of_calls.counters()).collect()
    };
    AdminRpc::new(organisation.clone(), arranger).counting(Arc::new(counters))
}

/// Whether the packet threads get on, and the store answers at all: one that refuses is for people, not for a restart.
async fn is_alive(store: Arc<dyn Store>, runtime: Option<Arc<Runtime>>) -> bool {
    if let Ok(key) = Key::of(Org::KIND, Org::KIND) {
        let _ = store.get(&key).await;
    }
    runtime.is_none_or(|runtime| runtime.is_alive())
}

/// As asked for, else that of the first endpoint that nodes were told.
fn port(organisation: &Organisation, args: &ServeArgs) -> u16 {
    let told = || organisation.org().ok()?.endpoints.first()?.rsplit_once(':')?.1.parse().ok();
    args.port.or_else(told).unwrap_or(DEFAULT_PORT)
}
