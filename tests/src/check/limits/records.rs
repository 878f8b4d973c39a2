//! What is filled by calls, many of them: grants of a device, names below a suffix?

use super::stage::Stage;
use super::{Arguments, said};
use anyhow::{Context as _, ensure};
use model::limits::{GRANTS_PER_DEVICE_MAX, SUFFIX_NAMES_PER_MINUTE};
use prost::Message;
use proto::v1::connect_reply::Result as Outcome;
use proto::{admin as wire, v1};

/// Code of gRPC: a bound is reached.
const EXHAUSTED: i32 = 8;

fn resource(number: usize) -> String {
    format!("many-{number}")
}

/// Each a resource of its own; some are open already, by the attacker's own client.
pub fn grants(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let add = (0..=GRANTS_PER_DEVICE_MAX).map(|n| wire::AddResourceRequest {
        name: resource(n),
        site: "hq".to_owned(),
        hosts: vec![format!("{}.corp.example", resource(n))],
        tcp: vec!["443".to_owned()],
        ..Default::default()
    });
    stage.administer("AddResource", add)?;
    let ids = stage.resources("many-")?;
    ensure!(ids.len() == GRANTS_PER_DEVICE_MAX + 1, "{} resources", ids.len());
    let before = stage.attackers_grants()?;
    let (own, beyond) = ids.split_at(GRANTS_PER_DEVICE_MAX - before);
    // The first makes a tunnel, the others join it.
    let [first, rest @ ..] = own else { anyhow::bail!("{before} grants before") };
    let (grant, pairing) = permitted(connect(stage, std::slice::from_ref(first), None)?.pop())?;
    for answer in connect(stage, rest, Some(&pairing))? {
        permitted(Some(answer))?;
    }
    ensure!(stage.attackers_grants()? == GRANTS_PER_DEVICE_MAX, "{} are open", stage.attackers_grants()?);
    let one_more = beyond.get(..1).context("none is left")?;
    let why = denied(connect(stage, one_more, Some(&pairing))?.pop())?;
    ensure!(why.contains(&format!("{GRANTS_PER_DEVICE_MAX} grants already")), "{why}");
    ensure!(stage.trail_says(&why)?, "the audit trail does not know of the deny");
    stage.attack("/umbra.v1.Devices/Disconnect", [v1::DisconnectRequest { grant }])?;
    permitted(connect(stage, one_more, Some(&pairing))?.pop())?;
    said(&format!(
        "{GRANTS_PER_DEVICE_MAX} are open, one more is denied and recorded, and open when one is given back"
    ))?;
    let delete = (0..=GRANTS_PER_DEVICE_MAX).map(|n| wire::DeleteResourceRequest { resource: resource(n) });
    stage.administer("DeleteResource", delete)?;
    stage.until("the grants of resources that are gone end", || Ok(stage.attackers_grants()? <= before))?;
    stage.attacker_reaches()
}

fn connect(stage: &Stage, resources: &[String], pairing: Option<&str>) -> anyhow::Result<Vec<Outcome>> {
    let wish = |resource: &String| v1::ConnectRequest {
        resource: resource.clone(),
        data_key: vec![9; 32],
        pairings: pairing.map(str::to_owned).into_iter().collect(),
        avoid_gateways: Vec::new(),
        moves: String::new(),
    };
    let answers = stage.attack("/umbra.v1.Devices/Connect", resources.iter().map(wish))?;
    let outcome = |bytes: Vec<u8>| v1::ConnectReply::decode(bytes.as_slice())?.result.context("an empty answer");
    answers.into_iter().map(outcome).collect()
}

fn permitted(outcome: Option<Outcome>) -> anyhow::Result<(String, String)> {
    match outcome.context("no answer")? {
        Outcome::Permit(permit) => Ok((permit.grant, permit.pairing)),
        Outcome::Deny(deny) => anyhow::bail!("at the limit it was denied: {:?}", deny.reasons),
    }
}

fn denied(outcome: Option<Outcome>) -> anyhow::Result<String> {
    match outcome.context("no answer")? {
        Outcome::Deny(deny) => Ok(deny.reasons.join("; ")),
        Outcome::Permit(_) => anyhow::bail!("one beyond was permitted"),
    }
}

/// Twice as many as there may be in a minute, at once.
pub fn suffix_names(stage: &mut Stage, _: &Arguments) -> anyhow::Result<()> {
    let words = ["resource", "add", "apps", "--site", "hq", "--host", "*.apps.corp.example", "--tcp", "443"];
    stage.done(&words.map(str::to_owned))?;
    let counted = || stage.counted(&["node_too_often"]);
    let before = counted()?;
    let most = usize::try_from(SUFFIX_NAMES_PER_MINUTE)?;
    let name = |n: usize| v1::NameAddressRequest { name: format!("n{n}.apps.corp.example") };
    let ask = |from: usize, to: usize| stage.codes("/umbra.v1.Devices/NameAddress", (from..to).map(name));
    let codes = ask(0, 2 * most)?;
    let refused = codes.iter().filter(|code| **code == EXHAUSTED).count();
    ensure!(codes.iter().take(most).all(|code| *code == 0), "at the limit one was refused: {codes:?}");
    ensure!(refused > 0 && codes.iter().all(|code| [0, EXHAUSTED].contains(code)), "{codes:?}");
    ensure!(counted()? == before + u64::try_from(refused)?, "not each of them is counted");
    let mut next = 2 * most;
    stage.until("the next name", || {
        next += 1;
        Ok(ask(next, next + 1)? == [0])
    })?;
    said(&format!(
        "{} got addresses, {refused} were refused and counted, and a moment later one more gets its own",
        2 * most - refused
    ))
}
