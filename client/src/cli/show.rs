//! How is each answer shown to a person, or to a program? And which exit code says it?

use node::cli::output::{ago, span};
use node::cli::{Exit, Failure, Output};
use proto::local as wire;

#[derive(serde::Serialize)]
struct Version {
    version: &'static str,
}

pub(super) fn version(output: &mut Output) -> Result<(), Failure> {
    let version = Version { version: env!("CARGO_PKG_VERSION") };
    if output.json(&version)? { Ok(()) } else { output.line(format!("umbra {}", version.version)) }
}

pub(super) fn up(reply: &wire::UpReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    if reply.joined {
        output.line(format!("joined {} as {}", reply.organisation, reply.device))?;
        output.line(format!("this machine's fingerprint: {}", reply.fingerprint))?;
    } else {
        output.line(format!("up: {} in {}", reply.device, reply.organisation))?;
    }
    if !reply.account.is_empty() {
        output.line(format!("it works as the service account `{}`: no log-in is needed", reply.account))?;
    }
    if reply.pending {
        let what = if reply.account.is_empty() { "anybody can log in on it" } else { "it reaches anything" };
        return output.line(format!("an administrator must confirm this machine before {what}"));
    }
    let person = reply.joined && reply.account.is_empty();
    if person { output.line("next: `umbra login`") } else { Ok(()) }
}

pub(super) fn list(reply: &wire::ListReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    if !reply.connected {
        output.note("the controller is not connected: this list may be old (`umbra status` says more)");
    }
    let empty = match (reply.user.is_empty(), reply.pending) {
        (_, true) => "this machine waits for an administrator to confirm it",
        (true, false) => "nobody is logged in: `umbra login`",
        (false, false) => "there is nothing that you may ask for",
    };
    let row = |r: &wire::Resource| {
        let time = match (r.state.as_str(), r.ends_in_ms) {
            ("denied", Some(ms)) => format!("asks again in {}", span(ms)),
            (_, Some(ms)) => format!("{} left", span(ms)),
            (_, None) => String::new(),
        };
        let place = if r.hosts.is_empty() { r.addresses.join(", ") } else { r.hosts.join(", ") };
        [r.name.clone(), r.state.clone(), time, place, r.services.join(", "), r.reason.clone()]
    };
    let heads = ["NAME", "STATE", "TIME", "WHERE", "SERVICES", "REASON"];
    output.table(heads, reply.resources.iter().map(row).collect(), empty)
}

/// The first reason follows the name, the others get lines of their own.
fn because(name: &str, what: &str, reasons: &[String]) -> String {
    match reasons {
        [] => format!("{name}: {what}"),
        [one] => format!("{name}: {what}: {one}"),
        many => format!("{name}: {what}:\n  - {}", many.join("\n  - ")),
    }
}

fn lines(output: &mut Output, text: &str) -> Result<(), Failure> {
    text.lines().try_for_each(|line| output.line(line))
}

pub(super) fn connect(reply: &wire::ConnectReply, output: &mut Output) -> Result<(), Failure> {
    let written = output.json(reply)?;
    match reply.outcome.as_str() {
        "connected" if written => Ok(()),
        "connected" => {
            let time = reply.ends_in_ms.map(|ms| format!(", renewed while it may be, {} left now", span(ms)));
            output.line(format!("{}: connected{}", reply.resource, time.unwrap_or_default()))
        }
        "denied" => Err(Failure::new(Exit::Denied, because(&reply.resource, "denied", &reply.reasons))),
        _ => Err(Failure::new(Exit::NotConnected, because(&reply.resource, "not reachable", &reply.reasons))),
    }
}

pub(super) fn factors(reply: &wire::ListFactorsReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    let row =
        |f: &wire::Factor| [f.name.clone(), f.method.clone(), ago(Some(f.age_ms)), ago(f.used_ms_ago), f.id.clone()];
    let empty = "you have no second factor: `umbra mfa add` adds an authenticator app";
    output.table(["NAME", "METHOD", "ADDED", "USED", "ID"], reply.factors.iter().map(row).collect(), empty)?;
    if !reply.factors.is_empty() {
        output.line(format!("recovery codes left: {}", reply.recovery_codes))?;
    }
    if reply.locked_ms > 0 {
        output.line(format!("too many wrong codes: no code is looked at for {}", span(reply.locked_ms)))?;
    }
    Ok(())
}

/// What an app has to know: a QR code for its camera, and the same to type.
pub(super) fn begun(reply: &wire::BeginTotpReply, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? {
        return Ok(());
    }
    if let Ok(code) = qrcode::QrCode::new(reply.uri.as_bytes()) {
        let picture = code.render::<qrcode::render::unicode::Dense1x2>().build();
        picture.lines().try_for_each(|line| output.line(line))?;
    }
    output.line(format!("scan this with your authenticator app, or type its key: {}", reply.secret))
}

/// Recovery codes, shown once.
pub(super) fn recovery_codes(reply: &wire::RecoveryCodes, output: &mut Output) -> Result<(), Failure> {
    if output.json(reply)? || reply.codes.is_empty() {
        return Ok(());
    }
    output.line("recovery codes, each good once, for the day when your app is not at hand; keep them on paper:")?;
    reply.codes.iter().try_for_each(|code| output.line(format!("  {code}")))
}

pub(super) fn why(reply: &wire::WhyReply, output: &mut Output) -> Result<(), Failure> {
    let exit = match reply.outcome.as_str() {
        "permitted" => None,
        "denied" | "ended" => Some(Exit::Denied),
        _ => Some(Exit::NotConnected),
    };
    if !output.json(reply)? {
        let what = match reply.outcome.as_str() {
            "ended" => "access ended",
            "unreachable" => "not reachable",
            other => other,
        };
        lines(output, &because(&reply.resource, what, &reply.reasons))?;
        let age = if reply.asked { "asked just now".to_owned() } else { format!("said {}", ago(Some(reply.age_ms))) };
        output.line(format!("  ({age})"))?;
    }
    match exit {
        None => Ok(()),
        Some(exit) => Err(Failure::new(exit, format!("{} is not reachable for you now", reply.resource))),
    }
}

pub(super) fn status(reply: &wire::StatusReply, output: &mut Output) -> Result<(), Failure> {
    let connected = reply.controller.as_ref().is_some_and(|c| c.connected);
    if !output.json(reply)? {
        people(reply, output)?;
    }
    if connected { Ok(()) } else { Err(Failure::new(Exit::NotConnected, not_connected(reply))) }
}

fn not_connected(reply: &wire::StatusReply) -> String {
    match (&reply.controller, reply.state.as_str()) {
        (Some(c), _) => format!("not connected to the controller: {}", c.trouble),
        (None, "joining") => "this machine is just coming up".to_owned(),
        (None, _) if !reply.trouble.is_empty() => format!("this machine is not connected: {}", reply.trouble),
        (None, _) if reply.organisation.is_empty() => {
            "this machine has not joined an organisation: `umbra up --join FILE`".to_owned()
        }
        (None, _) => "this machine is down: `umbra up`".to_owned(),
    }
}

fn people(reply: &wire::StatusReply, output: &mut Output) -> Result<(), Failure> {
    output.field("state", &reply.state)?;
    if !reply.organisation.is_empty() {
        let fingerprint = &reply.organisation_fingerprint;
        output.field("organisation", format!("{}, fingerprint {fingerprint}", reply.organisation))?;
    }
    let Some(controller) = &reply.controller else { return Ok(()) };
    output.field(
        "device",
        format!("{} ({}), fingerprint {}", reply.device, reply.addresses.join(", "), reply.fingerprint),
    )?;
    if reply.pending {
        output.field("confirmed", "no: an administrator must confirm this machine first")?;
    }
    let connected = if controller.connected { "connected" } else { "NOT CONNECTED" };
    let word = format!(
        "last word {}, last handshake {}",
        ago(controller.last_word_ms_ago),
        ago(controller.last_handshake_ms_ago)
    );
    output.field("controller", format!("{connected} at {}; {word}", controller.endpoint))?;
    if !controller.connected && !reply.grants.is_empty() {
        output.field("", "what is granted goes on until the times below")?;
    }
    match &reply.session {
        Some(s) if s.workload => output.field("workload", format!("of the service account `{}`; no log-in", s.user))?,
        Some(s) => {
            let given = format!("; second factor ({}) given {}", s.factor, ago(s.factor_ms_ago));
            let factor = if s.factor.is_empty() { String::new() } else { given };
            output.field("user", format!("{}, {} left{factor}", s.user, span(s.ends_in_ms)))?;
        }
        None => output.field("user", "nobody is logged in: `umbra login`")?,
    }
    output.field("resources", format!("{} in the catalogue (state {})", reply.resources, reply.revision))?;
    for pairing in &reply.pairings {
        let alive = if pairing.alive { "alive" } else { "NO ANSWER" };
        output.field(
            "gateway",
            format!(
                "{} {alive} at {}; handshake {}, last packet {}, {} bytes in, {} out",
                pairing.gateway,
                pairing.endpoint,
                ago(pairing.last_handshake_ms_ago),
                ago(pairing.last_received_ms_ago),
                pairing.bytes_received,
                pairing.bytes_sent
            ),
        )?;
        for grant in reply.grants.iter().filter(|g| g.pairing == pairing.id) {
            output.field("", format!("{}: {} left", grant.resource, span(grant.ends_in_ms)))?;
        }
    }
    if let Some(dns) = &reply.dns {
        let state = match (dns.managed, dns.trouble.as_str()) {
            (true, _) => {
                format!("{} is ours: {} names here, the rest to {}", dns.file, dns.names, dns.forwarded_to.join(", "))
            }
            (false, "") => format!("not managed; the resolver is at {}", dns.resolvers.join(" and ")),
            (false, trouble) => format!("NOT WORKING: {trouble}"),
        };
        output.field("dns", state)?;
    }
    if !reply.without.is_empty() {
        output.field("packets", format!("slower than they could be: {}", reply.without))?;
    }
    for drop in &reply.drops {
        output.field("dropped", format!("{} {}", drop.count, drop.reason))?;
    }
    for finding in &reply.findings {
        output.field("note", finding)?;
    }
    Ok(())
}
