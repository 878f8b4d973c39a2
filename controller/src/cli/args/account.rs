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
    /// Its groups.
    #[command(subcommand)]
    Group(AccountGroupCommand),
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum AccountGroupCommand {
    /// Put a service account into a group.
    Add { account: String, group: String },
    /// Take a service account out of a group.
    Remove { account: String, group: String },
}
