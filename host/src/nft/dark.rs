//! What makes a machine silent? An input chain that lets in what the machine needs and what it asked for, and drops the
//! rest, so that not even a closed port answers; and an output chain for what the kernel says of packets that no input chain
//! sees, because their options, headers, fragments or destinations are not as they should be.

use super::batch::{Batch, accept_rule, all, failed, source_in};
use super::gateway::MARK;
use super::{NftError, interface, table};
use crate::ssh::Session;
use model::limits::ALLOW_IN_MAX;
use model::net::{NetError, PortRange, Prefix, Protocol};
use nlink::Nftables;
use nlink::netlink::Connection;
use nlink::netlink::nftables::{
    BaseChain, CmpOp, CtState, Expr, Family, Field, FilterHook, LookupExpr, Match, MetaKey, PayloadBase, Policy,
    Priority, Register, RuleSpec, Stmt, Value, Verdict,
};
use std::str::FromStr;
use std::time::Duration;

/// The set whose elements a trial lasts.
const TRIAL: &str = "trial";
/// `NFPROTO_IPV4`, `NFPROTO_IPV6` (linux/netfilter.h).
const FAMILIES: [u8; 2] = [2, 10];
/// Neighbour discovery and router advertisements: solicitations and advertisements, 133 to 136 (RFC 4861, section 4).
const DISCOVERY: [u8; 4] = [133, 134, 135, 136];
/// Protocol numbers of ICMP and of ICMPv6.
const ICMP_4: u8 = 1;
const ICMP_6: u8 = 58;
/// What a kernel answers on its own: echo replies, unreachable, time exceeded, parameter problem (RFC 792; RFC 4443).
const ANSWERS_4: [u8; 4] = [0, 3, 11, 12];
const ANSWERS_6: [u8; 5] = [1, 2, 3, 4, 129];
/// DHCP: the server's port and the client's (RFC 2131, RFC 8415).
const DHCP: [(u16, u16); 2] = [(67, 68), (547, 546)];
/// "Packet too big" (RFC 4443, section 3.2).
const TOO_BIG: u8 = 2;
/// Offsets in an ICMPv6 error whose packet has no extension headers, bytes: what follows that packet's IPv6 header, and its
/// UDP source port (RFC 4443, section 3.2; RFC 8200, section 3).
const ERROR_NEXT_HEADER: u32 = 8 + 6;
const ERROR_SOURCE_PORT: u32 = 8 + 40;
/// Offset of the hop limit in the IPv6 header, bytes (RFC 8200, section 3).
const HOP_LIMIT_OFFSET: u32 = 7;
/// What a discovery packet has that no router passed on (RFC 4861, section 6.1).
const HOP_LIMIT_ON_LINK: u8 = 255;

/// A port that stays open to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowIn {
    /// TCP or UDP; nothing else has ports, and nothing else is let in.
    pub protocol: Protocol,
    /// The ports.
    pub ports: PortRange,
}

impl FromStr for AllowIn {
    type Err = String;

    /// As an administrator types it: `tcp:22`, `udp:6000-6010`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, ports) = text.split_once(':').ok_or("expected PROTOCOL:PORTS, for example tcp:22")?;
        let protocol = protocol.parse().map_err(|e: NetError| e.to_string())?;
        if protocol == Protocol::Icmp {
            return Err("only tcp and udp have ports".to_owned());
        }
        Ok(Self { protocol, ports: ports.parse().map_err(|e: NetError| e.to_string())? })
    }
}

/// What still reaches a dark machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dark {
    /// Whose table.
    pub program: String,
    /// The TUN's name.
    pub tun: String,
    /// Our own port.
    pub udp_port: u16,
    /// The administrator's exceptions.
    pub allow_in: Vec<AllowIn>,
    /// Connections that go on, whether connection tracking knows them or not.
    pub sessions: Vec<Session>,
    /// Dark for so long only: then the kernel lets everything in again.
    pub trial: Option<Duration>,
}

/// How dark is a program's machine?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not at all.
    Off,
    /// It stays so.
    Dark,
    /// Until a trial's time is over.
    Trial,
    /// The trial's time is over: nothing is dropped.
    Over,
}

/// How dark the machine is, by the program's table in the kernel.
pub async fn standing(program: &str) -> Result<Standing, NftError> {
    let name = table(program, "-dark")?;
    let failed = |source| failed(&name, source);
    let connection = Connection::<Nftables>::new().map_err(failed)?;
    let tables = connection.list_tables_in(Family::Inet).await.map_err(failed)?;
    if !tables.iter().any(|table| table.name == name) {
        return Ok(Standing::Off);
    }
    let sets = connection.list_sets_in(&name, Family::Inet).await.map_err(failed)?;
    if !sets.iter().any(|set| set.name == TRIAL) {
        return Ok(Standing::Dark);
    }
    let left = connection.list_set_elements(&name, TRIAL, Family::Inet).await.map_err(failed)?;
    Ok(if left.is_empty() { Standing::Over } else { Standing::Trial })
}

impl Dark {
    /// Sets the table, in place of the program's earlier one.
    pub async fn apply(&self) -> Result<(), NftError> {
        let name = table(&self.program, "-dark")?;
        let tun = interface(&self.tun)?;
        if self.allow_in.len() > ALLOW_IN_MAX {
            return Err(NftError::Exceptions);
        }
        let policy = if self.trial.is_some() { Policy::Accept } else { Policy::Drop };
        let base = BaseChain::filter(FilterHook::Input, Priority::Filter).policy(policy);
        let mut batch = Batch::open(&name)?.replace(&name, Family::Inet);
        if let Some(life) = self.trial {
            batch = batch.fading_set(&name, Family::Inet, TRIAL, &FAMILIES, life);
        }
        let filter = |hook, priority| BaseChain::filter(hook, priority);
        let chains = [
            ("input", base, self.rules(tun)),
            ("output", filter(FilterHook::Output, Priority::Filter), self.silence(tun)),
            ("untracked", filter(FilterHook::Prerouting, Priority::Raw), untracked(tun)),
        ];
        for (chain, base, rules) in chains {
            batch = batch.chain(&name, Family::Inet, chain, base);
            for rule in rules {
                batch = batch.rule(&name, Family::Inet, chain, rule);
            }
        }
        batch.commit().await
    }

    fn rules(&self, tun: &str) -> Vec<RuleSpec> {
        let answers = CtState::ESTABLISHED | CtState::RELATED;
        let mut rules = vec![
            // By number, not as answers: it may be left out of connection tracking. First, for nothing else comes as often.
            accept_rule([Match::eq(Field::UdpDport, self.udp_port)]),
            accept_rule([Match::eq(Field::Iifname, "lo")]),
            accept_rule([Match::eq(Field::Iifname, tun)]),
            accept_rule([Match::eq(Field::CtState, answers)]),
        ];
        rules.extend(DISCOVERY.map(discovery_rule));
        // DHCP answers: to a broadcast request, so connection tracking does not know them (RFC 2131, RFC 8415).
        for (server, client) in DHCP {
            rules.push(accept_rule([Match::eq(Field::UdpSport, server), Match::eq(Field::UdpDport, client)]));
        }
        rules.push(too_big_rule(self.udp_port));
        for allowed in &self.allow_in {
            let field = match allowed.protocol {
                Protocol::Tcp => Field::TcpDport,
                Protocol::Udp => Field::UdpDport,
                Protocol::Icmp => continue,
            };
            let ports = Value::range(allowed.ports.first, allowed.ports.last);
            rules.push(accept_rule([Match::eq(field, ports)]));
        }
        rules.extend(self.sessions.iter().map(session_rule));
        // The policy would do; this one counts.
        rules.push(self.drop_in_the_dark([]));
        rules
    }

    /// Nothing that the kernel says by itself leaves, but for errors about flows of grants: a service has to hear that its packet was
    /// too big.
    fn silence(&self, tun: &str) -> Vec<RuleSpec> {
        // What is no ICMP is not asked any further.
        let others = accept_rule([ICMP_4, ICMP_6].map(|protocol| Match::ne(Field::L4Proto, protocol)));
        let accepted =
            [Match::eq(Field::Oifname, "lo"), Match::eq(Field::Oifname, tun), Match::eq(Field::CtMark, MARK)];
        let v4 = ANSWERS_4.map(|kind| Match::eq(Field::IcmpType, kind));
        let v6 = ANSWERS_6.map(|kind| Match::eq(Field::Icmp6Type, kind));
        let dropped = v4.into_iter().chain(v6).map(|kind| self.drop_in_the_dark([kind]));
        [others].into_iter().chain(accepted.map(|one| accept_rule([one]))).chain(dropped).collect()
    }

    /// Drops; in a trial as long as the set holds the packet's family.
    fn drop_in_the_dark<const N: usize>(&self, matches: [Match; N]) -> RuleSpec {
        let rule = all(matches);
        let rule = match self.trial {
            None => rule,
            Some(_) => rule
                .then(Expr::Meta { dreg: Register::R0, key: MetaKey::NfProto })
                .then(Expr::from(LookupExpr::new(TRIAL, Register::R0))),
        };
        rule.then(Stmt::Counter).then(Verdict::Drop)
    }
}

/// Anybody may send what looks like an answer of a DHCP server: it makes no entry in the table of connections, which others need.
fn untracked(tun: &str) -> Vec<RuleSpec> {
    let rule = |(server, client): (u16, u16)| {
        let answer = [Match::eq(Field::UdpSport, server), Match::eq(Field::UdpDport, client)];
        all(answer.into_iter().chain([Match::ne(Field::Iifname, tun)])).then(Stmt::Notrack)
    };
    DHCP.map(rule).to_vec()
}

fn session_rule(session: &Session) -> RuleSpec {
    let from = source_in(&Prefix::host(session.peer.ip()));
    let (to, local) = (Field::TcpDport, session.local.port());
    accept_rule([from, Match::eq(Field::TcpSport, session.peer.port()), Match::eq(to, local)])
}

fn discovery_rule(kind: u8) -> RuleSpec {
    let (sreg, dreg) = (Register::R0, Register::R0);
    RuleSpec::new()
        .then(Match::eq(Field::Icmp6Type, kind))
        .then(Expr::Payload { dreg, base: PayloadBase::Network, offset: HOP_LIMIT_OFFSET, len: 1 })
        .then(Expr::Cmp { sreg, op: CmpOp::Eq, data: vec![HOP_LIMIT_ON_LINK] })
        .then(Verdict::Accept)
}

/// A router's word that a datagram of ours was too big; IPv4 routers cut it and say nothing. Connection tracking does not
/// know what it is about.
fn too_big_rule(port: u16) -> RuleSpec {
    let (sreg, dreg) = (Register::R0, Register::R0);
    let base = PayloadBase::Transport;
    RuleSpec::new()
        .then(Match::eq(Field::Icmp6Type, TOO_BIG))
        .then(Expr::Payload { dreg, base, offset: ERROR_NEXT_HEADER, len: 1 })
        .then(Expr::Cmp { sreg, op: CmpOp::Eq, data: vec![17] })
        .then(Expr::Payload { dreg, base, offset: ERROR_SOURCE_PORT, len: 2 })
        .then(Expr::Cmp { sreg, op: CmpOp::Eq, data: port.to_be_bytes().to_vec() })
        .then(Verdict::Accept)
}
