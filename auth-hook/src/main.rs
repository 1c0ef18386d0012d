//! The `auth-hook` program: serves the reference hook, and hashes passwords for its users file.

use std::{
    io::{self, IsTerminal, Read},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use auth_hook::service::{self, LiveRules, PasswordHash, Rules};
use clap::{Args, Parser, Subcommand};
use tokio::net::TcpListener;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// A reference HTTP hook for the contract of rabbitmq_auth_backend_http: it tells a gateway or
/// broker who may log in and what each user may do.
#[derive(Parser)]
#[command(version, after_help = EXAMPLE)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLE: &str = r#"Get going:

  1. Hash a password (asks for it, or reads it from a pipe):
       auth-hook hash

  2. Write users.toml, a table a user:
       [users.alice]
       hash = "$argon2id$..."            # from step 1
       tags = ["customer"]               # optional
       vhosts = ["/"]                    # optional; this is the default
       read = ["/exchange/feed/user_{username}", "/topic/news.*"]
       write = ["/exchange/chat/room.*"]
       configure = ["/queue/{username}.*"]
       groups = ["project-7"]            # optional; for presence
       certificate = true                # optional; the gateway may vouch for the user by a
                                         # client certificate, instead of the hash or besides

     read is to subscribe, write to publish, configure to declare queues. Entries are written
     as clients write destinations. * stands for any run of characters, {username} for the
     user's own name. A user with none of the three lists may read
     /exchange/feed/user_<its name> and nothing else.

  3. Serve it, and point the gateway at it:
       auth-hook serve --users users.toml
       curl 'http://127.0.0.1:8000/auth/user?username=alice&password=...&vhost=/'

     SIGHUP reads the file again; a mistake in it keeps the old users. Ctrl-C ends it.
     RUST_LOG=debug says more."#;

#[derive(Subcommand)]
enum Command {
    /// Serve the hook: /auth/user, /auth/vhost, /auth/resource, /auth/topic (GET and POST),
    /// /auth/batch (POST), and /healthz
    Serve(Serve),
    /// Read a password from standard input (or ask for it) and print its argon2 hash
    Hash,
}

#[derive(Args)]
struct Serve {
    #[command(flatten)]
    who: Who,
    /// The address to listen on; port 0 takes a free one, which the log names
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// The users file (TOML); read again at SIGHUP
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Allow everything to everybody, with any password; for measuring only
    #[arg(long)]
    allow_all: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .init();
    let done = match arguments.command {
        Command::Serve(serve) => run(serve),
        Command::Hash => hash(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            error!("{problem}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(serve: Serve) -> Result<(), String> {
    let rules = match &serve.who.users {
        Some(path) => load(path)?,
        None => Rules::allow_all(),
    };
    let listener = TcpListener::bind(serve.listen).await.map_err(|e| {
        format!(
            "cannot listen on {}: {e}; --listen chooses another address",
            serve.listen
        )
    })?;
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    if !rules.allows_all() {
        info!(users = rules.users(), "users read");
    }
    let rules = LiveRules::new(rules);
    if let Some(path) = serve.who.users {
        reload_at_hangup(path, rules.clone())?;
    }
    info!(%address, "listening");
    service::serve_live(listener, rules, told_to_end()).await;
    info!("ended");
    Ok(())
}

fn load(path: &Path) -> Result<Rules, String> {
    Rules::load(path).map_err(|error| format!("the users file {}: {error}", path.display()))
}

/// Reads the users file again whenever SIGHUP asks for it. Returns once it listens for that, so
/// that no early signal ends the program.
#[cfg(unix)]
fn reload_at_hangup(path: PathBuf, rules: LiveRules) -> Result<(), String> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut hangups = signal(SignalKind::hangup()).map_err(|e| format!("SIGHUP: {e}"))?;
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let path = path.clone();
            match tokio::task::spawn_blocking(move || load(&path)).await {
                Ok(Ok(new)) => {
                    rules.replace(new);
                    info!(users = rules.current().users(), "users read again");
                }
                Ok(Err(problem)) => error!("{problem}; the users of before stay"),
                Err(error) => error!(%error, "reading users failed; the users of before stay"),
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn reload_at_hangup(_: PathBuf, _: LiveRules) -> Result<(), String> {
    Ok(())
}

/// Done at Ctrl-C, or SIGTERM.
async fn told_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminated.recv() => return,
                pressed = tokio::signal::ctrl_c() => if pressed.is_ok() { return },
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        // Nobody can tell it to end but by killing it.
        std::future::pending::<()>().await;
    }
}

fn hash() -> Result<(), String> {
    let password = if io::stdin().is_terminal() {
        ask()?
    } else {
        read_line()?
    };
    if password.is_empty() {
        return Err("the password is empty".into());
    }
    let hash = PasswordHash::new(&password).map_err(|e| e.to_string())?;
    println!("{}", hash.to_text());
    Ok(())
}

fn ask() -> Result<String, String> {
    let prompt = |text| rpassword::prompt_password(text).map_err(|e| e.to_string());
    let password = prompt("Password: ")?;
    if password != prompt("Again: ")? {
        return Err("the two differ".into());
    }
    Ok(password)
}

/// The password from a pipe: everything but the line end.
fn read_line() -> Result<String, String> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|e| format!("standard input: {e}"))?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let password = line.strip_suffix('\r').unwrap_or(line);
    if password.contains('\n') {
        return Err("standard input has several lines; a password is one".into());
    }
    Ok(password.to_owned())
}
