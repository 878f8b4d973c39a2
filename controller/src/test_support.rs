//! What do several tests need? A folder of their own that goes with them, a clock that stands, and a small organisation.

use crate::arrange::Arrangements;
use crate::directory::{
    Device, Gateway, Name, NodeState, PasswordHash, PolicyFile, PolicyRevision, Proved, Resource, Session, Site,
    SuffixName, User,
};
use crate::init::tests::made;
use crate::organisation::Organisation;
use crate::rpc::accept::Connections;
use crate::store::Commit;
use model::ids::{DeviceId, GatewayId, JoinKeyId, ResourceId, SessionId, SiteId, UserId};
use model::key::PublicKey;
use model::net::HostName;
use model::time::{Clock, Instant, WallMs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A clock that stands until it is set.
#[derive(Debug, Default)]
pub struct Still(pub AtomicU64);
impl Clock for Still {
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::Relaxed))
    }
    fn wall(&self) -> WallMs {
        // Both clocks are one.
        let ms = i64::try_from(self.0.load(Ordering::Relaxed) / 1_000_000).unwrap_or(0);
        WallMs(1_700_000_000_000 + ms)
    }
}

pub const HQ: SiteId = SiteId::from_bytes([1; 10]);
pub const APPS: ResourceId = ResourceId::from_bytes([1; 10]);

/// Users 1 and 2, each logged in on the device of that number; gateway 1 confirmed and 2 pending, both at HQ; and APPS there,
/// TCP 443 of `*.dev.corp.example`, which everybody may reach. Time stands.
pub struct World {
    pub organisation: Organisation,
    pub arrangements: Arc<Arrangements>,
    _folder: Folder,
}

pub const fn device(number: u8) -> DeviceId {
    DeviceId::from_bytes([number; 10])
}
pub const fn gateway(number: u8) -> GatewayId {
    GatewayId::from_bytes([number; 10])
}
pub fn session(number: u8) -> SessionId {
    SessionId::from_bytes([number; 10])
}
pub fn user(number: u8) -> UserId {
    UserId::from_bytes([number; 10])
}
/// The name with this number below the suffix of APPS.
pub fn app(number: usize) -> HostName {
    format!("n{number}.dev.corp.example").parse().unwrap()
}

impl World {
    pub async fn new() -> Self {
        let folder = Folder::new();
        let (mut organisation, _) = made(&folder).await;
        organisation.clock = Arc::new(Still::default());
        organisation.store.commit(people(Commit::default())).await.unwrap();
        organisation.store.commit(places(Commit::default())).await.unwrap();
        organisation.directory.at_least(organisation.store.revision()).await;
        let arrangements = arrange(&organisation).await;
        Self { organisation, arrangements, _folder: folder }
    }

    /// What a controller that starts anew knows.
    pub async fn again(&self) -> Arc<Arrangements> {
        arrange(&self.organisation).await
    }

    /// Writes names of APPS with these numbers, as made by a device.
    pub async fn name(&self, numbers: std::ops::Range<usize>, by: Option<DeviceId>) {
        for n in numbers {
            let made = SuffixName { resource: APPS, name: app(n), number: u32::try_from(40_000 + n).unwrap(), by };
            let commit = Commit::default().put_record(&*SuffixName::id(APPS, &app(n)), &made).unwrap();
            self.organisation.store.commit(commit).await.unwrap();
        }
        self.organisation.directory.at_least(self.organisation.store.revision()).await;
    }

    /// How many records the audit trail has.
    pub fn audited(&self) -> u64 {
        self.organisation.store.audit_head().1.seq
    }
}

async fn arrange(organisation: &Organisation) -> Arc<Arrangements> {
    let arrangements = Arrangements::restore(
        Arc::clone(&organisation.store),
        organisation.directory.clone(),
        Arc::clone(&organisation.sealer),
        Arc::clone(&organisation.clock),
        Arc::new(Connections::default()),
    );
    arrangements.await.unwrap()
}

fn word(text: &str, number: u8) -> Name {
    format!("{text}{number}").parse().unwrap()
}

fn people(mut commit: Commit) -> Commit {
    let (created, ends) = (WallMs(1), WallMs(1_800_000_000_000));
    for n in [1, 2] {
        let password = PasswordHash("none".to_owned());
        let (name, groups) = (word("user", n), [].into());
        let made = User {
            id: user(n),
            name,
            password: Some(password),
            identity: None,
            groups,
            roles: [].into(),
            disabled: false,
            restored: false,
            created,
        };
        commit = commit.put_record(&user(n), &made).unwrap();
        let made = Device {
            id: device(n),
            name: word("laptop", n),
            user: Some(user(n)),
            account: None,
            ephemeral: false,
            key: PublicKey([n; 32]),
            next_key: None,
            address: "fd00::1".parse().unwrap(),
            v4: u32::from(n),
            svid_key: [0; 32],
            fingerprint: String::new(),
            state: NodeState::Confirmed,
            restored: false,
            copied: None,
            join_key: JoinKeyId::from_bytes([9; 10]),
            created,
        };
        commit = commit.put_record(&device(n), &made).unwrap();
        let made = Session {
            id: session(n),
            user: user(n),
            device: device(n),
            created,
            ends,
            ended: false,
            factor: None,
            proved: Proved::AtLogin,
        };
        commit = commit.put_record(&session(n), &made).unwrap();
    }
    commit
}

fn places(mut commit: Commit) -> Commit {
    let created = WallMs(1);
    let site = Site { id: HQ, name: word("hq", 1), prefixes: vec!["10.20.0.0/24".parse().unwrap()], created };
    commit = commit.put_record(&HQ, &site).unwrap();
    for (n, state) in [(1, NodeState::Confirmed), (2, NodeState::Pending)] {
        let made = Gateway {
            id: gateway(n),
            name: word("gateway", n),
            site: HQ,
            key: PublicKey([10 + n; 32]),
            next_key: None,
            address: "fd00::2".parse().unwrap(),
            svid_key: [0; 32],
            fingerprint: String::new(),
            state,
            restored: false,
            copied: None,
            join_key: JoinKeyId::from_bytes([9; 10]),
            created,
        };
        commit = commit.put_record(&gateway(n), &made).unwrap();
    }
    let made = Resource {
        id: APPS,
        name: word("apps", 1),
        site: HQ,
        hosts: [].into(),
        suffixes: ["dev.corp.example".parse().unwrap()].into(),
        prefixes: [].into(),
        tcp: vec!["443".parse().unwrap()],
        udp: Vec::new(),
        icmp: false,
        lease_ms: None,
        on_gateway: false,
        tags: [].into(),
        created,
    };
    commit = commit.put_record(&APPS, &made).unwrap();
    let text = "@id(\"all\")\npermit(principal, action, resource);\n".to_owned();
    let policy = PolicyRevision {
        number: 1,
        files: vec![PolicyFile { name: "all.cedar".to_owned(), text }],
        applied: created,
        applied_by: "test".to_owned(),
        digest: String::new(),
        policies: 1,
        restores: None,
        changes: None,
    };
    commit.put_record(PolicyRevision::CURRENT, &policy).unwrap()
}

/// A folder that is removed when it is dropped.
pub struct Folder(PathBuf);

impl Folder {
    /// A new, empty one.
    pub fn new() -> Self {
        let random: [u8; 8] = host::entropy::random().unwrap();
        let name = format!("umbra-test-{}-{:016x}", std::process::id(), u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
