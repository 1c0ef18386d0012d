//! The arguments of `stentor ctl`.

use std::{path::PathBuf, time::Duration};

use clap::{ArgMatches, Args, Command, FromArgMatches, Subcommand, parser::ValueSource};

/// The heading of options that all tasks share.
const GATEWAY: &str = "Gateway";

/// Look at a running gateway and its sessions, end sessions, publish: the HTTP API from a shell.
#[derive(Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  export STENTOR_TOKEN=…                             once; `stentor token` makes one
  stentor ctl overview                               all nodes: state, sessions, feeds
  stentor ctl node                                   this node: connections, feeds, memory
  stentor ctl sessions --user alice                  where alice is logged in
  stentor ctl users alice bob                        who of them is online
  stentor ctl room room lobby                        who is subscribed to /exchange/room/lobby
  stentor ctl kick --user alice --reason 'unpaid'    end all her sessions, on all nodes
  stentor ctl unsubscribe alice /exchange/room/lobby take her out of a room, on all nodes
  stentor ctl ban --address 192.0.2.0/24 --for 1h    keep a network out, on all nodes
  stentor ctl publish feed user_alice --body hello   push, as a backend does
  stentor ctl reload                                 read the configuration again
  stentor ctl --watch=5s node                        look every 5 s, until Ctrl-C
  stentor ctl --json sessions | jq …                 for programs

`stentor tail` shows the frames of clients as they pass.

Sessions, users, groups and nodes are known where presence is on ([presence] url).

Exit codes; standard error says why:
  0  done
  1  the gateway did not do it, or not on all nodes; is not ready; nobody was there to kick
     or unsubscribe; or it took an action, and no answer came: it may be done all the same
  2  wrong command line, or wrong contexts
  3  no gateway answers there
  4  the token is missing, unknown, or lacks the scope"
)]
pub struct Ctl {
    /// The gateway.
    #[command(flatten)]
    pub gateway: Server,
    /// Print the gateway's answer, as JSON.
    #[arg(long, global = true, help_heading = GATEWAY)]
    pub json: bool,
    /// Show it again and again, every 2 s or as often as this says; for tasks that only look.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub watch: Option<Duration>,
    /// The task.
    #[command(subcommand)]
    pub task: Task,
}

/// The gateway to ask, and the token to ask with.
#[derive(Clone, Default)]
pub struct Server {
    /// As the command line says.
    pub(super) typed: Given,
    /// As variables say, where the command line says nothing.
    pub(super) set: Given,
}

/// What somebody says of a gateway and a token.
#[derive(Args, Clone, Default)]
pub(super) struct Given {
    /// The URL of the gateway's `[listen] admin`; without it, that of the context, or
    /// http://127.0.0.1:15680.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "URL",
        env = "STENTOR_URL"
    )]
    pub(super) url: Option<String>,
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
    pub(super) token: Option<String>,
    /// A file that holds the token.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "FILE",
        env = "STENTOR_TOKEN_FILE"
    )]
    pub(super) token_file: Option<PathBuf>,
    /// A gateway that `stentor ctl context` names: its address, and its file with a token, whatever
    /// the variables say.
    #[arg(
        long,
        global = true,
        help_heading = GATEWAY,
        value_name = "NAME",
        env = "STENTOR_CONTEXT"
    )]
    pub(super) context: Option<String>,
}

impl FromArgMatches for Server {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut typed = Given::from_arg_matches(matches)?;
        let is_typed = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        let set = Given {
            url: typed.url.take_if(|_| !is_typed("url")),
            token: typed.token.take_if(|_| !is_typed("token")),
            token_file: typed.token_file.take_if(|_| !is_typed("token_file")),
            context: typed.context.take_if(|_| !is_typed("context")),
        };
        Ok(Self { typed, set })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Server {
    fn augment_args(command: Command) -> Command {
        Given::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Given::augment_args_for_update(command)
    }
}

/// What to do with the named gateways.
#[derive(Subcommand, Clone)]
pub enum ContextTask {
    /// List the names and addresses; a star marks the current one.
    List,
    /// Ask this one from now on, unless the command line says another.
    Use {
        /// Its name.
        name: String,
    },
}

/// A task of `stentor ctl`.
#[derive(Subcommand, Clone)]
pub enum Task {
    /// Say whether the process answers, whatever RabbitMQ and the hook do: exit code 0 if so, 3 if
    /// not. For health checks that restart. Needs no token.
    Alive,
    /// Say whether the node takes clients: exit code 0 if so, 1 if not. Needs no token.
    Ready,
    /// Have the gateway read its configuration again: all of it is put in force, or nothing.
    Reload,
    /// Show every key of the configuration in force, and where it was set.
    Config {
        /// Only keys that are set.
        #[arg(long)]
        set: bool,
    },
    /// List the named gateways, or take one.
    #[command(after_help = "\
The names are in ~/.config/stentor/contexts.toml (or where STENTOR_CONTEXTS says):

  [contexts.production]
  url = \"https://push-admin.example.com\"
  token_file = \"/home/me/.config/stentor/production.token\"")]
    Context {
        /// The task.
        #[command(subcommand)]
        task: ContextTask,
    },
    /// Show all nodes at a glance, as each says itself.
    Overview,
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
        /// Only sessions with this text in their user, address, device or id.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
        /// The most sessions to list, about.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Show a session.
    Session {
        /// Its id: the header `session` of its CONNECTED.
        id: String,
        /// What it does: its subscriptions, frames, and what waits for it.
        #[arg(long)]
        details: bool,
    },
    /// List what clients are subscribed to by feeds, on all nodes.
    Destinations {
        /// Only those with this text in the exchange or key.
        #[arg(long, value_name = "TEXT")]
        search: Option<String>,
    },
    /// Show the clients that were refused last on all nodes, and how often others were.
    Refusals,
    /// Show the receivers of this node's webhooks: what waits for them, and what was given up.
    Webhooks,
    /// Show what the token is good for.
    Whoami,
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
    /// Show who is in a room: subscribed to a key of an exchange that has rooms.
    Room {
        /// The exchange.
        exchange: String,
        /// The routing key.
        key: String,
        /// The virtual host; without it, the gateway's default one.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
        /// The most members to list, about.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Count who is in each of these rooms.
    Rooms {
        /// The exchange.
        exchange: String,
        /// The routing keys; 1,000 at most.
        #[arg(required = true, num_args = 1..=crate::api::MAX_USERS)]
        keys: Vec<String>,
        /// The virtual host; without it, the gateway's default one.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
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
    /// End a user's subscriptions to a destination, on any node; the sessions go on.
    #[command(after_help = "\
Example:
  stentor ctl unsubscribe alice /exchange/room/lobby --reason 'removed by a moderator'

Her clients may subscribe again, unless the hook or the token refuses: change that first, and
let nodes forget what the hook has permitted (`stentor ctl forget alice`).")]
    Unsubscribe {
        /// The user's name.
        user: String,
        /// The destination, as a SUBSCRIBE names it: `/exchange/room/lobby`, `/topic/news`.
        destination: String,
        /// The text for the clients.
        #[arg(long, default_value = "")]
        reason: String,
        /// Only in this virtual host; without it, in all.
        #[arg(long, value_name = "NAME")]
        vhost: Option<String>,
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

impl Task {
    /// True if it changes nothing.
    pub(super) fn only_looks(&self) -> bool {
        matches!(
            self,
            Self::Overview
                | Self::Destinations { .. }
                | Self::Refusals
                | Self::Webhooks
                | Self::Whoami
                | Self::Node
                | Self::Nodes
                | Self::Counts
                | Self::Sessions { .. }
                | Self::Session { .. }
                | Self::User { .. }
                | Self::Users { .. }
                | Self::Group { .. }
                | Self::Room { .. }
                | Self::Rooms { .. }
                | Self::Bans { .. }
                | Self::Config { .. }
                | Self::Alive
                | Self::Ready
        )
    }
}

/// The sessions that a task is for.
#[derive(Args, Clone)]
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
#[derive(Args, Clone)]
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
#[derive(Args, Clone)]
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
