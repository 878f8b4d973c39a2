//! How does the ledger come back after the controller started anew? From its records; whatever does not fit is left out.

use model::ids::{DeviceId, GatewayId, GrantId, PairingId};
use model::key::Psk;
use model::limits::{
    GRANTS_PER_DEVICE_MAX, GRANTS_PER_GATEWAY_MAX, LEASE_MAX, LEASE_MIN, RULES_PER_GRANT_MAX, TOMBSTONE_EXTRA,
};
use model::pool::NatPool;
use model::revision::Revision;
use std::time::Duration;

use crate::lease::Moment;
use crate::ledger::{Grave, Ledger};
use crate::record::{GrantRecord, Live, PairingRecord, Tombstone};

/// Everything of the ledger that the store keeps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// The gateways and the NAT pools that they reported.
    pub gateways: Vec<(GatewayId, NatPool)>,
    /// The tunnels, with their unsealed pre-shared keys.
    pub pairings: Vec<(PairingRecord, Psk)>,
    /// The grants.
    pub grants: Vec<GrantRecord>,
    /// The tombstones.
    pub tombstones: Vec<Tombstone>,
}

/// Why a record was left out. Its grant is not alive; the caller deletes the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It has a tombstone.
    #[error("grant {0} was ended already")]
    Ended(GrantId),
    /// Its gateway is not known.
    #[error("the gateway of grant {0} is not known")]
    Gateway(GrantId),
    /// Its tunnel has no record or no key, or belongs to another device or gateway.
    #[error("the tunnel of grant {0} is missing")]
    Pairing(GrantId),
    /// Its addresses are taken, or not of the gateway's pool.
    #[error("the addresses of grant {0} are not to be had")]
    Number(GrantId),
    /// Rules, lease or number of grants out of bounds.
    #[error("grant {0} is out of bounds")]
    Bounds(GrantId),
    /// A tunnel without a grant, or with a data key that another has.
    #[error("tunnel {0} has no use")]
    Tunnel(PairingId),
    /// A tombstone that has outlived every lease.
    #[error("tombstone {0} has done its duty")]
    Tombstone(GrantId),
}

impl Ledger {
    /// The ledger of these records, at the store's state `head`. It holds ended lives too, until the caller ends them
    /// ([`Ledger::expired`]); every decision is to be taken again.
    pub fn restore(at: Moment, head: Revision, records: Records) -> (Self, Vec<Lost>) {
        let (mut ledger, mut lost) = (Self::new(head), Vec::new());
        for (gateway, nat) in records.gateways {
            ledger.set_gateway(gateway, nat);
        }
        let mut tombstones = records.tombstones;
        // The latest owner of a number has it.
        tombstones.sort_by_key(|t| std::cmp::Reverse((t.revision, t.grant)));
        for tombstone in &tombstones {
            let kept_until = at.to_instant(tombstone.ended).plus(LEASE_MAX).plus(TOMBSTONE_EXTRA);
            if kept_until <= at.now {
                lost.push(Lost::Tombstone(tombstone.grant));
                continue;
            }
            let lapses = at.to_instant(tombstone.lapses).min(at.now.plus(LEASE_MAX));
            ledger.dig(Grave { tombstone: tombstone.clone(), lapses, kept_until });
        }
        for (record, psk) in records.pairings {
            let (id, gateway) = (record.id, record.gateway);
            if !ledger.adopt_pairing(gateway, record.into_pairing(psk)) {
                lost.push(Lost::Tunnel(id));
            }
        }
        for record in records.grants {
            if let Err(why) = ledger.restore_grant(at, record) {
                lost.push(why);
            }
        }
        for tombstone in tombstones {
            if let Some(book) = ledger.gateways.get_mut(&tombstone.gateway)
                && ledger.graves.contains_key(&tombstone.grant)
                && book.claim_number(tombstone.nat_number).is_some()
            {
                book.rest_number(tombstone.revision, tombstone.grant, tombstone.nat_number);
            }
        }
        let idle: Vec<PairingId> =
            ledger.pairings.keys().copied().filter(|id| ledger.by_pairing.count(id) == 0).collect();
        for id in idle {
            ledger.drop_pairing(id);
            lost.push(Lost::Tunnel(id));
        }
        (ledger, lost)
    }

    fn restore_grant(&mut self, at: Moment, record: GrantRecord) -> Result<(), Lost> {
        let (id, gateway, device): (_, _, DeviceId) = (record.id, record.gateway, record.device);
        if self.graves.contains_key(&id) || self.grants.contains_key(&id) {
            return Err(Lost::Ended(id));
        }
        let lease = Duration::from_millis(record.lease_ms);
        if record.rules.is_empty()
            || record.rules.len() > RULES_PER_GRANT_MAX
            || !(LEASE_MIN..=LEASE_MAX).contains(&lease)
            || self.by_device.count(&device) >= GRANTS_PER_DEVICE_MAX
            || self.by_gateway.count(&gateway) >= GRANTS_PER_GATEWAY_MAX
        {
            return Err(Lost::Bounds(id));
        }
        if let Some(pairing) = record.pairing
            && !self.pairings.get(&pairing).is_some_and(|(g, p)| *g == gateway && p.device == device)
        {
            return Err(Lost::Pairing(id));
        }
        let book = self.gateways.get_mut(&gateway).ok_or(Lost::Gateway(id))?;
        let nat = book.claim_number(record.nat_number).ok_or(Lost::Number(id))?;
        let live = Live::from_record(record, at, nat);
        self.enlist(&live);
        self.grants.insert(id, live);
        Ok(())
    }

    /// Everything that the store should hold. Proposals are not in it.
    pub fn records(&self, at: Moment) -> Records {
        Records {
            gateways: self.gateways.iter().map(|(id, book)| (*id, book.nat)).collect(),
            pairings: self
                .pairings
                .values()
                .map(|(gateway, p)| (PairingRecord::of(p, *gateway), p.psk.clone()))
                .collect(),
            grants: self.grants.values().map(|l| l.record(at)).collect(),
            tombstones: self.graves.values().map(|g| g.tombstone.clone()).collect(),
        }
    }
}
