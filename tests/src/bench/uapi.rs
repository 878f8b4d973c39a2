//! How is a WireGuard program told its keys and its peer? The cross-platform interface of WireGuard: lines of text over a Unix
//! socket (https://www.wireguard.com/xplatform/).

use anyhow::{Context as _, bail};
use host::entropy::random;
use model::key::{PrivateKey, Psk, PublicKey};
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(10);
/// More lines than any answer to `set` has.
const LINES_MAX: usize = 16;

/// The keys of one end.
#[derive(Debug)]
pub struct Keys {
    private: PrivateKey,
    /// What the other end is told.
    pub public: PublicKey,
}

impl Keys {
    /// Fresh ones.
    pub fn generate() -> anyhow::Result<Self> {
        Ok(Self::of(PrivateKey::new(random()?)))
    }

    /// Those of a known private key.
    pub fn of(private: PrivateKey) -> Self {
        let public = tunnel::keys::public_key(&private);
        Self { private, public }
    }

    /// The private key in hexadecimal, for the command line of a program that lives for one measurement.
    pub fn private_hex(&self) -> String {
        hex(self.private.expose())
    }

    /// The public key in hexadecimal.
    pub fn public_hex(&self) -> String {
        hex(&self.public.0)
    }
}

/// What one end is told of the other.
#[derive(Debug)]
pub struct Far<'a> {
    /// Its key.
    pub key: PublicKey,
    /// What both know besides.
    pub psk: Option<&'a Psk>,
    /// Where it is, on the end that begins.
    pub endpoint: Option<SocketAddr>,
    /// Prefixes behind it.
    pub allowed: &'a [&'a str],
}

/// The words that set one end up.
fn request(keys: &Keys, listen: Option<u16>, far: &Far<'_>) -> String {
    let mut text = format!("set=1\nprivate_key={}\n", hex(keys.private.expose()));
    // Writing into a String cannot fail.
    if let Some(port) = listen {
        let _ = writeln!(text, "listen_port={port}");
    }
    let _ = write!(text, "replace_peers=true\npublic_key={}\n", hex(&far.key.0));
    if let Some(psk) = far.psk {
        let _ = writeln!(text, "preshared_key={}", hex(psk.expose()));
    }
    if let Some(endpoint) = far.endpoint {
        let _ = writeln!(text, "endpoint={endpoint}");
    }
    text.push_str("replace_allowed_ips=true\n");
    for prefix in far.allowed {
        let _ = writeln!(text, "allowed_ip={prefix}");
    }
    text.push('\n');
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sets up the program that listens at `socket`.
pub fn configure(socket: &Path, keys: &Keys, listen: Option<u16>, far: &Far<'_>) -> anyhow::Result<()> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request(keys, listen, far).as_bytes())?;
    for line in BufReader::new(stream).lines().take(LINES_MAX) {
        let line = line.context("no answer over the UAPI")?;
        match line.split_once('=') {
            Some(("errno", "0")) => return Ok(()),
            Some(("errno", number)) => bail!("refused its configuration over the UAPI with errno {number}"),
            _ => {}
        }
    }
    bail!("ended the conversation over the UAPI without an answer")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixListener;
    use std::thread;

    fn keys() -> Keys {
        Keys { private: PrivateKey::new([0xa5; 32]), public: PublicKey([1; 32]) }
    }

    fn far() -> Far<'static> {
        let endpoint = Some(SocketAddr::from(([203, 0, 113, 20], 51_820)));
        Far { key: PublicKey([2; 32]), psk: None, endpoint, allowed: &["10.0.0.0/8", "fd00::/8"] }
    }

    #[test]
    fn both_ends_are_told_in_the_words_of_the_interface() {
        let text = request(&keys(), None, &far());
        let expected = format!(
            "set=1\nprivate_key={}\nreplace_peers=true\npublic_key={}\nendpoint=203.0.113.20:51820\n\
             replace_allowed_ips=true\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/8\n\n",
            "a5".repeat(32),
            "02".repeat(32)
        );
        assert_eq!(text, expected);
        let secret = Psk::new([7; 32]);
        let secret = request(&keys(), None, &Far { psk: Some(&secret), ..far() });
        assert!(secret.contains(&format!("\npreshared_key={}\nendpoint=", "07".repeat(32))), "{secret}");
        let listening = request(&keys(), Some(7), &Far { endpoint: None, ..far() });
        assert!(listening.contains("\nlisten_port=7\n") && !listening.contains("endpoint"), "{listening}");
    }

    #[test]
    fn an_answer_is_waited_for_and_a_refusal_told() {
        for (answer, said) in [("errno=0\n\n", None), ("errno=-22\n\n", Some("errno -22")), ("", Some("without"))] {
            let folder = std::env::temp_dir().join(format!("umbra-uapi-{}-{}", std::process::id(), answer.len()));
            let _none_of_before = std::fs::remove_file(&folder);
            let listener = UnixListener::bind(&folder).unwrap();
            let program = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut seen = String::new();
                while !seen.ends_with("\n\n") {
                    let mut part = [0; 512];
                    let length = stream.read(&mut part).unwrap();
                    seen.push_str(std::str::from_utf8(&part[..length]).unwrap());
                }
                stream.write_all(answer.as_bytes()).unwrap();
                seen
            });
            let told = configure(&folder, &keys(), Some(7), &far());
            assert_eq!(program.join().unwrap(), request(&keys(), Some(7), &far()));
            std::fs::remove_file(&folder).unwrap();
            match said {
                None => told.unwrap(),
                Some(part) => assert!(told.unwrap_err().to_string().contains(part)),
            }
        }
    }
}
