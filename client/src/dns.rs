//! How does the machine come to ask our resolver? resolv.conf is taken over, kept, and given back.

use crate::agent::Order;
use crate::held::Held;
use crate::names::{Assign, Names};
use host::resolv::{Conf, Owner, Resolv, ResolvError};
use host::resolved::{self, LinkNames};
use model::grant::CatalogueAddress;
use model::limits::RESOLVED_DOMAINS_MAX;
use model::net::{HostName, Prefix};
use model::pool::Pool;
use node::Identity;
use node::overlay::{Overlay, OverlayError};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// The port of every resolver (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// So many looks, of two seconds each, after which systemd-resolved is told again.
const TELL_AGAIN: u32 = 15;

/// The resolver of this program.
pub type Resolver = Names<Asker>;

/// Asks the agent, which asks the controller and sets the route.
pub struct Asker(pub mpsc::Sender<Order>);

impl Assign for Asker {
    async fn assign(&self, name: HostName) -> Option<CatalogueAddress> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Order::Address(name, reply)).await.ok()?;
        answer.await.ok().flatten()
    }
}

/// resolv.conf, while it is ours.
pub struct Takeover {
    resolv: Resolv,
    file: PathBuf,
    resolvers: Vec<SocketAddr>,
    ours: Conf,
    servers: Option<Vec<SocketAddr>>,
    trouble: Option<String>,
    routing: Routing,
}

/// What systemd-resolved is told, where it runs.
struct Routing {
    bus: PathBuf,
    wanted: Option<LinkNames>,
    told: Option<LinkNames>,
    /// Looks since it was told: one that was started again has forgotten.
    looks: u32,
    busy: Arc<AtomicBool>,
}

impl Routing {
    fn new(bus: &Path) -> Self {
        Self { bus: bus.to_owned(), wanted: None, told: None, looks: 0, busy: Arc::default() }
    }

    /// Tells what changed, and everything now and then. Beside the caller: a bus may be slow.
    fn keep(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        self.looks = self.looks.saturating_add(1);
        let due = self.told.as_ref() != Some(wanted) || self.looks >= TELL_AGAIN;
        if !due || self.busy.swap(true, Ordering::AcqRel) {
            return;
        }
        self.looks = 0;
        self.told = Some(wanted.clone());
        let (bus, names, busy) = (self.bus.clone(), wanted.clone(), Arc::clone(&self.busy));
        let spawned = std::thread::Builder::new().name("resolved".to_owned()).spawn(move || {
            match resolved::tell(&bus, &names) {
                Ok(told) => tracing::debug!(told, zones = names.zones.len(), "systemd-resolved"),
                Err(error) => {
                    tracing::warn!(%error, "programs that ask systemd-resolved may miss names of this organisation")
                }
            }
            busy.store(false, Ordering::Release);
        });
        if spawned.is_err() {
            self.busy.store(false, Ordering::Release);
        }
    }
}

/// Zones first: they hold most names, and a list that is too long is cut. A name within another one needs no word of its own.
fn zones_of(held: &Held) -> Vec<HostName> {
    let mut zones: Vec<HostName> = Vec::new();
    for name in held.zones.iter().chain(&held.suffixes).chain(&held.names) {
        if zones.len() < RESOLVED_DOMAINS_MAX && !zones.iter().any(|zone| name == zone || name.is_in(zone)) {
            zones.push(name.clone());
        }
    }
    zones
}

impl Takeover {
    /// For the file at `file`; what was there rests in `state`. Changes nothing yet.
    pub fn new(file: &Path, state: &Path, pool: &Pool) -> Self {
        let resolvers = [IpAddr::V4(pool.resolver_v4()), IpAddr::V6(pool.resolver_v6())];
        let resolvers = resolvers.map(|ip| SocketAddr::new(ip, PORT)).to_vec();
        let ours = Conf { servers: resolvers.clone(), ..Conf::default() };
        let (resolv, file) = (Resolv::new(file, state), file.to_owned());
        let routing = Routing::new(Path::new(resolved::BUS));
        Self { resolv, file, resolvers, ours, servers: None, trouble: None, routing }
    }

    /// These names are for our resolver, beyond this link. Told to systemd-resolved by the next [`Takeover::keep`], for
    /// programs that ask it and not resolv.conf.
    pub fn route(&mut self, link: u32, held: &Held) {
        self.routing.wanted = Some(LinkNames { link, servers: self.servers_of_ours(), zones: zones_of(held) });
    }

    fn servers_of_ours(&self) -> Vec<IpAddr> {
        self.resolvers.iter().map(SocketAddr::ip).collect()
    }

    /// Takes the file over, again if somebody else wrote it; answers the servers of before when they changed.
    pub fn keep(&mut self) -> Option<Vec<SocketAddr>> {
        self.routing.keep();
        match self.try_keep() {
            Ok(servers) => {
                self.trouble = None;
                let changed = self.servers.as_ref() != Some(&servers);
                self.servers = Some(servers.clone());
                changed.then_some(servers)
            }
            Err(error) => {
                let text = error.to_string();
                if self.trouble.as_ref() != Some(&text) {
                    tracing::error!(%error, "names of this organisation do not resolve on this machine");
                }
                self.trouble = Some(text);
                None
            }
        }
    }

    fn try_keep(&mut self) -> Result<Vec<SocketAddr>, ResolvError> {
        let before = match self.resolv.owner(&self.ours)? {
            Owner::Ours => self.resolv.previous()?,
            Owner::Other => self.resolv.take_over(&self.ours)?,
        };
        // `trust-ad` would speak for us: we vouch for nobody's signatures.
        let options = before.options.iter().filter(|o| *o != "trust-ad").cloned().collect();
        let ours = Conf { servers: self.resolvers.clone(), search: before.search.clone(), options };
        if ours != self.ours {
            self.ours = ours;
            self.resolv.take_over(&self.ours)?;
        }
        // systemd-resolved lists us among its own servers: we do not ask ourselves.
        Ok(before.servers.into_iter().filter(|server| !self.resolvers.contains(server)).collect())
    }

    /// Puts back what was there.
    pub fn give_back(&mut self) {
        if let Err(error) = self.resolv.restore() {
            tracing::error!(%error, "resolv.conf could not be put back");
        }
        self.servers = None;
    }

    /// Is the file ours, as far as we know?
    pub const fn is_ours(&self) -> bool {
        self.trouble.is_none() && self.servers.is_some()
    }
    /// Which file.
    pub fn file(&self) -> String {
        self.file.display().to_string()
    }
    /// The servers of before.
    pub fn servers(&self) -> &[SocketAddr] {
        self.servers.as_deref().unwrap_or_default()
    }
    /// Why it is not ours.
    pub fn trouble(&self) -> String {
        self.trouble.clone().unwrap_or_default()
    }
}

/// Puts back what a killed program left taken over.
pub fn restore(file: &Path, state: &Path) {
    if let Err(error) = Resolv::new(file, state).restore() {
        tracing::error!(%error, "resolv.conf could not be put back");
    }
}

/// Gives the device this machine's own addresses, and leads packets for the resolver into it.
pub async fn lead_in(overlay: &Overlay, identity: &Identity) -> Result<(), OverlayError> {
    let own = [identity.v4.map(IpAddr::V4), Some(IpAddr::V6(identity.v6))];
    let resolvers = [IpAddr::V4(identity.pool.resolver_v4()), IpAddr::V6(identity.pool.resolver_v6())];
    for (own, resolver) in own.into_iter().zip(resolvers) {
        let Some(own) = own else { continue };
        overlay.add_address(own).await?;
        overlay.add_route(Prefix::host(resolver), Some(own)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Folder;

    fn pool() -> Pool {
        Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap()
    }

    #[test]
    fn the_file_is_taken_kept_and_given_back() {
        let folder = Folder::new();
        let (file, state) = (folder.path().join("resolv.conf"), folder.path().join("state"));
        host::keyfile::create_folder(&state).unwrap();
        std::fs::write(&file, "nameserver 192.0.2.1\nsearch example.org\noptions ndots:2 trust-ad\n").unwrap();
        let mut takeover = Takeover::new(&file, &state, &pool());
        assert_eq!(takeover.keep(), Some(vec!["192.0.2.1:53".parse().unwrap()]));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains("nameserver 10.77.0.53") && text.contains("search example.org"), "{text}");
        assert!(text.contains("ndots:2") && !text.contains("trust-ad") && !text.contains("192.0.2.1"), "{text}");
        assert_eq!(takeover.keep(), None);

        std::fs::write(&file, "nameserver 192.0.2.9\n").unwrap();
        assert_eq!(takeover.keep(), Some(vec!["192.0.2.9:53".parse().unwrap()]), "a DHCP client wrote");
        assert!(std::fs::read_to_string(&file).unwrap().contains("10.77.0.53"));

        // Killed: the next one finds ours in place, and the original where it was left.
        let mut next = Takeover::new(&file, &state, &pool());
        assert_eq!(next.keep(), Some(vec!["192.0.2.9:53".parse().unwrap()]));
        assert!(next.is_ours());
        next.give_back();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.9\n");
        restore(&file, &state);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "nameserver 192.0.2.9\n");
    }

    #[test]
    fn resolved_is_told_of_zones_first_and_of_each_name_once() {
        let names = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect::<Vec<HostName>>();
        let mut held = Held::default();
        held.names = names(&["wiki.corp.example", "lone.test", "a.apps.test"]);
        held.suffixes = names(&["apps.test"]);
        held.zones = names(&["corp.example"]);
        assert_eq!(zones_of(&held), names(&["corp.example", "apps.test", "lone.test"]));
        held.names = (0..2 * RESOLVED_DOMAINS_MAX).map(|n| format!("n{n}.test").parse().unwrap()).collect();
        let many = zones_of(&held);
        assert_eq!((many.len(), many.first()), (RESOLVED_DOMAINS_MAX, names(&["corp.example"]).first()));
    }

    #[test]
    fn resolved_is_told_when_something_changed_and_now_and_then() {
        let folder = Folder::new();
        let bus = folder.path().join("bus");
        let listener = std::os::unix::net::UnixListener::bind(&bus).unwrap();
        let mut routing = Routing::new(&bus);
        routing.keep();
        let wanted = LinkNames { link: 7, servers: Vec::new(), zones: Vec::new() };
        let told = |routing: &mut Routing, looks: u32| {
            (0..looks).for_each(|_| routing.keep());
            // Who connects is hung up on, and the next time comes.
            drop(listener.accept().unwrap());
            while routing.busy.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
        };
        routing.wanted = Some(wanted.clone());
        told(&mut routing, 1);
        routing.wanted = Some(LinkNames { link: 8, ..wanted });
        told(&mut routing, 1);
        assert_eq!(routing.told, routing.wanted);
        told(&mut routing, TELL_AGAIN);
        assert_eq!(routing.looks, 0);
    }
}
