//! Small words for this crate's tests.

use model::grant::{CatalogueAddress, CatalogueEntry};
use model::ids::{GatewayId, GrantId, ID_LEN, PairingId, ResourceId};
use model::net::{PortRange, Prefix, Protocol};
use std::net::IpAddr;

fn bytes(number: u32) -> [u8; ID_LEN] {
    let mut bytes = [0; ID_LEN];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub fn resource(number: u32) -> ResourceId {
    ResourceId::from_bytes(bytes(number))
}
pub fn grant(number: u32) -> GrantId {
    GrantId::from_bytes(bytes(number))
}
pub fn pairing(number: u32) -> PairingId {
    PairingId::from_bytes(bytes(number))
}
pub fn gateway(number: u32) -> GatewayId {
    GatewayId::from_bytes(bytes(number))
}

/// A resource of one name and one address or prefix, which speaks tcp:443.
pub fn entry(number: u32, name: &str, address: &str) -> CatalogueEntry {
    let prefix: Prefix = address.parse().unwrap();
    let host = name.to_lowercase().replace(' ', "-");
    let (v4, v6) = match prefix.address() {
        IpAddr::V4(_) => (Some(prefix), None),
        IpAddr::V6(_) => (None, Some(prefix)),
    };
    CatalogueEntry {
        id: resource(number),
        name: name.to_owned(),
        addresses: vec![CatalogueAddress { name: Some(format!("{host}.corp.example").parse().unwrap()), v4, v6 }],
        suffixes: Vec::new(),
        ports: vec![(Protocol::Tcp, PortRange::new(443, 443).unwrap())],
    }
}

/// A folder of its own for a test, removed at its end.
pub struct Folder(std::path::PathBuf);

impl Folder {
    pub fn new() -> Self {
        let random: [u8; 8] = host::entropy::random().unwrap();
        let name = format!("umbra-test-{}-{:016x}", std::process::id(), u64::from_be_bytes(random));
        let path = std::env::temp_dir().join(name);
        host::keyfile::create_folder(&path).unwrap();
        Self(path)
    }
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
