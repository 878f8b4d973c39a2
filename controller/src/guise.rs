//! Which certificate does the controller show to whom? That of the CA which belongs to the key that the node's tunnel uses: a node
//! that has not heard of the next key trusts the CA before alone.

use crate::authority::Pair;
use crate::ca::CaError;
use crate::organisation::Organisation;
use model::key::PublicKey;
use node::svid::SvidKey;
use node::tls::{SvidSlot, TlsError, control_server_config, enrolment_server_config};
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::timeout;
use tunnel::Engine;

/// Why there is no certificate to be shown.
#[derive(Debug, thiserror::Error)]
pub enum GuiseError {
    /// The CA.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// TLS of one authority.
#[derive(Debug)]
struct Guise {
    key: PublicKey,
    control: Arc<ServerConfig>,
    enrolment: Arc<ServerConfig>,
}

/// TLS of all authorities that are good now.
pub struct Guises {
    engine: Arc<Engine>,
    /// The one in use first; never empty.
    current: RwLock<Vec<Arc<Guise>>>,
}

/// With a fresh certificate for each.
fn make(organisation: &Organisation) -> Result<Vec<Arc<Guise>>, GuiseError> {
    let held = organisation.keyring.held();
    // Whoever has a certificate of either CA is let in, whichever of them it knows.
    let trusted = held.trusted();
    let one = |pair: &Pair| -> Result<Arc<Guise>, GuiseError> {
        let own = pair.ca.issue_own(organisation.wall(), organisation.timing.svid)?;
        let key = SvidKey::from_pkcs8(own.key.expose()).map_err(TlsError::from)?;
        let chain = own.svid.chain.into_iter().map(CertificateDer::from).collect();
        let slot = Arc::new(SvidSlot::new(chain, &key)?);
        let control = control_server_config(&trusted, Arc::clone(&slot))?;
        Ok(Arc::new(Guise { key: pair.public.key, control, enrolment: enrolment_server_config(slot)? }))
    };
    std::iter::once(&held.used).chain(&held.other).map(one).collect()
}

impl Guises {
    /// Of the authorities of now.
    pub fn new(organisation: &Organisation, engine: Arc<Engine>) -> Result<Self, GuiseError> {
        Ok(Self { engine, current: RwLock::new(make(organisation)?) })
    }

    /// For a connection to the control port from this overlay address.
    pub fn control(&self, from: IpAddr) -> Option<Arc<ServerConfig>> {
        self.find(from).map(|guise| Arc::clone(&guise.control))
    }

    /// For one to the enrolment port.
    pub fn enrolment(&self, from: IpAddr) -> Option<Arc<ServerConfig>> {
        self.find(from).map(|guise| Arc::clone(&guise.enrolment))
    }

    fn find(&self, from: IpAddr) -> Option<Arc<Guise>> {
        let key = self.engine.local_key(from);
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.iter().find(|guise| Some(guise.key) == key).or(current.first()).cloned()
    }

    /// Keeps the certificates fresh and follows the authorities, for as long as the program runs.
    pub async fn keep_forever(self: Arc<Self>, organisation: Organisation) {
        let mut held = organisation.keyring.watch();
        loop {
            let pause = (organisation.timing.svid / 2).max(Duration::from_millis(500));
            // Whichever comes first.
            let _ = timeout(pause, held.changed()).await;
            match make(&organisation) {
                Ok(fresh) => *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh,
                Err(error) => tracing::error!(%error, "the controller's own certificate could not be renewed"),
            }
        }
    }
}
