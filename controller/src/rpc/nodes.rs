//! The service of every enrolled node: a sign of life, and a fresh certificate.

use crate::authz::{Caller, refusal};
use crate::ca;
use crate::directory::NodeState;
use crate::organisation::Organisation;
use crate::runs::RunId;
use crate::turnover;
use model::ids::NodeId;
use node::successor::Announcement;
use proto::v1;
use proto::v1::nodes_server::Nodes;
use tonic::{Request, Response, Status};

/// The service.
pub struct NodesRpc {
    organisation: Organisation,
}

impl NodesRpc {
    /// Over this organisation.
    pub const fn new(organisation: Organisation) -> Self {
        Self { organisation }
    }

    /// What follows the controller's key and CA, or followed them not long ago; whole only where the node does not keep it.
    fn succession(&self, node: NodeId, keeps: &[u8]) -> Option<v1::Succession> {
        let said = self.organisation.org().ok()?.succession?;
        let Announcement { next, announced, switches, ends, signature } = &said.announcement;
        let announcement = || v1::Announcement {
            key: next.key.0.to_vec(),
            ca: next.ca.clone(),
            announced_ms: announced.0,
            switches_ms: switches.0,
            ends_ms: ends.0,
            signature: signature.clone(),
        };
        let digest = said.announcement.digest();
        let known = keeps == digest;
        if known {
            self.organisation.keyring.hear(node, digest);
        }
        Some(v1::Succession { announcement: (!known).then(announcement), switched: said.switched })
    }

    /// A run of a node spoke: do two of them live?
    fn hear(&self, node: NodeId, run: RunId) -> bool {
        let mut runs = self.organisation.runs.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let copied = runs.hear(self.organisation.clock.now(), node, run);
        if copied {
            runs.forget(node);
        }
        copied
    }

    fn enrolled(&self, caller: &Caller) -> Result<NodeId, Status> {
        let directory = self.organisation.now();
        let live = match caller {
            Caller::Device(id) | Caller::Late(NodeId::Device(id)) => {
                directory.devices.find(id).filter(|d| d.record.state != NodeState::Revoked).map(|_| NodeId::Device(*id))
            }
            Caller::Gateway(id) | Caller::Late(NodeId::Gateway(id)) => directory
                .gateways
                .find(id)
                .filter(|g| g.record.state != NodeState::Revoked)
                .map(|_| NodeId::Gateway(*id)),
            _ => None,
        };
        live.ok_or_else(refusal)
    }
}

/// Who calls; the listener has proven it.
pub fn caller_of<T>(request: &Request<T>) -> Result<Caller, Status> {
    request.extensions().get::<Caller>().cloned().ok_or_else(refusal)
}

#[tonic::async_trait]
impl Nodes for NodesRpc {
    async fn probe(&self, request: Request<v1::ProbeRequest>) -> Result<Response<v1::ProbeReply>, Status> {
        let node = self.enrolled(&caller_of(&request)?)?;
        let v1::ProbeRequest { keeps, run } = request.into_inner();
        let run = proto::convert::array("run", &run).map_err(|e| Status::invalid_argument(e.to_string()))?;
        if self.hear(node, run) {
            turnover::cut_copied(&self.organisation, node).await?;
            return Err(refusal());
        }
        let revision = self.organisation.store.revision();
        let succession = self.succession(node, &keeps);
        Ok(Response::new(v1::ProbeReply { revision: Some(revision.into()), succession }))
    }

    async fn renew_svid(&self, request: Request<v1::RenewSvidRequest>) -> Result<Response<v1::RenewSvidReply>, Status> {
        let node = self.enrolled(&caller_of(&request)?)?;
        let csr = request.into_inner().csr;
        let key = ca::request_key(&csr).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let svid = self.organisation.ca().issue(node, &key, self.organisation.wall(), self.organisation.timing.svid);
        let svid = svid.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(v1::RenewSvidReply { chain: svid.chain }))
    }

    async fn rotate_key(&self, request: Request<v1::RotateKeyRequest>) -> Result<Response<v1::RotateKeyReply>, Status> {
        let node = self.enrolled(&caller_of(&request)?)?;
        let key = proto::convert::public_key("key", &request.into_inner().key);
        let key = key.map_err(|e| Status::invalid_argument(e.to_string()))?;
        turnover::announce(&self.organisation, node, key).await?;
        Ok(Response::new(v1::RotateKeyReply {}))
    }
}
