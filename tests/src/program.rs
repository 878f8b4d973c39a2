//! A program on a workload's machine, as the SPIFFE Workload API sees one: asks for certificates and tokens, and prints what it gets.

use clap::Subcommand;
use proto::spiffe as wire;
use proto::spiffe::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use serde_json::json;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

/// How it asks.
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
    /// Print a token for this audience
    Token { audience: String },
    /// Have a token checked
    Validate { audience: String, token: String },
    /// Call without the header
    Bare,
}

/// Runs it; a refusal is printed as its code, and fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map(|runtime| runtime.block_on(ask(arguments)));
    let refusal = match done {
        Ok(Ok(())) => return Ok(ExitCode::SUCCESS),
        Ok(Err(status)) => format!("{:?}: {}", status.code(), status.message()),
        Err(error) => error.to_string(),
    };
    let _ = writeln!(io::stderr(), "{refusal}");
    Ok(ExitCode::FAILURE)
}

#[allow(clippy::result_large_err)] // tonic's own shape
fn with_header(mut request: Request<()>) -> Result<Request<()>, Status> {
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    Ok(request)
}

fn say(value: &serde_json::Value) -> Result<(), Status> {
    writeln!(io::stdout(), "{value}").map_err(|error| Status::internal(error.to_string()))
}

async fn ask(arguments: &Arguments) -> Result<(), Status> {
    let program = node::local::Program { name: "client", start: "umbra daemon" };
    let channel = node::local::connect(&arguments.socket, program).await;
    let channel = channel.map_err(|failure| Status::unavailable(format!("{failure:?}")))?;
    if matches!(arguments.what, What::Bare) {
        let answer = SpiffeWorkloadApiClient::new(channel).fetch_x509_bundles(wire::X509BundlesRequest {}).await;
        return answer.map(|_| ());
    }
    let mut api = SpiffeWorkloadApiClient::with_interceptor(channel, with_header);
    match &arguments.what {
        What::X509 { states } => {
            let mut stream = api.fetch_x509svid(wire::X509svidRequest {}).await?.into_inner();
            for _ in 0..*states {
                let state = stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))?;
                let svids = state.svids.iter().map(|svid| {
                    let (chain, bundle) = (hex(&svid.x509_svid), hex(&svid.bundle));
                    json!({"id": svid.spiffe_id, "chain": chain, "bundle": bundle, "key_bytes": svid.x509_svid_key.len()})
                });
                say(&json!({ "svids": svids.collect::<Vec<_>>() }))?;
            }
        }
        What::Token { audience } => {
            let request = wire::JwtsvidRequest { audience: vec![audience.clone()], spiffe_id: String::new() };
            let reply = api.fetch_jwtsvid(request).await?.into_inner();
            let svids: Vec<_> = reply.svids.iter().map(|one| json!({"id": one.spiffe_id, "token": one.svid})).collect();
            say(&json!({ "svids": svids }))?;
        }
        What::Validate { audience, token } => {
            let request = wire::ValidateJwtsvidRequest { audience: audience.clone(), svid: token.clone() };
            say(&json!({ "id": api.validate_jwtsvid(request).await?.into_inner().spiffe_id }))?;
        }
        What::Bare => {}
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
