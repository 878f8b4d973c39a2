//! Who keeps the directory up to date? One task that follows the store's changes and swaps the snapshot whole.

use super::{Directory, Org, SETS};
use crate::store::{ReadError, Record as _, Store, WatchError, Watcher};
use model::limits::CHANGE_SEEN_MAX;
use model::revision::Revision;
use std::sync::Arc;
use tokio::sync::watch;

/// The newest directory, for any number of readers.
#[derive(Debug, Clone)]
pub struct Reader(watch::Receiver<Arc<Directory>>);

/// Why there is no directory.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// It holds no organisation.
    #[error("the store holds no organisation: run `umbra-controller init`")]
    NoOrganisation,
}

impl Reader {
    /// Reads the whole store and follows it until it is closed.
    pub async fn start(store: Arc<dyn Store>) -> Result<Self, StartError> {
        let (directory, watcher) = read(store.as_ref()).await?;
        if directory.org.is_none() {
            return Err(StartError::NoOrganisation);
        }
        let (sender, receiver) = watch::channel(Arc::new(directory));
        tokio::spawn(follow(store, watcher, sender));
        Ok(Self(receiver))
    }

    /// The newest directory.
    pub fn now(&self) -> Arc<Directory> {
        Arc::clone(&self.0.borrow())
    }

    /// The newest directory once it differs from the one that was seen last through this reader. `None`: the store was
    /// closed, nothing will come.
    pub async fn next(&mut self) -> Option<Arc<Directory>> {
        self.0.changed().await.ok()?;
        Some(Arc::clone(&self.0.borrow_and_update()))
    }

    /// A directory that is not older than `revision`; the newest if that takes longer than [`CHANGE_SEEN_MAX`].
    pub async fn at_least(&self, revision: Revision) -> Arc<Directory> {
        let mut receiver = self.0.clone();
        let reached = receiver.wait_for(|directory| directory.revision >= revision);
        if let Ok(Ok(directory)) = tokio::time::timeout(CHANGE_SEEN_MAX, reached).await {
            return Arc::clone(&directory);
        }
        self.now()
    }
}

/// Everything, and a watcher that continues from there. The watch starts before the first scan, and older changes than
/// what was scanned are ignored, so that nothing falls between two scans.
/// Everything, and a watcher from there on.
pub(crate) async fn read(store: &dyn Store) -> Result<(Directory, Watcher), ReadError> {
    let start = store.revision();
    let mut directory = Directory { revision: start, ..Directory::default() };
    let mut watcher = store.watch(start);
    for set in SETS {
        let scan = store.scan(set).await?;
        directory.set_head(set, scan.head_revision);
        for (key, item) in &scan.items {
            directory.put(key, item)?;
        }
    }
    while let Ok(Some(change)) = watcher.poll() {
        directory.apply(&change);
    }
    tracing::debug!(revision = %directory.revision, org = Org::KIND, "the directory is read");
    Ok((directory, watcher))
}

async fn follow(store: Arc<dyn Store>, mut watcher: Watcher, sender: watch::Sender<Arc<Directory>>) {
    loop {
        match watcher.next().await {
            Ok(change) => {
                let mut directory = Directory::clone(&sender.borrow());
                directory.apply(&change);
                // Whatever is there already goes into the same snapshot.
                while let Ok(Some(change)) = watcher.poll() {
                    directory.apply(&change);
                }
                sender.send_replace(Arc::new(directory));
            }
            Err(WatchError::Lagged(from)) => match read(store.as_ref()).await {
                Ok((directory, fresh)) => {
                    tracing::warn!(%from, "the directory fell behind the store and was read again");
                    watcher = fresh;
                    sender.send_replace(Arc::new(directory));
                }
                Err(error) => {
                    tracing::error!(%error, "the store cannot be read any more: no change is seen from here on");
                    return;
                }
            },
            Err(WatchError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_for_a_change_that_does_not_come_gets_what_there_is() {
        let of = |number| Arc::new(Directory { revision: Revision { incarnation: 1, number }, ..Directory::default() });
        let (sender, receiver) = watch::channel(of(1));
        let reader = Reader(receiver);
        let began = tokio::time::Instant::now();
        assert_eq!(reader.at_least(of(2).revision).await.revision, of(1).revision);
        assert!(began.elapsed() >= CHANGE_SEEN_MAX && began.elapsed() < 2 * CHANGE_SEEN_MAX);
        let waiting = tokio::spawn(async move { reader.at_least(of(2).revision).await });
        tokio::time::sleep(CHANGE_SEEN_MAX / 2).await;
        sender.send_replace(of(2));
        assert_eq!(waiting.await.unwrap().revision, of(2).revision, "and who waits for one that comes gets it");
    }
}
