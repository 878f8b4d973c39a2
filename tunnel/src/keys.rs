//! Which public key belongs to a private one?

use boringtun::x25519;
use model::key::{PrivateKey, PublicKey};

/// The X25519 public key of a private key.
pub fn public_key(private: &PrivateKey) -> PublicKey {
    let secret = x25519::StaticSecret::from(*private.expose());
    PublicKey(x25519::PublicKey::from(&secret).to_bytes())
}
