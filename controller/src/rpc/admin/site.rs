//! Sites: add, list, delete.

use super::{AdminRpc, changed, name, parse_all, random};
use crate::authz::Caller;
use crate::directory::{Directory, Draft, Gateway, JoinKey, NodeState, Refusal, Resource, Site, Unique};
use crate::store::Record as _;
use model::ids::SiteId;
use model::net::{Prefix, never_a_target};
use proto::admin as wire;

/// A prefix that no service may lie in is a slip of the pen, however often the gateway would refuse it.
fn check_prefix(directory: &Directory, prefix: Prefix) -> Result<(), Refusal> {
    if prefix.bits() == 0 {
        return Err(Refusal::Invalid(format!("`{prefix}` is everything: name the networks in which the services lie")));
    }
    if never_a_target(prefix.address()) {
        return Err(Refusal::Invalid(format!(
            "`{prefix}` can hold no service: it is loopback, link-local or the like"
        )));
    }
    let pools = directory.org.iter().flat_map(|org| [org.record.pool.v4(), org.record.pool.v6()]);
    match pools.into_iter().find(|pool| pool.overlaps(&prefix)) {
        Some(pool) => Err(Refusal::Invalid(format!("`{prefix}` overlaps {pool}, the organisation's own pool"))),
        None => Ok(()),
    }
}

impl AdminRpc {
    pub(super) async fn add_site(
        &self,
        caller: &Caller,
        message: wire::AddSiteRequest,
    ) -> Result<wire::Changed, Refusal> {
        let name = name(&message.name)?;
        let mut prefixes: Vec<Prefix> = parse_all(&message.prefixes)?;
        prefixes.sort_unstable();
        prefixes.dedup();
        if prefixes.is_empty() {
            return Err(Refusal::Invalid("a site needs at least one --prefix in which its services lie".to_owned()));
        }
        let id = SiteId::from_bytes(random()?);
        let created = self.organisation.wall();
        let make = |directory: &Directory, draft: &mut Draft| {
            prefixes.iter().try_for_each(|prefix| check_prefix(directory, *prefix))?;
            draft.claim(directory, Unique::SiteName, &name, id, || format!("the site name `{name}`"))?;
            draft.create(&id, &Site { id, name: name.clone(), prefixes: prefixes.clone(), created })?;
            let entry = self.organisation.entry(caller, "site.add", format!("site/{id}")).with("name", name.as_str());
            Ok(((), entry))
        };
        let (revision, ()) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }

    pub(super) async fn list_sites(
        &self,
        _: &Caller,
        _: wire::ListSitesRequest,
    ) -> Result<wire::ListSitesReply, Refusal> {
        let now = self.organisation.now();
        let sites = now.sites.by_name().map(|fact| {
            let gateways = now.gateways.by_name().filter(|g| g.record.site == fact.record.id);
            wire::Site {
                id: fact.record.id.to_string(),
                name: fact.record.name.to_string(),
                prefixes: fact.record.prefixes.iter().map(ToString::to_string).collect(),
                gateways: gateways
                    .filter(|g| g.record.state != NodeState::Revoked)
                    .map(|g| g.record.name.to_string())
                    .collect(),
            }
        });
        Ok(wire::ListSitesReply { sites: sites.collect() })
    }

    pub(super) async fn delete_site(
        &self,
        caller: &Caller,
        message: wire::DeleteSiteRequest,
    ) -> Result<wire::Changed, Refusal> {
        let typed = message.site.as_str();
        let make = |directory: &Directory, draft: &mut Draft| {
            let fact = directory.sites.typed(typed).ok_or_else(|| Refusal::missing("site", typed))?;
            let id = fact.record.id;
            for set in [Resource::KIND, Gateway::KIND, JoinKey::KIND] {
                draft.stands_on_all(directory, set)?;
            }
            if let Some(resource) = directory.resources.by_name().find(|r| r.record.site == id) {
                let resource = &resource.record.name;
                return Err(Refusal::InUse(format!(
                    "site `{typed}` has resource `{resource}`: delete its resources first"
                )));
            }
            let gateway =
                directory.gateways.by_name().find(|g| g.record.site == id && g.record.state != NodeState::Revoked);
            if let Some(gateway) = gateway {
                let gateway = &gateway.record.name;
                return Err(Refusal::InUse(format!(
                    "site `{typed}` has gateway `{gateway}`: revoke its gateways first"
                )));
            }
            for key in directory.join_keys.values().filter(|k| k.record.site == Some(id) && !k.record.revoked) {
                draft.update(key, &JoinKey { revoked: true, ..key.record.clone() })?;
            }
            draft.remove(fact);
            draft.release(Unique::SiteName, &fact.record.name)?;
            let entry =
                self.organisation.entry(caller, "site.delete", &fact.key).with("name", fact.record.name.as_str());
            Ok(((id, fact.record.name.clone()), entry))
        };
        let (revision, (id, name)) = self.change(caller, make).await?;
        Ok(changed(revision, id, name))
    }
}
