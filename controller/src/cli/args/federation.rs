//! Commands about federation rules.

use clap::{Args, Subcommand};
use model::net::Prefix;
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FederationCommand {
    /// Let in who shows a token of this issuer, for this audience, about this subject.
    Add(Box<FederationArgs>),
    /// List rules.
    List,
    /// Remove a rule: nobody joins by it any more. Machines that did stay until they, or their account, are taken away.
    Remove { federation: String },
    /// Write the join file of a rule. It is no secret of an account: nobody joins with it without a token.
    JoinFile {
        federation: String,
        /// File to write, mode 0600; standard output by default.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(in crate::cli) struct FederationArgs {
    pub name: String,
    /// Who makes the tokens: their `iss`, to the letter. Without --jwks-file it is asked for its keys, over HTTPS.
    #[arg(long, value_name = "URL")]
    pub issuer: String,
    /// For whom they are made: one of their `aud`, to the letter. Let it be this organisation's alone.
    #[arg(long, value_name = "TEXT")]
    pub audience: String,
    /// Whom they are about: their `sub`, to the letter, or with a `*` at its end, behind `:` or `/`.
    #[arg(long, value_name = "PATTERN")]
    pub subject: String,
    /// A claim that must have this value. A name, names with dots between them, or a JSON pointer; may be repeated.
    #[arg(long = "claim", value_name = "KEY=VALUE")]
    pub claims: Vec<String>,
    /// The service account as which machines join.
    #[arg(long)]
    pub account: String,
    /// The issuer's public keys (a JSON Web Key Set): it is not asked then.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["ca_file", "allow"])]
    pub jwks_file: Option<PathBuf>,
    /// PEM of the only CAs that are trusted for the issuer; otherwise the operating system's.
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A prefix that the issuer may lie in although such are never asked (loopback, link-local); may be repeated.
    #[arg(long, value_name = "PREFIX")]
    pub allow: Vec<Prefix>,
    /// What joins is removed 10 minutes after it is gone.
    #[arg(long)]
    pub ephemeral: bool,
}
