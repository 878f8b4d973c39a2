//! What may a gateway forward? From the TUN to the service side, and the replies to that; it is a router for nobody.
//!
//! Each packet of a download passes these rules, so each begins with what costs least and says no most often: an address or a word of
//! connection tracking before the name of an interface, that before a look at the routes.

use super::batch::{Batch, accept_rule, all, drop_rule, source_in};
use super::foreign::{ENTERED, LEFT, REDIRECTED};
use super::timeouts::Timeout;
use super::{NftError, interface, prefixes, table};
use model::net::Prefix;
use nlink::netlink::nftables::{
    BaseChain, CtDirection, CtState, CtStatus, Family, FibFlags, FibResult, Field, FilterHook, Match, NatHook,
    NatStatement, ObjectType, Priority, RuleSpec, Stmt, Value, Verdict,
};
use nlink::netlink::types::route::RouteType;

/// The connection mark of flows that the TUN opened: "umbr".
pub const MARK: u32 = 0x756d_6272;
/// Behind destination NAT (-100), where a reply has its true destination again, and before routing.
const AFTER_NAT: Priority = Priority::Custom(-90);

/// Before and behind every other firewall's chains, whose priorities lie around 0.
const BEFORE_ALL: Priority = Priority::Custom(-1_000_000);
const BEHIND_ALL: Priority = Priority::Custom(1_000_000);

/// A flow that comes with our own port as its source gets one from the other half of all ports.
const PORTS_MIDDLE: u16 = 32_768;

/// A gateway's forwarding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Whose table.
    pub program: String,
    /// The TUN's name.
    pub tun: String,
    /// Where the addresses of grants come from: every packet out of the TUN that is forwarded has such a source.
    pub nat_pools: Vec<Prefix>,
    /// Our own UDP port: no masqueraded flow may take it, for its answers would be taken for our own.
    pub udp_port: u16,
}

impl Gateway {
    /// Sets the table, in place of the program's earlier forwarding. Set it before forwarding is enabled.
    ///
    /// A kernel without `ct timeout` objects keeps its own timeouts.
    pub async fn apply(&self) -> Result<(), NftError> {
        match self.apply_with(&Timeout::all()).await {
            Err(NftError::Unsupported { table, source }) => {
                self.apply_with(&[]).await?;
                let lacking = "this kernel has no `ct timeout` objects (CONFIG_NF_CONNTRACK_TIMEOUT)";
                tracing::warn!(%table, %source, "{lacking}: quiet flows end when its own timeouts say so");
                Ok(())
            }
            done => done,
        }
    }

    async fn apply_with(&self, timeouts: &[Timeout]) -> Result<(), NftError> {
        let name = table(&self.program, "-forward")?;
        let tun = interface(&self.tun)?;
        prefixes(&self.nat_pools)?;
        let prerouting = |priority| BaseChain::filter(FilterHook::Prerouting, priority);
        let forwarded = |priority| BaseChain::filter(FilterHook::Forward, priority);
        let chains = [
            ("spoofed", prerouting(Priority::Raw), self.spoofed(tun)),
            ("elsewhere", prerouting(Priority::Mangle), vec![elsewhere(tun)]),
            ("transit", prerouting(AFTER_NAT), transit(tun)),
            ("before", forwarded(BEFORE_ALL), [refused(tun), self.counted(tun, ENTERED)].concat()),
            ("forward", forwarded(Priority::Filter), self.forward(tun, timeouts)),
            ("behind", forwarded(BEHIND_ALL), self.counted(tun, LEFT)),
            ("postrouting", BaseChain::nat(NatHook::Postrouting, Priority::SrcNat), self.masquerade(tun)),
        ];
        let mut batch = Batch::open(&name)?.replace(&name, Family::Inet);
        for counter in [ENTERED, LEFT, REDIRECTED] {
            batch = batch.counter(&name, Family::Inet, counter);
        }
        for timeout in timeouts {
            batch = batch.object(Family::Inet, timeout.attributes(&name));
        }
        for (chain, base, rules) in chains {
            batch = batch.chain(&name, Family::Inet, chain, base);
            for rule in rules {
                batch = batch.rule(&name, Family::Inet, chain, rule);
            }
        }
        batch.commit().await
    }

    /// A grant's address from elsewhere than the TUN is a forgery: it could ride on a live flow's mark.
    fn spoofed(&self, tun: &str) -> Vec<RuleSpec> {
        let rule = |pool| drop_rule([source_in(pool), Match::ne(Field::Iifname, tun)]);
        self.nat_pools.iter().map(rule).collect()
    }

    /// Marks what the TUN sends, lets replies back, drops everything else, whatever its interfaces.
    fn forward(&self, tun: &str, timeouts: &[Timeout]) -> Vec<RuleSpec> {
        let from_tun = Match::eq(Field::Iifname, tun);
        let mut rules = Vec::new();
        for timeout in timeouts {
            let new = Match::eq(Field::CtState, CtState::NEW);
            rules.push(all([new, timeout.protocol(), from_tun.clone()]).then(timeout.assignment()));
        }
        for pool in &self.nat_pools {
            rules.push(all([source_in(pool), from_tun.clone()]).then(Stmt::SetCtMark(MARK)).then(Verdict::Accept));
        }
        rules.push(accept_rule(reply_with(Match::eq(Field::Oifname, tun))));
        rules.push(drop_rule([]));
        rules
    }

    /// Counts what grants send and get: what is refused by us is refused before, so that all of it should come through.
    fn counted(&self, tun: &str, counter: &str) -> Vec<RuleSpec> {
        let sent = |pool| vec![source_in(pool), Match::eq(Field::Iifname, tun)];
        let answers = reply_with(Match::eq(Field::Oifname, tun));
        self.nat_pools.iter().map(sent).chain([answers]).map(|matches| all(matches).then(count_in(counter))).collect()
    }

    /// The service side sees the gateway's own address, and a port that is not ours.
    fn masquerade(&self, tun: &str) -> Vec<RuleSpec> {
        let ours = Match::eq(Field::UdpSport, self.udp_port);
        let elsewhere = if self.udp_port < PORTS_MIDDLE { (PORTS_MIDDLE, u16::MAX) } else { (1_024, PORTS_MIDDLE - 1) };
        let rules = |pool| {
            let flow = [source_in(pool), Match::ne(Field::Oifname, tun)];
            let moved = NatStatement::masquerade().ports(elsewhere.0, elsewhere.1);
            let clash = all(flow.clone()).then(ours.clone()).then(Stmt::Nat(moved));
            [clash, all(flow).then(Stmt::Masquerade)]
        };
        self.nat_pools.iter().flat_map(rules).collect()
    }
}

fn count_in(counter: &str) -> Stmt {
    Stmt::Objref { object_type: ObjectType::Counter, name: counter.to_owned() }
}

/// What is dropped whatever others think of it.
fn refused(tun: &str) -> Vec<RuleSpec> {
    vec![
        drop_rule([Match::eq(Field::CtState, CtState::INVALID)]),
        drop_rule([Match::eq(Field::Iifname, tun), Match::eq(Field::Oifname, tun)]),
    ]
}

/// A flow of a grant whose destination somebody else's rules changed: to a container, to a port of this host. It would
/// reach what nobody granted.
fn redirected(tun: &str) -> RuleSpec {
    let elsewhere = Match::eq(Field::CtStatus, Value::CtStatus(CtStatus::DST_NAT));
    all([elsewhere, Match::eq(Field::Iifname, tun)]).then(count_in(REDIRECTED)).then(Verdict::Drop)
}

/// An answer, or an ICMP error about a flow, that does not come in by the interface whose address the flow has: Linux takes it all
/// the same (RFC 1122, section 3.3.4.2, weak model), and so anybody on another link could speak into a flow. Connection
/// tracking knows the flow here, and the destination is not yet what NAT makes of it.
fn elsewhere(tun: &str) -> RuleSpec {
    let here = Field::Fib { flags: FibFlags::DADDR | FibFlags::IIF, result: FibResult::AddrType };
    let others = [Match::ne(Field::Iifname, tun), Match::ne(Field::Iifname, "lo"), Match::ne(here, RouteType::Local)];
    drop_rule([reply(), others.to_vec()].concat())
}

/// Drops what would be forwarded for strangers before it is routed: routing itself answers, with ICMP "time exceeded"
/// or "unreachable", before the forward hook is asked.
fn transit(tun: &str) -> Vec<RuleSpec> {
    let ours = |kind: RouteType| {
        let field = Field::Fib { flags: FibFlags::DADDR, result: FibResult::AddrType };
        accept_rule([Match::eq(field, kind)])
    };
    let from_tun = |kind: RouteType| {
        let field = Field::Fib { flags: FibFlags::DADDR, result: FibResult::AddrType };
        [Match::eq(Field::Iifname, tun), Match::eq(field, kind)]
    };
    // No grant names them, and they would be this machine's own: a network's broadcast address, an IPv6 router's anycast.
    let everybodys = |kind| drop_rule(from_tun(kind));
    vec![
        // Of an open flow's packets, the answers end here and the others two rules later.
        accept_rule(reply_with(Match::ne(Field::Iifname, tun))),
        redirected(tun),
        accept_rule(from_tun(RouteType::Unicast)),
        everybodys(RouteType::Broadcast),
        everybodys(RouteType::Anycast),
        everybodys(RouteType::Multicast),
        accept_rule([Match::eq(Field::Iifname, "lo")]),
        accept_rule([Match::eq(Field::Iifname, tun)]),
        ours(RouteType::Local),
        ours(RouteType::Broadcast),
        ours(RouteType::Multicast),
        ours(RouteType::Anycast),
        drop_rule([]),
    ]
}

/// The packet answers a flow that the TUN opened.
fn reply() -> Vec<Match> {
    vec![Match::eq(Field::CtDirection, Value::CtDirection(CtDirection::Reply)), Match::eq(Field::CtMark, MARK)]
}

/// The same, and this, which is asked last.
fn reply_with(condition: Match) -> Vec<Match> {
    [reply(), vec![condition]].concat()
}
