//! How does a person add a second factor, and give one?

use super::args::Mfa;
use super::run::Client;
use super::{input, show};
use node::cli::{Failure, Output};
use proto::local as wire;
use std::io::IsTerminal as _;
use std::path::Path;

pub(super) async fn run(client: &mut Client, command: Mfa, output: &mut Output) -> Result<(), Failure> {
    match command {
        Mfa::Ls => {
            let reply = client.list_factors(wire::ListFactorsRequest {}).await?.into_inner();
            show::factors(&reply, output)
        }
        Mfa::Add(options) => {
            let begun = client.begin_totp(wire::BeginTotpRequest { name: options.name.clone() }).await?.into_inner();
            show::begun(&begun, output)?;
            let code = input::code(None)?.expose().clone();
            let request = wire::ConfirmTotpRequest { id: begun.id, code };
            let codes = client.confirm_totp(request).await?.into_inner();
            output.note(format!("`{}` is a second factor of yours now", options.name));
            show::recovery_codes(&codes, output)
        }
        Mfa::Verify(options) => {
            let method = verify(client, options.code_file.as_deref()).await?;
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

async fn verify(client: &mut Client, file: Option<&Path>) -> Result<wire::VerifyFactorReply, Failure> {
    let code = input::code(file)?.expose().clone();
    Ok(client.verify_factor(wire::VerifyFactorRequest { code }).await?.into_inner())
}

/// Gives a second factor where that turns the refusal into access: from the file, or asked for there and then. Whether it was given.
pub(super) async fn step_up(
    client: &mut Client,
    reply: &wire::ConnectReply,
    file: Option<&Path>,
    output: &Output,
) -> Result<bool, Failure> {
    let somebody = file.is_some() || std::io::stdin().is_terminal();
    if reply.outcome != "denied" || reply.step_up.is_empty() || !somebody {
        return Ok(false);
    }
    output.note(format!("{} takes a second factor ({})", reply.resource, reply.step_up.join(" or ")));
    verify(client, file).await.map(|_| true)
}
