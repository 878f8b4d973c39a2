//! How does a person add a second factor, and give one?

use super::args::{AddArgs, GiveArgs, Mfa};
use super::browser::{self, Browser};
use super::passkey;
use super::run::Client;
use super::{input, show};
use node::cli::{Failure, Output};
use proto::local as wire;
use std::io::IsTerminal as _;

pub(super) async fn run(client: &mut Client, command: Mfa, output: &mut Output) -> Result<(), Failure> {
    match command {
        Mfa::Ls => {
            let reply = client.list_factors(wire::ListFactorsRequest {}).await?.into_inner();
            show::factors(&reply, output)
        }
        Mfa::Add(options) => {
            let (name, codes) = if options.passkey {
                add_passkey(client, options, output).await?
            } else {
                add_app(client, options, output).await?
            };
            output.note(format!("`{name}` is a second factor of yours now"));
            show::recovery_codes(&codes, output)
        }
        Mfa::Verify(options) => {
            let methods =
                if options.code_file.is_some() || options.passkey { Vec::new() } else { held(client).await? };
            let method = verify(client, &options, &methods, "", output).await?;
            if output.json(&method)? {
                Ok(())
            } else {
                output.line(format!("a second factor was given: {}", method.method))
            }
        }
        Mfa::Rm(options) => {
            let request = wire::RemoveFactorRequest { factor: options.factor.clone() };
            let reply = client.remove_factor(request).await?.into_inner();
            if output.json(&reply)? { Ok(()) } else { output.line(format!("removed `{}`", options.factor)) }
        }
        Mfa::RecoveryCodes => {
            let codes = client.renew_recovery_codes(wire::RenewRecoveryCodesRequest {}).await?.into_inner();
            show::recovery_codes(&codes, output)
        }
    }
}

async fn add_app(
    client: &mut Client,
    options: AddArgs,
    output: &mut Output,
) -> Result<(String, wire::RecoveryCodes), Failure> {
    let name = options.name.unwrap_or_else(|| "app".to_owned());
    let begun = client.begin_totp(wire::BeginTotpRequest { name: name.clone() }).await?.into_inner();
    show::begun(&begun, output)?;
    let code = input::code(None)?.expose().clone();
    let codes = client.confirm_totp(wire::ConfirmTotpRequest { id: begun.id, code }).await?.into_inner();
    Ok((name, codes))
}

async fn add_passkey(
    client: &mut Client,
    options: AddArgs,
    output: &Output,
) -> Result<(String, wire::RecoveryCodes), Failure> {
    let name = options.name.unwrap_or_else(|| "passkey".to_owned());
    let question = async |port: u16| {
        let request = wire::BeginPasskeyRequest { name: name.clone(), port: port.into() };
        Ok(client.begin_passkey(request).await?.into_inner())
    };
    let what = passkey::What::Create;
    let answer = passkey::ask(what, question, Browser::new(options.no_browser), output).await?;
    let codes = client.confirm_passkey(wire::PasskeyAnswer { answer }).await?.into_inner();
    Ok((name, codes))
}

/// The methods by which whoever is logged in could give a second factor.
async fn held(client: &mut Client) -> Result<Vec<String>, Failure> {
    let list = client.list_factors(wire::ListFactorsRequest {}).await?.into_inner();
    let recovery = (list.recovery_codes > 0).then(|| "recovery-code".to_owned());
    Ok(list.factors.into_iter().map(|factor| factor.method).chain(recovery).collect())
}

/// As policies call it.
const PASSKEY: &str = "passkey-local";

/// Is it to be a passkey, of these methods? What was asked for goes first; then what alone would do; then what this machine can do.
fn is_passkey(give: &GiveArgs, methods: &[String], desktop: bool) -> bool {
    let (passkeys, others): (Vec<_>, Vec<_>) = methods.iter().partition(|method| *method == PASSKEY);
    give.passkey
        || (give.code_file.is_none() && !passkeys.is_empty() && (others.is_empty() || desktop || give.no_browser))
}

/// Gives a second factor, for a resource or for none in particular.
async fn verify(
    client: &mut Client,
    give: &GiveArgs,
    methods: &[String],
    resource: &str,
    output: &Output,
) -> Result<wire::VerifyFactorReply, Failure> {
    if !is_passkey(give, methods, browser::has_desktop()) {
        let code = input::code(give.code_file.as_deref())?.expose().clone();
        return Ok(client.verify_factor(wire::VerifyFactorRequest { code }).await?.into_inner());
    }
    let question = async |port: u16| {
        let request = wire::AskPasskeyRequest { resource: resource.to_owned(), port: port.into() };
        Ok(client.ask_passkey(request).await?.into_inner())
    };
    let what = passkey::What::Get { resource };
    let answer = passkey::ask(what, question, Browser::new(give.no_browser), output).await?;
    Ok(client.verify_passkey(wire::PasskeyAnswer { answer }).await?.into_inner())
}

/// Gives a second factor where that turns the refusal into access: from the file, or asked for there and then. Whether it was given.
pub(super) async fn step_up(
    client: &mut Client,
    reply: &wire::ConnectReply,
    give: &GiveArgs,
    output: &Output,
) -> Result<bool, Failure> {
    // A program that has nobody to ask opens no browser.
    let somebody = give.code_file.is_some() || give.passkey || std::io::stdin().is_terminal();
    if reply.outcome != "denied" || reply.step_up.is_empty() || !somebody {
        return Ok(false);
    }
    output.note(format!("{} takes a second factor ({})", reply.resource, reply.step_up.join(" or ")));
    verify(client, give, &reply.step_up, &reply.resource, output).await.map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_goes_first_then_what_would_do_then_what_the_machine_can_do() {
        let give = |file: bool, passkey: bool, no_browser: bool| GiveArgs {
            code_file: file.then(|| "code".into()),
            passkey,
            no_browser,
        };
        let plain = give(false, false, false);
        for (give, methods, desktop, is) in [
            (&plain, &["totp", "passkey-local", "recovery-code"][..], true, true),
            (&plain, &["totp", "passkey-local"], false, false),
            (&plain, &["passkey-local"], false, true),
            (&plain, &["totp", "recovery-code"], true, false),
            (&plain, &[], true, false),
            (&give(true, false, false), &["passkey-local"], true, false),
            (&give(false, true, false), &["totp"], false, true),
            (&give(false, false, true), &["totp", "passkey-local"], false, true),
            (&give(false, false, true), &["totp"], false, false),
        ] {
            let methods: Vec<String> = methods.iter().map(|method| (*method).to_owned()).collect();
            assert_eq!(is_passkey(give, &methods, desktop), is, "{give:?} {methods:?} {desktop}");
        }
    }
}
