//! The arguments of `stentor doctor`.

use std::path::PathBuf;

use clap::Args;

/// Ask everything that the gateway will need, for real, and show what is wrong, with the cure.
#[derive(Args, Default)]
#[command(after_help = "\
Examples:
  stentor doctor --config stentor.toml
  stentor doctor --config stentor.toml --management http://guest:guest@127.0.0.1:15672
  stentor doctor --config stentor.toml --user alice --passcode-file pass \\
    --may-read feed user_alice --may-write orders new
  stentor doctor --config stentor.toml --passcode-stdin < token     a token names its user
  stentor doctor --config stentor.toml --json | jq '.findings[] | select(.mark == \"wrong\")'

It takes the environment into account, as serving does: run it where the gateway runs, as its user,
before the first start or beside it. It changes nothing (docs/doctor.md).

Exit codes:
  0  nothing is wrong
  1  something is wrong
  2  wrong configuration or command line")]
pub struct Doctor {
    /// The configuration; without it, only the defaults and the environment count.
    #[arg(long, value_name = "FILE", env = "STENTOR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print the report as JSON (docs/doctor.schema.json).
    #[arg(long)]
    pub json: bool,
    /// RabbitMQ's management plug-in, with an account: http://user:password@host:15672. Without
    /// it, that of [auth.rabbitmq], or the broker's host with the gateway's account.
    #[arg(
        long,
        value_name = "URL",
        env = "STENTOR_MANAGEMENT",
        hide_env_values = true
    )]
    pub management: Option<String>,
    /// Log this user in, as a client would be.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// A file that holds the user's passcode, or a token.
    #[arg(long, value_name = "FILE", conflicts_with = "passcode_stdin")]
    pub passcode_file: Option<PathBuf>,
    /// Read the passcode, or a token, from standard input.
    #[arg(long)]
    pub passcode_stdin: bool,
    /// The virtual host of the user; without it, the default one.
    #[arg(long, value_name = "NAME")]
    pub vhost: Option<String>,
    /// Ask whether the user may subscribe to this key of an exchange; may be given several times.
    #[arg(long, num_args = 2, value_names = ["EXCHANGE", "KEY"])]
    pub may_read: Vec<String>,
    /// Ask whether the user may send with this key to an exchange; may be given several times.
    #[arg(long, num_args = 2, value_names = ["EXCHANGE", "KEY"])]
    pub may_write: Vec<String>,
}

impl Doctor {
    /// Whether a user is to be logged in.
    pub(super) fn has_user(&self) -> bool {
        self.user.is_some() || self.passcode_file.is_some() || self.passcode_stdin
    }
}

/// Exchanges and keys.
pub(super) fn pairs(words: &[String]) -> impl Iterator<Item = (&str, &str)> {
    words.chunks(2).filter_map(|pair| match pair {
        [exchange, key] => Some((exchange.as_str(), key.as_str())),
        _ => None,
    })
}
