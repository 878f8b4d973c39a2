//! How is each listing shown to a person, or to a program?

use node::cli::output::{moment, span};
use node::cli::{Failure, Output};
use proto::admin as wire;

pub(super) fn list(items: &[String]) -> String {
    items.join(", ")
}

pub(super) fn status(reply: &wire::StatusReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let pending = |count: u64| if count == 0 { String::new() } else { format!(" ({count} waiting for confirmation)") };
    let policy = match reply.policy_revision {
        0 => "none: nobody may reach anything until `policy apply`".to_owned(),
        number => format!("revision {number}"),
    };
    let rows = [
        ("organisation", reply.trust_domain.clone()),
        ("fingerprint", reply.fingerprint.clone()),
        ("release", reply.version.clone()),
        ("revision", format!("{}.{}", reply.incarnation, reply.revision)),
        ("endpoints", list(&reply.endpoints)),
        ("key", reply.controller_key.clone()),
        ("pool", format!("{}, {}", reply.pool_v4, reply.pool_v6)),
        ("zones", list(&reply.zones)),
        ("private zones", list(&reply.private_zones)),
        ("policy", policy),
        ("users", reply.users.to_string()),
        ("accounts", reply.accounts.to_string()),
        ("devices", format!("{}{}", reply.devices, pending(reply.devices_pending))),
        ("sites", reply.sites.to_string()),
        ("gateways", format!("{}{}", reply.gateways, pending(reply.gateways_pending))),
        ("resources", reply.resources.to_string()),
        ("sessions", reply.sessions.to_string()),
        ("join keys", reply.join_keys.to_string()),
    ];
    rows.iter().try_for_each(|(what, value)| output.line(format!("{what:14} {value}")))?;
    reply.alarms.iter().try_for_each(|alarm| output.line(format!("{:14} {alarm}", "ALARM")))?;
    let drops = reply.drops.iter();
    drops.into_iter().try_for_each(|drop| output.line(format!("{:14} {} {}", "dropped", drop.reason, drop.count)))?;
    if !reply.keys_warning.is_empty() {
        output.line(format!("{:14} {}", "warning", reply.keys_warning))?;
    }
    if reply.refuses.is_empty() {
        return Ok(());
    }
    output.line(format!("{:14} every change, and serves no gateway: {}", "refuses", reply.refuses))
}

pub(super) fn keys(reply: &wire::ShowKeysReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let mut row = |what: &str, value: String| output.line(format!("{what:14} {value}"));
    let keys = |keys: &Option<wire::ControllerKeys>| {
        let keys = keys.clone().unwrap_or_default();
        format!("{}, fingerprint {}", keys.key, keys.fingerprint)
    };
    row("in use", keys(&reply.used))?;
    row("since", moment(now, reply.since_ms))?;
    match reply.state.as_str() {
        "announced" => {
            row("next", keys(&reply.other))?;
            row("used from", moment(now, reply.switches_ms))?;
            row("old ones end", moment(now, reply.ends_ms))?;
        }
        "switched" => {
            row("former", keys(&reply.other))?;
            row("destroyed", moment(now, reply.ends_ms))?;
        }
        _ => return row("next", format!("announced {}, or by `keys succeed`", moment(now, reply.announces_ms))),
    }
    row(
        "known to",
        format!("{} of {} nodes, as they said since this controller started", reply.nodes_that_know, reply.nodes),
    )?;
    if reply.unaware.is_empty() {
        return Ok(());
    }
    row("not yet to", list(&reply.unaware))
}

pub(super) fn users(reply: &wire::ListUsersReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |user: &wire::User| {
        let state = if user.disabled { "disabled" } else { "enabled" };
        [user.name.clone(), state.to_owned(), list(&user.groups), user.sessions.to_string(), user.id.clone()]
    };
    let rows = reply.users.iter().map(row).collect();
    output.table(["NAME", "STATE", "GROUPS", "SESSIONS", "ID"], rows, "no users yet: `umbra-controller user add NAME`")
}

pub(super) fn factors(reply: &wire::ListFactorsReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |f: &wire::Factor| {
        let used = if f.used_ms == 0 { "never".to_owned() } else { moment(now, f.used_ms) };
        [f.name.clone(), f.method.clone(), moment(now, f.created_ms), used, f.id.clone()]
    };
    let rows = reply.factors.iter().map(row).collect();
    output.table(
        ["NAME", "METHOD", "ADDED", "USED", "ID"],
        rows,
        "no second factor: the user adds one with `umbra mfa add`",
    )?;
    if !reply.factors.is_empty() {
        output.line(format!(
            "recovery codes left: {}; wrong codes in a row: {}",
            reply.recovery_codes, reply.wrong_codes
        ))?;
    }
    if reply.locked_ms > 0 {
        output.line(format!("no code is looked at for {}", span(reply.locked_ms)))?;
    }
    Ok(())
}

pub(super) fn groups(reply: &wire::ListGroupsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |group: &wire::Group| [group.name.clone(), list(&group.members), list(&group.workloads)];
    let rows = reply.groups.iter().map(row).collect();
    output.table(["NAME", "MEMBERS", "WORKLOADS"], rows, "no groups yet: `umbra-controller group add NAME`")
}

pub(super) fn sites(reply: &wire::ListSitesReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |site: &wire::Site| [site.name.clone(), list(&site.prefixes), list(&site.gateways), site.id.clone()];
    let rows = reply.sites.iter().map(row).collect();
    let empty = "no sites yet: `umbra-controller site add NAME --prefix PREFIX`";
    output.table(["NAME", "PREFIXES", "GATEWAYS", "ID"], rows, empty)
}

pub(super) fn gateways(reply: &wire::ListGatewaysReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::Gateway| {
        let joined = moment(now, one.created_ms);
        [one.name.clone(), one.site.clone(), one.state.clone(), one.fingerprint.clone(), joined, one.id.clone()]
    };
    let rows = reply.gateways.iter().map(row).collect();
    let empty = "no gateways yet: `umbra-controller join-key create --gateway --site SITE --out FILE`";
    output.table(["NAME", "SITE", "STATE", "FINGERPRINT", "JOINED", "ID"], rows, empty)
}

fn ports(resource: &wire::Resource) -> String {
    let tcp = resource.tcp.iter().map(|ports| format!("tcp {ports}"));
    let udp = resource.udp.iter().map(|ports| format!("udp {ports}"));
    list(&tcp.chain(udp).chain(resource.icmp.then(|| "icmp".to_owned())).collect::<Vec<_>>())
}

fn places(resource: &wire::Resource) -> String {
    list(&resource.hosts.iter().chain(&resource.addresses).cloned().collect::<Vec<_>>())
}

pub(super) fn resources(reply: &wire::ListResourcesReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::Resource| {
        [one.name.clone(), one.site.clone(), places(one), ports(one), list(&one.tags), one.id.clone()]
    };
    let rows = reply.resources.iter().map(row).collect();
    let empty = "no resources yet: `umbra-controller resource add NAME --site SITE --host NAME --tcp PORTS`";
    output.table(["NAME", "SITE", "WHERE", "SERVICES", "TAGS", "ID"], rows, empty)
}

pub(super) fn resource(one: &wire::Resource, output: &mut Output) -> Result<(), Failure> {
    if output.json(one)? {
        return Ok(());
    }
    let rows = [
        ("name", one.name.clone()),
        ("id", one.id.clone()),
        ("site", one.site.clone()),
        ("where", places(one)),
        ("services", ports(one)),
        ("lease", span(one.lease_ms)),
        ("on gateway", if one.on_gateway { "yes" } else { "no" }.to_owned()),
        ("tags", list(&one.tags)),
    ];
    rows.iter().try_for_each(|(what, value)| output.line(format!("{what:11} {value}")))?;
    let each =
        |address: &wire::VirtualAddress| format!("{:11} {} is {} and {}", "", address.name, address.v4, address.v6);
    one.virtual_addresses.iter().try_for_each(|address| output.line(each(address)))
}

pub(super) fn join_keys(reply: &wire::ListJoinKeysReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::JoinKey| {
        let left = format!("{}/{}", one.uses_left, one.uses);
        let expires = moment(now, one.expires_ms);
        let place = [&one.site, &one.account].into_iter().find(|place| !place.is_empty()).cloned().unwrap_or_default();
        let kind = if one.ephemeral { format!("{}, ephemeral", one.kind) } else { one.kind.clone() };
        [one.id.clone(), kind, place, one.state.clone(), left, expires]
    };
    let rows = reply.join_keys.iter().map(row).collect();
    let empty = "no join keys yet: `umbra-controller join-key create --device --out FILE`";
    output.table(["ID", "KIND", "SITE OR ACCOUNT", "STATE", "USES LEFT", "EXPIRES"], rows, empty)
}

/// Whose a device is, and whether it stays.
fn whose(one: &wire::Device) -> String {
    let whose = if one.account.is_empty() { &one.user } else { &one.account };
    match (one.ephemeral, whose.is_empty()) {
        (true, true) => "(ephemeral)".to_owned(),
        (true, false) => format!("{whose} (ephemeral)"),
        (false, _) => whose.clone(),
    }
}

pub(super) fn devices(reply: &wire::ListDevicesReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::Device| {
        let joined = moment(now, one.created_ms);
        [
            one.name.clone(),
            whose(one),
            one.state.clone(),
            one.address_v4.clone(),
            one.fingerprint.clone(),
            joined,
            one.id.clone(),
        ]
    };
    let rows = reply.devices.iter().map(row).collect();
    let empty = "no devices yet: `umbra-controller join-key create --device --out FILE`";
    output.table(["NAME", "USER OR ACCOUNT", "STATE", "ADDRESS", "FINGERPRINT", "JOINED", "ID"], rows, empty)
}

pub(super) fn sessions(reply: &wire::ListSessionsReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row = |one: &wire::Session| {
        let end = session_end(one, now);
        [one.id.clone(), one.user.clone(), one.device.clone(), moment(now, one.created_ms), end]
    };
    let rows = reply.sessions.iter().map(row).collect();
    output.table(["ID", "USER OR ACCOUNT", "DEVICE", "SINCE", "ENDS"], rows, "nobody is logged in")
}

fn session_end(one: &wire::Session, now: i64) -> String {
    match (one.ended, one.workload) {
        (true, _) => "ended".to_owned(),
        (false, true) => "never by itself".to_owned(),
        (false, false) => moment(now, one.ends_ms),
    }
}

/// One log-in, what it may reach now, and its flows, newest first.
pub(super) fn session(reply: &wire::ShowSessionReply, now: i64, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let about = reply.session.clone().unwrap_or_default();
    let (end, since) = (session_end(&about, now), moment(now, about.created_ms));
    let end = if about.ended || about.workload { end } else { format!("ends {end}") };
    let word = if about.workload { "workload since" } else { "logged in" };
    output.line(format!("{} on {}, {word} {since}, {end}", about.user, about.device))?;
    let row = |one: &wire::SessionGrant| [one.resource.clone(), one.gateway.clone(), moment(now, one.ends_ms)];
    let rows = reply.grants.iter().map(row).collect();
    output.table(["RESOURCE", "GATEWAY", "RENEWED OR ENDS"], rows, "no access is granted right now")?;
    let row = |one: &wire::SessionFlow| {
        let target = match one.port {
            0 => format!("{} {}", one.protocol, one.target),
            port if one.target.contains(':') => format!("{} [{}]:{port}", one.protocol, one.target),
            port => format!("{} {}:{port}", one.protocol, one.target),
        };
        let seconds = (one.ended_ms.saturating_sub(one.started_ms)) as f64 / 1000.0;
        let lasted = format!("{seconds:.1} s");
        let (up, down) = (bytes(one.bytes_up), bytes(one.bytes_down));
        [moment(now, one.started_ms), lasted, one.resource.clone(), target, up, down, one.end.clone()]
    };
    let rows = reply.flows.iter().map(row).collect();
    let heads = ["BEGAN", "LASTED", "RESOURCE", "TARGET", "UP", "DOWN", "END"];
    output.table(heads, rows, "no flow of it has ended yet")
}

/// An amount as people read it: three digits and a unit.
fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
