//! What is true right now, for people and programs? Never "connected" when it is not.

use super::Agent;
use crate::connect::{Standing, Word};
use model::grant::CatalogueEntry;
use model::ids::{NodeId, ResourceId};
use model::limits::FINDINGS_MAX;
use model::net::{PortRange, Protocol};
use model::time::Instant;
use proto::convert::millis;
use proto::local;
use tunnel::{PeerId, PeerStatus};

impl Agent {
    fn ago(&self, at: Option<Instant>) -> Option<u64> {
        at.map(|at| millis(self.runtime.now().since(at)))
    }

    fn left(&self, until: Instant) -> u64 {
        millis(until.since(self.runtime.now()))
    }

    pub(super) fn name_of(&self, resource: &ResourceId) -> String {
        self.catalogue.entry(resource).map_or_else(|| resource.to_string(), |e| e.name.clone())
    }

    fn gateway_of(&self, resource: &ResourceId) -> String {
        let held = self.book.grant(resource);
        let tunnel = held.and_then(|h| self.book.tunnels().find(|(id, _)| **id == h.pairing));
        tunnel.map(|(_, t)| t.gateway.to_string()).unwrap_or_default()
    }

    fn reasons(word: Option<&(Instant, Word)>) -> Vec<String> {
        match word {
            Some((_, Word::Denied(reasons))) => reasons.clone(),
            Some((_, Word::Ended(reason) | Word::Failed(reason))) => vec![reason.clone()],
            Some((_, Word::Permitted)) | None => Vec::new(),
        }
    }

    pub(super) fn list(&self) -> local::ListReply {
        let mut resources: Vec<local::Resource> = self.catalogue.entries().map(|e| self.row(e)).collect();
        resources.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        local::ListReply {
            user: self.catalogue.session().map(|s| s.user.clone()).unwrap_or_default(),
            pending: self.catalogue.pending(),
            resources,
            connected: self.stream.is_some(),
        }
    }

    fn row(&self, entry: &CatalogueEntry) -> local::Resource {
        let standing = self.book.standing(&entry.id);
        let (state, ends_in_ms) = match standing {
            Standing::Ready => ("ready", None),
            Standing::Connecting => ("connecting", None),
            Standing::Connected => ("connected", self.book.grant(&entry.id).map(|h| self.left(h.until))),
            Standing::Denied(until) => ("denied", Some(self.left(until))),
        };
        let denied = matches!(standing, Standing::Denied(_));
        let hosts = self.catalogue.addresses(entry).filter_map(|a| a.name.as_ref()).map(ToString::to_string);
        local::Resource {
            name: entry.name.clone(),
            id: entry.id.to_string(),
            state: state.to_owned(),
            reason: if denied { Self::reasons(self.book.word(&entry.id)).join("; ") } else { String::new() },
            ends_in_ms,
            gateway: self.gateway_of(&entry.id),
            hosts: hosts.chain(entry.suffixes.iter().map(|s| format!("*.{s}"))).collect(),
            addresses: self
                .catalogue
                .addresses(entry)
                .flat_map(|a| [a.v4, a.v6])
                .flatten()
                .map(|p| p.to_string())
                .collect(),
            services: entry.ports.iter().map(service).collect(),
        }
    }

    pub(super) fn connect_reply(&self, resource: &ResourceId) -> local::ConnectReply {
        let word = self.book.word(resource);
        let (outcome, mut reasons) = match (self.book.standing(resource), word) {
            (Standing::Connected, _) => ("connected", Vec::new()),
            (_, Some((_, Word::Denied(_) | Word::Ended(_)))) => ("denied", Self::reasons(word)),
            _ => ("unreachable", Self::reasons(word)),
        };
        if outcome == "unreachable" && reasons.is_empty() {
            reasons.push("access is granted, but the gateway does not answer".to_owned());
        }
        local::ConnectReply {
            resource: self.name_of(resource),
            outcome: outcome.to_owned(),
            reasons,
            gateway: self.gateway_of(resource),
            ends_in_ms: self.book.grant(resource).map(|h| self.left(h.until)),
            step_up: if outcome == "denied" { self.book.step_up(resource).to_vec() } else { Vec::new() },
        }
    }

    pub(super) fn why_reply(&self, resource: String, word: Option<&(Instant, Word)>, asked: bool) -> local::WhyReply {
        let outcome = match word {
            Some((_, Word::Permitted)) => "permitted",
            Some((_, Word::Denied(_))) => "denied",
            Some((_, Word::Ended(_))) => "ended",
            Some((_, Word::Failed(_))) | None => "unreachable",
        };
        local::WhyReply {
            resource,
            outcome: outcome.to_owned(),
            reasons: Self::reasons(word),
            age_ms: self.ago(word.map(|(at, _)| *at)).unwrap_or_default(),
            asked,
        }
    }

    pub(super) fn status(&self) -> local::StatusReply {
        let identity = &self.identity;
        let counters = self.runtime.engine.drops().into_iter();
        local::StatusReply {
            state: "up".to_owned(),
            trouble: String::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            organisation: identity.trust_domain.clone(),
            device: identity.node.to_string(),
            addresses: self.place.own.iter().map(ToString::to_string).collect(),
            pending: self.catalogue.pending(),
            controller: Some(self.controller_status()),
            session: self.catalogue.session().filter(|s| s.ends > self.runtime.now()).map(|s| local::Session {
                user: s.user.clone(),
                ends_in_ms: self.left(s.ends),
                factor: s.factor.as_ref().map(|(method, _)| method.clone()).unwrap_or_default(),
                factor_ms_ago: self.ago(s.factor.as_ref().map(|(_, at)| *at)),
                workload: s.workload,
            }),
            pairings: self.pairing_statuses(),
            grants: self
                .book
                .grants()
                .map(|(resource, held)| local::Grant {
                    id: held.id.to_string(),
                    resource: self.name_of(resource),
                    pairing: held.pairing.to_string(),
                    ends_in_ms: self.left(held.until),
                })
                .collect(),
            dns: Some(self.dns_status()),
            findings: self.findings.iter().take(FINDINGS_MAX).cloned().collect(),
            drops: counters
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| local::Count { reason: reason.to_owned(), count })
                .collect(),
            without: self.runtime.without(),
            revision: self.catalogue.revision().to_string(),
            resources: self.catalogue.len() as u64,
            fingerprint: identity.fingerprint.clone(),
            organisation_fingerprint: self
                .link
                .trust
                .all()
                .first()
                .map_or_else(|| identity.organisation_fingerprint(), |now| now.fingerprint(&identity.trust_domain)),
        }
    }

    fn controller_status(&self) -> local::Controller {
        let link = self.link.state();
        let tunnel = self.runtime.engine.peer(&PeerId::Node(NodeId::Controller)).unwrap_or_default();
        let connected = link.channel.is_some() && self.stream.is_some();
        let trouble = link.trouble.unwrap_or_else(|| "the first connection is being made".to_owned());
        local::Controller {
            connected,
            trouble: if connected { String::new() } else { trouble },
            endpoint: tunnel.endpoint.map(|e| e.to_string()).unwrap_or_default(),
            last_word_ms_ago: self.ago(link.last_word),
            last_handshake_ms_ago: self.ago(tunnel.last_handshake),
        }
    }

    fn pairing_statuses(&self) -> Vec<local::Pairing> {
        let row = |(id, tunnel): (&model::ids::PairingId, &crate::connect::Tunnel)| {
            let status: PeerStatus = self.runtime.engine.peer(&PeerId::Pairing(*id)).unwrap_or_default();
            local::Pairing {
                id: id.to_string(),
                gateway: tunnel.gateway.to_string(),
                endpoint: status.endpoint.map(|e| e.to_string()).unwrap_or_default(),
                alive: tunnel.is_alive(),
                last_handshake_ms_ago: self.ago(status.last_handshake),
                last_received_ms_ago: self.ago(status.last_received),
                bytes_received: status.received,
                bytes_sent: status.sent,
            }
        };
        self.book.tunnels().map(row).collect()
    }

    fn dns_status(&self) -> local::Dns {
        let pool = &self.identity.pool;
        let (managed, file, forwarded_to, trouble) = self.takeover.as_ref().map_or_else(
            || (false, String::new(), Vec::new(), String::new()),
            |t| (t.is_ours(), t.file(), t.servers().iter().map(ToString::to_string).collect(), t.trouble()),
        );
        local::Dns {
            managed,
            file,
            resolvers: vec![pool.resolver_v4().to_string(), pool.resolver_v6().to_string()],
            forwarded_to,
            names: self.named.iter().map(|e| e.addresses.len() as u64).sum(),
            trouble,
        }
    }
}

fn service((protocol, ports): &(Protocol, PortRange)) -> String {
    match (protocol, *ports) {
        (Protocol::Icmp, _) => protocol.to_string(),
        (_, PortRange::ALL) => format!("{protocol}:all"),
        (_, ports) => format!("{protocol}:{ports}"),
    }
}
