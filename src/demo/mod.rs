//! `stentor demo`: a gateway to try out, with a page, and all that it needs in one process.

mod routes;

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, SocketAddr},
};

use auth_hook::service::{self, Account, OWN_FEED, PasswordHash, Rules};
use tokio::net::TcpListener;

use crate::{
    api::{self, Scope, Tokens},
    app::{self, Addresses, Gateway},
    auth,
    broker::{self, ExchangeKind, Url},
    config::Config,
    listen, presence, shutdown,
};

/// The exchange that the page's users listen to.
const EXCHANGE: &str = "feed";
/// SockJS's client, which [`routes`] serve.
const CLIENT: &str = "/vendor/sockjs.min.js";
/// The group that all users are in: the page shows its online members.
const GROUP: &str = "demo";
/// The users of the page; everybody knows their passwords, so they are good for a demo only.
const USERS: [(&str, &str); 2] = [("alice", "demo-alice"), ("bob", "demo-bob")];

/// The options of a demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// The page's port, on loopback; STOMP over TCP and the operator's side are on the next two.
    pub port: u16,
    /// A real RabbitMQ instead of the embedded broker.
    pub broker: Option<Url>,
    /// How this program was called, for commands that are shown: it need not be in the path.
    pub program: String,
}

/// Serves the demo until SIGINT or SIGTERM.
///
/// # Errors
/// As [`app::run`]; a port that is in use, most likely.
pub async fn run(options: Options) -> Result<(), app::Error> {
    let hook = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (token, hash) = api::generate(&[Scope::Admin]);
    let config = Config {
        api: api::Config {
            tokens: tokens(&hash)?,
            ..api::Config::default()
        },
        ..config(&options, hook.local_addr()?)?
    };
    tokio::spawn(service::serve(hook, rules()?, std::future::pending()));
    let broker = options.broker.unwrap_or(Url::Embedded);
    let gateway = Gateway::start(config, |services, addresses| {
        routes::all(services, Info::new(addresses, &broker))
    })
    .await
    .map_err(|error| app::Error::Configuration(format!("{error} (--port chooses it)")))?;
    // A closed terminal is no reason to stop.
    let _ = welcome(gateway.addresses(), &broker, &token, &options.program);
    gateway.run_until(shutdown::signal()).await?;
    Ok(())
}

fn config(options: &Options, hook: SocketAddr) -> Result<Config, app::Error> {
    let ports = [
        Some(options.port),
        options.port.checked_add(1),
        options.port.checked_add(2),
    ];
    let [Some(http), Some(stomp), Some(admin)] = ports else {
        let text = format!(
            "--port {} leaves no room for the two ports after it",
            options.port
        );
        return Err(app::Error::Configuration(text));
    };
    let local = |port| {
        SocketAddr::from((
            Ipv4Addr::LOCALHOST,
            if options.port == 0 { 0 } else { port },
        ))
    };
    let path = |call: &str| Some(format!("http://{hook}/auth/{call}"));
    let mut broker = broker::Config {
        url: Some(options.broker.clone().unwrap_or(Url::Embedded)),
        exchanges: BTreeMap::from([(EXCHANGE.into(), ExchangeKind::Direct)]),
        ..broker::Config::default()
    };
    broker.adopt_vhost();
    Ok(Config {
        listen: listen::Config {
            http: Some(local(http)),
            stomp: Some(local(stomp)),
            admin: local(admin),
            ..listen::Config::default()
        },
        sockjs: listen::sockjs::SockjsConfig {
            client_url: CLIENT.to_owned(),
            ..listen::sockjs::SockjsConfig::default()
        },
        broker,
        auth: auth::Config {
            user_path: path("user"),
            vhost_path: path("vhost"),
            resource_path: path("resource"),
            topic_path: path("topic"),
            groups_path: path("groups"),
            ..auth::Config::default()
        },
        presence: presence::Config {
            url: presence::Url::Memory,
            ..presence::Config::default()
        },
        ..Config::default()
    })
}

/// Each user may listen to its own key, publish to the other's, and watch who is online.
fn rules() -> Result<Rules, app::Error> {
    let failed = |error: &dyn std::error::Error| app::Error::Configuration(error.to_string());
    let watch = format!(
        "/exchange/{}/group.{GROUP}",
        presence::Config::default().exchange
    );
    let mut accounts = Vec::new();
    for (name, passcode) in USERS {
        let hash = PasswordHash::weak(passcode).map_err(|error| failed(&error))?;
        let others = USERS.iter().filter(|(other, _)| *other != name);
        let grants: Vec<String> = others
            .map(|(other, _)| format!("/exchange/{EXCHANGE}/user_{other}"))
            .collect();
        let account = Account::new(name, hash)
            .groups([GROUP])
            .read([OWN_FEED, &watch])
            .and_then(|account| account.write(grants.iter().map(String::as_str)));
        accounts.push(account.map_err(|error| failed(&error))?);
    }
    Rules::new(accounts).map_err(|error| failed(&error))
}

/// The facts about its surroundings that the page shows.
#[derive(Clone, Debug)]
struct Info {
    broker: String,
    curl: String,
    /// For a real RabbitMQ only: the embedded broker speaks no AMQP.
    pika: Option<String>,
    stomp: Option<SocketAddr>,
}

impl Info {
    fn new(addresses: Addresses, broker: &Url) -> Self {
        let (user, _) = USERS[0];
        let curl = format!(
            "curl http://{}/demo/push -H 'content-type: application/json' \
             -d '{{\"key\":\"user_{user}\",\"body\":\"Hello from curl\"}}'",
            page(addresses)
        );
        let (broker, pika) = match broker {
            Url::Embedded => ("embedded".to_owned(), None),
            // Shown without its password, which is the reader's to fill in.
            Url::Amqp(url) => (
                format!("RabbitMQ at {}", url.authority()),
                Some(format!(
                    "python3 -c 'import pika; pika.BlockingConnection(pika.URLParameters(\
                     \"{url}\")).channel().basic_publish(\"{EXCHANGE}\", \"user_{user}\", \
                     \"Hello from pika\")'"
                )),
            ),
        };
        Self {
            broker,
            curl,
            pika,
            stomp: addresses.stomp,
        }
    }
}

/// A new token each time: other users of this machine do not know it.
fn tokens(hash: &str) -> Result<Tokens, app::Error> {
    let token = hash
        .parse()
        .map_err(|error: api::TokenError| app::Error::Configuration(error.to_string()))?;
    Ok(Tokens::default().with("demo", token))
}

fn welcome(addresses: Addresses, broker: &Url, token: &str, program: &str) -> std::io::Result<()> {
    let info = Info::new(addresses, broker);
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nStentor's demo is at  http://{}/\n", page(addresses))?;
    writeln!(
        out,
        "Push to a user's page, from another terminal:\n\n  {}\n",
        info.curl
    )?;
    if let Some(pika) = &info.pika {
        writeln!(
            out,
            "or by AMQP alone (fill in the password):\n\n  {pika}\n"
        )?;
    }
    if let Some(stomp) = info.stomp {
        writeln!(
            out,
            "STOMP over TCP: {stomp}; health: http://{}/readyz",
            addresses.admin
        )?;
    }
    writeln!(
        out,
        "\nLook inside, end sessions, publish: http://{} in a browser, with the token below; or\n\n  \
         export STENTOR_URL=http://{} STENTOR_TOKEN={token}\n  \
         {program} ctl node\n",
        addresses.admin, addresses.admin
    )?;
    writeln!(out, "Ctrl-C ends it.\n")?;
    out.flush()
}

/// The page's URL: a demo always has one.
fn page(addresses: Addresses) -> String {
    addresses
        .http
        .map_or_else(String::new, |address| address.to_string())
}
