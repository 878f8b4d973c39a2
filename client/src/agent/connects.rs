//! How is access asked for, and how does a tunnel come up? A fresh data key for each request; first the tunnel, then the
//! routes that lead into it.

use super::{Agent, Inner};
use crate::connect::{Denial, Permit, Request};
use crate::rpc::{self, Answer};
use model::grant::{Ending, PairingOffer};
use model::ids::{GrantId, ResourceId};
use model::key::PrivateKey;
use model::time::Instant;
use std::sync::Arc;
use std::time::Duration;
use tunnel::{Change, Peer, PeerId, PeerKind};

/// Keeps a NAT's entry for the tunnel: the usual shortest life of one is 30 s (RFC 4787 REQ-5 asks for 2 min).
const KEEPALIVE: Duration = Duration::from_secs(25);

/// An answer of the controller, on its way back to the task.
pub(super) struct Answered {
    resource: ResourceId,
    sent: Instant,
    key: Arc<PrivateKey>,
    answer: Result<Answer, String>,
}

/// For people.
pub(super) const fn reason(ending: Ending) -> &'static str {
    match ending {
        Ending::Ended => "it ended",
        Ending::Expired => "its time is over",
        Ending::Returned => "given back by this machine",
        Ending::Replaced => "replaced by a newer grant",
        Ending::Session => "the session ended",
        Ending::User => "the user was disabled",
        Ending::Device => "the device was revoked",
        Ending::Policy => "no longer permitted",
        Ending::Resource => "the resource was changed or deleted",
        Ending::Gateway => "the gateway was removed or changed",
        Ending::Restarted => "the gateway started anew",
        Ending::Unreached => "the gateway did not answer",
        Ending::Refused => "refused by the gateway's own checks",
        Ending::Administrator => "ended by an administrator",
        Ending::Restored => "the controller was restored from a backup",
    }
}

impl Agent {
    pub(super) fn ask_controller(&mut self, request: Request) {
        let now = self.runtime.now();
        let channel = match self.link.channel() {
            Ok(channel) => channel,
            Err(why) => return self.book.failed(now, request.resource, why),
        };
        let key = match node::enrol::fresh_key() {
            Ok(key) => Arc::new(key),
            Err(error) => return self.book.failed(now, request.resource, error.to_string()),
        };
        let public = tunnel::keys::public_key(&key);
        let inner = self.inner.clone();
        tokio::spawn(async move {
            let answer = rpc::connect(channel, &request, public).await;
            let answered = Answered { resource: request.resource, sent: now, key, answer };
            let _ = inner.send(Inner::Answered(answered)).await;
        });
    }

    pub(super) fn on_answer(&mut self, answered: Answered) {
        let Answered { resource, sent, key, answer } = answered;
        let now = self.runtime.now();
        match answer {
            Err(why) => {
                self.book.failed(now, resource, why);
                self.link.nudge();
            }
            Ok(Answer::Deny { reasons, retry_after, passing, step_up }) => {
                self.book.denied(now, resource, Denial { reasons, retry_after, passing, step_up });
            }
            Ok(Answer::Permit { grant, pairing, offer, prefixes, ends_in }) => {
                let gateway = offer.as_ref().map(|o| o.gateway);
                if let Some(offer) = offer
                    && let Err(why) = self.admit(offer, key)
                {
                    self.book.failed(now, resource, why);
                    return self.give_back(grant);
                }
                // Counted from the sending: the controller counts from later.
                let until = sent.plus(ends_in);
                let permit = Permit { grant, pairing, gateway, prefixes, until };
                if !self.book.permitted(now, resource, permit) {
                    if gateway.is_some() {
                        self.gateways.remove(&pairing);
                        self.runtime.apply(Change::RemovePeer(PeerId::Pairing(pairing)));
                    }
                    self.give_back(grant);
                }
            }
        }
    }

    /// Makes the tunnel and begins its handshake.
    fn admit(&mut self, offer: PairingOffer, key: Arc<PrivateKey>) -> Result<(), String> {
        let id = PeerId::Pairing(offer.id);
        self.runtime.apply(Change::AddPeer(Peer {
            id,
            kind: PeerKind::Pairing(offer.psk),
            local: key,
            remote: offer.gateway_key,
            addresses: Vec::new(),
            endpoints: offer.endpoints.clone(),
            keepalive: Some(KEEPALIVE),
        }));
        if self.runtime.engine.peer(&id).is_none() {
            return Err("this machine holds as many tunnels as it can; `umbra status` lists them".to_owned());
        }
        self.gateways.insert(offer.id, offer.endpoints);
        self.runtime.apply(Change::ForceHandshake(id));
        Ok(())
    }

    fn give_back(&self, grant: GrantId) {
        if let Ok(channel) = self.link.channel() {
            tokio::spawn(rpc::disconnect(channel, grant));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::connect::Loss;
    use model::grant::Ending;

    #[test]
    fn what_somebody_willed_does_not_move() {
        let willed = [
            Ending::Session,
            Ending::User,
            Ending::Device,
            Ending::Policy,
            Ending::Resource,
            Ending::Administrator,
            Ending::Ended,
        ];
        assert!(willed.into_iter().all(|ending| Loss::of(ending) == Loss::Willed));
    }

    #[test]
    fn only_what_is_about_the_gateway_gives_up_its_tunnel() {
        assert_eq!(
            [Ending::Restarted, Ending::Gateway].map(Loss::of),
            [Loss::Gateway, Loss::Removed],
            "flows wait where it comes back, and nothing goes to one that was revoked"
        );
        let others = [Ending::Expired, Ending::Replaced, Ending::Unreached, Ending::Refused, Ending::Restored];
        assert!(others.into_iter().all(|ending| Loss::of(ending) == Loss::Grant));
    }
}
