//! What does every part of a running controller share? Store, directory, secrets, clock.

use crate::audit::{Entry, Outcome};
use crate::authn::SharedFailures;
use crate::authz::Caller;
use crate::ca::{Ca, CaError};
use crate::config::{StatePaths, Timing};
use crate::directory::change::{self, Draft, Refusal};
use crate::directory::{Directory, Org, Reader, SealedSecret, StartError};
use crate::flows::FlowLog;
use crate::seal::{SealError, Sealer};
use crate::store::{OpenError, Options, ReadError, Reading, SledStore, Store};
use host::keyfile::{self, KeyFileError};
use model::key::PrivateKey;
use model::limits::SEAL_KEY_LEN;
use model::revision::Revision;
use model::secret::Secret;
use model::time::{Clock, WallMs};
use std::sync::Arc;

/// An organisation whose store is open. Cheap to clone.
#[derive(Clone)]
pub struct Organisation {
    /// The durable state.
    pub store: Arc<dyn Store>,
    /// The same in memory.
    pub directory: Reader,
    /// Seals and opens secrets of the store.
    pub sealer: Arc<Sealer>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Issues certificates.
    pub ca: Arc<Ca>,
    /// The controller's WireGuard key.
    pub key: Arc<PrivateKey>,
    /// Failed log-ins.
    pub failures: SharedFailures,
    /// How long things last.
    pub timing: Timing,
    /// What became of flows.
    pub flows: Arc<FlowLog>,
}

/// Why an organisation cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// There is none.
    #[error("there is no organisation in {0}: make one with `umbra-controller init`, or name its folder with --state")]
    Missing(std::path::PathBuf),
    /// The store does not open.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The store holds no whole organisation.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The sealing key cannot be read.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// A secret does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// A secret is missing or of the wrong size.
    #[error("the store's secret `{0}` is missing or damaged: restore the last backup")]
    Secret(&'static str),
    /// The CA does not load.
    #[error(transparent)]
    Ca(#[from] CaError),
}

/// Reads the sealing key.
pub fn read_sealer(path: &std::path::Path) -> Result<Sealer, LoadError> {
    let bytes = keyfile::read(path, SEAL_KEY_LEN)?;
    let key: [u8; SEAL_KEY_LEN] = bytes.expose().as_slice().try_into().map_err(|_| LoadError::Secret("seal.key"))?;
    Ok(Sealer::new(&Secret::new(key))?)
}

async fn secret(store: &dyn Store, sealer: &Sealer, id: &'static str) -> Result<Secret<Vec<u8>>, LoadError> {
    let held = Reading::new(store).get::<SealedSecret>(id).await?.ok_or(LoadError::Secret(id))?;
    Ok(sealer.open(&SealedSecret::place(id), &held.record.sealed)?)
}

impl Organisation {
    /// Opens what `init` made.
    pub async fn open(paths: &StatePaths, options: Options, clock: Arc<dyn Clock>) -> Result<Self, LoadError> {
        if !paths.org().exists() {
            return Err(LoadError::Missing(paths.root().to_owned()));
        }
        let sealer = read_sealer(&paths.seal_key())?;
        let store: Arc<dyn Store> = Arc::new(SledStore::open(&paths.store(), options)?);
        let flows = Arc::new(FlowLog::new(paths.flows()));
        let directory = Reader::start(Arc::clone(&store)).await?;
        let now = directory.now();
        let org = now.org.as_ref().ok_or(StartError::NoOrganisation)?;
        let ca_key = secret(store.as_ref(), &sealer, SealedSecret::CA_KEY).await?;
        let ca = Ca::load(&org.record.trust_domain, &org.record.ca, &ca_key)?;
        let key = secret(store.as_ref(), &sealer, SealedSecret::CONTROL_KEY).await?;
        let key: [u8; 32] =
            key.expose().as_slice().try_into().map_err(|_| LoadError::Secret(SealedSecret::CONTROL_KEY))?;
        Ok(Self {
            store,
            directory,
            sealer: Arc::new(sealer),
            clock,
            ca: Arc::new(ca),
            key: Arc::new(Secret::new(key)),
            failures: SharedFailures::default(),
            timing: Timing::default(),
            flows,
        })
    }

    /// The newest facts.
    pub fn now(&self) -> Arc<Directory> {
        self.directory.now()
    }
    /// The wall clock.
    pub fn wall(&self) -> WallMs {
        self.clock.wall()
    }
    /// The organisation's own record.
    pub fn org(&self) -> Result<Org, Refusal> {
        let now = self.now();
        now.org
            .as_ref()
            .map(|fact| fact.record.clone())
            .ok_or_else(|| Refusal::Failed(StartError::NoOrganisation.to_string()))
    }
    /// An audit entry for a change by this caller.
    pub fn entry(&self, caller: &Caller, action: &str, object: impl std::fmt::Display) -> Entry {
        Entry::new(self.wall(), caller.to_string(), action, object.to_string(), Outcome::Done)
    }
    /// Makes a change, see [`change::change`].
    pub async fn change<T>(
        &self,
        decide: impl FnMut(&Directory, &mut Draft) -> Result<(T, Entry), Refusal> + Send,
    ) -> Result<(Revision, T), Refusal> {
        change::change(self.store.as_ref(), &self.directory, decide).await
    }
}
