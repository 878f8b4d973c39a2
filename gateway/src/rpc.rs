//! What do gateway and controller say to each other? The only place of this program that knows the wire's types.

use crate::flows::Batch;
use grant::sync::{Delta, Snapshot, Update};
use model::audit::SignedHead;
use model::ids::GrantId;
use model::key::PublicKey;
use model::net::{HostName, Prefix};
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use model::time::Instant;
use node::channel::MESSAGE_MAX;
use proto::convert::{WireError, bounded, id, required, wrong};
use proto::v1;
use proto::v1::gateway_down::What as DownWhat;
use proto::v1::gateway_up::What as UpWhat;
use proto::v1::gateways_client::GatewaysClient;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;
use tunnel::api::{FlowEnd, FlowSummary};

use model::limits::{GRANTS_PER_GATEWAY_MAX, LIST_MAX, STREAM_QUEUE_MAX};

/// One message of the controller, checked.
#[derive(Debug)]
pub enum Down {
    /// A new table or a change of it, counted from the sending of request `as_of`.
    Update {
        /// Which request.
        as_of: u64,
        /// What.
        update: Update,
        /// With a snapshot: what this gateway is in the organisation.
        standing: Option<Standing>,
    },
    /// Flow records are on the controller's disk.
    FlowsKept {
        /// All up to this number.
        up_to: u64,
    },
    /// Up to where the audit trail goes.
    AuditHead(SignedHead),
    /// The answer to request `seq`: tables are equal, these lives are extended.
    Renewed {
        /// Which request.
        seq: u64,
        /// How long each lives, from its sending.
        lives: Vec<(GrantId, Duration)>,
    },
}

/// What a snapshot says besides the table.
#[derive(Debug)]
pub struct Standing {
    /// Where this site's services may lie.
    pub site: Vec<Prefix>,
    /// An administrator has confirmed this gateway.
    pub confirmed: bool,
    /// Names whose reachable families the controller wants to know.
    pub names: Vec<HostName>,
}

/// One open stream.
pub struct Stream {
    up: mpsc::Sender<v1::GatewayUp>,
    down: Streaming<v1::GatewayDown>,
}

/// What this gateway says of itself first.
#[derive(Clone)]
pub struct Hello {
    /// The highest state it ever saw.
    pub seen: Revision,
    /// Its NAT pool.
    pub nat: NatPool,
    /// Where clients reach it, as its administrator says.
    pub endpoints: Vec<SocketAddr>,
    /// Random, new at each start.
    pub boot: u64,
    /// Its key in pairings, new at each start.
    pub pairing_key: PublicKey,
    /// Up to where the audit trail went, as far as it was ever told.
    pub witness: Option<SignedHead>,
}

impl Stream {
    /// Opens the stream and says hello.
    pub async fn open(channel: Channel, hello: &Hello) -> Result<Self, tonic::Status> {
        let (up, up_in) = mpsc::channel(STREAM_QUEUE_MAX);
        let first = v1::GatewayHello {
            seen: Some(hello.seen.into()),
            nat_v4: Some(hello.nat.v4.into()),
            nat_v6: Some(hello.nat.v6.into()),
            endpoints: hello.endpoints.iter().copied().map(Into::into).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: hello.boot,
            pairing_key: hello.pairing_key.0.to_vec(),
            witness: hello.witness.clone().map(Into::into),
        };
        // The queue is empty: this cannot fail.
        let _ = up.try_send(v1::GatewayUp { what: Some(UpWhat::Hello(first)) });
        let mut client =
            GatewaysClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        let down = client.watch(ReceiverStream::new(up_in)).await?.into_inner();
        Ok(Self { up, down })
    }

    /// The next message. An error ends the stream; so does a message that makes no sense.
    pub async fn next(&mut self) -> Result<Down, String> {
        let message = self.down.message().await.map_err(|s| s.message().to_owned())?;
        let message = message.ok_or_else(|| "the controller closed the stream".to_owned())?;
        read(message).map_err(|e| e.to_string())
    }

    /// "My table is this; may it live on?"
    pub fn renew(&self, seq: u64, revision: Revision, digest: Digest) {
        self.send(UpWhat::Renew(v1::Renew { seq, revision: Some(revision.into()), digest: digest.0.to_vec() }));
    }

    /// All up to `revision` acts; `refused` did not pass this gateway's own checks.
    /// Was it taken?
    pub fn ack(&self, revision: Revision, refused: &[GrantId]) -> bool {
        let refused = refused.iter().map(ToString::to_string).collect();
        self.send(UpWhat::Ack(v1::Ack { revision: Some(revision.into()), refused }))
    }

    /// Which families of a name this gateway reaches.
    pub fn report_name(&self, name: &HostName, v4: bool, v6: bool, error: String) {
        let name = v1::NameReport { name: name.as_str().to_owned(), v4, v6, error };
        self.send(UpWhat::Report(v1::Report { names: vec![name], ..Default::default() }));
    }

    /// Counters.
    pub fn report(&self, drops: &[(&'static str, u64)]) {
        let drops = drops.iter().map(|(r, n)| v1::Count { reason: (*r).to_owned(), count: *n }).collect();
        self.send(UpWhat::Report(v1::Report { drops, ..Default::default() }));
    }

    /// Ended flows. Was it taken?
    pub fn report_flows(&self, now: Instant, batch: &Batch) -> bool {
        let flows = batch.flows.iter().map(|flow| flow_record(now, flow)).collect();
        let (first_flow, lost_flows) = (batch.first, batch.lost);
        self.send(UpWhat::Report(v1::Report { flows, first_flow, lost_flows, ..Default::default() }))
    }

    /// Was it taken? A full queue means that the controller does not read: the stream is about to end, and a new one says
    /// it all.
    fn send(&self, what: UpWhat) -> bool {
        let taken = self.up.try_send(v1::GatewayUp { what: Some(what) }).is_ok();
        if !taken {
            tracing::debug!("the controller does not read; a message is dropped");
        }
        taken
    }
}

fn flow_record(now: Instant, f: &FlowSummary) -> v1::FlowRecord {
    let end = match f.end {
        FlowEnd::Closed => v1::FlowEnd::Closed,
        FlowEnd::Idle => v1::FlowEnd::Idle,
        FlowEnd::Grant => v1::FlowEnd::Grant,
        FlowEnd::Evicted => v1::FlowEnd::Evicted,
        FlowEnd::Stopped => v1::FlowEnd::Stopped,
    };
    v1::FlowRecord {
        grant: f.grant.to_string(),
        protocol: v1::Protocol::from(f.protocol).into(),
        target: proto::convert::address_bytes(f.target),
        port: u32::from(f.port),
        packets_up: f.up.0,
        bytes_up: f.up.1,
        packets_down: f.down.0,
        bytes_down: f.down.1,
        duration_ms: proto::convert::millis(f.lasted),
        end: end.into(),
        ended_ago_ms: proto::convert::millis(now.since(f.last)),
    }
}

/// Checks a message of the controller.
pub fn read(message: v1::GatewayDown) -> Result<Down, WireError> {
    match required("what", message.what)? {
        DownWhat::Snapshot(s) => {
            let update = Update::Snapshot(Snapshot {
                revision: required("revision", s.revision)?.into(),
                pairings: all(s.pairings)?,
                grants: all(s.grants)?,
            });
            let site = all(s.site_prefixes)?;
            let names = bounded("names", s.names, LIST_MAX)?;
            let names = names.iter().map(|n| n.parse().map_err(|e| wrong("names", e))).collect::<Result<_, _>>()?;
            let standing = Some(Standing { site, confirmed: s.confirmed, names });
            Ok(Down::Update { as_of: s.as_of, update, standing })
        }
        DownWhat::Delta(d) => {
            let update = Update::Delta(Delta {
                from: required("from", d.from)?.into(),
                to: required("to", d.to)?.into(),
                pairings: all(d.pairings)?,
                grants: all(d.grants)?,
                ended: ids(&d.ended)?,
            });
            Ok(Down::Update { as_of: d.as_of, update, standing: None })
        }
        DownWhat::Renewed(r) => {
            let lives = bounded("lives", r.lives, GRANTS_PER_GATEWAY_MAX)?;
            let lives = lives
                .into_iter()
                .map(|l| Ok((id("lives", &l.grant)?, Duration::from_millis(l.ends_in_ms))))
                .collect::<Result<_, WireError>>()?;
            Ok(Down::Renewed { seq: r.seq, lives })
        }
        DownWhat::AuditHead(head) => Ok(Down::AuditHead(head.try_into()?)),
        DownWhat::FlowsKept(kept) => Ok(Down::FlowsKept { up_to: kept.up_to }),
    }
}

fn all<W, M: TryFrom<W, Error = WireError>>(list: Vec<W>) -> Result<Vec<M>, WireError> {
    bounded("list", list, GRANTS_PER_GATEWAY_MAX)?.into_iter().map(TryInto::try_into).collect()
}

fn ids(list: &[String]) -> Result<Vec<GrantId>, WireError> {
    if list.len() > GRANTS_PER_GATEWAY_MAX {
        return Err(wrong("ended", "is too long"));
    }
    list.iter().map(|g| id("ended", g)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::grant::Pairing;
    use model::ids::{DeviceId, ID_LEN, PairingId};
    use model::key::Psk;

    fn pairing() -> v1::Pairing {
        let (id, device) = (PairingId::from_bytes([1; ID_LEN]), DeviceId::from_bytes([2; ID_LEN]));
        let (device_v4, device_v6) = ("10.77.0.2".parse().unwrap(), "fd00::2".parse().unwrap());
        Pairing { id, device, client_key: PublicKey([3; 32]), psk: Psk::new([4; 32]), device_v4, device_v6 }.into()
    }

    fn grant() -> v1::Grant {
        let client: Prefix = "10.77.64.1".parse().unwrap();
        let rule = v1::Rule {
            client: Some(client.into()),
            target: Some(v1::rule::Target::Name("wiki.corp.example".into())),
            protocol: v1::Protocol::Tcp.into(),
            ports: Some(v1::Ports { first: 443, last: 443 }),
        };
        v1::Grant {
            id: "gr-0000000000000000".into(),
            pairing: "pa-0000000000000000".into(),
            device: "de-0000000000000000".into(),
            resource: "re-0000000000000000".into(),
            rules: vec![rule],
            nat_v4: vec![198, 18, 0, 1],
            nat_v6: vec![0xfd; 16],
            ends_in_ms: Some(1_000),
            lease_ms: Some(1_000),
            on_gateway: false,
        }
    }

    /// A snapshot with everything in it, changed in one place.
    fn snapshot(change: &dyn Fn(&mut v1::GatewaySnapshot)) -> Result<Down, WireError> {
        let mut full = v1::GatewaySnapshot {
            revision: Some(v1::Revision::default()),
            as_of: 1,
            pairings: vec![pairing()],
            grants: vec![grant()],
            site_prefixes: Vec::new(),
            confirmed: true,
            names: vec!["wiki.corp.example".into()],
        };
        change(&mut full);
        read(v1::GatewayDown { what: Some(DownWhat::Snapshot(full)) })
    }

    #[test]
    fn what_the_controller_calls_things_are_words_or_the_message_is_refused() {
        assert!(snapshot(&|_| {}).is_ok());
        let (long, hidden) = ("x".repeat(64 << 10), "\u{202e}".repeat(20_000));
        for text in ["", "../x", "a\nb", "\u{1b}[2J", "a\0", "a\u{202e}b", "\u{200b}a", "-rf", "ａ", &long, &hidden] {
            let text = || text.to_owned();
            let changes: [&dyn Fn(&mut v1::GatewaySnapshot); 8] = [
                &|s| s.pairings[0].id = text(),
                &|s| s.pairings[0].device = text(),
                &|s| s.grants[0].id = text(),
                &|s| s.grants[0].pairing = text(),
                &|s| s.grants[0].device = text(),
                &|s| s.grants[0].resource = text(),
                &|s| s.grants[0].rules[0].target = Some(v1::rule::Target::Name(text())),
                &|s| s.names.push(text()),
            ];
            for (number, change) in changes.iter().enumerate() {
                let error = snapshot(change).err().unwrap_or_else(|| panic!("{number} with {:?}", text())).to_string();
                assert!(error.len() < 2_000 && !error.contains(model::text::is_hidden), "{number}: {error:?}");
            }
            let revision = Some(v1::Revision::default());
            let (from, to) = (revision, revision);
            let delta = DownWhat::Delta(v1::GatewayDelta { from, to, ended: vec![text()], ..Default::default() });
            let lives = vec![v1::GrantLife { grant: text(), ends_in_ms: 1 }];
            for what in [delta, DownWhat::Renewed(v1::Renewed { seq: 1, lives })] {
                assert!(read(v1::GatewayDown { what: Some(what) }).is_err());
            }
        }
    }
}
