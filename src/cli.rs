//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use stentor::{
    api::Scope,
    ctl::{self, Ctl, Tail},
    demo,
    doctor::Doctor,
};

/// A STOMP push gateway for RabbitMQ: WebSocket, SockJS and TCP clients in, AMQP out.
#[derive(Parser)]
#[command(
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  stentor demo                                  try it: it needs nothing else
  stentor config --default > stentor.toml       begin a configuration; every key is explained
  stentor config --check stentor.toml           list its errors, by line
  stentor config --from-rabbitmq rabbitmq.conf  move from RabbitMQ's STOMP plug-ins
  stentor doctor --config stentor.toml          ask everything that it needs, for real
  stentor serve --config stentor.toml           serve
  stentor ctl node                              ask a gateway that runs; see `stentor ctl --help`
  stentor tail --user alice                     watch her frames, on all nodes
  STENTOR__LOG__LEVEL=debug stentor serve …     the environment overrides any key

Exit codes:
  0  done, or told to stop
  1  failed while running; of `doctor`: something is wrong
  2  wrong configuration or command line"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Serve clients until SIGTERM or SIGINT.
    #[command(after_help = "\
Without --config, only the defaults and the environment count. Two keys have no default:

  STENTOR__BROKER__URL=amqp://stentor:password@127.0.0.1:5672 \\
  STENTOR__AUTH__HOOK=http://127.0.0.1:8000/auth stentor serve")]
    Serve {
        /// The configuration; `stentor config --default` prints one to begin with.
        #[arg(long, value_name = "FILE", env = "STENTOR_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Print the default configuration, check one, compare one with a gateway's, or make one from
    /// RabbitMQ's.
    #[command(after_help = "\
Checking takes the environment into account, as serving does: run it where the gateway runs.

  stentor config --check stentor.toml && systemctl reload stentor

--diff asks a running gateway, as `stentor ctl` does, with a token of the scope admin: how does its
file, or the one that is named, differ from what is in force, and what needs a restart?

  stentor config --diff
  stentor config --diff=new.toml

From RabbitMQ's, the keys of its STOMP plug-ins are translated (stomp.*, web_stomp.*, auth_http.*,
auth_cache.*), and ssl_options.* if STOMP listens with TLS. Standard error lists the settings that
have no equivalent, by line, with the remedy; comments in the output repeat them. Passwords are
never printed: set them by the environment. Named files are not opened; --check opens them.
The exit code is 2 if a line cannot be read or its key is unknown; the rest is printed all the same.

  stentor config --from-rabbitmq /etc/rabbitmq/rabbitmq.conf > stentor.toml")]
    Config(ConfigTask),
    /// Ask RabbitMQ, the hook, Redis and this machine for all that the gateway needs.
    Doctor(Doctor),
    /// Look at a running gateway, end sessions, publish: its HTTP API from a shell.
    Ctl(Ctl),
    /// Show the frames of clients as they pass, on all nodes.
    Tail(Tail),
    /// Print what makes a shell complete this program's commands and options.
    #[command(after_help = "\
Examples:
  stentor completions bash > ~/.local/share/bash-completion/completions/stentor
  stentor completions zsh > ~/.zfunc/_stentor       with fpath+=(~/.zfunc) before compinit
  stentor completions fish > ~/.config/fish/completions/stentor.fish

The Debian package has them already.")]
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the page for `man`, or write one for each command into a folder.
    #[command(after_help = "\
Examples:
  stentor man | man -l -
  stentor man /usr/local/share/man/man1")]
    Man {
        /// The folder; it has to be there.
        folder: Option<PathBuf>,
    },
    /// Make a token for the HTTP API, and the entry for the configuration.
    #[command(after_help = "\
Examples:
  stentor token shop --scope publish            for a backend that publishes
  stentor token ops --scope admin               for `stentor ctl`
  stentor token grafana --scope read            read-only access

The token is shown only once. The configuration holds its SHA-256 hash, which is not a secret.")]
    Token {
        /// The token's name, for the log.
        name: String,
        /// A right that it grants; may be given several times. `admin` grants all.
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
    },
    /// Run a gateway to try out, complete, on the loopback interface.
    #[command(after_help = "\
Examples:
  stentor demo                                       with a broker in memory
  stentor demo --port 8080                           on another port
  stentor demo --listen 0.0.0.0                      for other machines, too: passwords are known!
  stentor demo --broker amqp://guest:guest@127.0.0.1:5672   with your RabbitMQ")]
    Demo {
        /// The address of page and WebSocket, and of STOMP on the next port: ADDRESS or
        /// ADDRESS:PORT. The operator's side stays on 127.0.0.1, on the port after that.
        #[arg(
            long,
            value_name = "ADDRESS",
            default_value = "127.0.0.1",
            value_parser = demo::parse_listen
        )]
        listen: demo::Listen,
        /// Another port than 15674.
        #[arg(long)]
        port: Option<u16>,
        /// RabbitMQ; without it, a broker in this process' memory.
        // A text, for clap quotes what it cannot parse, and there is a password in it.
        #[arg(long, value_name = "URL")]
        broker: Option<String>,
    },
}

#[derive(Args)]
pub(crate) struct ConfigTask {
    #[command(flatten)]
    pub(crate) what: ConfigWhat,
    #[command(flatten)]
    pub(crate) gateway: ctl::Server,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ConfigWhat {
    /// Print the default configuration, in which every key is explained.
    #[arg(long)]
    pub(crate) default: bool,
    /// List all errors of a configuration, by line, or say that there are none; `-` reads
    /// standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) check: Option<PathBuf>,
    /// Print the configuration that replaces a rabbitmq.conf; `-` reads standard input.
    #[arg(long, value_name = "RABBITMQ_CONF")]
    pub(crate) from_rabbitmq: Option<PathBuf>,
    /// Say how a running gateway's configuration differs from its file, or from this one; `-` reads
    /// standard input.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub(crate) diff: Option<Option<PathBuf>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }
}
