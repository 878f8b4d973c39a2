//! How does an organisation begin? Everything is made in a folder of its own and put in place in one step, so that
//! there is a whole organisation or none, and of any number of parallel inits one wins.

use crate::audit::{Entry, Outcome};
use crate::break_glass;
use crate::ca::{Ca, CaError};
use crate::config::StatePaths;
use crate::directory::{BreakGlass, Draft, Group, NameError, Org, OwnerToken, Refusal, SealedSecret};
use crate::owner::{self, BothClocks};
use crate::seal::{SealError, Sealer};
use crate::store::{CommitError, OpenError, Options, SledStore, Store};
use host::entropy::{self, EntropyError};
use host::keyfile::{self, KeyFileError};
use model::key::PublicKey;
use model::limits::{ENDPOINTS_MAX, LIST_MAX, SEAL_KEY_LEN};
use model::net::{HostName, Prefix};
use model::pool::{Pool, PoolError};
use model::secret::Secret;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// What the administrator wants.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The SPIFFE trust domain; resources may have names in it.
    pub trust_domain: HostName,
    /// The IPv4 pool; none: a random one that is free here.
    pub pool_v4: Option<Prefix>,
    /// The IPv6 pool; none: a random ULA /48.
    pub pool_v6: Option<Prefix>,
    /// Where nodes reach the controller, best first.
    pub endpoints: Vec<String>,
    /// Further zones in which resources may have names.
    pub zones: Vec<HostName>,
    /// Zones that are the organisation's alone.
    pub private_zones: Vec<HostName>,
    /// Networks that this machine has addresses in or routes to.
    pub local_networks: Vec<Prefix>,
}

/// What was made.
#[derive(Debug)]
pub struct Made {
    /// The organisation.
    pub org: Org,
    /// The one-time token.
    pub owner_token: Secret<String>,
    /// The key of the last resort.
    pub break_glass: Secret<String>,
}

/// Why nothing was made. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is one already.
    #[error("there is an organisation in {0} already: nothing was changed; name another folder with --state")]
    Exists(PathBuf),
    /// The pool meets a network of this machine.
    #[error(
        "the pool {pool} overlaps {network}, a network of this machine: choose another with --pool (for example {free}), or leave it out"
    )]
    Collision {
        /// The wished pool.
        pool: Prefix,
        /// The network.
        network: Prefix,
        /// One that is free.
        free: Prefix,
    },
    /// No pool is free.
    #[error("every private /16 overlaps a network of this machine: name one that may be used with --pool")]
    NoPool,
    /// The pool has the wrong shape.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// An endpoint is none.
    #[error("`{0}` is not HOST:PORT (expected forms: vpn.corp.example:443, 192.0.2.1:443, [2001:db8::1]:443)")]
    Endpoint(String),
    /// Too many or too few.
    #[error("{0}")]
    Count(String),
    /// Key files and folders.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A record.
    #[error(transparent)]
    Record(#[from] Refusal),
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// Sealing.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A name of ours; a defect.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The disk.
    #[error("cannot put the organisation in place in {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A folder under construction: it goes unless it is put in place.
pub(crate) struct Scaffold(Option<PathBuf>);

impl Scaffold {
    /// A new, empty one, beside where it will be.
    pub(crate) fn new(root: &Path) -> Result<Self, InitError> {
        let path = root.join(format!(".init-{:016x}", u64::from_le_bytes(entropy::random()?)));
        keyfile::create_folder(&path)?;
        Ok(Self(Some(path)))
    }
    /// Where it is until then.
    pub(crate) fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
    /// rename(2) replaces an empty folder at most: of two, the second fails.
    pub(crate) fn put_in_place(mut self, goal: &Path) -> Result<(), InitError> {
        let io = |source| InitError::Io { path: goal.to_owned(), source };
        std::fs::rename(self.path(), goal).map_err(|source| match source.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => InitError::Exists(goal.to_owned()),
            _ => io(source),
        })?;
        self.0 = None;
        let parent = goal.parent().unwrap_or(Path::new("/"));
        std::fs::File::open(parent).and_then(|folder| folder.sync_all()).map_err(io)
    }
}

impl Drop for Scaffold {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_dir_all(path)
        {
            tracing::warn!(path = %path.display(), %error, "an unfinished organisation could not be removed");
        }
    }
}

/// Makes an organisation in the state folder.
pub async fn init(paths: &StatePaths, wish: Wish, options: Options, now: &BothClocks) -> Result<Made, InitError> {
    let pool = choose_pool(&wish)?;
    check(&wish)?;
    if paths.org().exists() {
        return Err(InitError::Exists(paths.org()));
    }
    keyfile::create_folder(paths.root())?;
    let scaffold = Scaffold::new(paths.root())?;

    let seal_key = Secret::new(entropy::random::<SEAL_KEY_LEN>()?);
    keyfile::create(&StatePaths::seal_key_in(scaffold.path()), seal_key.expose())?;
    let (ca, ca_key) = Ca::create(&wish.trust_domain, now.wall)?;
    let control_key = Secret::new(entropy::random::<32>()?);
    let mut zones = vec![wish.trust_domain.clone()];
    zones.extend(wish.zones.iter().chain(&wish.private_zones).filter(|zone| **zone != wish.trust_domain).cloned());
    zones.dedup();
    let org = Org {
        trust_domain: wish.trust_domain,
        pool,
        created: now.wall,
        endpoints: wish.endpoints,
        zones,
        private_zones: wish.private_zones,
        key: public_key(&control_key),
        ca: ca.certificate().to_vec(),
        since: None,
        succession: None,
    };
    let (owner_token, token_record) = owner::make(now)?;
    let (break_glass, break_glass_record) = break_glass::make(now.wall)?;

    let sealer = Sealer::new(&seal_key)?;
    let mut draft = Draft::default();
    draft.create(Org::ID, &org)?;
    for (id, secret) in
        [(SealedSecret::CA_KEY, ca_key.expose().as_slice()), (SealedSecret::CONTROL_KEY, control_key.expose())]
    {
        draft.create(id, &SealedSecret { sealed: sealer.seal(&SealedSecret::place(id), secret)? })?;
    }
    draft.create(OwnerToken::ID, &token_record)?;
    draft.create(BreakGlass::ID, &break_glass_record)?;
    let owners: crate::directory::Name = Group::OWNERS.parse()?;
    draft.create(&owners, &Group { name: owners.clone(), created: now.wall })?;
    let entry = Entry::new(now.wall, "local:init", "org.init", "org/self", Outcome::Done)
        .with("trust_domain", org.trust_domain.as_str())
        .with("pool_v4", org.pool.v4().to_string())
        .with("pool_v6", org.pool.v6().to_string());

    let store = SledStore::create(&StatePaths::store_in(scaffold.path()), options)?;
    store.commit(draft.into_commit(entry)).await?;
    // Let go of the files before they move.
    drop(store);
    scaffold.put_in_place(&paths.org())?;
    Ok(Made { org, owner_token, break_glass })
}

/// The public key of an X25519 private key.
pub fn public_key(private: &model::key::PrivateKey) -> PublicKey {
    let secret = x25519_dalek::StaticSecret::from(*private.expose());
    PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

fn check(wish: &Wish) -> Result<(), InitError> {
    check_endpoints(&wish.endpoints)?;
    if wish.zones.len() + wish.private_zones.len() >= LIST_MAX {
        return Err(InitError::Count(format!("at most {LIST_MAX} zones are possible")));
    }
    Ok(())
}

/// Can nodes be told to look for the controller there?
pub(crate) fn check_endpoints(endpoints: &[String]) -> Result<(), InitError> {
    if endpoints.is_empty() || endpoints.len() > ENDPOINTS_MAX {
        return Err(InitError::Count(format!("name 1 to {ENDPOINTS_MAX} endpoints with --endpoint HOST:PORT")));
    }
    match endpoints.iter().find(|endpoint| !proto::join::endpoint_is_sound(endpoint)) {
        Some(bad) => Err(InitError::Endpoint(bad.chars().take(80).flat_map(char::escape_default).collect())),
        None => Ok(()),
    }
}

fn choose_pool(wish: &Wish) -> Result<Pool, InitError> {
    let random: [u8; 8] = entropy::random()?;
    let networks = wish.local_networks.as_slice();
    let free_v4 = |seed: u8| free_pool(networks, seed);
    let v4 = match wish.pool_v4 {
        Some(pool) => pool,
        None => free_v4(random[0]).ok_or(InitError::NoPool)?,
    };
    let [_, a, b, c, d, e, ..] = random;
    let own_v6 = IpAddr::V6(Ipv6Addr::from([0xfd, a, b, c, d, e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    let v6 = wish.pool_v6.unwrap_or_else(|| Prefix::containing(own_v6, 48));
    let pool = Pool::new(v4, v6)?;
    for own in [v4, v6] {
        if let Some(network) = networks.iter().find(|network| network.overlaps(&own)) {
            let free = if own == v4 { free_v4(random[0]) } else { None };
            let free = free.unwrap_or_else(|| Prefix::containing(own_v6, 48));
            return Err(InitError::Collision { pool: own, network: *network, free });
        }
    }
    Ok(pool)
}

/// A private /16 that overlaps none of the networks: in 10/8 from `seed` on, then in 172.16/12, then 192.168/16.
fn free_pool(networks: &[Prefix], seed: u8) -> Option<Prefix> {
    let tens = (0..=255u8).map(|step| Ipv4Addr::new(10, seed.wrapping_add(step), 0, 0));
    let seventeens = (16..32u8).map(|second| Ipv4Addr::new(172, second, 0, 0));
    let all = tens.chain(seventeens).chain([Ipv4Addr::new(192, 168, 0, 0)]);
    let mut pools = all.map(|address| Prefix::containing(IpAddr::V4(address), 16));
    pools.find(|pool| !networks.iter().any(|network| network.overlaps(pool)))
}

/// The networks that this machine has routes to, by the kernel's tables; the default route and what is never a pool
/// (link-local, multicast, loopback) are left out.
pub fn local_networks() -> Vec<Prefix> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let v4 = read("/proc/net/route");
    let v6 = read("/proc/net/ipv6_route");
    let found = v4.lines().skip(1).filter_map(route_v4).chain(v6.lines().filter_map(route_v6));
    found.filter(|network| network.bits() > 0).collect()
}

fn route_v4(line: &str) -> Option<Prefix> {
    let mut fields = line.split_whitespace().skip(1);
    // The kernel prints the four bytes, in network order, as a number of the machine's own order.
    let word = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::to_ne_bytes);
    let destination = Ipv4Addr::from(word(fields.next()?)?);
    let mask = u32::from_ne_bytes(word(fields.nth(5)?)?);
    Some(Prefix::containing(IpAddr::V4(destination), u8::try_from(mask.count_ones()).ok()?))
}

fn route_v6(line: &str) -> Option<Prefix> {
    let mut fields = line.split_whitespace();
    let destination = Ipv6Addr::from(u128::from_str_radix(fields.next()?, 16).ok()?);
    let len = u8::from_str_radix(fields.next()?, 16).ok()?;
    Some(Prefix::containing(IpAddr::V6(destination), len))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::organisation::Organisation;
    use crate::test_support::Folder;
    use host::clock::SystemClock;
    use model::time::Clock as _;
    use std::sync::Arc;

    pub(crate) fn wish() -> Wish {
        Wish {
            trust_domain: "corp.example".parse().unwrap(),
            pool_v4: Some("10.77.0.0/16".parse().unwrap()),
            pool_v6: None,
            endpoints: vec!["192.0.2.1:443".into()],
            zones: Vec::new(),
            private_zones: vec!["corp.internal".parse().unwrap()],
            local_networks: Vec::new(),
        }
    }

    fn clocks() -> BothClocks {
        BothClocks::read(SystemClock::new().wall())
    }

    /// An organisation in `folder`, open, and its owner token.
    pub(crate) async fn made(folder: &Folder) -> (Organisation, Secret<String>) {
        let paths = StatePaths::new(folder.path().join("state"));
        let made = init(&paths, wish(), Options::default(), &clocks()).await.unwrap();
        let clock = Arc::new(SystemClock::new());
        (Organisation::open(&paths, Options::default(), clock).await.unwrap(), made.owner_token)
    }

    #[tokio::test]
    async fn what_is_made_can_be_opened_and_holds_no_secret_in_the_clear() {
        let folder = Folder::new();
        let (organisation, token) = made(&folder).await;
        let now = organisation.now();
        let org = &now.org.as_ref().unwrap().record;
        assert_eq!(org.key, public_key(&organisation.keyring.held().used.key));
        assert_eq!(org.zones, ["corp.example".parse().unwrap(), "corp.internal".parse().unwrap()]);
        assert!(now.users.is_empty(), "a fresh organisation has no account");
        organisation.ca().issue_own(organisation.wall(), organisation.timing.svid).unwrap();
        assert_eq!(organisation.store.verify_audit().await.unwrap().last, 1);
        let key = *organisation.keyring.held().used.key.expose();
        drop(organisation);
        let mut files = vec![folder.path().to_owned()];
        let mut seen = 0;
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
                continue;
            }
            let bytes = std::fs::read(&path).unwrap();
            seen += 1;
            let holds = |needle: &[u8]| bytes.windows(needle.len()).any(|w| w == needle);
            assert!(!holds(&key) && !holds(token.expose().as_bytes()), "{}", path.display());
        }
        assert!(seen >= 2);
    }

    #[test]
    fn of_fifty_parallel_inits_one_makes_the_organisation() {
        let folder = Folder::new();
        let paths = StatePaths::new(folder.path().join("state"));
        let results: Vec<_> = std::thread::scope(|scope| {
            let start = || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(init(&paths, wish(), Options::default(), &clocks()))
            };
            let threads: Vec<_> = (0..50).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let (made, refused): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
        assert_eq!(made.len(), 1);
        for refusal in refused {
            assert!(matches!(refusal, Err(InitError::Exists(_))), "{refusal:?}");
        }
        let names: Vec<_> = std::fs::read_dir(paths.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["org"], "the losers leave nothing behind");
        // The winner's token is the one that counts.
        let token = made.into_iter().next().unwrap().unwrap().owner_token;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let clock = Arc::new(SystemClock::new());
            let organisation = Organisation::open(&paths, Options::default(), clock).await.unwrap();
            let held = organisation.now().owner_token.clone().unwrap();
            assert_eq!(held.record.hash, crate::directory::sha256(token.expose().as_bytes()));
        });
    }

    #[tokio::test]
    async fn a_pool_that_meets_a_local_network_is_refused_by_name_and_nothing_is_made() {
        let folder = Folder::new();
        let paths = StatePaths::new(folder.path().join("state"));
        let wish = Wish { local_networks: vec!["10.77.3.0/24".parse().unwrap()], ..wish() };
        let error = init(&paths, wish, Options::default(), &clocks()).await.unwrap_err().to_string();
        assert!(error.contains("10.77.0.0/16 overlaps 10.77.3.0/24"), "{error}");
        assert!(!paths.root().exists());
        let bad = Wish { endpoints: vec!["nowhere".into()], ..tests::wish() };
        assert!(matches!(init(&paths, bad, Options::default(), &clocks()).await, Err(InitError::Endpoint(_))));
        assert!(!paths.root().exists());
    }

    #[test]
    fn a_free_pool_is_found_wherever_there_is_one() {
        let networks = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect::<Vec<Prefix>>();
        for seed in [0, 7, 255] {
            assert_eq!(free_pool(&[], seed).unwrap().address(), IpAddr::from([10, seed, 0, 0]));
        }
        assert_eq!(free_pool(&networks(&["10.0.0.0/8"]), 9).unwrap().to_string(), "172.16.0.0/16");
        let most = networks(&["10.0.0.0/8", "172.16.0.0/12"]);
        assert_eq!(free_pool(&most, 9).unwrap().to_string(), "192.168.0.0/16");
        assert_eq!(free_pool(&networks(&["10.0.0.0/8", "172.16.0.0/12", "192.168.1.0/24"]), 9), None);
    }

    #[test]
    fn the_kernels_tables_are_read() {
        let line = "eth0\t0001A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0";
        assert_eq!(route_v4(line).unwrap().to_string(), "192.168.1.0/24");
        assert_eq!(route_v4("eth0\t00000000\t0101A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0").unwrap().bits(), 0);
        let line = "fd120000000000000000000000000000 30 00000000000000000000000000000000 00 0 1 0 0 0 eth0";
        assert_eq!(route_v6(line).unwrap().to_string(), "fd12::/48");
        for bad in ["", "x", "eth0 zz"] {
            assert!(route_v4(bad).is_none() && route_v6(bad).is_none());
        }
    }
}
