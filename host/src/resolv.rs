//! Who answers the machine's name queries? Takes resolv.conf(5) over, remembers what was there, and puts it back.
//!
//! The original rests in a state folder while ours is in place. A killed program leaves both; its successor finds them and
//! goes on. What somebody else wrote meanwhile (a DHCP client) is the new original.

mod conf;
mod place;

pub use conf::{Conf, MARKER};

use crate::keyfile::{self, KeyFileError};
use model::limits::RESOLV_CONF_BYTES_MAX;
pub use place::Original;
use std::io;
use std::path::{Path, PathBuf};

/// The save: a header line and the content.
const SAVE_BYTES_MAX: usize = RESOLV_CONF_BYTES_MAX + 8_192;

/// Why resolv.conf was not taken over or put back.
#[derive(Debug, thiserror::Error)]
pub enum ResolvError {
    /// Ours is in place, and the original is not where it should be.
    #[error(
        "{conf} is Umbra's, but the original is not in {save}: write the original back to {conf} (or let the network \
         manager do it), then start again"
    )]
    SaveLost {
        /// resolv.conf.
        conf: PathBuf,
        /// Where the original should be.
        save: PathBuf,
    },
    /// The save is not one.
    #[error("{0} is damaged: write the original resolv.conf back by hand, then remove this file")]
    SaveDamaged(PathBuf),
    /// It could not be kept.
    #[error(transparent)]
    Save(#[from] KeyFileError),
    /// Not a resolv.conf.
    #[error("{0} has more than {RESOLV_CONF_BYTES_MAX} bytes: that is no resolv.conf")]
    TooLarge(PathBuf),
    /// The operating system's refusal.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
}

/// Whose the file is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Exactly what we wrote.
    Ours,
    /// Somebody else's, or ours and edited since: take it over again.
    Other,
}

/// One resolv.conf and the place where its original rests.
#[derive(Debug, Clone)]
pub struct Resolv {
    conf: PathBuf,
    save: PathBuf,
}

impl Resolv {
    /// For the file at `conf`, usually /etc/resolv.conf; the state folder must be private to us.
    pub fn new(conf: &Path, state_folder: &Path) -> Self {
        Self { conf: conf.to_owned(), save: state_folder.join("resolv.conf.original") }
    }

    /// Puts `ours` in place and answers what was there before it. Called again, it does nothing but that, unless
    /// somebody else wrote meanwhile; then theirs is the original from now on.
    pub fn take_over(&self, ours: &Conf) -> Result<Conf, ResolvError> {
        let current = Original::of(&self.conf)?;
        if current.is_marked() {
            if !self.save.exists() {
                return Err(ResolvError::SaveLost { conf: self.conf.clone(), save: self.save.clone() });
            }
        } else {
            // Durable before ours is there: a power cut in between leaves the original, saved twice.
            keyfile::replace(&self.save, &current.to_bytes())?;
        }
        if self.owner(ours)? == Owner::Other {
            place::put(&self.conf, ours.to_text().as_bytes(), None)?;
        }
        self.previous()
    }

    /// Whose the file is now, by its content.
    pub fn owner(&self, ours: &Conf) -> Result<Owner, ResolvError> {
        let same = !Original::is_link(&self.conf) && place::read(&self.conf)? == Some(ours.to_text().into_bytes());
        Ok(if same { Owner::Ours } else { Owner::Other })
    }

    /// What was there before ours: servers, search list, options. Where the original is a link, what it leads to now: a
    /// network manager keeps that up to date.
    pub fn previous(&self) -> Result<Conf, ResolvError> {
        let original = match self.saved()? {
            Some(original) => original,
            None => Original::of(&self.conf)?,
        };
        let content = original.content(&self.conf)?;
        Ok(Conf::parse(&String::from_utf8_lossy(&content)))
    }

    /// Puts the original back as it was, and forgets it. What somebody else wrote meanwhile stays; without a save there
    /// is nothing to do. Tells whether the file was ours.
    pub fn restore(&self) -> Result<bool, ResolvError> {
        let Some(original) = self.saved()? else {
            return Ok(false);
        };
        let ours = Original::of(&self.conf)?.is_marked();
        if ours {
            original.put_back(&self.conf)?;
        }
        std::fs::remove_file(&self.save).map_err(|source| ResolvError::Io {
            action: "remove",
            path: self.save.clone(),
            source,
        })?;
        Ok(ours)
    }

    fn saved(&self) -> Result<Option<Original>, ResolvError> {
        match keyfile::read(&self.save, SAVE_BYTES_MAX) {
            Ok(bytes) => match Original::from_bytes(bytes.expose()) {
                Some(original) => Ok(Some(original)),
                None => Err(ResolvError::SaveDamaged(self.save.clone())),
            },
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::{Folder, privileged};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const THEIRS: &str = "# by hand\nnameserver 192.0.2.53\nsearch example.org\noptions ndots:2\n";

    struct Fixture {
        folder: Folder,
        resolv: Resolv,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = Folder::new();
            let state = folder.path().join("state");
            keyfile::create_folder(&state).expect("state folder");
            let resolv = Resolv::new(&folder.path().join("resolv.conf"), &state);
            Self { folder, resolv }
        }
        fn conf(&self) -> PathBuf {
            self.folder.path().join("resolv.conf")
        }
        fn text(&self) -> String {
            std::fs::read_to_string(self.conf()).expect("resolv.conf")
        }
        fn files(&self) -> Vec<String> {
            let entries = std::fs::read_dir(self.folder.path()).expect("folder");
            let mut names: Vec<_> =
                entries.map(|entry| entry.expect("entry").file_name().into_string().expect("name")).collect();
            names.sort();
            names
        }
    }

    fn ours() -> Conf {
        Conf::parse("nameserver 100.70.0.53\nsearch example.org\n")
    }

    #[test]
    fn a_file_is_taken_over_and_put_back_to_the_byte() {
        let fixture = Fixture::new();
        std::fs::write(fixture.conf(), THEIRS).expect("write");
        std::fs::set_permissions(fixture.conf(), std::fs::Permissions::from_mode(0o640)).expect("chmod");
        let previous = fixture.resolv.take_over(&ours()).expect("take over");
        assert_eq!(previous, Conf::parse(THEIRS));
        assert!(fixture.text().starts_with(MARKER));
        assert!(fixture.text().contains("nameserver 100.70.0.53"));
        assert_eq!(std::fs::metadata(fixture.conf()).expect("metadata").mode() & 0o777, 0o644, "all may read it");
        assert_eq!(fixture.resolv.owner(&ours()).expect("owner"), Owner::Ours);

        assert!(fixture.resolv.restore().expect("restore"));
        assert_eq!(fixture.text(), THEIRS);
        assert_eq!(std::fs::metadata(fixture.conf()).expect("metadata").mode() & 0o777, 0o640);
        assert_eq!(fixture.files(), ["resolv.conf", "state"], "nothing is left behind");
        assert!(!fixture.resolv.restore().expect("nothing to do"));
        assert_eq!(fixture.text(), THEIRS);
    }

    #[test]
    fn a_file_that_is_too_large_is_none_and_stays_as_it_is() {
        let fixture = Fixture::new();
        let comment = |bytes: usize| format!("#{}\n", "x".repeat(bytes - 2));
        std::fs::write(fixture.conf(), comment(RESOLV_CONF_BYTES_MAX + 1)).expect("write");
        assert!(matches!(fixture.resolv.take_over(&ours()), Err(ResolvError::TooLarge(_))));
        assert_eq!(fixture.text().len(), RESOLV_CONF_BYTES_MAX + 1);
        std::fs::write(fixture.conf(), comment(RESOLV_CONF_BYTES_MAX)).expect("write");
        fixture.resolv.take_over(&ours()).expect("take over");
        assert!(fixture.text().starts_with(MARKER));
        assert!(fixture.resolv.restore().expect("restore"));
        assert_eq!(fixture.text(), comment(RESOLV_CONF_BYTES_MAX), "the largest comes back whole");
    }

    #[test]
    fn a_link_is_put_back_as_a_link_and_its_target_is_followed() {
        let fixture = Fixture::new();
        let target = fixture.folder.path().join("stub.conf");
        std::fs::write(&target, THEIRS).expect("write");
        symlink("stub.conf", fixture.conf()).expect("link");
        assert_eq!(fixture.resolv.take_over(&ours()).expect("take over"), Conf::parse(THEIRS));
        assert_eq!(std::fs::read_to_string(&target).expect("target"), THEIRS, "the target is not ours to write");

        std::fs::write(&target, "nameserver 198.51.100.1\n").expect("the network changed");
        assert_eq!(fixture.resolv.previous().expect("previous"), Conf::parse("nameserver 198.51.100.1"));
        fixture.resolv.restore().expect("restore");
        assert_eq!(std::fs::read_link(fixture.conf()).expect("a link"), Path::new("stub.conf"));
    }

    #[test]
    fn after_a_crash_the_original_is_still_the_original() {
        let fixture = Fixture::new();
        std::fs::write(fixture.conf(), THEIRS).expect("write");
        fixture.resolv.take_over(&ours()).expect("take over");
        // The successor, with another server of its own.
        let other = Conf::parse("nameserver 100.71.0.53");
        assert_eq!(fixture.resolv.take_over(&other).expect("again"), Conf::parse(THEIRS));
        assert!(fixture.text().contains("100.71.0.53"));
        fixture.resolv.restore().expect("restore");
        assert_eq!(fixture.text(), THEIRS);
    }

    #[test]
    fn what_somebody_else_writes_is_noticed_and_becomes_the_original() {
        let fixture = Fixture::new();
        std::fs::write(fixture.conf(), THEIRS).expect("write");
        fixture.resolv.take_over(&ours()).expect("take over");
        let newer = "nameserver 203.0.113.1\n";
        std::fs::write(fixture.conf(), newer).expect("a DHCP client");
        assert_eq!(fixture.resolv.owner(&ours()).expect("owner"), Owner::Other);
        assert_eq!(fixture.resolv.take_over(&ours()).expect("again"), Conf::parse(newer));
        fixture.resolv.restore().expect("restore");
        assert_eq!(fixture.text(), newer);

        fixture.resolv.take_over(&ours()).expect("take over");
        std::fs::write(fixture.conf(), THEIRS).expect("somebody else, just before the end");
        fixture.resolv.restore().expect("restore");
        assert_eq!(fixture.text(), THEIRS, "theirs stays");
    }

    #[test]
    fn no_file_before_is_no_file_after() {
        let fixture = Fixture::new();
        assert_eq!(fixture.resolv.take_over(&ours()).expect("take over"), Conf::default());
        assert!(fixture.text().starts_with(MARKER));
        fixture.resolv.restore().expect("restore");
        assert_eq!(fixture.files(), ["state"]);
    }

    #[test]
    fn ours_is_never_saved_as_the_original() {
        let fixture = Fixture::new();
        std::fs::write(fixture.conf(), THEIRS).expect("write");
        fixture.resolv.take_over(&ours()).expect("take over");
        std::fs::remove_file(fixture.folder.path().join("state/resolv.conf.original")).expect("the save is lost");
        let error = fixture.resolv.take_over(&ours()).expect_err("nobody knows the original");
        assert!(matches!(error, ResolvError::SaveLost { .. }), "{error}");
    }

    #[test]
    fn a_bind_mount_is_written_in_place() {
        if !privileged() {
            return;
        }
        let done = std::thread::spawn(|| {
            crate::test_support::enter_fresh_mounts();
            let fixture = Fixture::new();
            let source = fixture.folder.path().join("mounted");
            std::fs::write(&source, format!("{THEIRS}# and longer than ours is: {}\n", "x".repeat(500)))
                .expect("write");
            std::fs::write(fixture.conf(), "").expect("write");
            let mount = |arguments: &[&std::ffi::OsStr]| {
                let status = std::process::Command::new("mount").args(arguments).status().expect("mount runs");
                assert!(status.success());
            };
            mount(&["--bind".as_ref(), source.as_os_str(), fixture.conf().as_os_str()]);
            let before = fixture.text();
            fixture.resolv.take_over(&ours()).expect("take over");
            assert_eq!(fixture.text(), ours().to_text());
            fixture.resolv.restore().expect("restore");
            assert_eq!(fixture.text(), before);
            assert_eq!(fixture.files(), ["mounted", "resolv.conf", "state"]);
            let status = std::process::Command::new("umount").arg(fixture.conf()).status().expect("umount runs");
            assert!(status.success());
        });
        done.join().expect("test thread");
    }
}
