//! Commands about service accounts.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AccountCommand {
    /// Make a service account. It shares names with users, and groups; policies call it Workload::"NAME".
    Add {
        name: String,
        /// What it is for.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        /// A group to be in.
        #[arg(long = "group", value_name = "GROUP")]
        groups: Vec<String>,
    },
    /// List service accounts.
    List,
    /// Show one: its groups, its machines, and how more can join.
    Show { account: String },
    /// Nothing that joined as it reaches anything any more, and nothing joins.
    Disable { account: String },
    /// What joined as it takes part again.
    Enable { account: String },
    /// Remove it: revoke its machines, and every way to join as it.
    Remove { account: String },
    /// Identities of the programs on its machines.
    #[command(subcommand)]
    Identity(AccountIdentityCommand),
    /// Its groups.
    #[command(subcommand)]
    Group(AccountGroupCommand),
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AccountIdentityCommand {
    /// Programs of this user or group get the SPIFFE id spiffe://TRUST_DOMAIN/workload/ACCOUNT/PATH.
    Add {
        account: String,
        path: String,
        /// The number of the user that they run as.
        #[arg(long, value_name = "NUMBER", required_unless_present = "gid")]
        uid: Option<u32>,
        /// The number of the group that they run as.
        #[arg(long, value_name = "NUMBER")]
        gid: Option<u32>,
    },
    /// List them, of all service accounts.
    List,
    /// Remove one, by its SPIFFE id or its id: what it gave ends by itself within the hour.
    Remove { identity: String },
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AccountGroupCommand {
    /// Put a service account into a group.
    Add { account: String, group: String },
    /// Take a service account out of a group.
    Remove { account: String, group: String },
}
