//! How does a person log in? With a password, or at an identity provider: in this machine's browser, or with a code that is typed
//! in elsewhere.

use super::args::LoginArgs;
use super::browser::Browser;
use super::callback::{self, Brought};
use super::input;
use super::run::Client;
use crate::loopback::{Loopback, LoopbackError};
use node::cli::output::span;
use node::cli::{Exit, Failure, Output};
use proto::local as wire;
use std::time::Duration;

/// How long the browser is waited for: as long as the controller does.
const BROWSER_MAX: Duration = model::limits::SIGN_IN_LIFE;

pub(super) async fn run(client: &mut Client, mut options: LoginArgs, output: &mut Output) -> Result<(), Failure> {
    if options.extend {
        let session = client.status(wire::StatusRequest {}).await?.into_inner().session;
        let Some(session) = session.filter(|session| !session.workload) else {
            return Err(Failure::failed("nobody is logged in here, so there is nothing to extend: run `umbra login`"));
        };
        if options.user.as_ref().is_some_and(|user| *user != session.user) {
            return Err(Failure::failed(format!("{} is logged in here: nobody else goes on with that", session.user)));
        }
        if options.password_file.is_some() {
            options.user = Some(session.user);
        }
    }
    let by_password = options.user.is_some() || options.password_file.is_some();
    let provider = if by_password { None } else { provider(client, &options).await? };
    let reply = match provider {
        None => password(client, options).await?,
        Some(provider) if options.device_code => device_code(client, &provider, output).await?,
        Some(provider) => browser(client, &provider, options.no_browser, output).await?,
    };
    if output.json(&reply)? {
        return Ok(());
    }
    output.line(format!("logged in as {}, for {}", reply.user, span(reply.ends_in_ms)))
}

async fn password(client: &mut Client, options: LoginArgs) -> Result<wire::LoginReply, Failure> {
    let user = input::user(options.user)?;
    let password = input::password(options.password_file.as_deref())?;
    let request = wire::LoginRequest { user, password: password.expose().clone() };
    Ok(client.login(request).await?.into_inner())
}

/// The provider that is meant; none where a password is.
async fn provider(client: &mut Client, options: &LoginArgs) -> Result<Option<wire::Provider>, Failure> {
    let wanted = options.provider.is_some() || options.device_code || options.no_browser;
    let mut all = match client.list_providers(wire::ListProvidersRequest {}).await {
        Ok(reply) => reply.into_inner().providers,
        // Who does not ask for a provider is told what is wrong by what they do ask for.
        Err(_) if !wanted => return Ok(None),
        Err(status) => return Err(status.into()),
    };
    let names = all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = &options.provider {
        let found = all.into_iter().find(|one| one.name == *name);
        let why = if names.is_empty() { "there is none".to_owned() } else { format!("there are: {names}") };
        return found.map(Some).ok_or_else(|| Failure::failed(format!("there is no such identity provider; {why}")));
    }
    match (all.len(), wanted) {
        (1, _) => Ok(all.pop()),
        (0, false) => Ok(None),
        (0, true) => Err(Failure::failed("this organisation has no identity provider: log in with --user NAME")),
        _ => Err(Failure::failed(format!("there are several identity providers: name one with --provider ({names})"))),
    }
}

async fn browser(
    client: &mut Client,
    provider: &wire::Provider,
    quiet: bool,
    output: &mut Output,
) -> Result<wire::LoginReply, Failure> {
    let port = u16::try_from(provider.redirect_port).unwrap_or_default();
    let loopback = Loopback::bind_for(&provider.redirect_host, port).await.map_err(|error| match error {
        LoopbackError::Listen(error) if port != 0 => {
            Failure::failed(format!("the browser cannot come back to port {port} of this machine: {error}"))
        }
        error => Failure::failed(error),
    })?;
    let request = wire::BeginSignInRequest { provider: provider.name.clone(), port: loopback.port().into() };
    let begun = client.begin_sign_in(request).await?.into_inner();
    output.note(format!("sign in at {} with this address:", provider.name));
    output.note(format!("  {}", begun.url));
    Browser::new(quiet).show(&begun.url, output);
    let state = begun.state;
    let waiting = loopback.serve(BROWSER_MAX, move |asked| callback::turn(asked, &state));
    let brought = waiting.await.map_err(Failure::failed)?;
    match brought {
        Brought::Code { code, state, iss } => {
            let request = wire::FinishSignInRequest { id: begun.id, code, state, iss };
            Ok(client.finish_sign_in(request).await?.into_inner())
        }
        Brought::Error(error) => {
            Err(Failure::new(Exit::Denied, format!("the identity provider did not let you in: {error}")))
        }
    }
}

async fn device_code(
    client: &mut Client,
    provider: &wire::Provider,
    output: &mut Output,
) -> Result<wire::LoginReply, Failure> {
    let request = wire::BeginCodeSignInRequest { provider: provider.name.clone() };
    let begun = client.begin_code_sign_in(request).await?.into_inner();
    output.note(format!("open {} on any machine and type in this code within {}:", begun.uri, span(begun.ends_in_ms)));
    output.note(format!("  {}", begun.user_code));
    output.note("only type in a code that you asked for yourself");
    let mut wait = begun.interval_ms;
    loop {
        tokio::time::sleep(Duration::from_millis(wait.clamp(100, 60_000))).await;
        let reply = client.poll_sign_in(wire::PollSignInRequest { id: begun.id.clone() }).await?.into_inner();
        match reply.login {
            Some(login) => return Ok(login),
            None => wait = reply.wait_ms,
        }
    }
}
