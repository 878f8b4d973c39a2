//! The service of gateways: one stream each way.

use crate::arrange::Arrangements;
use crate::arrange::gateways::{Hello, HelloError};
use crate::arrange::lines::GatewayNews;
use crate::authz::{Caller, refusal};
use crate::flows::{FlowEnd, FlowLog, Told};
use crate::organisation::Organisation;
use crate::refused::Reason;
use grant::sync::Update;
use model::ids::{GatewayId, NodeId};
use model::limits::{
    ENDPOINTS_MAX, FLOW_REPORT_MAX, FLOW_REPORTS_WAITING_MAX, GRANTS_PER_GATEWAY_MAX, LIST_MAX, STREAM_QUEUE_MAX,
    TLS_HANDSHAKE_MAX,
};
use model::net::HostName;
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use model::time::{Clock, WallMs};
use node::Runtime;
use proto::convert::{
    WireError, address, array, bounded, display_name, id, millis, protocol, public_key, required, wrong,
};
use proto::v1;
use proto::v1::gateway_down::What as DownWhat;
use proto::v1::gateway_up::What as UpWhat;
use proto::v1::gateways_server::Gateways;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tunnel::PeerId;

/// The service.
#[derive(Clone)]
pub struct GatewaysRpc {
    arrangements: Arc<Arrangements>,
    runtime: Arc<Runtime>,
    flows: Arc<FlowLog>,
    clock: Arc<dyn Clock>,
}

/// A gateway's stream.
#[derive(Debug, Clone, Copy)]
struct Line {
    gateway: GatewayId,
    stream: u64,
    boot: u64,
}

/// A message of a gateway that is not its hello, checked.
pub enum Up {
    /// "My table is this; may it live on?"
    Renew {
        /// Which request.
        seq: u64,
        /// The table's state.
        revision: Revision,
        /// Over the table.
        digest: Digest,
    },
    /// All up to here acts.
    Ack {
        /// Which state.
        revision: Revision,
        /// Grants that did not pass the gateway's own checks.
        refused: Vec<model::ids::GrantId>,
    },
    /// Names that it reaches over IPv6, and counters.
    Report(Vec<HostName>, Vec<(String, u64)>),
    /// Ended flows: see [`flows_of`].
    Flows {
        /// The number of the first.
        first: u64,
        /// How many found no room.
        lost: u64,
        /// The flows.
        records: Vec<v1::FlowRecord>,
    },
}

fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

impl GatewaysRpc {
    /// Over these grants; the packet path knows where a gateway's tunnel comes from.
    pub fn new(arrangements: Arc<Arrangements>, runtime: Arc<Runtime>, organisation: &Organisation) -> Self {
        let (flows, clock) = (Arc::clone(&organisation.flows), Arc::clone(&organisation.clock));
        Self { arrangements, runtime, flows, clock }
    }

    fn hello(&self, gateway: GatewayId, hello: v1::GatewayHello) -> Result<Hello, WireError> {
        read_hello(hello, self.runtime.engine.peer(&PeerId::Node(NodeId::Gateway(gateway))).and_then(|p| p.endpoint))
    }

    async fn follow(self, line: Line, mut up: Streaming<v1::GatewayUp>) {
        let Line { gateway, stream, .. } = line;
        let (reports, waiting) = mpsc::channel(FLOW_REPORTS_WAITING_MAX);
        tokio::spawn(self.clone().keep_flows(line, waiting));
        while let Ok(Some(message)) = up.message().await {
            if !self.arrangements.lines.is_current(gateway, stream) {
                break;
            }
            match read(message) {
                Ok(Up::Renew { seq, revision, digest }) => {
                    self.arrangements.renew(gateway, seq, revision, digest).await;
                }
                Ok(Up::Ack { revision, refused }) => self.arrangements.acknowledge(gateway, revision, refused).await,
                Ok(Up::Report(names, drops)) => {
                    self.arrangements.report_v6_names(gateway, names);
                    tracing::debug!(%gateway, ?drops, "the gateway's counters");
                }
                // Beside the stream: a renewal does not wait for this disk.
                Ok(Up::Flows { first, lost, records }) => queue_report(&reports, (first, lost, records)),
                Err(error) => {
                    if self.arrangements.refused().is_told(Reason::Nonsense, &gateway) {
                        tracing::warn!(%gateway, %error, "a gateway's message makes no sense; its stream ends");
                    }
                    break;
                }
            }
        }
        self.arrangements.lines.close_gateway(gateway, stream);
    }
}

impl GatewaysRpc {
    /// Writes one report after another, and says so to the gateway.
    async fn keep_flows(self, line: Line, mut reports: mpsc::Receiver<Report>) {
        let mut lost_before = 0;
        while let Some((first, lost, records)) = reports.recv().await {
            let wall = self.clock.wall();
            let told = match flows_of(first, wall, &records) {
                Ok(told) => told,
                Err(error) => {
                    if self.arrangements.refused().is_told(Reason::Nonsense, &line.gateway) {
                        tracing::warn!(gateway = %line.gateway, %error, "a gateway's flow records make no sense; they are not kept");
                    }
                    continue;
                }
            };
            if lost > lost_before {
                tracing::warn!(gateway = %line.gateway, lost, "flow records found no room at the gateway since its start");
                lost_before = lost;
            }
            let up_to = first.saturating_add(told.len() as u64).saturating_sub(1);
            let records = self.arrangements.attribute(line.gateway, line.boot, told).await;
            let flows = Arc::clone(&self.flows);
            match tokio::task::spawn_blocking(move || flows.append(line.gateway, &records)).await {
                Ok(Ok(())) => {
                    self.arrangements.lines.tell_gateway(line.gateway, line.stream, GatewayNews::FlowsKept(up_to));
                }
                Ok(Err(error)) => {
                    tracing::error!(%error, "flow records cannot be written; gateways keep theirs for as long as they have room");
                }
                Err(error) => tracing::error!(%error, "flow records were not written"),
            }
        }
    }
}

/// Checks a hello; `from` is where the gateway's tunnel comes from.
pub fn read_hello(hello: v1::GatewayHello, from: Option<SocketAddr>) -> Result<Hello, WireError> {
    let nat = NatPool {
        v4: required("nat_v4", hello.nat_v4)?.try_into()?,
        v6: required("nat_v6", hello.nat_v6)?.try_into()?,
    };
    if !nat.v4.address().is_ipv4() || nat.v4.bits() > 24 || nat.v6.address().is_ipv4() || nat.v6.bits() > 96 {
        return Err(wrong("nat_v4", "must be an IPv4 prefix of /24 or shorter, and an IPv6 prefix beside it"));
    }
    // What its administrator says comes first; then the address that its tunnel comes from: the very socket that will
    // carry data.
    let told = bounded("endpoints", hello.endpoints, ENDPOINTS_MAX)?;
    let mut endpoints = told.into_iter().map(SocketAddr::try_from).collect::<Result<Vec<_>, _>>()?;
    endpoints.extend(from.filter(|from| !endpoints.contains(from)));
    endpoints.truncate(ENDPOINTS_MAX);
    let version = hello.version.chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
    let seen = hello.seen.map(Into::into).unwrap_or_default();
    let pairing_key = public_key("pairing_key", &hello.pairing_key)?;
    let witness = hello.witness.map(TryInto::try_into).transpose()?;
    Ok(Hello { seen, nat, endpoints, version, boot: hello.boot, pairing_key, witness })
}

/// Checks a report of ended flows that came at `now`; they have the numbers from `first` on.
pub fn flows_of(first: u64, now: WallMs, records: &[v1::FlowRecord]) -> Result<Vec<Told>, WireError> {
    if first.checked_add(records.len() as u64).is_none() {
        return Err(wrong("first_flow", "is too large"));
    }
    // In this order: no number is made for a record that is not there.
    records.iter().zip(first..).map(|(record, number)| flow(number, now, record)).collect()
}

fn flow(number: u64, now: WallMs, record: &v1::FlowRecord) -> Result<Told, WireError> {
    let before = |at: WallMs, ms: u64| WallMs(at.0.saturating_sub(i64::try_from(ms).unwrap_or(i64::MAX)));
    let ended = before(now, record.ended_ago_ms);
    Ok(Told {
        number,
        grant: id("flows.grant", &record.grant)?,
        protocol: protocol(record.protocol)?,
        target: address("flows.target", &record.target)?,
        port: u16::try_from(record.port).map_err(|_| wrong("flows.port", "must be 0 to 65535"))?,
        started: before(ended, record.duration_ms),
        ended,
        packets_up: record.packets_up,
        bytes_up: record.bytes_up,
        packets_down: record.packets_down,
        bytes_down: record.bytes_down,
        end: match v1::FlowEnd::try_from(record.end) {
            Ok(v1::FlowEnd::Closed) => FlowEnd::Closed,
            Ok(v1::FlowEnd::Idle) => FlowEnd::Idle,
            Ok(v1::FlowEnd::Grant) => FlowEnd::Grant,
            Ok(v1::FlowEnd::Evicted) => FlowEnd::Evicted,
            Ok(v1::FlowEnd::Stopped) => FlowEnd::Stopped,
            Ok(v1::FlowEnd::Unspecified) | Err(_) => FlowEnd::Other,
        },
    })
}

/// Checks a message that is not the hello.
pub fn read(message: v1::GatewayUp) -> Result<Up, WireError> {
    match required("what", message.what)? {
        UpWhat::Hello(_) => Err(wrong("hello", "comes first and once")),
        UpWhat::Renew(r) => Ok(Up::Renew {
            seq: r.seq,
            revision: required("revision", r.revision)?.into(),
            digest: Digest(array("digest", &r.digest)?),
        }),
        UpWhat::Ack(a) => {
            let refused = bounded("refused", a.refused, GRANTS_PER_GATEWAY_MAX)?;
            let refused = refused.iter().map(|g| id("refused", g)).collect::<Result<_, _>>()?;
            Ok(Up::Ack { revision: required("revision", a.revision)?.into(), refused })
        }
        UpWhat::Report(r) if !r.flows.is_empty() => Ok(Up::Flows {
            first: r.first_flow,
            lost: r.lost_flows,
            records: bounded("flows", r.flows, FLOW_REPORT_MAX)?,
        }),
        UpWhat::Report(r) => {
            let names = bounded("names", r.names, LIST_MAX)?.into_iter();
            let names = names.map(|n| Ok((n.name.parse().map_err(|e| wrong("names", e))?, n.v6)));
            let names = names.collect::<Result<Vec<(HostName, bool)>, WireError>>()?.into_iter();
            let v6 = names.filter_map(|(name, v6)| v6.then_some(name)).collect();
            let drops = bounded("drops", r.drops, LIST_MAX)?.into_iter();
            let drops = drops.map(|c| Ok((display_name("drops.reason", &c.reason)?, c.count)));
            Ok(Up::Report(v6, drops.collect::<Result<_, WireError>>()?))
        }
    }
}

fn write(arrangements: &Arrangements, gateway: GatewayId, news: GatewayNews) -> Option<v1::GatewayDown> {
    let what = match news {
        GatewayNews::Update { as_of, update: Update::Snapshot(s) } => {
            let (prefixes, confirmed, names) = arrangements.standing_of(gateway)?;
            DownWhat::Snapshot(v1::GatewaySnapshot {
                revision: Some(s.revision.into()),
                as_of,
                pairings: s.pairings.into_iter().map(Into::into).collect(),
                grants: s.grants.into_iter().map(Into::into).collect(),
                site_prefixes: prefixes.into_iter().map(Into::into).collect(),
                confirmed,
                names: names.iter().map(|n| n.as_str().to_owned()).collect(),
            })
        }
        GatewayNews::Update { as_of, update: Update::Delta(d) } => DownWhat::Delta(v1::GatewayDelta {
            from: Some(d.from.into()),
            to: Some(d.to.into()),
            as_of,
            pairings: d.pairings.into_iter().map(Into::into).collect(),
            grants: d.grants.into_iter().map(Into::into).collect(),
            ended: d.ended.iter().map(ToString::to_string).collect(),
        }),
        GatewayNews::AuditHead(head) => DownWhat::AuditHead(head.into()),
        GatewayNews::FlowsKept(up_to) => DownWhat::FlowsKept(v1::FlowsKept { up_to }),
        GatewayNews::Renewed { seq, lives } => {
            let life = |(grant, life): (model::ids::GrantId, _)| v1::GrantLife {
                grant: grant.to_string(),
                ends_in_ms: millis(life),
            };
            DownWhat::Renewed(v1::Renewed { seq, lives: lives.into_iter().map(life).collect() })
        }
    };
    Some(v1::GatewayDown { what: Some(what) })
}

type Down = Pin<Box<dyn Stream<Item = Result<v1::GatewayDown, Status>> + Send>>;

#[tonic::async_trait]
impl Gateways for GatewaysRpc {
    type WatchStream = Down;

    async fn watch(&self, request: Request<Streaming<v1::GatewayUp>>) -> Result<Response<Down>, Status> {
        let Some(Caller::Gateway(gateway)) = request.extensions().get::<Caller>().cloned() else {
            return Err(refusal());
        };
        let mut up = request.into_inner();
        let first = tokio::time::timeout(TLS_HANDSHAKE_MAX, up.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no hello came"))??;
        let Some(UpWhat::Hello(hello)) = first.and_then(|m| m.what) else {
            return Err(Status::invalid_argument("the first message must be the hello"));
        };
        let hello = self.hello(gateway, hello).map_err(malformed)?;
        let (boot, pairing_key) = (hello.boot, hello.pairing_key);
        self.arrangements.greet(gateway, hello).await.map_err(|e| match e {
            HelloError::Unknown => refusal(),
            other => Status::failed_precondition(other.to_string()),
        })?;
        let (news, mut news_in) = mpsc::channel(STREAM_QUEUE_MAX);
        let (down, down_in) = mpsc::channel(1);
        let stream = self.arrangements.lines.open_gateway(gateway, pairing_key, news);
        self.arrangements.tell_head(gateway, stream);
        tokio::spawn(self.clone().follow(Line { gateway, stream, boot }, up));
        let arrangements = Arc::clone(&self.arrangements);
        tokio::spawn(async move {
            while let Some(news) = news_in.recv().await {
                let Some(message) = write(&arrangements, gateway, news) else { break };
                if down.send(Ok(message)).await.is_err() {
                    break;
                }
            }
            arrangements.lines.close_gateway(gateway, stream);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(down_in))))
    }
}

/// What a gateway told of flows: the number of the first, how many it lost, and the records.
type Report = (u64, u64, Vec<v1::FlowRecord>);

/// Lets a report wait for the disk. One too many is told again, for it is not confirmed.
fn queue_report(reports: &mpsc::Sender<Report>, report: Report) {
    if let Err(error) = reports.try_send(report) {
        tracing::debug!(%error, "a report of flows found no room; it will be told again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flow_records_whose_numbers_would_wrap_are_refused() {
        let grant = model::ids::GrantId::from_bytes([1; 10]).to_string();
        let record = v1::FlowRecord { grant, protocol: 1, target: vec![10, 0, 0, 1], port: 443, ..Default::default() };
        let two = [record.clone(), record];
        let numbers =
            |first| flows_of(first, WallMs(0), &two).map(|told| told.iter().map(|t| t.number).collect::<Vec<_>>());
        assert_eq!(numbers(7), Ok(vec![7, 8]));
        assert_eq!(numbers(u64::MAX - 2), Ok(vec![u64::MAX - 2, u64::MAX - 1]), "the last ones that exist");
        for first in [u64::MAX, u64::MAX - 1] {
            assert_eq!(numbers(first).map_err(|error| error.field), Err("first_flow"), "{first}");
        }
    }

    #[test]
    fn so_many_reports_wait_and_one_more_is_not_confirmed() {
        let (reports, mut waiting) = mpsc::channel(FLOW_REPORTS_WAITING_MAX);
        (0..=FLOW_REPORTS_WAITING_MAX as u64).for_each(|first| queue_report(&reports, (first, 0, Vec::new())));
        let mut next = || waiting.try_recv().map(|(first, _, _)| first);
        assert_eq!(next(), Ok(0));
        queue_report(&reports, (99, 0, Vec::new()));
        let rest: Vec<u64> = std::iter::from_fn(|| next().ok()).collect();
        assert_eq!(rest, [1, 2, 3, 99], "the one that found no room is gone, and there is room again");
    }
}
