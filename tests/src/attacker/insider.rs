//! What can a machine do that has joined, was granted something, and then breaks every rule that its own client holds?
//!
//! It takes a stopped client's identity, asks the controller for a resource as a client does, and opens the WireGuard
//! tunnel itself: whatever IP packet comes on the standard input, in hexadecimal, one a line, goes to the gateway inside
//! it; what the gateway sends inside is printed in the same form.

use super::tunnel::End;
use super::{hex_bytes, hex_text};
use anyhow::{Context as _, bail};
use host::offload::Steps;
use model::key::{Psk, PublicKey};
use model::limits::{KEY_LIFE, PROBE_EVERY};
use node::boot::{self, Setup};
use proto::convert::array;
use proto::v1;
use proto::v1::connect_reply::Result as Outcome;
use proto::v1::devices_client::DevicesClient;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use tunnel::{PeerKind, Role};

/// The far end of a tunnel, as the controller told it.
struct Offer {
    gateway: PublicKey,
    endpoint: SocketAddr,
    psk: Psk,
}

/// Opens the tunnel and says `the tunnel is open`; goes on until its standard input ends.
pub fn hold(state: &Path, resource: &str) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let key = node::enrol::fresh_key()?;
    let (_node, offer) = runtime.block_on(ask(state, resource, &tunnel::keys::public_key(&key)))?;
    let end = Arc::new(End::new(offer.endpoint, &key, &offer.gateway, &PeerKind::Pairing(offer.psk), 1)?);
    end.shake_hands(|_| Ok(()))?;
    writeln!(io::stdout(), "the tunnel is open")?;
    let listening = Arc::clone(&end);
    thread::spawn(move || {
        loop {
            // Errors are about what was sent before; what comes next may be good again.
            if let Ok(Some(packet)) = listening.receive() {
                let _nobody_reads = writeln!(io::stdout(), "{}", hex_text(&packet));
            }
        }
    });
    for line in io::stdin().lock().lines() {
        end.send(&hex_bytes(&line?).context("no hexadecimal")?)?;
    }
    Ok(())
}

/// As a client does it: the control tunnel, then one question.
async fn ask(state: &Path, resource: &str, key: &PublicKey) -> anyhow::Result<(boot::Node, Offer)> {
    let setup = Setup {
        role: Role::Client,
        device: "umbra0".to_owned(),
        port: 0,
        state: state.to_owned(),
        probe_every: PROBE_EVERY,
        key_life: KEY_LIFE,
        steps: Steps::ALL,
    };
    let node = boot::resume(&setup).await?;
    tokio::spawn(Arc::clone(&node.link).run());
    let mut link = node.link.watch();
    let channel = link.wait_for(|state| state.channel.is_some()).await?.channel.clone().context("no channel")?;
    let question = v1::ConnectRequest {
        resource: resource.to_owned(),
        data_key: key.0.to_vec(),
        pairings: Vec::new(),
        avoid_gateways: Vec::new(),
        moves: String::new(),
    };
    let reply = DevicesClient::new(channel).connect(question).await?.into_inner();
    let offer = match reply.result.context("an empty answer")? {
        Outcome::Permit(permit) => permit.offer.context("no tunnel was offered")?,
        Outcome::Deny(deny) => bail!("denied: {}", deny.reasons.join("; ")),
    };
    let endpoint = offer.endpoints.into_iter().next().context("no endpoint")?;
    let offer = Offer {
        gateway: PublicKey(array("gateway_key", &offer.gateway_key)?),
        endpoint: endpoint.try_into()?,
        psk: Psk::new(array("psk", &offer.psk)?),
    };
    Ok((node, offer))
}
