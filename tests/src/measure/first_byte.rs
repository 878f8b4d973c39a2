//! How long does a person wait for the first byte of a resource that nobody has granted yet?

use super::{Spread, build, write_spread};
use crate::lab::{Name, Options, World};
use crate::perimeter::{Perimeter, Plan, done, log_in, umbra};
use crate::service::Services;
use anyhow::Context as _;
use std::io::{self, Write};
use std::time::Duration;

/// Microseconds from connect() to the first byte of the answer.
#[derive(Debug, Default)]
pub struct FirstByte {
    /// Without a tunnel to the gateway: decision, grant, handshake, then the packet.
    pub new_tunnel: Vec<i64>,
    /// Through a tunnel that another grant has opened: decision, grant, then the packet.
    pub same_tunnel: Vec<i64>,
}

pub(super) fn measure(options: &Options, count: usize) -> anyhow::Result<FirstByte> {
    let world = World::start(options)?;
    let _services = Services::start(&world)?;
    let _perimeter = Perimeter::start(&world, &Plan { laptops: vec![Name::Laptop], ..Plan::default() })?;
    let mut figures = FirstByte::default();
    for round in 0..count {
        if round > 0 {
            // Gives every grant back, and ends the tunnel to the gateway.
            umbra(&world, Name::Laptop, &["logout"])?;
            log_in(&world, Name::Laptop)?;
        }
        figures.new_tunnel.push(take(&world, "web.corp.example")?);
        figures.same_tunnel.push(take(&world, "wiki.corp.example")?);
    }
    Ok(figures)
}

fn take(world: &World, name: &str) -> anyhow::Result<i64> {
    let told = done(world, Name::Laptop, &["umbra-lab", "__witness", "first-byte", name])?;
    told.stdout.trim().parse().with_context(|| told.stdout.clone())
}

impl FirstByte {
    /// Tells the figures.
    pub fn write(&self, delay: Duration, out: &mut impl Write) -> io::Result<()> {
        let (new, same) = (Spread::of(self.new_tunnel.clone()), Spread::of(self.same_tunnel.clone()));
        write_spread("first byte, new tunnel", new, out)?;
        write_spread("first byte, tunnel there, no grant", same, out)?;
        let each = |micros: &[i64]| micros.iter().map(|micros| *micros as f64 / 1000.0).collect::<Vec<_>>();
        let line = serde_json::json!({
            "measure": "first-byte", "count": self.new_tunnel.len(), "round_trip_ms": 2 * delay.as_millis() as u64,
            "build": build(), "new_tunnel_ms": new, "same_tunnel_ms": same,
            "rounds_ms": { "new_tunnel": each(&self.new_tunnel), "same_tunnel": each(&self.same_tunnel) },
        });
        writeln!(out, "{line}")
    }
}
