//! Which call does each command make?

use super::args::{Args, Command, DownArgs, UpArgs};
use super::{login, show};
use model::limits::{JOIN_BYTES_MAX, LOGIN_NOTICE, RPC_MESSAGE_MAX};
use model::time::Clock as _;
use node::cli::output::span;
use node::cli::{Failure, Output};
use node::local::Program;
use proto::join::{JoinFile, JoinKind};
use proto::local as wire;
use proto::local::local_client::LocalClient;
use std::path::Path;
use std::time::Duration;
use tonic::transport::Channel;

pub(super) type Client = LocalClient<Channel>;

/// How long `down` waits for the daemon to be there again.
const BACK_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(args: Args, output: &mut Output) -> Result<(), Failure> {
    let socket = args.socket.as_path();
    match args.command {
        Command::Daemon(_) | Command::Guardian(_) => Ok(()),
        Command::Version => show::version(output),
        Command::Up(options) => up(socket, options, output).await,
        Command::Login(options) => login::run(&mut connect(socket).await?, options, output).await,
        Command::Down(options) if options.force => force_down(socket, &options, output).await,
        Command::Down(_) => down(socket, output).await,
        Command::Logout => {
            let reply = connect(socket).await?.logout(wire::LogoutRequest {}).await?.into_inner();
            if output.json(&reply)? { Ok(()) } else { output.line("logged out") }
        }
        Command::Ls => {
            let mut client = connect(socket).await?;
            let reply = client.list(wire::ListRequest {}).await?.into_inner();
            show::list(&reply, output)?;
            remind(&mut client, output).await
        }
        Command::Status => {
            let mut client = connect(socket).await?;
            let reply = client.status(wire::StatusRequest {}).await?.into_inner();
            show::status(&reply, output)?;
            remind(&mut client, output).await
        }
        Command::Mfa(command) => super::mfa::run(&mut connect(socket).await?, command, output).await,
        Command::Connect(options) => {
            let mut client = connect(socket).await?;
            let request = wire::ConnectRequest { resource: options.resource };
            let mut reply = client.connect(request.clone()).await?.into_inner();
            if super::mfa::step_up(&mut client, &reply, &options.factor, output).await? {
                reply = client.connect(request).await?.into_inner();
            }
            show::connect(&reply, output)?;
            remind(&mut client, output).await
        }
        Command::Why(options) => {
            let request = wire::WhyRequest { resource: options.resource };
            let reply = connect(socket).await?.why(request).await?.into_inner();
            show::why(&reply, output)
        }
    }
}

/// The daemon, for the errors of those who cannot reach it.
const DAEMON: Program = Program { name: "client", start: "umbra daemon" };

/// Connects to the daemon, or says what to do.
async fn connect(path: &Path) -> Result<Client, Failure> {
    let channel = node::local::connect(path, DAEMON).await?;
    Ok(LocalClient::new(channel).max_decoding_message_size(RPC_MESSAGE_MAX))
}

/// The text of a join file, once its organisation is agreed to.
fn join_file(options: &UpArgs, output: &Output) -> Result<String, Failure> {
    let Some(path) = &options.join else { return Ok(String::new()) };
    let unreadable = |why: String| Failure::failed(format!("the join file {} cannot be read: {why}", path.display()));
    let about = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if about.len() > JOIN_BYTES_MAX as u64 {
        return Err(unreadable("it is too large for a join file".to_owned()));
    }
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
    let wall = host::clock::SystemClock::new().wall();
    let file = JoinFile::parse(&text, JoinKind::Device, wall).map_err(Failure::failed)?;
    token_fits(file.needs_token, options.token_file.is_some()).map_err(Failure::usage)?;
    output.note(format!("organisation  {}", file.trust_domain));
    output.note(format!("fingerprint   {}", file.fingerprint()));
    let zones: Vec<&str> = file.zones.iter().map(model::net::HostName::as_str).collect();
    if !zones.is_empty() {
        output.note(format!("its zones     {}", zones.join(", ")));
    }
    let prefixes: Vec<String> = file.prefixes.iter().map(ToString::to_string).collect();
    if !prefixes.is_empty() {
        output.note(format!("its networks  {}", prefixes.join(", ")));
    }
    if options.yes || node::cli::input::agree("Is that what your administrator told you?")? {
        Ok(text)
    } else {
        Err(Failure::failed("not joined: the organisation was not confirmed"))
    }
}

/// Is there a token where one is needed, and only there?
pub(crate) fn token_fits(needed: bool, given: bool) -> Result<(), &'static str> {
    match (needed, given) {
        (true, false) => Err("this join file needs a token of this machine's own platform: --token-file FILE"),
        (false, true) => Err("this join file takes no token: leave --token-file out"),
        _ => Ok(()),
    }
}

async fn up(socket: &Path, options: UpArgs, output: &mut Output) -> Result<(), Failure> {
    let join_file = join_file(&options, output)?;
    let token = options.token_file.as_deref().map(node::cli::input::token).transpose()?;
    let mut client = connect(socket).await?;
    if !join_file.is_empty() {
        output.note("joining...");
    }
    let reply = client
        .up(wire::UpRequest {
            join_file,
            name: options.name,
            identity_token: token.map(|token| token.expose().clone()).unwrap_or_default(),
        })
        .await?
        .into_inner();
    show::up(&reply, output)
}

async fn down(socket: &Path, output: &mut Output) -> Result<(), Failure> {
    let reply = connect(socket).await?.down(wire::DownRequest {}).await?.into_inner();
    if reply.was_up {
        // The daemon starts anew: the next command shall find it.
        let back = async {
            while tokio::net::UnixStream::connect(socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        // The old image still answers until its answers are delivered.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let _ = tokio::time::timeout(BACK_MAX, back).await;
    }
    if output.json(&reply)? {
        return Ok(());
    }
    output.line(if reply.was_up {
        "down; `umbra up` connects this machine again"
    } else {
        "this machine was down already"
    })
}

/// Undoes what a dead daemon left. One that lives does that itself, and better: it also ends what it holds.
async fn force_down(socket: &Path, options: &DownArgs, output: &mut Output) -> Result<(), Failure> {
    let status = async {
        connect(socket).await?.status(wire::StatusRequest {}).await?;
        Ok(())
    };
    let instead = "`umbra down` takes this machine down";
    node::leftovers::refuse_if_alive(socket, "daemon", status, instead).await?;
    host::checks::net_admin().map_err(Failure::failed)?;
    let mut report = crate::leftovers::clear(&options.state, &options.resolv_conf, &options.device).await;
    if node::Identity::load(&options.state).is_ok()
        && let Err(error) = crate::daemon::set_down(&options.state)
    {
        report.failed.push(format!("the note that this machine is to be down: {error:#}"));
    }
    report.tell("`umbra up` connects this machine again, once a daemon runs", output)
}

/// Tells a person in time that their log-in ends.
async fn remind(client: &mut Client, output: &mut Output) -> Result<(), Failure> {
    let reply = client.status(wire::StatusRequest {}).await?.into_inner();
    if let Some(text) = reply.session.and_then(|session| reminder(&session)) {
        output.note(text);
    }
    Ok(())
}

fn reminder(session: &wire::Session) -> Option<String> {
    let near = !session.workload && Duration::from_millis(session.ends_in_ms) < LOGIN_NOTICE;
    near.then(|| {
        let left = span(session.ends_in_ms);
        format!("your log-in ends in {left}: with `umbra login --extend` it goes on, and what is open stays open")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testkit::Folder;

    #[test]
    fn people_are_told_in_time_that_their_log_in_ends() {
        let most = u64::try_from(LOGIN_NOTICE.as_millis()).unwrap();
        let session = |ends_in_ms, workload| wire::Session { ends_in_ms, workload, ..wire::Session::default() };
        assert_eq!(reminder(&session(most, false)), None);
        assert_eq!(reminder(&session(0, true)), None, "a workload has none");
        let told = reminder(&session(most - 1, false)).unwrap();
        assert!(told.contains("umbra login --extend"), "{told}");
    }

    #[test]
    fn a_join_file_is_read_up_to_its_bound() {
        let folder = Folder::new();
        let path = folder.path().join("join");
        let read = |bytes: usize| {
            std::fs::write(&path, vec![b' '; bytes]).unwrap();
            let options = UpArgs { join: Some(path.clone()), token_file: None, yes: true, name: "desk".to_owned() };
            join_file(&options, &Output::keeping(false)).unwrap_err().text
        };
        assert!(!read(JOIN_BYTES_MAX).contains("too large"), "read, and found to be none");
        assert!(read(JOIN_BYTES_MAX + 1).contains("too large for a join file"));
    }
}
