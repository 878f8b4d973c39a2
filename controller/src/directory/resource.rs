//! What is protected, and under which addresses do clients see it?

use super::name::Name;
use crate::store::Record;
use model::ids::{DeviceId, ResourceId, SiteId};
use model::limits::{LEASE_DEFAULT, RULES_PER_GRANT_MAX};
use model::net::{HostName, PortRange, Prefix, Protocol};
use model::time::WallMs;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

/// One protected thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Its name, unique; what policies call it.
    pub name: Name,
    /// Where it is.
    pub site: SiteId,
    /// Its host names, each with the number of its virtual addresses (`Pool::virtual_v4`, `Pool::virtual_v6`).
    pub hosts: BTreeMap<HostName, u32>,
    /// Suffixes whose names get an address on first query (see [`SuffixName`]).
    pub suffixes: BTreeSet<HostName>,
    /// Real addresses, which clients see as they are.
    pub prefixes: BTreeSet<Prefix>,
    /// TCP ports.
    pub tcp: Vec<PortRange>,
    /// UDP ports.
    pub udp: Vec<PortRange>,
    /// ICMP echo?
    pub icmp: bool,
    /// How long a gateway may honour a grant without the controller, milliseconds.
    pub lease_ms: Option<u64>,
    /// May its packets end at a gateway's own addresses?
    pub on_gateway: bool,
    /// What policies may call it besides its name.
    pub tags: BTreeSet<Name>,
    /// When it was made.
    pub created: WallMs,
}

impl Resource {
    /// What it speaks.
    pub fn services(&self) -> Vec<(Protocol, PortRange)> {
        let tcp = self.tcp.iter().map(|ports| (Protocol::Tcp, *ports));
        let udp = self.udp.iter().map(|ports| (Protocol::Udp, *ports));
        tcp.chain(udp).chain(self.icmp.then_some((Protocol::Icmp, PortRange::ALL))).collect()
    }
    /// How many names below its suffixes fit into a grant of it, beside what is declared: a name has two virtual addresses, a
    /// prefix is one place, and each place has a rule for each service.
    pub fn names_below_max(&self) -> usize {
        let places = RULES_PER_GRANT_MAX / self.services().len().max(1);
        (places.saturating_sub(self.prefixes.len()) / 2).saturating_sub(self.hosts.len())
    }
    /// How long a gateway may honour a grant without the controller.
    pub fn lease(&self) -> Duration {
        self.lease_ms.map_or(LEASE_DEFAULT, Duration::from_millis)
    }
}

impl Record for Resource {
    const KIND: &'static str = "resource";
    type Id = ResourceId;
}

/// A name below a `*.suffix`, with the number of the virtual addresses that it got on its first query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuffixName {
    /// Whose.
    pub resource: ResourceId,
    /// The name.
    pub name: HostName,
    /// The number.
    pub number: u32,
    /// The device that asked first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<DeviceId>,
}

impl SuffixName {
    /// Its id in the store: a name may be longer than a key.
    pub fn id(resource: ResourceId, name: &HostName) -> String {
        format!("{resource}.{}", super::index::host_id(name.as_str()))
    }
    /// The ids of all names of a resource.
    pub fn ids(resource: ResourceId) -> Range<String> {
        // The character after the dot.
        format!("{resource}.")..format!("{resource}/")
    }
}

impl Record for SuffixName {
    const KIND: &'static str = "suffix-name";
    type Id = str;
}
