//! When is the controller asked, and when are certificates made anew? Every half minute, and at half of a certificate's life.

use super::shelf::Shelf;
use super::{Api, Word, serve};
use crate::rpc::{self, Named};
use host::local::LocalListener;
use model::secret::Secret;
use model::time::Clock;
use node::Link;
use node::svid::{SvidKey, program};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Every program may connect: the registrations decide, not the socket's mode.
const MODE: u32 = 0o666;
/// The pause after a socket that could not be had.
const RETRY: Duration = Duration::from_secs(10);

/// What serving takes.
pub struct Parts {
    /// Where programs connect.
    pub path: PathBuf,
    /// The way to the controller.
    pub link: Arc<Link>,
    /// Is this machine a workload, by the controller's word?
    pub workload: watch::Receiver<bool>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// Serves programs whenever this machine is a workload, for as long as the future lives.
pub async fn run(mut parts: Parts) {
    loop {
        if parts.workload.wait_for(|is| *is).await.is_err() {
            return;
        }
        let mut workload = parts.workload.clone();
        let (told, words) = watch::channel(Word::NotYet);
        let listener = match LocalListener::bind(&parts.path, MODE, None) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "programs on this machine get no identities");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        tracing::info!(path = %parts.path.display(), "programs on this machine get their identities here");
        let (link, clock) = (Arc::clone(&parts.link), Arc::clone(&parts.clock));
        let api = Api { words, link, clock, turns: Mutex::default() };
        let serving = serve(listener, api);
        tokio::select! {
            result = serving => if let Err(error) = result {
                tracing::warn!(%error, "programs on this machine get no identities for a moment");
                tokio::time::sleep(RETRY).await;
            },
            () = keep(&parts, &told) => {}
            _ = async {
                let _ = workload.wait_for(|is| !*is).await;
                // Streams end with their refusal, not with a broken connection.
                told.send_replace(Word::Nothing);
                tokio::time::sleep(FAREWELL).await;
            } => {}
        }
    }
}

/// How long programs have to hear that there is nothing for them any more.
const FAREWELL: Duration = Duration::from_millis(200);

/// Keeps what programs can be given up to date.
async fn keep(parts: &Parts, told: &watch::Sender<Word>) {
    let mut shelf = Shelf::default();
    loop {
        let now = parts.clock.now();
        let asked = match parts.link.channel() {
            Ok(channel) => rpc::list_identities(channel.clone()).await.map(|told| (channel, told)),
            Err(why) => Err(Status::unavailable(why)),
        };
        match asked {
            Ok((channel, identities)) => {
                for one in shelf.told(now, identities) {
                    make(parts, &mut shelf, channel.clone(), one).await;
                }
                told.send_replace(Word::Shown(Arc::new(shelf.shown())));
            }
            Err(status) if status.code() == Code::PermissionDenied => {
                shelf = Shelf::default();
                told.send_replace(Word::Nothing);
            }
            Err(status) => {
                tracing::debug!(why = status.message(), "the controller did not say who programs are");
                shelf.expire(now);
                told.send_if_modified(|word| match word {
                    Word::Shown(_) => {
                        *word = Word::Shown(Arc::new(shelf.shown()));
                        true
                    }
                    Word::NotYet | Word::Nothing => false,
                });
            }
        }
        let early = matches!(*told.borrow(), Word::NotYet);
        let wait = if early { Duration::from_secs(1) } else { shelf.wait(parts.clock.now()) };
        tokio::time::sleep(wait).await;
    }
}

/// A fresh key, which never leaves this machine's memory, and a certificate over it.
async fn make(parts: &Parts, shelf: &mut Shelf, channel: Channel, one: Named) {
    let made = SvidKey::generate().and_then(|key| key.csr().map(|csr| (key, csr)));
    let (key, csr) = match made {
        Ok(made) => made,
        Err(error) => {
            tracing::warn!(%error, "no key could be made for a program");
            return shelf.failed(parts.clock.now(), one.registration);
        }
    };
    // A life counts from the request.
    let asked = parts.clock.now();
    match rpc::sign_identity(channel, one.registration, csr).await {
        Ok((chain, life)) => match program::check(&one.spiffe, &key.public_key_info(), &chain, shelf.bundle()) {
            Ok(()) => shelf.made(asked, one.registration, chain, Secret::new(key.pkcs8()), life),
            Err(error) => {
                tracing::warn!(spiffe = %one.spiffe, %error, "a program's certificate is not what SPIFFE asks for");
                shelf.failed(parts.clock.now(), one.registration);
            }
        },
        Err(status) => {
            tracing::warn!(spiffe = %one.spiffe, why = status.message(), "a program's certificate was not signed");
            shelf.failed(parts.clock.now(), one.registration);
        }
    }
}
