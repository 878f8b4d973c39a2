//! A program on a workload's machine: it gets its identity through a SPIFFE library that knows nothing of Umbra, prints what
//! it got, or speaks TLS with another program in which each checks the other.

use anyhow::{Context as _, anyhow, ensure};
use clap::Subcommand;
use serde_json::{Value, json};
use spiffe::{JwtSvid, WorkloadApiClient, X509Context, X509Source};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::StreamExt as _;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// What does not come for so long never comes.
const PATIENCE: Duration = Duration::from_secs(60);
/// A visitor that says nothing for so long makes the next one wait no longer.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_MAX: u64 = 4_096;

/// How it is called.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The socket
    #[arg(long, default_value = "/run/umbra/workload.sock")]
    socket: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Print so many states of the stream of certificates, one JSON line each
    X509 { states: usize },
    /// Get a token for this audience, check it with the bundle, and print it
    Token { audience: String },
    /// Have a token checked
    Validate { audience: String, token: String },
    /// Call without the header
    Bare,
    /// Say hello over TLS to whoever is called PEER
    Serve { listen: SocketAddr, peer: String },
    /// Be greeted over TLS by somebody who is called PEER
    Call { address: String, peer: String },
}

/// Runs it; a refusal is printed, and fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match runtime.block_on(work(arguments)) {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(refusal) => {
            writeln!(io::stderr(), "{refusal:?}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn say(value: &Value) -> io::Result<()> {
    writeln!(io::stdout(), "{value}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn work(arguments: &Arguments) -> anyhow::Result<()> {
    let endpoint = format!("unix://{}", arguments.socket.display());
    let source = async || {
        let built = timeout(PATIENCE, X509Source::builder().endpoint(&endpoint).build()).await;
        Ok::<_, anyhow::Error>(built.context("no certificate came")??)
    };
    match &arguments.what {
        What::Bare => return bare(arguments).await,
        What::Serve { listen, peer } => return serve(source().await?, *listen, peer).await,
        What::Call { address, peer } => return call(source().await?, address, peer).await,
        _ => {}
    }
    let client = WorkloadApiClient::connect_to(&endpoint).await?;
    match &arguments.what {
        What::X509 { states } => {
            let mut stream = client.stream_x509_contexts().await?;
            for _ in 0..*states {
                let state = timeout(PATIENCE, stream.next()).await.context("no further state came")?;
                say(&shown(&state.context("the stream ended")??)?)?;
            }
        }
        What::Token { audience } => {
            let svid = client.fetch_jwt_svid([audience], None).await?;
            let bundles = client.fetch_jwt_bundles().await?;
            let read = JwtSvid::parse_and_validate(svid.token(), &bundles, &[audience])?;
            let other = JwtSvid::parse_and_validate(svid.token(), &bundles, &["somebody.else"]);
            ensure!(other.is_err(), "a token for {audience} was good for somebody else");
            say(&json!({ "id": read.spiffe_id().to_string(), "token": svid.token() }))?;
        }
        What::Validate { audience, token } => {
            let read = client.validate_jwt_token(audience, token).await?;
            say(&json!({ "id": read.spiffe_id().to_string() }))?;
        }
        What::Bare | What::Serve { .. } | What::Call { .. } => {}
    }
    Ok(())
}

/// A state of the stream: the first certificate, and the CAs with which it is checked.
fn shown(state: &X509Context) -> anyhow::Result<Value> {
    let svid = state.default_svid().context("no certificate")?;
    let (_, leaf) = X509Certificate::from_der(svid.leaf().as_bytes())?;
    let bundle = state.bundle_set().get(svid.spiffe_id().trust_domain()).context("no bundle")?;
    let authorities: Vec<_> = bundle.authorities().iter().map(|one| hex(one.as_bytes())).collect();
    let signed = bundle.authorities().iter().any(|one| {
        let read = X509Certificate::from_der(one.as_bytes());
        read.is_ok_and(|(_, authority)| leaf.verify_signature(Some(authority.public_key())).is_ok())
    });
    ensure!(signed, "no authority of the bundle signed the certificate");
    let ids: Vec<_> = state.svids().iter().map(|one| one.spiffe_id().to_string()).collect();
    Ok(json!({
        "id": svid.spiffe_id().to_string(), "ids": ids, "bundle": authorities,
        "serial": leaf.raw_serial_as_string(), "ends": leaf.validity().not_after.timestamp(),
    }))
}

async fn bare(arguments: &Arguments) -> anyhow::Result<()> {
    use proto::spiffe as wire;
    let program = node::local::Program { name: "client", start: "umbra daemon" };
    let channel = node::local::connect(&arguments.socket, program).await.map_err(|failure| anyhow!("{failure:?}"))?;
    let mut api = wire::spiffe_workload_api_client::SpiffeWorkloadApiClient::new(channel);
    api.fetch_x509_bundles(wire::X509BundlesRequest {}).await?;
    Ok(())
}

/// What the other end of a connection is called.
fn called(certificates: Option<&[rustls::pki_types::CertificateDer<'_>]>) -> anyhow::Result<String> {
    let leaf = certificates.and_then(<[_]>::first).context("it showed no certificate")?;
    let (_, leaf) = X509Certificate::from_der(leaf)?;
    let names = leaf.subject_alternative_name()?.context("no name")?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(id)] => Ok((*id).to_owned()),
        _ => Err(anyhow!("not one name")),
    }
}

async fn serve(source: X509Source, listen: SocketAddr, peer: &str) -> anyhow::Result<()> {
    let config = mtls_server(source).authorize(authorizer::exact([peer])?).build()?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(listen).await?;
    writeln!(io::stdout(), "listening")?;
    loop {
        let (stream, _) = listener.accept().await?;
        let greeted = async {
            let mut stream = acceptor.accept(stream).await?;
            let hello = format!("hello {}\n", called(stream.get_ref().1.peer_certificates())?);
            stream.write_all(hello.as_bytes()).await?;
            stream.shutdown().await?;
            Ok::<_, anyhow::Error>(hello)
        };
        match timeout(HANDSHAKE, greeted).await {
            Ok(Ok(hello)) => write!(io::stdout(), "{hello}")?,
            Ok(Err(error)) => writeln!(io::stdout(), "refused: {error}")?,
            Err(_) => writeln!(io::stdout(), "refused: it said nothing")?,
        }
    }
}

async fn call(source: X509Source, address: &str, peer: &str) -> anyhow::Result<()> {
    let config = mtls_client(source).authorize(authorizer::exact([peer])?).build()?;
    let host = address.rsplit_once(':').context("say HOST:PORT")?.0;
    let name = rustls::pki_types::ServerName::try_from(host.to_owned())?;
    let talk = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let server = called(stream.get_ref().1.peer_certificates())?;
        let mut answer = String::new();
        (&mut stream).take(ANSWER_MAX).read_to_string(&mut answer).await?;
        Ok::<_, anyhow::Error>((server, answer))
    };
    let (server, answer) = timeout(PATIENCE, talk).await.context("nobody answered")??;
    ensure!(!answer.is_empty(), "{server} said nothing");
    say(&json!({ "server": server, "answer": answer.trim() }))?;
    Ok(())
}
