//! What does the controller's catalogue change on this machine? Which routes and names are accepted, which are refused and
//! why, and what each packet finds at its destination.
//!
//! Accepted are virtual addresses of the pool, real prefixes inside those that the join file allows, and names in the
//! zones that it allows (and `umbra.internal`). Never a default route, a network that this machine is attached to, or the
//! outside address of a controller or gateway. What a network says with routes alone changes nothing of that: it could lie.

use crate::catalogue::Catalogue;
use crate::connect::Book;
use model::grant::{CatalogueAddress, CatalogueEntry};
use model::ids::ResourceId;
use model::limits::FINDINGS_MAX;
use model::net::{HostName, Prefix, never_a_target};
use model::pool::Pool;
use model::time::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use tunnel::{RouteEntry, RouteState, Routes};

/// A network of this machine, other than through our device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalNet {
    /// Where.
    pub prefix: Prefix,
    /// This machine has an address in it; otherwise a route leads there.
    pub attached: bool,
}

/// What this machine is, and what it accepts.
#[derive(Debug, Clone)]
pub struct Place {
    /// The organisation's addresses.
    pub pool: Pool,
    /// Our own, at most one of each family.
    pub own: Vec<IpAddr>,
    /// Real prefixes that may be routed.
    pub prefixes: Vec<Prefix>,
    /// Zones whose names may be answered.
    pub zones: Vec<HostName>,
    /// The networks that this machine is attached to or routes to.
    pub local: Vec<LocalNet>,
    /// Outside addresses of controllers and gateways: a route over one would swallow the tunnels themselves.
    pub outside: Vec<IpAddr>,
}

/// What follows from a catalogue.
#[derive(Debug, Default)]
pub struct Plan {
    /// For the engine.
    pub routes: Routes,
    /// For the kernel: destination and preferred source.
    pub host: BTreeMap<Prefix, IpAddr>,
    /// For the resolver: the entries, with only those names and addresses that are accepted.
    pub names: Vec<CatalogueEntry>,
    /// What leaves this machine through the tunnel or not at all: all of `host`, and real prefixes that could not be routed because
    /// a network here has them, too.
    pub kept: BTreeSet<Prefix>,
    /// What was refused or overlaps, for people.
    pub findings: Vec<String>,
}

/// Makes the plan.
pub fn plan(place: &Place, catalogue: &Catalogue, book: &Book, now: Instant) -> Plan {
    let routes = Routes { own: place.own.clone(), doubtful: book.doubtful(), ..Routes::default() };
    let mut plan = Plan { routes, ..Plan::default() };
    for entry in catalogue.entries() {
        let mut named = CatalogueEntry { addresses: Vec::new(), suffixes: Vec::new(), ..entry.clone() };
        for address in catalogue.addresses(entry) {
            let v4 = address.v4.filter(|p| plan.route(place, entry, *p, book, now));
            let v6 = address.v6.filter(|p| plan.route(place, entry, *p, book, now));
            match &address.name {
                Some(name) if place.admits_name(name) => {
                    named.addresses.push(CatalogueAddress { name: Some(name.clone()), v4, v6 });
                }
                Some(name) => plan.find(format!("the name {name} of {} is refused: {OUTSIDE_ZONES}", entry.name)),
                None => {}
            }
        }
        for suffix in &entry.suffixes {
            if place.admits_name(suffix) {
                named.suffixes.push(suffix.clone());
            } else {
                plan.find(format!("*.{suffix} of {} is refused: {OUTSIDE_ZONES}", entry.name));
            }
        }
        plan.names.push(named);
    }
    plan
}

const OUTSIDE_ZONES: &str = "it is outside the zones that the join file allows to this organisation";

impl Plan {
    /// Routes one prefix, if it may be.
    fn route(&mut self, place: &Place, entry: &CatalogueEntry, prefix: Prefix, book: &Book, now: Instant) -> bool {
        if place.trusts_prefix(&prefix).is_ok() {
            self.kept.insert(prefix);
        }
        let source = place.own.iter().find(|a| a.is_ipv4() == prefix.address().is_ipv4());
        let accepted = match (place.admits_prefix(&prefix), source) {
            (Err(why), _) => Err(why),
            (Ok(()), None) => Err("this machine has no overlay address of that family".to_owned()),
            (Ok(()), Some(source)) => Ok(*source),
        };
        match accepted {
            Ok(source) => {
                for net in
                    place.local.iter().filter(|n| prefix.covers(&n.prefix) && !place.pool.contains(prefix.address()))
                {
                    let (what, so) = if net.attached {
                        ("a network of this machine", "that part stays local")
                    } else {
                        ("where a route of this network leads", "packets that would follow it are dropped")
                    };
                    self.find(format!("{prefix} of {} contains {}, {what}: {so}", entry.name, net.prefix));
                }
                let state = state(book, &entry.id, &prefix, now);
                let route = RouteEntry { resource: entry.id, ports: entry.ports.clone(), state };
                self.routes.entries.entry(prefix).or_default().push(route);
                self.host.insert(prefix, source);
                true
            }
            Err(why) => {
                self.find(format!("{prefix} of {} is refused: {why}", entry.name));
                false
            }
        }
    }

    fn find(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX && !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }
}

/// What a packet finds at this prefix.
fn state(book: &Book, resource: &ResourceId, prefix: &Prefix, now: Instant) -> RouteState {
    if let Some(held) = book.grant(resource)
        && held.until > now
        && held.prefixes.iter().any(|p| p.covers(prefix))
    {
        return RouteState::Granted { pairing: held.pairing, grant: held.id, until: held.until };
    }
    match book.deny(resource) {
        Some(until) if until > now => RouteState::Denied(until),
        _ => RouteState::Ask,
    }
}

impl Place {
    /// May this organisation's names be answered here?
    fn admits_name(&self, name: &HostName) -> bool {
        let internal = crate::names::OWN_ZONE.parse::<HostName>().is_ok_and(|zone| name.is_in(&zone));
        internal || self.zones.iter().any(|zone| name.is_in(zone))
    }

    /// Those of the private zones that the join file allows: in them, what we do not know does not exist.
    pub fn private(&self, zones: &[HostName]) -> Vec<HostName> {
        zones.iter().filter(|zone| self.admits_name(zone)).cloned().collect()
    }

    /// May this be routed into the tunnel, here and now?
    fn admits_prefix(&self, prefix: &Prefix) -> Result<(), String> {
        self.trusts_prefix(prefix)?;
        match self.attached().find(|net| net.covers(prefix)) {
            Some(net) => Err(format!(
                "it overlaps {net}, a network that this machine is attached to; packets for it are dropped rather than sent there"
            )),
            None => Ok(()),
        }
    }

    /// Networks that this machine has an address in.
    pub fn attached(&self) -> impl Iterator<Item = Prefix> {
        self.local.iter().filter(|net| net.attached).map(|net| net.prefix)
    }

    /// May the organisation have resources there, whatever networks are around?
    pub fn trusts_prefix(&self, prefix: &Prefix) -> Result<(), String> {
        let address = prefix.address();
        if self.pool.contains(address) {
            let ok = prefix.is_host() && self.pool.is_virtual(address);
            return if ok { Ok(()) } else { Err("it is no virtual address".to_owned()) };
        }
        if prefix.bits() == 0 {
            return Err("it is a default route".to_owned());
        }
        if self.pool.v4().overlaps(prefix) || self.pool.v6().overlaps(prefix) || never_a_target(address) {
            return Err("no resource can be there".to_owned());
        }
        if !self.prefixes.iter().any(|p| p.covers(prefix)) {
            return Err("it is outside the prefixes that the join file allows to this organisation".to_owned());
        }
        if let Some(outside) = self.outside.iter().find(|a| prefix.contains(**a)) {
            return Err(format!("it contains {outside}, where a controller or gateway is reached"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connect::{Denial, Permit, Request};
    use crate::testkit::{entry, gateway, grant, pairing, resource};
    use model::revision::Revision;
    use std::time::Duration;

    const NOW: Instant = Instant(1_000_000_000);

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn place() -> Place {
        Place {
            pool: Pool::new(prefix("10.77.0.0/16"), prefix("fd12:3456:789a::/48")).unwrap(),
            own: vec!["10.77.1.7".parse().unwrap(), "fd12:3456:789a:1::7".parse().unwrap()],
            prefixes: vec![prefix("192.168.0.0/16"), prefix("2001:db8::/32")],
            zones: vec!["corp.example".parse().unwrap()],
            local: vec![LocalNet { prefix: prefix("192.168.1.0/24"), attached: true }],
            outside: vec!["192.168.9.9".parse().unwrap()],
        }
    }

    fn catalogue(entries: Vec<CatalogueEntry>) -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.snapshot(Revision { incarnation: 1, number: 1 }, None, false, entries).unwrap();
        catalogue
    }

    fn routed(address: &str) -> Plan {
        plan(&place(), &catalogue(vec![entry(1, "thing", address)]), &Book::default(), NOW)
    }

    #[test]
    fn what_may_be_routed_is_routed_with_our_own_source() {
        for (good, source) in [
            ("10.77.64.1", "10.77.1.7"),
            ("fd12:3456:789a:4::1", "fd12:3456:789a:1::7"),
            ("192.168.5.0/24", "10.77.1.7"),
            ("2001:db8:5::/64", "fd12:3456:789a:1::7"),
        ] {
            let plan = routed(good);
            assert_eq!(plan.host, BTreeMap::from([(prefix(good), source.parse().unwrap())]), "{good}");
            assert!(plan.kept.iter().eq(plan.host.keys()), "{good}");
            assert!(plan.findings.is_empty());
            assert_eq!(plan.routes.entries[&prefix(good)][0].state, RouteState::Ask);
        }
    }

    #[test]
    fn everything_else_is_refused_and_said() {
        for bad in [
            "0.0.0.0/0",
            "::/0",
            "10.77.0.53",        // the resolver
            "10.77.1.9",         // another device
            "10.77.64.0/24",     // a range of virtual addresses
            "10.0.0.0/8",        // around the pool, and not allowed
            "fd12:3456:789a::1", // the controller
            "203.0.113.0/24",    // not in the join file
            "192.168.0.0/15",    // wider than the join file
            "192.168.1.0/24",    // on-link
            "192.168.1.128/25",  // part of on-link
            "192.168.9.0/24",    // a gateway's outside address
            "127.0.0.0/8",
            "169.254.169.254",
        ] {
            let plan = routed(bad);
            assert!(plan.host.is_empty() && plan.routes.entries.is_empty(), "{bad} was routed");
            assert_eq!(plan.findings.len(), 1, "{bad}");
            assert!(plan.findings[0].contains("refused"), "{bad}: {:?}", plan.findings);
        }
    }

    #[test]
    fn so_many_findings_are_listed() {
        let bad = |count: usize| (0..count as u32).map(|n| entry(n, &format!("bad{n}"), "203.0.113.0/24")).collect();
        let findings = |count: usize| plan(&place(), &catalogue(bad(count)), &Book::default(), NOW).findings.len();
        assert_eq!(findings(FINDINGS_MAX), FINDINGS_MAX);
        assert_eq!(findings(FINDINGS_MAX + 1), FINDINGS_MAX);
        assert_eq!(findings(1), 1);
    }

    #[test]
    fn an_overlap_that_stays_local_is_said() {
        let mut place = place();
        place.outside.clear();
        let plan = plan(&place, &catalogue(vec![entry(1, "lan", "192.168.0.0/16")]), &Book::default(), NOW);
        assert!(plan.host.contains_key(&prefix("192.168.0.0/16")));
        assert!(plan.findings[0].contains("192.168.1.0/24"), "{:?}", plan.findings);
    }

    #[test]
    fn what_the_network_here_claims_is_kept_from_it() {
        let mut place = place();
        let claim = |text, attached| LocalNet { prefix: prefix(text), attached };
        place.local = vec![claim("192.168.5.0/24", false), claim("192.168.6.0/24", true)];
        let routed = |to| plan(&place, &catalogue(vec![entry(1, "thing", to)]), &Book::default(), NOW);
        // A route alone, of the same prefix or a part of it, moves nothing.
        for (to, findings) in [("192.168.5.0/24", 1), ("192.168.4.0/23", 1), ("192.168.5.9", 0)] {
            let plan = routed(to);
            assert!(plan.host.contains_key(&prefix(to)) && plan.kept.contains(&prefix(to)), "{to}");
            assert_eq!(plan.findings.len(), findings, "{to}: {:?}", plan.findings);
            assert!(plan.findings.iter().all(|said| said.ends_with("dropped")), "{to}: {:?}", plan.findings);
        }
        // A network that this machine is in has its addresses, but does not get packets that are meant for the resource.
        let plan = routed("192.168.6.9");
        assert!(plan.host.is_empty() && plan.kept.contains(&prefix("192.168.6.9")), "{plan:?}");
        assert!(plan.findings[0].contains("dropped rather than sent"), "{:?}", plan.findings);
        // What nobody may claim is not kept from anybody.
        for to in ["203.0.113.0/24", "192.168.9.0/24", "0.0.0.0/0"] {
            assert!(routed(to).kept.is_empty(), "{to}");
        }
    }

    #[test]
    fn only_allowed_zones_get_names() {
        let mut foreign = entry(1, "bank", "10.77.64.1");
        foreign.addresses[0].name = Some("bank.example".parse().unwrap());
        foreign.suffixes = vec!["com".parse().unwrap(), "apps.corp.example".parse().unwrap()];
        let mut internal = entry(2, "wiki", "10.77.64.2");
        internal.addresses[0].name = Some("wiki.umbra.internal".parse().unwrap());
        let plan = plan(&place(), &catalogue(vec![foreign, internal]), &Book::default(), NOW);
        let names: Vec<String> =
            plan.names.iter().flat_map(|e| &e.addresses).map(|a| format!("{:?}", a.name)).collect();
        let suffixes: Vec<&str> = plan.names.iter().flat_map(|e| &e.suffixes).map(HostName::as_str).collect();
        assert_eq!(
            (names.as_slice(), suffixes.as_slice()),
            (&["Some(wiki.umbra.internal)".to_owned()][..], &["apps.corp.example"][..])
        );
        assert_eq!(plan.findings.len(), 2);
        assert_eq!(plan.host.len(), 2, "an address without a name is still routed");
    }

    #[test]
    fn a_private_zone_is_one_that_the_join_file_allows() {
        let zones: Vec<HostName> = ["com", "corp.example", "x.corp.example"].map(|z| z.parse().unwrap()).to_vec();
        assert_eq!(place().private(&zones), zones[1..]);
    }

    #[test]
    fn grants_and_denials_show_in_the_routes() {
        let catalogue = catalogue(vec![entry(1, "wiki", "10.77.64.1"), entry(2, "git", "10.77.64.2")]);
        let mut book = Book::default();
        book.ask(NOW, resource(1));
        assert_eq!(book.request(NOW).map(|r: Request| r.resource), Some(resource(1)));
        let until = NOW.plus(Duration::from_secs(60));
        let permit = Permit {
            grant: grant(1),
            pairing: pairing(1),
            gateway: Some(gateway(1)),
            prefixes: vec![prefix("10.77.64.1")],
            until,
        };
        assert!(book.permitted(NOW, resource(1), permit));
        book.ask(NOW, resource(2));
        book.request(NOW).unwrap();
        let denial =
            Denial { reasons: vec!["no".to_owned()], retry_after: Duration::ZERO, passing: false, step_up: Vec::new() };
        book.denied(NOW, resource(2), denial);
        let at = |now| {
            let plan = plan(&place(), &catalogue, &book, now);
            (plan.routes.entries[&prefix("10.77.64.1")][0].state, plan.routes.entries[&prefix("10.77.64.2")][0].state)
        };
        let denied = RouteState::Denied(NOW.plus(model::limits::DENY_HOLD));
        assert_eq!(at(NOW), (RouteState::Granted { pairing: pairing(1), grant: grant(1), until }, denied));
        assert_eq!(at(until), (RouteState::Ask, RouteState::Ask));
    }

    #[test]
    fn what_a_grant_does_not_cover_is_asked_for() {
        let mut wide = entry(1, "apps", "10.77.64.1");
        wide.addresses.push(entry(9, "late", "10.77.64.9").addresses.remove(0));
        let mut book = Book::default();
        book.ask(NOW, resource(1));
        book.request(NOW).unwrap();
        let permit = Permit {
            grant: grant(1),
            pairing: pairing(1),
            gateway: Some(gateway(1)),
            prefixes: vec![prefix("10.77.64.1")],
            until: Instant::NEVER,
        };
        assert!(book.permitted(NOW, resource(1), permit));
        let plan = plan(&place(), &catalogue(vec![wide]), &book, NOW);
        assert!(matches!(plan.routes.entries[&prefix("10.77.64.1")][0].state, RouteState::Granted { .. }));
        assert_eq!(plan.routes.entries[&prefix("10.77.64.9")][0].state, RouteState::Ask);
    }
}
