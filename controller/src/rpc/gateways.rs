//! The service of gateways: one stream each way.

use crate::arrange::Arrangements;
use crate::arrange::gateways::{Hello, HelloError};
use crate::arrange::lines::GatewayNews;
use crate::authz::{Caller, refusal};
use grant::sync::Update;
use model::ids::{GatewayId, NodeId};
use model::limits::{ENDPOINTS_MAX, GRANTS_PER_GATEWAY_MAX, LIST_MAX, STREAM_QUEUE_MAX, TLS_HANDSHAKE_MAX};
use model::net::HostName;
use model::pool::NatPool;
use model::revision::{Digest, Revision};
use node::Runtime;
use proto::convert::{WireError, array, bounded, id, millis, required, wrong};
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
}

/// A message of a gateway that is not its hello, checked.
enum Up {
    Renew { seq: u64, revision: Revision, digest: Digest },
    Ack { revision: Revision, refused: Vec<model::ids::GrantId> },
    Report(Vec<(HostName, bool, bool)>, Vec<(String, u64)>),
}

fn malformed(error: WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

impl GatewaysRpc {
    /// Over these grants; the packet path knows where a gateway's tunnel comes from.
    pub const fn new(arrangements: Arc<Arrangements>, runtime: Arc<Runtime>) -> Self {
        Self { arrangements, runtime }
    }

    fn hello(&self, gateway: GatewayId, hello: v1::GatewayHello) -> Result<Hello, WireError> {
        let nat = NatPool {
            v4: required("nat_v4", hello.nat_v4)?.try_into()?,
            v6: required("nat_v6", hello.nat_v6)?.try_into()?,
        };
        if !nat.v4.address().is_ipv4() || nat.v4.bits() > 24 || nat.v6.address().is_ipv4() || nat.v6.bits() > 96 {
            return Err(wrong("nat_v4", "must be an IPv4 prefix of /24 or shorter, and an IPv6 prefix beside it"));
        }
        // What its administrator says comes first; then the address that its tunnel comes from: the very socket that will
        // carry data.
        let seen = self.runtime.engine.peer(&PeerId::Node(NodeId::Gateway(gateway))).and_then(|p| p.endpoint);
        let told = bounded("endpoints", hello.endpoints, ENDPOINTS_MAX)?;
        let mut endpoints = told.into_iter().map(SocketAddr::try_from).collect::<Result<Vec<_>, _>>()?;
        endpoints.extend(seen.filter(|seen| !endpoints.contains(seen)));
        endpoints.truncate(ENDPOINTS_MAX);
        let version = hello.version.chars().filter(|c| c.is_ascii_graphic()).take(32).collect();
        let seen = hello.seen.map(Into::into).unwrap_or_default();
        Ok(Hello { seen, nat, endpoints, version, boot: hello.boot })
    }

    async fn follow(self, gateway: GatewayId, stream: u64, mut up: Streaming<v1::GatewayUp>) {
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
                    for (name, v4, v6) in names {
                        self.arrangements.report_name(gateway, name, v4, v6);
                    }
                    tracing::debug!(%gateway, ?drops, "the gateway's counters");
                }
                Err(error) => {
                    tracing::warn!(%gateway, %error, "a gateway's message makes no sense; its stream ends");
                    break;
                }
            }
        }
        self.arrangements.lines.close_gateway(gateway, stream);
    }
}

fn read(message: v1::GatewayUp) -> Result<Up, WireError> {
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
        UpWhat::Report(r) => {
            let names = bounded("names", r.names, LIST_MAX)?.into_iter();
            let names = names.map(|n| Ok((n.name.parse().map_err(|e| wrong("names", e))?, n.v4, n.v6)));
            let drops = bounded("drops", r.drops, LIST_MAX)?.into_iter().map(|c| (c.reason, c.count)).collect();
            bounded("flows", r.flows, LIST_MAX)?;
            Ok(Up::Report(names.collect::<Result<_, WireError>>()?, drops))
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
        self.arrangements.greet(gateway, hello).await.map_err(|e| match e {
            HelloError::Unknown => refusal(),
            other => Status::failed_precondition(other.to_string()),
        })?;
        let (news, mut news_in) = mpsc::channel(STREAM_QUEUE_MAX);
        let (down, down_in) = mpsc::channel(1);
        let stream = self.arrangements.lines.open_gateway(gateway, news);
        tokio::spawn(self.clone().follow(gateway, stream, up));
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
