//! How does the guardian answer? With the client's own resolver, behind a device of the same name, which knows only what is
//! not to be answered.

use crate::cli::GuardianArgs;
use crate::dns::{self, Takeover};
use crate::held::Held;
use crate::names::{Assign, Names, Zone};
use anyhow::Result;
use host::offload::Steps;
use host::tun::{Tun, TunError};
use model::grant::CatalogueAddress;
use model::limits::DNS_PACKETS_MAX;
use model::net::HostName;
use model::packet::Frame;
use node::Identity;
use node::overlay::{Overlay, OverlayError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// How long the dead daemon's device may take to go.
const DEVICE_MAX: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(20);
/// How often resolv.conf is looked at, as the client does.
const DNS_CHECK: Duration = Duration::from_secs(2);

/// Nobody gives addresses: the controller is not asked.
struct Nobody;

impl Assign for Nobody {
    async fn assign(&self, _: HostName) -> Option<CatalogueAddress> {
        None
    }
}

/// Answers until this future is dropped.
pub async fn run(options: &GuardianArgs) -> Result<()> {
    let identity = Identity::load(&options.state)?;
    let (tun, overlay) = open(&options.device).await?;
    dns::lead_in(&overlay, &identity).await?;
    let held = Held::load(&options.state);
    let zone = Zone::held(identity.pool, &held).without(&identity.endpoints);
    let names = Arc::new(Names::new(zone, Nobody));
    let mut takeover = Takeover::new(&options.resolv_conf, &options.state, &identity.pool);
    takeover.route(overlay.link(), &held);
    let tun = Arc::new(tun);
    let frames = read(Arc::clone(&tun));
    let answering = Arc::clone(&names).run(frames, move |frame| {
        // What the kernel does not take is asked for again.
        let _ = tun.write(&frame);
    });
    let following = async {
        loop {
            if let Some(servers) = takeover.keep() {
                names.set_servers(servers);
            }
            tokio::time::sleep(DNS_CHECK).await;
        }
    };
    tokio::select! {
        ended = answering => Ok(ended?),
        () = following => Ok(()),
    }
}

/// The device, as soon as the dead daemon's is gone.
async fn open(name: &str) -> Result<(Tun, Overlay), OverlayError> {
    let deadline = tokio::time::Instant::now() + DEVICE_MAX;
    loop {
        match Overlay::open(name, Steps::ONE_BY_ONE).await {
            Err(OverlayError::Tun(TunError::NameTaken(_))) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(LOOK).await;
            }
            done => return done,
        }
    }
}

/// Packets into the device, read by a thread that ends with this process.
fn read(tun: Arc<Tun>) -> mpsc::Receiver<Frame> {
    let (sender, frames) = mpsc::channel(DNS_PACKETS_MAX);
    std::thread::spawn(move || {
        loop {
            let mut frame = Frame::default();
            if tun.read(&mut frame).is_err() || sender.is_closed() {
                return;
            }
            // One too many is asked for again.
            let _ = sender.try_send(frame);
        }
    });
    frames
}
