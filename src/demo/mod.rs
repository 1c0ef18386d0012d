//! `stentor demo`: a gateway to try out, with a page, and all that it needs in one process.

mod routes;

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use auth_hook::service::{self, Account, OWN_FEED, PasswordHash, Rules};
use futures_util::future::LocalBoxFuture;
use tokio::{net::TcpListener, time::timeout};

use crate::{
    api::{self, Scope, Tokens},
    app::{self, Addresses, Gateway},
    auth, background,
    broker::{self, BrokerError, ExchangeKind, Url},
    codes::Code,
    config::Config,
    listen, presence,
    shutdown::Signals,
};

/// The exchange that the page's users listen to.
const EXCHANGE: &str = "feed";
/// SockJS's client, which [`routes`] serve.
const CLIENT: &str = "/vendor/sockjs.min.js";
/// The group that all users are in: the page shows its online members.
const GROUP: &str = "demo";
/// How long a RabbitMQ may take to let the demo in.
const PATIENCE: Duration = Duration::from_secs(5);
/// The users of the page; everybody knows their passwords, so they are good for a demo only.
const USERS: [(&str, &str); 2] = [("alice", "demo-alice"), ("bob", "demo-bob")];

/// The options of a demo.
#[derive(Clone, Debug)]
pub struct Options {
    /// The page's address; STOMP over TCP is on the next port, and the operator's side on the one
    /// after that, on loopback. Port 0: whatever is free.
    pub listen: SocketAddr,
    /// A real RabbitMQ instead of the embedded broker.
    pub broker: Option<Url>,
    /// How this program was called, for commands that are shown: it need not be in the path.
    pub program: String,
}

/// The page's port, unless somebody says another.
const PORT: u16 = 15674;

/// An address to listen on, perhaps with a port: `--listen`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    address: IpAddr,
    port: Option<u16>,
}

/// Reads `ADDRESS` or `ADDRESS:PORT`.
///
/// # Errors
/// It is neither.
pub fn parse_listen(text: &str) -> Result<Listen, String> {
    if let Ok(whole) = text.parse::<SocketAddr>() {
        return Ok(Listen {
            address: whole.ip(),
            port: Some(whole.port()),
        });
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match bare.parse() {
        Ok(address) => Ok(Listen {
            address,
            port: None,
        }),
        Err(_) => Err("write an address of this machine: 0.0.0.0 (all), or 192.0.2.7:8080".into()),
    }
}

impl Listen {
    /// The whole address; `port` is that of `--port`.
    ///
    /// # Errors
    /// Both name one.
    pub fn with_port(self, port: Option<u16>) -> Result<SocketAddr, &'static str> {
        match (self.port, port) {
            (Some(_), Some(_)) => Err("--listen names a port already: leave out --port"),
            (one, other) => Ok((self.address, one.or(other).unwrap_or(PORT)).into()),
        }
    }
}

/// Serves the demo until SIGINT or SIGTERM.
///
/// # Errors
/// As [`app::run`]; a port that is in use, most likely.
pub fn run(options: Options) -> LocalBoxFuture<'static, Result<(), app::Error>> {
    // Boxed for the sake of the program's size: see `app::run`.
    Box::pin(serve(options))
}

async fn serve(options: Options) -> Result<(), app::Error> {
    let hook = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (token, hash) = api::generate(&[Scope::Admin]);
    let config = Config {
        api: api::Config {
            tokens: tokens(&hash)?,
            ..api::Config::default()
        },
        ..config(&options, hook.local_addr()?)?
    };
    is_there(&config).await?;
    background::spawn(service::serve(hook, rules()?, std::future::pending()));
    let has_broker = options.broker.is_some();
    let broker = options.broker.unwrap_or(Url::Embedded);
    // Before anybody can see that it runs: see `app`.
    let signals = Signals::watch()?;
    let gateway = Gateway::start(config, |services, addresses| {
        routes::all(services, Info::new(addresses, &broker))
    })
    .await
    .map_err(|error| in_words_of_the_demo(error, options.listen, has_broker))?;
    // A closed terminal is no reason to stop.
    let _ = welcome(gateway.addresses(), &broker, &token, &options.program);
    gateway.run_until(signals).await;
    Ok(())
}

/// Logs in at the RabbitMQ that was named, if one was. The gateway itself starts without it, and goes on
/// trying, as befits a service; here somebody waits, and would see messages that do not come.
async fn is_there(config: &Config) -> Result<(), app::Error> {
    let Some(rabbitmq) = app::rabbitmq(config, &app::node_name()).map_err(in_words_of_the_flag)?
    else {
        return Ok(());
    };
    let place = rabbitmq.places().join(", ");
    let vhost = &config.broker.default_vhost;
    let asked = timeout(PATIENCE, rabbitmq.product_at(0, vhost)).await;
    let asked =
        asked.unwrap_or_else(|_| Err(BrokerError::Unavailable("it does not answer".into())));
    let text = match asked {
        Ok(_) => return Ok(()),
        Err(BrokerError::AccessRefused(text)) => format!(
            "RabbitMQ at {place} does not let the account {} in: {text}; write its name and its \
             password, amqp://USER:PASSWORD@{place}",
            rabbitmq.account()
        ),
        Err(BrokerError::VhostRefused(text)) => {
            format!("RabbitMQ at {place} refuses the virtual host {vhost}: {text}")
        }
        Err(BrokerError::Unavailable(cause)) => format!(
            "RabbitMQ cannot be reached at {place}: {cause}; start it, or write its address. Without \
             --broker, the demo has a broker of its own"
        ),
        Err(error) => format!("RabbitMQ at {place}: {error}"),
    };
    let text = format!("--broker: {text}");
    Err(app::Error::Argument(Code::WrongArgument, text))
}

/// An error about the broker's address.
fn in_words_of_the_flag(error: app::Error) -> app::Error {
    match error {
        app::Error::Configuration(text) => app::Error::Configuration(format!("--broker: {text}")),
        error => error,
    }
}

/// An error with the flag that avoids it.
fn in_words_of_the_demo(error: app::Error, listen: SocketAddr, has_broker: bool) -> app::Error {
    match error {
        app::Error::Listen(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            app::Error::Argument(error.code(), format!("{error}: see --listen"))
        }
        app::Error::Listen(error) => {
            // Any other port has two after it that may be free.
            let port = if listen.port() < 20_000 {
                25_674
            } else {
                15_674
            };
            let other = SocketAddr::new(listen.ip(), port);
            let text = format!(
                "{error}; `stentor demo --listen {other}` takes that port and the two after it"
            );
            app::Error::Argument(error.code(), text)
        }
        error if has_broker => in_words_of_the_flag(error),
        error => error,
    }
}

fn config(options: &Options, hook: SocketAddr) -> Result<Config, app::Error> {
    let (address, port) = (options.listen.ip(), options.listen.port());
    let ports = [Some(port), port.checked_add(1), port.checked_add(2)];
    let [Some(http), Some(stomp), Some(admin)] = ports else {
        let text = format!(
            "port {port} leaves no room for the two ports after it; write 65533 or less: see --port"
        );
        return Err(app::Error::Argument(Code::WrongArgument, text));
    };
    let at = |address, next| SocketAddr::new(address, if port == 0 { 0 } else { next });
    let path = |call: &str| Some(format!("http://{hook}/auth/{call}"));
    let mut broker = broker::Config {
        url: Some(options.broker.clone().unwrap_or(Url::Embedded)),
        exchanges: BTreeMap::from([(EXCHANGE.into(), ExchangeKind::Direct)]),
        ..broker::Config::default()
    };
    broker.adopt_vhost();
    Ok(Config {
        listen: listen::Config {
            http: Some(at(address, http)),
            stomp: Some(at(address, stomp)),
            // Its token is in this terminal, and the page needs nothing of it.
            admin: at(Ipv4Addr::LOCALHOST.into(), admin),
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
    if let Some(address) = addresses.http.filter(|http| !http.ip().is_loopback()) {
        let [(alice, passcode), ..] = USERS;
        writeln!(
            out,
            "Everybody who reaches port {} of this machine may use it: the passwords are known \
             ({alice}, {passcode}).\n",
            address.port()
        )?;
    }
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

/// The page's host and port, as they are seen from this machine: a demo always has them.
fn page(addresses: Addresses) -> String {
    let seen = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => (Ipv4Addr::LOCALHOST, address.port()).into(),
        IpAddr::V6(ip) if ip.is_unspecified() => (Ipv6Addr::LOCALHOST, address.port()).into(),
        _ => address,
    };
    addresses
        .http
        .map_or_else(String::new, |address| seen(address).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_port() {
        let read = |text, port| parse_listen(text).unwrap().with_port(port);
        let address = |text: &str| Ok(text.parse().unwrap());
        assert_eq!(read("0.0.0.0", None), address("0.0.0.0:15674"));
        assert_eq!(read("127.0.0.1", Some(8080)), address("127.0.0.1:8080"));
        assert_eq!(read("127.0.0.1:8080", None), address("127.0.0.1:8080"));
        assert_eq!(read("::1", None), address("[::1]:15674"));
        assert_eq!(read("[::1]:7", None), address("[::1]:7"));
        assert!(read("[::]:7", Some(8)).unwrap_err().contains("--port"));
        for wrong in ["", "localhost", "127.0.0.1:", "127.0.0.1:70000", ":80"] {
            let error = parse_listen(wrong).unwrap_err();
            assert!(error.contains("0.0.0.0"), "{wrong}: {error}");
        }
    }
}
