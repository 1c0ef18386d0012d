//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{
    attack, comeback, million,
    programs::{self, Build, Gateway},
    scenario::{Options, Scenario},
    servers::{Server, Setup},
};

/// Loads STOMP servers over WebSocket, checks every message (lost, twice, out of order, to the
/// wrong one), and measures: rates, latencies, and the servers' memory and processor time.
#[derive(Parser)]
#[command(name = "stentor-bench", version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Build everything first: cargo build --release --workspace --bins

  stentor-bench run unicast                        Stentor, 1,000 users, through RabbitMQ
  stentor-bench run idle -n 1000,5000,18000        memory at several numbers of connections
  stentor-bench run unicast --server embedded      without RabbitMQ
  stentor-bench compare --runs 3                   beside RabbitMQ's Web STOMP
  stentor-bench compare latency --rate 5000        one scenario of it
  stentor-bench run idle -n 90000 --nodes 5        several gateways on one RabbitMQ
  stentor-bench run unicast storm --nodes 1,2,4    their growth, with a table at the end
  stentor-bench run broadcast --server nats,stentor
  stentor-bench run idle --tls                     WebSocket over TLS
  stentor-bench run idle --gateway old=/tmp/stentor --gateway new=target/release/stentor
  stentor-bench million -n 40000                   many gateways, and the loss of one
  stentor-bench attack                             everything that one user can do to others
  stentor-bench attack --list
  stentor-bench comeback -n 50000                  a node ends, and its users come back on others
  stentor-bench comeback -n 10000 --resume memory,journal   users were away, and come back for what they missed
  stentor-bench report results --into docs/performance.md
  stentor-bench plot results --into docs

Servers are started on private ports of 127.0.0.1 and ended, also by Ctrl-C. RabbitMQ has to be
installed, unless only the embedded broker is measured. Each run has servers of its own. Its exit
code is 1 if a message was not as it should be.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measure scenarios, on one server or on several in turns
    Run {
        /// The scenarios
        #[arg(required = true, value_enum)]
        scenarios: Vec<Scenario>,
        /// The servers
        #[arg(
            long = "server",
            value_name = "SERVER,…",
            value_delimiter = ',',
            default_value = "stentor"
        )]
        servers: Vec<Server>,
        #[command(flatten)]
        measure: Measure,
    },
    /// Measure Stentor and RabbitMQ's Web STOMP in turns, and print both with their ratio
    Compare {
        /// The scenarios
        #[arg(value_enum, default_values = ["idle", "storm", "unicast", "broadcast", "latency"])]
        scenarios: Vec<Scenario>,
        #[command(flatten)]
        measure: Measure,
    },
    /// Hold very many connections on many gateways of this machine, both ends
    Million(million::Options),
    /// Attack the gateway beside honest clients, and tell if they notice
    Attack(attack::Options),
    /// End a node (kill -9), and measure how its users come back on another
    Comeback(comeback::Options),
    /// Write tables of saved runs, as Markdown
    Report {
        /// The folder of the runs
        #[arg(default_value = "results")]
        results: PathBuf,
        /// The document whose tables are to be replaced; without it they are printed
        #[arg(long = "into", value_name = "FILE")]
        document: Option<PathBuf>,
    },
    /// Draw memory and throughput against connections from saved runs, as SVG
    Plot {
        /// The folder of the runs
        #[arg(default_value = "results")]
        results: PathBuf,
        /// The folder for the charts
        #[arg(long = "into", value_name = "FOLDER", default_value = "docs")]
        folder: PathBuf,
    },
    /// The load of another stentor-bench: takes orders from standard input
    #[command(hide = true)]
    Worker,
    /// The hook of another stentor-bench: allows everything until standard input ends
    #[command(hide = true)]
    Hook,
    /// The users of `comeback`: take their part from standard input
    #[command(hide = true)]
    ComebackCrowd,
    /// The users of `comeback --resume`: take their part from standard input
    #[command(hide = true)]
    ComebackAway,
    /// The hook of `comeback`
    #[command(hide = true)]
    ComebackHook(comeback::Service),
}

/// How it is measured.
#[derive(Args)]
pub(crate) struct Measure {
    /// How often each is measured; medians are printed, with the least and the most
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// The folder for the runs, a JSON file each
    #[arg(long, value_name = "FOLDER", default_value = "results")]
    pub(crate) out: PathBuf,
    /// Runs that are saved there already count: only those that are missing are made
    #[arg(long)]
    pub(crate) resume: bool,
    /// A command of the shell that runs while it is measured, and is ended by SIGINT. It has the
    /// process ids of the gateways in GATEWAYS, with commas between
    #[arg(long, value_name = "COMMAND")]
    pub(crate) beside: Option<String>,
    /// Gateways on the one RabbitMQ; each has its part of the connections. Several numbers, with
    /// commas between, are measured one after the other
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    pub(crate) nodes: Vec<usize>,
    /// Stentor's feeds are not durable (`feed.durable = false`)
    #[arg(long)]
    pub(crate) transient: bool,
    /// Clients connect by TLS, which Stentor and Web STOMP end themselves
    #[arg(long)]
    pub(crate) tls: bool,
    #[command(flatten)]
    pub(crate) gateway: Gateway,
    #[command(flatten)]
    pub(crate) options: Options,
}

impl Measure {
    /// How a server is set up for it, with so many nodes.
    pub(crate) fn setup(&self, server: Server, build: &Build, nodes: usize) -> Setup {
        Setup {
            nodes,
            version: programs::rabbitmq_version(),
            durable: !self.transient,
            tls: self.tls,
            auth_cache: self.options.same_user,
            settings: self.gateway.settings.clone(),
            ..Setup::new(server, build)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
