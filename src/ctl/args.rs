//! The arguments of `stentor ctl`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

/// The heading of options that all tasks share.
const GATEWAY: &str = "Gateway";

/// Look at a running gateway and its sessions, end sessions, publish: the HTTP API from a shell.
#[derive(Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  export STENTOR_TOKEN=…                             once; `stentor token` makes one
  stentor ctl node                                   this node: connections, feeds, memory
  stentor ctl sessions --user alice                  where alice is logged in
  stentor ctl users alice bob                        who of them is online
  stentor ctl kick --user alice --reason 'unpaid'    end all her sessions, on all nodes
  stentor ctl ban --address 192.0.2.0/24 --for 1h    keep a network out, on all nodes
  stentor ctl publish feed user_alice --body hello   push, as a backend does
  stentor ctl --json sessions | jq …                 for programs

Sessions, users, groups and nodes are known where presence is on ([presence] url).

Exit codes:
  0  done
  1  the gateway is not there, or did not do it, or nobody was there to kick; standard error says why
  2  wrong command line"
)]
pub struct Ctl {
    /// The URL of the gateway's `[listen] admin`.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "URL",
        env = "STENTOR_URL",
        default_value = "http://127.0.0.1:15680"
    )]
    pub url: String,
    /// A token of its `[api] tokens`. Others on this machine see arguments: better set the
    /// variable, or use --token-file.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "TOKEN",
        env = "STENTOR_TOKEN",
        hide_env_values = true
    )]
    pub token: Option<String>,
    /// A file that holds the token.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "FILE",
        env = "STENTOR_TOKEN_FILE"
    )]
    pub token_file: Option<PathBuf>,
    /// Print the gateway's answer, as JSON.
    #[arg(long, global = true, help_heading = GATEWAY)]
    pub json: bool,
    /// The task.
    #[command(subcommand)]
    pub task: Task,
}

/// A task of `stentor ctl`.
#[derive(Subcommand)]
pub enum Task {
    /// Show this node: connections, virtual hosts, feeds, memory.
    Node,
    /// List the living nodes.
    Nodes,
    /// Count sessions and users, on all nodes.
    Counts,
    /// List sessions, on all nodes.
    Sessions {
        /// Only sessions of this user.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only sessions of this node.
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// The most sessions to list, about.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Show a session.
    Session {
        /// Its id: the header `session` of its CONNECTED.
        id: String,
    },
    /// Show a user, with all sessions.
    User {
        /// The name.
        name: String,
    },
    /// Show the status of each of these users.
    Users {
        /// The names; 1,000 at most.
        #[arg(required = true, num_args = 1..=crate::api::MAX_USERS)]
        names: Vec<String>,
    },
    /// Show the members of a group who are online.
    Group {
        /// The name.
        name: String,
    },
    /// End a session, or sessions of a user, on any node.
    Kick {
        /// The sessions.
        #[command(flatten)]
        target: Target,
        /// The text for the clients.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Keep a user, an address or network, or a device out, and end its sessions, on all nodes.
    #[command(after_help = "\
Examples:
  stentor ctl ban --user alice --for 1d --reason 'spam'
  stentor ctl ban --address 192.0.2.0/24 --for 2h
  stentor ctl ban --device-id 5f0c                   until it is lifted")]
    Ban {
        /// The user, address or device.
        #[command(flatten)]
        banned: Banned,
        /// The duration, such as 30m, 12h or 7d; without it, the ban lasts until it is lifted.
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration)]
        time: Option<Duration>,
        /// The reason; clients may be told.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// List the bans in force.
    Bans {
        /// So many at most.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Lift a ban, on all nodes.
    Unban {
        /// The user, address or device.
        #[command(flatten)]
        banned: Banned,
    },
    /// Ask the hook again; sessions that it refuses end.
    #[command(group = clap::ArgGroup::new("whom").required(true))]
    Recheck {
        /// A session, by its id.
        #[arg(long, value_name = "ID", group = "whom")]
        session: Option<String>,
        /// All sessions of this user.
        #[arg(long, value_name = "NAME", group = "whom")]
        user: Option<String>,
    },
    /// Forget the permissions that the hook gave to a user.
    Forget {
        /// The name.
        user: String,
    },
    /// Ask the hook again for a user's groups.
    RefreshGroups {
        /// The name.
        user: String,
    },
    /// Publish a message; says so if it reaches no queue.
    #[command(after_help = "\
Examples:
  stentor ctl publish feed user_alice --body 'Your order has shipped'
  stentor ctl publish feed user_alice user_bob --body hello
  date | stentor ctl publish feed user_alice --file -
  stentor ctl publish '' some_queue --body hello     AMQP's default exchange: a queue, by name")]
    Publish(Message),
    /// Print the OpenAPI document of the HTTP API; needs no gateway.
    Openapi,
}

/// The sessions that a task is for.
#[derive(Args)]
#[group(required = true)]
pub struct Target {
    /// A session, by its id.
    #[arg(long, value_name = "ID", conflicts_with_all = ["user", "device_type", "device_id"])]
    pub session: Option<String>,
    /// All sessions of this user.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only the user's sessions on devices of this type.
    #[arg(long, value_name = "TYPE", requires = "user")]
    pub device_type: Option<String>,
    /// Only the user's sessions on this device.
    #[arg(long, value_name = "ID", requires = "user")]
    pub device_id: Option<String>,
}

/// The subject of a ban.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct Banned {
    /// A user.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// An address, or a network: 192.0.2.7, 192.0.2.0/24, 2001:db8::/32.
    #[arg(long, value_name = "ADDRESS")]
    pub address: Option<String>,
    /// A device, by the header device-id of its CONNECT.
    #[arg(long, value_name = "ID")]
    pub device_id: Option<String>,
}

/// The message to publish.
#[derive(Args)]
pub struct Message {
    /// The exchange.
    pub exchange: String,
    /// The routing keys: the message goes out with each.
    #[arg(required = true)]
    pub keys: Vec<String>,
    /// The body, as text.
    #[arg(long, value_name = "TEXT", conflicts_with = "file")]
    pub body: Option<String>,
    /// A file with the body; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The virtual host; without it, the gateway's default one.
    #[arg(long, value_name = "NAME")]
    pub vhost: Option<String>,
    /// The body's type, such as application/json.
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// A header; may be given several times.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = header)]
    pub headers: Vec<(String, String)>,
    /// The message survives a restart of RabbitMQ while it waits in a durable queue.
    #[arg(long)]
    pub persistent: bool,
    /// Fail if it reaches no queue.
    #[arg(long)]
    pub mandatory: bool,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
