//! Resources: add, list, delete.

use super::{AdminRpc, changed, name, parse_all, random};
use crate::authz::Caller;
use crate::directory::index::host_id;
use crate::directory::{Counted, Directory, Draft, Name, Refusal, Resource, Site, SuffixName, Unique};
use crate::store::Record as _;
use model::ids::ResourceId;
use model::limits::{GROUPS_MAX, LEASE_MAX, LEASE_MIN, NAMES_PER_RESOURCE_MAX, RULES_PER_GRANT_MAX};
use model::net::{HostName, PortRange, Prefix, never_a_target};
use proto::admin as wire;
use std::collections::BTreeSet;

/// A resource as it was asked for, checked as far as that is possible without the directory.
pub struct Wanted {
    name: Name,
    hosts: BTreeSet<HostName>,
    suffixes: BTreeSet<HostName>,
    prefixes: BTreeSet<Prefix>,
    tcp: Vec<PortRange>,
    udp: Vec<PortRange>,
    tags: BTreeSet<Name>,
    lease_ms: Option<u64>,
}

/// Checks what of it can be checked without knowing the organisation.
pub fn check(message: &wire::AddResourceRequest) -> Result<Wanted, Refusal> {
    let invalid = |text: String| Err(Refusal::Invalid(text));
    let (suffixes, hosts): (Vec<_>, Vec<_>) = message.hosts.iter().cloned().partition(|host| host.starts_with("*."));
    let suffixes: Vec<String> = suffixes.iter().map(|suffix| suffix.trim_start_matches("*.").to_owned()).collect();
    let wanted = Wanted {
        name: name(&message.name)?,
        hosts: parse_all(&hosts)?.into_iter().collect(),
        suffixes: parse_all(&suffixes)?.into_iter().collect(),
        prefixes: parse_all(&message.addresses)?.into_iter().collect(),
        tcp: parse_all(&message.tcp)?,
        udp: parse_all(&message.udp)?,
        tags: parse_all(&message.tags)?.into_iter().collect(),
        lease_ms: (message.lease_ms != 0).then_some(message.lease_ms),
    };
    let places = wanted.hosts.len() + wanted.suffixes.len() + wanted.prefixes.len();
    let services = wanted.tcp.len() + wanted.udp.len() + usize::from(message.icmp);
    if places == 0 {
        return invalid("a resource needs a place: --host NAME, --host '*.SUFFIX', --address or --cidr".to_owned());
    }
    if services == 0 {
        return invalid("a resource needs a service: --tcp PORTS, --udp PORTS or --icmp".to_owned());
    }
    if places > NAMES_PER_RESOURCE_MAX || wanted.tags.len() > GROUPS_MAX {
        return invalid(format!("a resource may have at most {NAMES_PER_RESOURCE_MAX} places and {GROUPS_MAX} tags"));
    }
    // Each name has two virtual addresses, and each place one rule for each service.
    if places.saturating_mul(2).saturating_mul(services) > RULES_PER_GRANT_MAX {
        return invalid(format!(
            "twice its places times its services may be at most {RULES_PER_GRANT_MAX}: split the resource"
        ));
    }
    if let Some(suffix) = wanted.suffixes.iter().find(|suffix| !suffix.as_str().contains('.')) {
        return invalid(format!("`*.{suffix}` is a whole top-level domain"));
    }
    let lease = wanted.lease_ms.map(std::time::Duration::from_millis);
    if lease.is_some_and(|lease| lease < LEASE_MIN || lease > LEASE_MAX) {
        return invalid("a lease may last from 1 second to 24 hours".to_owned());
    }
    Ok(wanted)
}

/// Names must lie in the organisation's zones, or clients would refuse them; real addresses in the site's prefixes, or
/// the gateway would drop them.
fn check_places(directory: &Directory, site: &Site, wanted: &Wanted) -> Result<(), Refusal> {
    let zones = directory.org.iter().flat_map(|org| org.record.zones.iter()).collect::<Vec<_>>();
    let outside = |host: &&HostName| !zones.iter().any(|zone| host.is_in(zone));
    if let Some(host) = wanted.hosts.iter().chain(&wanted.suffixes).find(outside) {
        let zones: Vec<_> = zones.iter().map(|zone| zone.as_str()).collect();
        return Err(Refusal::Invalid(format!(
            "`{host}` lies in none of the organisation's zones ({}), so clients would refuse it: they are chosen at \
             `init` with --zone and --private-zone",
            zones.join(", ")
        )));
    }
    for prefix in &wanted.prefixes {
        if !site.prefixes.iter().any(|allowed| allowed.covers(prefix)) || never_a_target(prefix.address()) {
            let allowed: Vec<_> = site.prefixes.iter().map(ToString::to_string).collect();
            return Err(Refusal::Invalid(format!(
                "`{prefix}` lies outside the prefixes of site `{}` ({})",
                site.name,
                allowed.join(", ")
            )));
        }
    }
    Ok(())
}

impl AdminRpc {
    pub(super) async fn add_resource(
        &self,
        caller: &Caller,
        message: wire::AddResourceRequest,
    ) -> Result<wire::Changed, Refusal> {
        let wanted = check(&message)?;
        let id = ResourceId::from_bytes(random()?);
        let created = self.organisation.wall();
        let make = |directory: &Directory, draft: &mut Draft| {
            let site = directory.sites.typed(&message.site).ok_or_else(|| Refusal::missing("site", &message.site))?;
            draft.stands_on(site);
            check_places(directory, &site.record, &wanted)?;
            let name = &wanted.name;
            draft.claim(directory, Unique::ResourceName, name, id, || format!("the resource name `{name}`"))?;
            let suffixes = wanted.suffixes.iter().map(|suffix| format!("*.{suffix}"));
            for host in wanted.hosts.iter().map(ToString::to_string).chain(suffixes) {
                let what = || format!("`{host}` belongs to another resource: the name");
                draft.claim(directory, Unique::Host, host_id(&host), id, what)?;
            }
            let mut hosts = std::collections::BTreeMap::new();
            for host in &wanted.hosts {
                hosts.insert(host.clone(), draft.number(directory, Counted::Virtual, id)?);
            }
            let resource = Resource {
                id,
                name: name.clone(),
                site: site.record.id,
                hosts,
                suffixes: wanted.suffixes.clone(),
                prefixes: wanted.prefixes.clone(),
                tcp: wanted.tcp.clone(),
                udp: wanted.udp.clone(),
                icmp: message.icmp,
                lease_ms: wanted.lease_ms,
                on_gateway: message.on_gateway,
                tags: wanted.tags.clone(),
                created,
            };
            draft.create(&id, &resource)?;
            let entry = self.organisation.entry(caller, "resource.add", format!("resource/{id}"));
            Ok(((), entry.with("name", name.as_str()).with("site", site.record.name.as_str())))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, id, wanted.name))
    }

    pub(super) async fn list_resources(
        &self,
        _: &Caller,
        _: wire::ListResourcesRequest,
    ) -> Result<wire::ListResourcesReply, Refusal> {
        let (now, org) = (self.organisation.now(), self.organisation.org()?);
        let address = |name: &HostName, number: u32| wire::VirtualAddress {
            name: name.to_string(),
            v4: org.pool.virtual_v4(number).map(|a| a.to_string()).unwrap_or_default(),
            v6: org.pool.virtual_v6(number).map(|a| a.to_string()).unwrap_or_default(),
        };
        let texts = |ports: &[PortRange]| ports.iter().map(ToString::to_string).collect();
        let resources = now.resources.by_name().map(|fact| {
            let resource = &fact.record;
            let below = now.names_below(resource).into_iter();
            let virtual_addresses = resource.hosts.iter().map(|(host, number)| address(host, *number));
            let suffixes = resource.suffixes.iter().map(|suffix| format!("*.{suffix}"));
            wire::Resource {
                id: resource.id.to_string(),
                name: resource.name.to_string(),
                site: now
                    .sites
                    .find(&resource.site)
                    .map_or_else(|| resource.site.to_string(), |s| s.record.name.to_string()),
                hosts: resource.hosts.keys().map(ToString::to_string).chain(suffixes).collect(),
                addresses: resource.prefixes.iter().map(ToString::to_string).collect(),
                tcp: texts(&resource.tcp),
                udp: texts(&resource.udp),
                icmp: resource.icmp,
                lease_ms: proto::convert::millis(resource.lease()),
                on_gateway: resource.on_gateway,
                tags: resource.tags.iter().map(ToString::to_string).collect(),
                virtual_addresses: virtual_addresses
                    .chain(below.map(|name| address(&name.record.name, name.record.number)))
                    .collect(),
            }
        });
        Ok(wire::ListResourcesReply { resources: resources.collect() })
    }

    pub(super) async fn delete_resource(
        &self,
        caller: &Caller,
        message: wire::DeleteResourceRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.resource.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.resources.typed(typed).ok_or_else(|| Refusal::missing("resource", typed))?;
            let resource = &fact.record;
            draft.remove(fact);
            draft.release(Unique::ResourceName, &resource.name)?;
            for (host, number) in &resource.hosts {
                draft.release(Unique::Host, host_id(host.as_str()))?;
                draft.release(Unique::Virtual, number)?;
            }
            for suffix in &resource.suffixes {
                draft.release(Unique::Host, host_id(&format!("*.{suffix}")))?;
            }
            draft.stands_on_all(directory, SuffixName::KIND)?;
            let below = directory.suffix_names.range(SuffixName::ids(resource.id));
            for below in below.filter(|name| name.record.resource == resource.id) {
                draft.remove(below);
                draft.release(Unique::Virtual, below.record.number)?;
            }
            let entry =
                self.organisation.entry(caller, "resource.delete", &fact.key).with("name", resource.name.as_str());
            Ok(((resource.id, resource.name.clone()), entry))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(self.settled(revision, changed(revision, id, name)).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> wire::AddResourceRequest {
        wire::AddResourceRequest {
            name: "wiki".into(),
            site: "hq".into(),
            hosts: vec!["wiki.corp.example".into(), "*.dev.corp.example".into()],
            tcp: vec!["443".into(), "8000-8099".into()],
            ..Default::default()
        }
    }

    #[test]
    fn a_resource_says_where_it_is_and_what_it_speaks() {
        let wanted = check(&message()).ok().unwrap();
        assert_eq!((wanted.hosts.len(), wanted.suffixes.len(), wanted.tcp.len()), (1, 1, 2));
        let bad = |change: &dyn Fn(&mut wire::AddResourceRequest)| {
            let mut message = message();
            change(&mut message);
            check(&message).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(bad(&|m| m.hosts.clear()).contains("--host"));
        assert!(bad(&|m| m.tcp.clear()).contains("--tcp"));
        assert!(bad(&|m| m.hosts = vec!["*.example".into()]).contains("top-level"));
        assert!(bad(&|m| m.hosts = vec!["*".into()]).contains("not a host name"));
        assert!(bad(&|m| m.hosts = vec!["a.*.b".into()]).contains("not a host name"));
        assert!(bad(&|m| m.lease_ms = 999).contains("lease"));
        assert!(bad(&|m| m.tcp = vec!["0".into()]).contains("port"));
        assert!(bad(&|m| m.hosts = (0..40).map(|n| format!("h{n}.corp.example")).collect()).contains("at most 32"));
        assert!(bad(&|m| m.tcp = (1..200).map(|n: u16| n.to_string()).collect()).contains("split"));
        assert!(bad(&|m| m.tags = vec!["Not A Word".into()]).contains("not a name"));
    }
}
