//! What do `init` and `serve` do before the rest takes over?

use super::args::{Args, Command, InitArgs, ServeArgs};
use crate::config::StatePaths;
use crate::init::{self, InitError, Wish};
use crate::owner::BothClocks;
use crate::serve;
use crate::store::Options;
use host::clock::SystemClock;
use host::keyfile;
use model::limits::OWNER_TOKEN_LIFE;
use model::net::Prefix;
use model::time::Clock as _;
use node::cli::{Exit, Failure, Output};
use std::io::IsTerminal as _;
use std::path::Path;

/// The pool as it is typed: `V4`, `V6`, or both with a comma.
fn pools(text: &str) -> Result<(Option<Prefix>, Option<Prefix>), Failure> {
    let (mut v4, mut v6) = (None, None);
    for part in text.split(',') {
        let prefix: Prefix = part.trim().parse().map_err(Failure::usage)?;
        let slot = if prefix.address().is_ipv4() { &mut v4 } else { &mut v6 };
        if slot.replace(prefix).is_some() {
            return Err(Failure::usage("--pool takes one IPv4 /16 and one IPv6 /48, with a comma between them"));
        }
    }
    Ok((v4, v6))
}

pub(super) async fn init(state: &Path, args: InitArgs, output: &mut Output) -> Result<(), Failure> {
    let (pool_v4, pool_v6) = args.pool.as_deref().map_or(Ok((None, None)), pools)?;
    let wish = Wish {
        trust_domain: args.trust_domain,
        pool_v4,
        pool_v6,
        endpoints: args.endpoints,
        zones: args.zones,
        private_zones: args.private_zones,
        local_networks: init::local_networks(),
    };
    let paths = StatePaths::new(state);
    let clocks = BothClocks::read(SystemClock::new().wall());
    let made = init::init(&paths, wish, Options::default(), &clocks).await.map_err(|error| match error {
        InitError::Pool(_) | InitError::Endpoint(_) | InitError::Count(_) => Failure::new(Exit::Usage, error),
        error => Failure::failed(error),
    })?;
    let org = &made.org;
    let fingerprint = org.fingerprint();
    let minutes = OWNER_TOKEN_LIFE.as_secs() / 60;
    let token = made.owner_token.expose();
    let key = made.break_glass.expose();
    // A token on a terminal is seen once; in a pipe it would end in a log.
    let (token_file, key_file) = if std::io::stdout().is_terminal() && !output.is_json() {
        (None, None)
    } else {
        keyfile::replace(&paths.owner_token(), format!("{token}\n").as_bytes()).map_err(Failure::failed)?;
        keyfile::replace(&paths.break_glass(), format!("{key}\n").as_bytes()).map_err(Failure::failed)?;
        let shown = |path: std::path::PathBuf| Some(path.display().to_string());
        (shown(paths.owner_token()), shown(paths.break_glass()))
    };
    let reply = serde_json::json!({
        "trust_domain": org.trust_domain, "fingerprint": fingerprint, "state": state.display().to_string(),
        "pool_v4": org.pool.v4(), "pool_v6": org.pool.v6(), "controller_key": org.key.to_string(),
        "owner_token_file": token_file, "break_glass_file": key_file,
    });
    if output.json(&reply)? {
        return Ok(());
    }
    output.line(format!("organisation `{}` made in {}", org.trust_domain, state.display()))?;
    output.line(format!("fingerprint   {fingerprint}"))?;
    output.line(format!("pool          {}, {}", org.pool.v4(), org.pool.v6()))?;
    output.line(match &token_file {
        None => format!("owner token   {token} (once, within {minutes} minutes; it is not shown again)"),
        Some(path) => format!("owner token   in {path} (once, within {minutes} minutes)"),
    })?;
    output.line(match &key_file {
        None => format!(
            "break-glass   {key} (makes an owner when all are lost; on paper, in an envelope; it is not shown again)"
        ),
        Some(path) => {
            format!("break-glass   in {path} (makes an owner when all are lost: move it away from this machine)")
        }
    })?;
    output.line("next          umbra-controller serve")
}

/// For `serve --user`: before there is a second thread.
pub(super) fn become_user(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Serve(ServeArgs { user: Some(user), .. }) => node::become_user(user, &args.state, &args.socket),
        _ => Ok(()),
    }
}

pub(super) async fn serve(state: &Path, socket: &Path, args: ServeArgs) -> Result<(), Failure> {
    node::cli::start_log();
    serve::run(&StatePaths::new(state), socket, &args).await.map_err(Failure::failed)
}

#[cfg(test)]
mod tests {
    use super::pools;

    #[test]
    fn a_pool_is_one_of_each_family() {
        let (v4, v6) = pools("10.77.0.0/16, fd12:3456:789a::/48").unwrap();
        assert_eq!(v4.unwrap().to_string(), "10.77.0.0/16");
        assert_eq!(v6.unwrap().to_string(), "fd12:3456:789a::/48");
        assert_eq!(pools("fd00::/48").unwrap().0, None);
        assert!(pools("10.0.0.0/16,10.1.0.0/16").is_err() && pools("10.0.0.1/16").is_err() && pools("").is_err());
    }
}
