//! What does a node renew by itself, and how does it come back when the controller knows none of its keys?
//!
//! - its certificate, at half of what is left of it;
//! - its control key, after `key_life`: the next one is on disk before the controller hears of it, both are answered until the
//!   new one is used, and the connection inside goes on. Whoever restarts in between uses the one that the other knows;
//! - whom it trusts: the controller's next key and CA, once those in use have announced them, are on its disk beside these. It
//!   moves on when the controller says that it did, or where the old ones are answered no more;
//! - itself: where no key of ours is answered (the controller was restored from an old backup, our clock was years ahead), a
//!   knock with the recovery secret has a fresh one admitted. The link goes on trying with the old ones meanwhile.

use crate::channel::{ChannelError, Target, channel_over};
use crate::enrol::{exporter, fresh_key, knock};
use crate::identity::{Identity, Next};
use crate::link::{Link, Succession, resolve_endpoints};
use crate::overlay::Overlay;
use crate::rpc::{self, NotAdmitted, Reapplication};
use crate::runtime::Runtime;
use crate::svid::{SvidKey, read_leaf};
use crate::tls::{SvidSlot, enrolling_config, node_config};
use model::ids::NodeId;
use model::key::PrivateKey;
use model::limits::{KEY_PROOF_MAX, RECOVER_AFTER, RECOVER_EVERY, RECOVER_MAX, TLS_HANDSHAKE_MAX};
use model::pool::ENROL_PORT;
use model::secret::Secret;
use model::time::{Clock as _, Instant};
use rustls::pki_types::CertificateDer;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tunnel::keys::public_key;
use tunnel::{Change, Peer, PeerId, PeerKind};

/// Longest pause between two looks at the clock: a timer stops while the machine sleeps, a certificate does not.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Pause after a renewal that failed, and shortest one between two renewals.
const RETRY: Duration = Duration::from_secs(2);
const RENEW_MIN: Duration = Duration::from_millis(500);
/// How often it is looked whether a new key has proven itself, and how often a knock is repeated.
const PROOF_EVERY: Duration = Duration::from_millis(20);
const KNOCK_EVERY: Duration = Duration::from_secs(2);
/// Of the control tunnel: often enough for every NAT.
const KEEPALIVE: Duration = Duration::from_secs(25);

/// What a person should know where not even the recovery secret is answered.
const LOST: &str = "if other machines reach it, it has a new key by now that this machine missed (it was away for too long), or \
     this machine was revoked: ask an administrator for a new join file, leave the organisation and join again";

const CONTROLLER: PeerId = PeerId::Node(NodeId::Controller);

/// With what a node's keys are renewed.
pub struct Keeping {
    /// Where the identity lies.
    pub folder: PathBuf,
    /// The packet path.
    pub runtime: Arc<Runtime>,
    /// The control link.
    pub link: Arc<Link>,
    /// The TUN device.
    pub overlay: Overlay,
    /// The certificate in use.
    pub svid: Arc<SvidSlot>,
    /// How long a control key is used.
    pub key_life: Duration,
}

/// Admits the controller's tunnel under our key and its; where others follow, under these, too.
pub async fn meet_controller(runtime: &Runtime, identity: &Identity) {
    runtime.apply(Change::AddPeer(Peer {
        id: CONTROLLER,
        kind: PeerKind::Control,
        local: Arc::clone(&identity.control_key),
        remote: identity.controller_key,
        addresses: vec![IpAddr::V6(identity.pool.controller())],
        endpoints: resolve_endpoints(&identity.endpoints).await,
        keepalive: Some(KEEPALIVE),
    }));
    let next = identity.next.as_ref();
    let moving = next.is_some_and(|next| next.switched || next.announcement.switches <= runtime.clock.wall());
    follow(runtime, identity, identity.next_control_key.as_ref(), moving);
}

/// Which pairs of keys follow the one in use: with the next one of ours, if there is one, and with the controller's next one,
/// where that may be the one in use by now.
fn follow(runtime: &Runtime, identity: &Identity, next: Option<&Arc<PrivateKey>>, moving: bool) {
    let theirs = identity.next.as_ref().filter(|_| moving).map(|next| next.announcement.next.key);
    let locals = || std::iter::once(&identity.control_key).chain(next);
    let remotes = std::iter::once(identity.controller_key).chain(theirs);
    let all = remotes.flat_map(|remote| locals().map(move |local| (Arc::clone(local), remote)));
    // The first of them is the pair in use.
    runtime.apply(Change::Successors { id: CONTROLLER, keys: all.skip(1).collect() });
}

/// What is due when; elapsed time counts by the wall clock, for a machine may sleep.
struct Dues {
    svid: i64,
    key: i64,
    /// When to move on to the controller's next key may be tried again.
    moving: i64,
    /// Since when there is no connection.
    lost: Option<Instant>,
    /// When recovering may be tried again.
    recover: Instant,
}

/// Renews for as long as the program runs.
pub async fn keep(mut identity: Identity, keeping: Keeping) {
    let now = || keeping.runtime.clock.wall();
    let mut dues = Dues {
        svid: svid_due(&identity, now().0),
        key: identity.control_key_since.plus(keeping.key_life).0,
        moving: 0,
        lost: None,
        recover: Instant(0),
    };
    let mut succession = keeping.link.succession();
    let mut heard = None;
    loop {
        let next = u64::try_from(dues.svid.min(dues.key).saturating_sub(now().0)).unwrap_or(0);
        let pause = Duration::from_millis(next).clamp(PROOF_EVERY, LOOK_EVERY);
        // A word of the controller, or the time.
        if let Ok(Ok(())) = timeout(pause, succession.changed()).await {
            heard = succession.borrow_and_update().clone();
        }
        if let Err(why) = settle(&mut identity, &keeping) {
            tracing::warn!(%why, "the new key could not be kept yet");
        }
        if let Some(said) = heard.take()
            && let Err(why) = hear(&mut identity, &keeping, &said)
        {
            tracing::warn!(%why, "the controller's next key and CA could not be kept yet");
            heard = Some(said);
        }
        trust(&identity, &keeping);
        if identity.next.as_ref().is_some_and(|next| next.switched) && dues.moving <= now().0 {
            dues.moving = now().plus(RETRY).0;
            follow(&keeping.runtime, &identity, identity.next_control_key.as_ref(), true);
        }
        if dues.svid <= now().0 {
            dues.svid = match renew_svid(&mut identity, &keeping).await {
                Ok(()) => svid_due(&identity, now().0),
                Err(why) => {
                    tracing::warn!(%why, "the certificate could not be renewed yet");
                    now().plus(RETRY).0
                }
            };
        }
        if dues.key <= now().0 {
            dues.key = match turn_key(&mut identity, &keeping).await {
                Ok(()) => now().plus(keeping.key_life).0,
                Err(why) => {
                    tracing::warn!(%why, "the control key could not be changed yet");
                    now().plus(RETRY).0
                }
            };
        }
        if is_lost(&identity, &keeping, &mut dues) {
            match recover(&mut identity, &keeping).await {
                Ok(()) => {
                    tracing::info!("the controller knows this node again, under a new key");
                    dues.svid = svid_due(&identity, now().0);
                    dues.key = now().plus(keeping.key_life).0;
                }
                Err(why) => {
                    keeping.link.advise(LOST.to_owned());
                    tracing::info!(%why, "no key of this node is answered; it goes on trying. {LOST}");
                }
            }
            dues.recover = keeping.runtime.now().plus(jittered(RECOVER_EVERY));
        }
    }
}

/// When half of what is left is over, milliseconds since 1970: a fresh certificate is renewed at half of its life.
fn svid_due(identity: &Identity, now: i64) -> i64 {
    let left = svid_end(identity).saturating_sub(now).max(0);
    now.saturating_add((left / 2).max(RENEW_MIN.as_millis() as i64))
}

/// When the certificate ends, milliseconds since 1970.
fn svid_end(identity: &Identity) -> i64 {
    let leaf = identity.svid_chain.first().map(|l| CertificateDer::from(l.clone()));
    let end = leaf.and_then(|leaf| crate::svid::end_of(&leaf)).and_then(|s| i64::try_from(s).ok()).unwrap_or(0);
    end.saturating_mul(1_000)
}

async fn renew_svid(identity: &mut Identity, keeping: &Keeping) -> Result<(), String> {
    let key = SvidKey::generate().map_err(|e| e.to_string())?;
    let csr = key.csr().map_err(|e| e.to_string())?;
    let chain = rpc::renew_svid(keeping.link.channel_within(LOOK_EVERY).await?, csr).await?;
    take_svid(identity, keeping, &key, chain)?;
    identity.save(&keeping.folder).map_err(|e| e.to_string())
}

fn take_svid(identity: &mut Identity, keeping: &Keeping, key: &SvidKey, chain: Vec<Vec<u8>>) -> Result<(), String> {
    let leaf = chain.first().ok_or("the answer holds no certificate")?;
    let facts = read_leaf(&identity.trust_domain, &CertificateDer::from(leaf.clone())).map_err(|e| e.to_string())?;
    if facts.node != identity.node {
        return Err("the answer is for somebody else".to_owned());
    }
    let der = chain.iter().map(|c| CertificateDer::from(c.clone())).collect();
    keeping.svid.replace(der, key).map_err(|e| e.to_string())?;
    identity.svid_key = Secret::new(key.pkcs8());
    identity.svid_chain = chain;
    Ok(())
}

/// Is the tunnel in use this key's?
fn uses(keeping: &Keeping, key: &PrivateKey) -> bool {
    keeping.runtime.engine.keys(&CONTROLLER).is_some_and(|(local, _)| local == public_key(key))
}

/// A next key, ours or the controller's, has proven itself: it is the key from now on, on the disk too.
fn settle(identity: &mut Identity, keeping: &Keeping) -> Result<(), String> {
    let Some((local, remote)) = keeping.runtime.engine.keys(&CONTROLLER) else { return Ok(()) };
    let mut settled = None;
    if let Some(next) = identity.next_control_key.clone().filter(|next| public_key(next) == local) {
        let control_key_since = keeping.runtime.clock.wall();
        settled = Some(Identity { control_key: next, control_key_since, next_control_key: None, ..identity.clone() });
    }
    if identity.next.as_ref().is_some_and(|next| next.announcement.next.key == remote) {
        settled = settled.as_ref().unwrap_or(identity).moved_on();
        tracing::info!(key = remote.short(), "this node goes on with the controller's next key and CA");
    }
    let Some(settled) = settled else { return Ok(()) };
    settled.save(&keeping.folder).map_err(|e| e.to_string())?;
    *identity = settled;
    Ok(())
}

/// Takes what the controller says about its next key and CA: on the disk first, trusted afterwards. What those in use did not
/// sign is refused.
fn hear(identity: &mut Identity, keeping: &Keeping, said: &Succession) -> Result<(), String> {
    let mut told = None;
    if let Some(announcement) = &said.announcement {
        if announcement.next == identity.authority() {
            // We joined under it.
            keeping.link.keeps(Some(announcement.digest()));
            return Ok(());
        }
        told = match identity.told(announcement) {
            Ok(told) => told,
            Err(error) => {
                tracing::error!(%error, "what the controller announces as its next key and CA is refused");
                return Ok(());
            }
        };
    }
    let changed = told.as_ref().unwrap_or(identity);
    if said.switched
        && let Some(next) = changed.next.as_ref().filter(|next| !next.switched)
    {
        let next = Some(Next { switched: true, ..next.clone() });
        told = Some(Identity { next, ..changed.clone() });
    }
    let Some(told) = told else { return Ok(()) };
    told.save(&keeping.folder).map_err(|e| e.to_string())?;
    *identity = told;
    keeping.link.keeps(identity.keeps());
    tracing::info!(switched = said.switched, "the controller's next key and CA are known");
    // Told at once: an administrator counts who knows.
    keeping.link.nudge();
    Ok(())
}

/// Trusts whom the identity names at this moment.
fn trust(identity: &Identity, keeping: &Keeping) {
    let trusted = identity.trusted(keeping.runtime.clock.wall());
    if !keeping.link.trust.set(trusted.clone()) {
        return;
    }
    match node_config(&trusted, Arc::clone(&keeping.svid)) {
        Ok(tls) => keeping.link.secure(tls),
        Err(error) => tracing::error!(%error, "the controller's certificates could not be taken"),
    }
}

/// Changes the control key, or goes on with a change that was begun.
async fn turn_key(identity: &mut Identity, keeping: &Keeping) -> Result<(), String> {
    let next = match &identity.next_control_key {
        Some(next) => Arc::clone(next),
        None => {
            // On the disk first: once the controller knows it, it must not be lost.
            let next = Arc::new(fresh_key().map_err(|e| e.to_string())?);
            let begun = Identity { next_control_key: Some(Arc::clone(&next)), ..identity.clone() };
            begun.save(&keeping.folder).map_err(|e| e.to_string())?;
            *identity = begun;
            next
        }
    };
    rpc::rotate_key(keeping.link.channel_within(LOOK_EVERY).await?, &public_key(&next)).await?;
    let moving = identity.next.as_ref().is_some_and(|next| next.switched);
    follow(&keeping.runtime, identity, Some(&next), moving);
    if !proven(keeping, &next, KEY_PROOF_MAX).await {
        return Err("the controller does not answer the new key yet".to_owned());
    }
    settle(identity, keeping)
}

/// Waits until a tunnel under this key is the one in use.
async fn proven(keeping: &Keeping, key: &PrivateKey, limit: Duration) -> bool {
    let wait = async {
        while !uses(keeping, key) {
            sleep(PROOF_EVERY).await;
        }
    };
    timeout(limit, wait).await.is_ok()
}

/// No connection for a while, and not even a handshake, or none that could help any more?
fn is_lost(identity: &Identity, keeping: &Keeping, dues: &mut Dues) -> bool {
    let now = keeping.runtime.now();
    let state = keeping.link.state();
    // A certificate that has ended may be of a CA that is gone: such connections are made, and refused before the first answer.
    let ended = svid_end(identity) <= keeping.runtime.clock.wall().0;
    if state.channel.is_some() && (!ended || state.answered > dues.lost) {
        dues.lost = None;
        return false;
    }
    let since = *dues.lost.get_or_insert(now);
    let shaken = keeping.runtime.engine.peer(&CONTROLLER).and_then(|status| status.last_handshake);
    let silent = shaken.is_none_or(|at| now.since(at) >= RECOVER_AFTER);
    now.since(since) >= RECOVER_AFTER && (silent || ended) && now >= dues.recover
}

/// Has a fresh key admitted by the recovery secret.
async fn recover(identity: &mut Identity, keeping: &Keeping) -> Result<(), String> {
    let key = Arc::new(fresh_key().map_err(|e| e.to_string())?);
    let endpoints = resolve_endpoints(&identity.endpoints).await;
    if !let_in(identity, keeping, &key, &endpoints).await? {
        follow(&keeping.runtime, identity, identity.next_control_key.as_ref(), true);
        return Err("no answer to a knock with the recovery secret either".to_owned());
    }
    let source = tunnel::address::address_of_key(&identity.pool, &public_key(&key));
    let address = IpAddr::V6(source);
    keeping.overlay.add_address(address).await.map_err(|e| e.to_string())?;
    let asked = timeout(RECOVER_MAX, ask(identity, keeping, &key, source)).await;
    if let Err(error) = keeping.overlay.delete_address(address).await {
        tracing::warn!(%error, "the address of the recovery could not be removed");
    }
    match asked.unwrap_or_else(|_| Err("the controller did not answer in time".to_owned())) {
        Ok(()) => {
            keeping.link.nudge();
            Ok(())
        }
        Err(why) => {
            meet_controller(&keeping.runtime, identity).await;
            Err(why)
        }
    }
}

/// Knocks until a tunnel under the fresh key is there; the tunnel in use goes on meanwhile.
async fn let_in(
    identity: &Identity,
    keeping: &Keeping,
    key: &Arc<PrivateKey>,
    endpoints: &[SocketAddr],
) -> Result<bool, String> {
    let began = keeping.runtime.now();
    let until = began.plus(RECOVER_MAX);
    let public = public_key(key);
    while keeping.runtime.now() < until {
        for authority in identity.trusted(keeping.runtime.clock.wall()) {
            knock(&keeping.runtime, &identity.recovery, &authority.key, &public, endpoints)
                .map_err(|e| e.to_string())?;
        }
        follow(&keeping.runtime, identity, Some(key), true);
        if proven(keeping, key, KNOCK_EVERY).await {
            return Ok(true);
        }
        // The old keys are answered again: nothing to recover.
        if keeping.link.state().answered.is_some_and(|at| at > began) {
            return Ok(false);
        }
    }
    Ok(false)
}

/// The one call that a provisional peer may make.
async fn ask(
    identity: &mut Identity,
    keeping: &Keeping,
    key: &Arc<PrivateKey>,
    source: std::net::Ipv6Addr,
) -> Result<(), String> {
    let target = Target {
        device: keeping.overlay.name().to_owned(),
        source,
        address: SocketAddr::new(IpAddr::V6(identity.pool.controller()), ENROL_PORT),
        domain: identity.trust_domain.clone(),
        tls: enrolling_config(&identity.trusted(keeping.runtime.clock.wall())).map_err(|e| e.to_string())?,
    };
    let stream = loop {
        match target.connect().await {
            Ok(stream) => break stream,
            Err(error @ ChannelError::Identity(_)) => return Err(error.to_string()),
            // The kernel makes a fresh address usable a moment after it took it.
            Err(_) => sleep(PROOF_EVERY).await,
        }
    };
    let exporter = exporter(&stream).map_err(|e| e.to_string())?;
    let svid_key = SvidKey::generate().map_err(|e| e.to_string())?;
    let again = Reapplication {
        token: tunnel::knock::enrol_token(&identity.recovery).expose().to_vec(),
        csr: svid_key.csr().map_err(|e| e.to_string())?,
        proof: svid_key.sign(&exporter).map_err(|e| e.to_string())?,
    };
    let channel = channel_over(stream).await.map_err(|e| e.to_string())?;
    let answer = timeout(TLS_HANDSHAKE_MAX, rpc::recover(channel, again)).await;
    let admission = answer.map_err(|_| "the controller did not answer in time".to_owned())?.map_err(|e| match e {
        NotAdmitted::Refused(why) => format!("the controller refuses: {why}"),
        NotAdmitted::Answer(why) => format!("the controller's answer is not valid: {why}"),
    })?;
    if admission.node != identity.node.to_string() || admission.v6 != identity.v6 {
        return Err("the controller's answer is for somebody else".to_owned());
    }
    // Whichever key of the controller the fresh one was admitted under.
    let remote = keeping.runtime.engine.keys(&CONTROLLER).map(|(_, remote)| remote);
    let moved = identity.moved_on().filter(|moved| Some(moved.controller_key) == remote);
    let mut back = Identity {
        control_key: Arc::clone(key),
        control_key_since: keeping.runtime.clock.wall(),
        next_control_key: None,
        ..moved.unwrap_or_else(|| identity.clone())
    };
    take_svid(&mut back, keeping, &svid_key, admission.chain)?;
    back.save(&keeping.folder).map_err(|e| e.to_string())?;
    *identity = back;
    Ok(())
}

/// Between half and the whole of `pause`, so that many nodes do not come in step.
fn jittered(pause: Duration) -> Duration {
    let [random] = host::entropy::random::<1>().unwrap_or([128]);
    pause / 2 + pause * u32::from(random) / 512
}
