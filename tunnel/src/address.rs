//! Which overlay address does a node or a knocking machine have? A hash decides, so that both ends know it unasked.

use blake2::{Blake2s256, Digest};
use model::ids::NodeId;
use model::key::PublicKey;
use model::pool::Pool;
use std::net::Ipv6Addr;

fn hash64(label: &str, what: &[u8]) -> u64 {
    let digest = Blake2s256::new().chain_update(label).chain_update(what).finalize();
    digest.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// A provisional peer's address: the first 64 bits of BLAKE2s-256(`umbra provisional` || key), big endian.
pub fn address_of_key(pool: &Pool, key: &PublicKey) -> Ipv6Addr {
    pool.provisional(hash64("umbra provisional", &key.0))
}

/// An enrolled node's address: likewise of `umbra node` || the text of its id. The controller's is fixed.
pub fn address_of_node(pool: &Pool, node: &NodeId) -> Ipv6Addr {
    match node {
        NodeId::Controller => pool.controller(),
        NodeId::Device(_) | NodeId::Gateway(_) => pool.node(hash64("umbra node", node.to_string().as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::ids::DeviceId;

    #[test]
    fn each_kind_lives_in_its_own_net() {
        let pool = Pool::new("10.77.0.0/16".parse().unwrap(), "fd12:3456:789a::/48".parse().unwrap()).unwrap();
        let node = NodeId::Device(DeviceId::from_bytes([3; 10]));
        let other = NodeId::Device(DeviceId::from_bytes([4; 10]));
        assert!(pool.node_net().contains(address_of_node(&pool, &node).into()));
        assert_ne!(address_of_node(&pool, &node), address_of_node(&pool, &other));
        assert_eq!(address_of_node(&pool, &NodeId::Controller), pool.controller());
        let key = PublicKey([9; 32]);
        assert!(pool.provisional_net().contains(address_of_key(&pool, &key).into()));
        assert_ne!(address_of_key(&pool, &key), address_of_key(&pool, &PublicKey([8; 32])));
    }
}
