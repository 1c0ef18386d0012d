//! Connections to Redis: to a server, to the one that Sentinels name, or to a cluster.

use std::{
    fmt,
    time::{Duration, Instant},
};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult},
};
use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    FromRedisValue, IntoConnectionInfo, Pipeline, RedisError, RedisFuture, TlsCertificates,
    TlsMode, Value,
    aio::{ConnectionLike, MultiplexedConnection},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr},
    io::tcp::TcpSettings,
    sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType},
};
use futures_util::future::{self, FutureExt};
use tokio::sync::{Mutex, Semaphore};

use crate::{
    causes::in_our_words,
    deadline::{after, third},
    presence::{
        PresenceError, RedisConfig, Secret,
        servers::{HostPort, TlsFiles},
    },
    secret_url::SecretUrl,
};

/// Connections to a server at most: one writes, the others read.
const CONNECTIONS: usize = 4;
/// Of those, at most so many answer what clients may ask as often as they like.
const QUESTIONS: usize = 2;
/// How long Redis may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The same where the server has to be found first, and some of those that are asked may be away.
const FINDING: Duration = Duration::from_secs(3);
/// How often a command is sent to other nodes of a cluster, after redirections and failures; and
/// the pauses in between, in milliseconds.
const RETRIES: u32 = 8;
const RETRY_PAUSES: (u64, u64) = (20, 250);

/// The way to Redis.
pub(crate) struct Connections {
    kind: Kind,
    /// Turns of [`Connections::ask`].
    questions: Semaphore,
    /// How long a call may take, with the way there.
    pub(super) timeout: Duration,
}

enum Kind {
    /// One server answers all.
    Server(Box<Pool<Source>>),
    /// A cluster's client finds the node for each key, and is shared.
    Cluster {
        client: Box<ClusterClient>,
        shared: Mutex<Option<ToCluster>>,
    },
}

/// The connection to a cluster, which all share.
#[derive(Clone)]
struct ToCluster {
    connection: ClusterConnection,
    since: Instant,
}

/// A connection of the pool that is kept out of it.
pub(super) type Kept = Object<Source>;

/// A connection to a server on which many calls are under way at a time, and its number.
#[derive(Default)]
pub(crate) struct Shared(Mutex<(u64, Option<Kept>)>);

/// Makes the connections of a pool.
pub(super) struct Source {
    finding: Finding,
    settings: AsyncConnectionConfig,
}

enum Finding {
    /// The server has an address.
    Server(Box<Client>),
    /// Sentinels know it.
    Sentinels(Box<Mutex<SentinelClient>>),
}

impl Connections {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`PresenceError::Configuration`]: a key, and its fault.
    pub(crate) fn new(
        url: &SecretUrl,
        config: &RedisConfig,
        lease: Duration,
    ) -> Result<Self, PresenceError> {
        // A lease shorter than three timeouts would run out while one call is waited for.
        let answering = TIMEOUT.min(third(lease));
        let finding = FINDING.min(third(lease).saturating_mul(2));
        let files = config
            .read_files()
            .map_err(|(key, fault)| wrong(key, fault))?;
        let certificates = certificates(files);
        let url_wrong = |error: RedisError| wrong("[presence] url", error);
        let server = info(url, certificates.as_ref()).map_err(url_wrong)?;
        if config.cluster {
            let client = cluster(&server, config, certificates, answering, finding);
            return Ok(Self {
                kind: Kind::Cluster {
                    client: Box::new(client.map_err(url_wrong)?),
                    shared: Mutex::default(),
                },
                questions: Semaphore::new(QUESTIONS),
                timeout: finding,
            });
        }
        let (source, timeout) = if config.sentinels.is_empty() {
            let client = Client::open(server).map_err(url_wrong)?;
            (Finding::Server(Box::new(client)), answering)
        } else {
            let client = sentinels(&server, config, certificates)
                .map_err(|error| wrong("sentinels", error))?;
            (Finding::Sentinels(Box::new(Mutex::new(client))), finding)
        };
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(answering))
            .set_response_timeout(Some(answering));
        let pool = Pool::builder(Source {
            finding: source,
            settings,
        })
        .max_size(CONNECTIONS)
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(timeout))
        .create_timeout(Some(timeout))
        .recycle_timeout(Some(answering))
        .build()
        .map_err(|error| wrong("[presence] url", error))?;
        Ok(Self {
            kind: Kind::Server(Box::new(pool)),
            questions: Semaphore::new(QUESTIONS),
            timeout,
        })
    }

    /// True if keys are in partitions.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.kind, Kind::Cluster { .. })
    }

    /// One round trip with all commands, in any order. In a cluster they are all about the slot of
    /// the key `tag`.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        tag: &str,
        pipe: &Pipeline,
    ) -> Result<T, PresenceError> {
        self.send(tag, pipe, Order::Any).await
    }

    /// As [`Connections::call`], for what clients may ask as often as they like: to a server, such
    /// calls leave a connection to logins and the others.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        tag: &str,
        pipe: &Pipeline,
    ) -> Result<T, PresenceError> {
        if self.is_cluster() {
            return self.call(tag, pipe).await;
        }
        let asking = async {
            // It is never closed.
            let _turn = self.questions.acquire().await;
            self.call(tag, pipe).await
        };
        self.in_time(asking).await
    }

    /// As [`Connections::call`], in the order of the commands.
    pub(super) async fn call_in_order<T: FromRedisValue>(
        &self,
        tag: &str,
        pipe: &Pipeline,
    ) -> Result<T, PresenceError> {
        self.send(tag, pipe, Order::Kept).await
    }

    async fn send<T: FromRedisValue>(
        &self,
        tag: &str,
        pipe: &Pipeline,
        order: Order,
    ) -> Result<T, PresenceError> {
        let calling = async {
            match &self.kind {
                Kind::Server(pool) => {
                    let mut connection = pool.get().await.map_err(no_connection)?;
                    let answer = pipe.query_async(&mut *connection).await;
                    if answer.is_err() {
                        // The next call finds the server anew.
                        drop(Object::take(connection));
                    }
                    answer.map_err(refused)
                }
                Kind::Cluster { client, shared } => {
                    let slot = (tag, order);
                    call_cluster(client, shared, slot, pipe).await
                }
            }
        };
        self.in_time(calling).await
    }

    /// As [`Connections::call_in_order`], on one and the same connection to a server, for the pool would test
    /// one before each use. After an error the next call makes, and finds, all of them anew.
    pub(super) async fn write<T: FromRedisValue>(
        &self,
        kept: &Mutex<Option<Kept>>,
        tag: &str,
        pipe: &Pipeline,
    ) -> Result<T, PresenceError> {
        let Kind::Server(pool) = &self.kind else {
            return self.call_in_order(tag, pipe).await;
        };
        let mut kept = kept.lock().await;
        // Taken out, so that it does not stay if this is given up.
        let (before, writing) = (kept.take(), async |before: Option<Kept>| {
            let mut connection = match before {
                Some(connection) => connection,
                None => pool.get().await.map_err(no_connection)?,
            };
            match pipe.query_async(&mut *connection).await {
                Ok(answer) => Ok((answer, connection)),
                Err(error) => {
                    drop(Object::take(connection));
                    Err(refused(error))
                }
            }
        });
        match self.in_time(writing(before)).await {
            Ok((answer, connection)) => {
                *kept = Some(connection);
                Ok(answer)
            }
            Err(error) => {
                // Those that read lead to the same server, which may be a replica by now, and
                // would answer with the past.
                pool.retain(|_, _| false);
                Err(error)
            }
        }
    }

    /// As [`Connections::call`], on a connection on which no call waits for another. After an error
    /// the next call makes, and finds, it anew.
    pub(crate) async fn share<T: FromRedisValue>(
        &self,
        Shared(shared): &Shared,
        tag: &str,
        pipe: &Pipeline,
    ) -> Result<T, PresenceError> {
        let Kind::Server(pool) = &self.kind else {
            return self.call(tag, pipe).await;
        };
        let deadline = after(self.timeout);
        let getting = async {
            let mut shared = shared.lock().await;
            let (number, kept) = &mut *shared;
            let kept = match kept {
                Some(kept) => kept,
                None => {
                    let made = pool.get().await.map_err(no_connection)?;
                    *number = number.wrapping_add(1);
                    kept.insert(made)
                }
            };
            Ok((*number, MultiplexedConnection::clone(kept)))
        };
        let (number, mut connection) = self.by(deadline, getting).await?;
        let asking = async { pipe.query_async(&mut connection).await.map_err(refused) };
        let answer = self.by(deadline, asking).await;
        // Also where the time of the call was over first: the server may have gone without a word.
        if answer.is_err() {
            let mut shared = shared.lock().await;
            if shared.0 == number
                && let Some(kept) = shared.1.take()
            {
                drop(Object::take(kept));
            }
        }
        answer
    }

    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, PresenceError>>,
    ) -> Result<T, PresenceError> {
        self.by(after(self.timeout), call).await
    }

    /// The same, of a call that began earlier.
    async fn by<T>(
        &self,
        deadline: tokio::time::Instant,
        call: impl Future<Output = Result<T, PresenceError>>,
    ) -> Result<T, PresenceError> {
        let timeout = self.timeout;
        tokio::time::timeout_at(deadline, call)
            .await
            .unwrap_or_else(|_| Err(unavailable(format!("Redis did not answer in {timeout:?}"))))
    }
}

impl Manager for Source {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> Result<MultiplexedConnection, RedisError> {
        let settings = &self.settings;
        match &self.finding {
            Finding::Server(client) => {
                client
                    .get_multiplexed_async_connection_with_config(settings)
                    .await
            }
            Finding::Sentinels(client) => {
                let mut client = client.lock().await;
                client.get_async_connection_with_config(settings).await
            }
        }
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        _: &Metrics,
    ) -> RecycleResult<RedisError> {
        if matches!(self.finding, Finding::Server(_)) {
            deadpool_redis::redis::cmd("PING")
                .query_async::<()>(connection)
                .await?;
            return Ok(());
        }
        // A replica answers, too, but not with the truth.
        let role: Vec<Value> = deadpool_redis::redis::cmd("ROLE")
            .query_async(connection)
            .await?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(()),
            _ => Err(RecycleError::message("the server is no master any more")),
        }
    }
}

async fn call_cluster<T: FromRedisValue>(
    client: &ClusterClient,
    shared: &Mutex<Option<ToCluster>>,
    (tag, order): (&str, Order),
    pipe: &Pipeline,
) -> Result<T, PresenceError> {
    let ToCluster { connection, since } = {
        let mut shared = shared.lock().await;
        match &*shared {
            Some(shared) => shared.clone(),
            None => {
                let connection = client.get_async_connection().await.map_err(refused)?;
                let since = Instant::now();
                shared.insert(ToCluster { connection, since }).clone()
            }
        }
    };
    let mut slot = OneSlot {
        connection,
        tag,
        order,
    };
    let answer = pipe.query_async(&mut slot).await;
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) => {
            // It follows slots to other nodes by itself. But it may have lost all that it knew, or
            // wait for a node that is gone; then a new one asks those that are there.
            if error.is_timeout() || error.kind() == ErrorKind::ClusterConnectionNotFound {
                let mut shared = shared.lock().await;
                let is_old =
                    |shared: &ToCluster| shared.since == since && since.elapsed() > FINDING;
                if shared.as_ref().is_some_and(is_old) {
                    *shared = None;
                }
            }
            Err(refused(error))
        }
    }
}

/// Whether commands that follow another must not overtake it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// They go as one pipeline. While the slot moves, Redis takes a single command at a time at the
    /// new node, so a pipeline has to wait until it has moved.
    Kept,
    /// They go by themselves, all at once, and each follows the slot.
    Any,
}

/// Sends commands to the node that has the slot of the key `tag`.
struct OneSlot<'t> {
    connection: ClusterConnection,
    tag: &'t str,
    order: Order,
}

impl OneSlot<'_> {
    fn route(&self) -> SingleNodeRoutingInfo {
        let route = Route::with_key(self.tag, SlotAddr::Master);
        SingleNodeRoutingInfo::SpecificNode(route)
    }

    fn send(&self, command: &Cmd) -> RedisFuture<'static, Value> {
        let (mut connection, command) = (self.connection.clone(), command.clone());
        let route = RoutingInfo::SingleNode(self.route());
        async move { connection.route_command(command, route).await }.boxed()
    }
}

impl ConnectionLike for OneSlot<'_> {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        self.send(command)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipe: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        if self.order == Order::Kept {
            let (mut connection, route) = (self.connection.clone(), self.route());
            let pipe = pipe.clone();
            return async move { connection.route_pipeline(pipe, offset, count, route).await }
                .boxed();
        }
        let calls = pipe.cmd_iter().map(|command| self.send(command));
        future::try_join_all(calls).boxed()
    }

    fn get_db(&self) -> i64 {
        0
    }
}

/// The address and the account.
fn info(
    url: &SecretUrl,
    certificates: Option<&TlsCertificates>,
) -> Result<ConnectionInfo, RedisError> {
    // A write waits for no acknowledgement of the one before.
    let info = url
        .reveal()
        .into_connection_info()?
        .set_tcp_settings(at_once());
    match certificates {
        Some(certificates) if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) => {
            let client = Client::build_with_tls(info, certificates.clone())?;
            Ok(client.get_connection_info().clone())
        }
        _ => Ok(info),
    }
}

fn at_once() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// `None`: the system's authorities are trusted, and nothing is shown.
fn certificates(files: TlsFiles) -> Option<TlsCertificates> {
    if files.ca.is_none() && files.shown.is_none() {
        return None;
    }
    let client_tls = files.shown.map(|(certificate, key)| ClientTlsConfig {
        client_cert: certificate,
        client_key: key.reveal().unwrap_or_default().as_bytes().to_vec(),
    });
    Some(TlsCertificates {
        client_tls,
        root_cert: files.ca,
    })
}

fn sentinels(
    server: &ConnectionInfo,
    config: &RedisConfig,
    certificates: Option<TlsCertificates>,
) -> Result<SentinelClient, RedisError> {
    let (name, is_tls) = match server.addr() {
        ConnectionAddr::TcpTls { host, .. } => (host.clone(), true),
        ConnectionAddr::Tcp(host, _) => (host.clone(), false),
        other => (other.to_string(), false),
    };
    let addresses: Vec<_> = addresses(&config.sentinels)
        .map(|HostPort { host, port }| {
            if config.sentinel_tls {
                ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: false,
                    tls_params: None,
                }
            } else {
                ConnectionAddr::Tcp(host, port)
            }
        })
        .collect();
    let mut builder = SentinelClientBuilder::new(addresses, name, SentinelServerType::Master)?;
    let account = server.redis_settings();
    builder = builder
        .set_client_to_redis_tcp_settings(at_once())
        .set_client_to_redis_db(account.db());
    if let Some(user) = account.username() {
        builder = builder.set_client_to_redis_username(user);
    }
    if let Some(password) = account.password() {
        builder = builder.set_client_to_redis_password(password);
    }
    if is_tls {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
        if let Some(certificates) = &certificates {
            builder = builder.set_client_to_redis_certificates(certificates.clone());
        }
    }
    if !config.sentinel_user.is_empty() {
        builder = builder.set_client_to_sentinel_username(&config.sentinel_user);
    }
    if let Some(password) = Secret::reveal(&config.sentinel_password) {
        builder = builder.set_client_to_sentinel_password(password);
    }
    if config.sentinel_tls {
        builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
        if let Some(certificates) = certificates {
            builder = builder.set_client_to_sentinel_certificates(certificates);
        }
    }
    builder.build()
}

fn cluster(
    server: &ConnectionInfo,
    config: &RedisConfig,
    certificates: Option<TlsCertificates>,
    answering: Duration,
    finding: Duration,
) -> Result<ClusterClient, RedisError> {
    let more = addresses(&config.nodes).map(|HostPort { host, port }| {
        let address = match server.addr() {
            ConnectionAddr::TcpTls { tls_params, .. } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: false,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        server.clone().set_addr(address)
    });
    let nodes: Vec<_> = std::iter::once(server.clone()).chain(more).collect();
    let (shortest, longest) = RETRY_PAUSES;
    let mut builder = ClusterClient::builder(nodes)
        .connection_timeout(answering)
        .response_timeout(answering)
        .tcp_settings(at_once())
        // Before the caller gives up, so that a connection that hangs is noticed here.
        .overall_response_timeout(Some(finding.mul_f64(0.75)))
        .retries(RETRIES)
        .min_retry_wait(shortest)
        .max_retry_wait(longest);
    if let Some(certificates) = certificates
        && matches!(server.addr(), ConnectionAddr::TcpTls { .. })
    {
        builder = builder.certs(certificates);
    }
    builder.build()
}

fn addresses(texts: &[Box<str>]) -> impl Iterator<Item = HostPort> {
    // They have been checked.
    texts.iter().filter_map(|text| HostPort::read(text))
}

fn wrong(key: &str, fault: impl fmt::Display) -> PresenceError {
    let section = if key.starts_with('[') { "" } else { "[redis] " };
    PresenceError::Configuration(format!("{section}{key}: {fault}").into())
}

/// In Redis' words where it has some: how the pool came to ask is nobody's business.
fn no_connection(error: PoolError<RedisError>) -> PresenceError {
    match error {
        PoolError::Backend(error) => refused(error),
        other => unavailable(other),
    }
}

/// The longest error text that is passed on, in characters: of a pipeline all that failed is told.
const MAX_TEXT: usize = 300;

/// Said behind Redis' words for that.
pub(super) const LACKS_A_RIGHT: &str =
    "; the account lacks a right: docs/presence.md has all that it needs";

/// An error of Redis' own.
fn refused(error: RedisError) -> PresenceError {
    let mut text: String = error.to_string().chars().take(MAX_TEXT).collect();
    // The library writes NOPERM as it writes its own kinds. Within a script, Redis 7.0 names no
    // command, later ones do.
    let lacks = [
        "NoPerm",
        "NOPERM",
        "ACL failure",
        "executing the script can't",
    ];
    if lacks.iter().any(|words| text.contains(words)) {
        text.push_str(LACKS_A_RIGHT);
    }
    unavailable(text)
}

/// Neither Redis' errors nor the pool's show the URL.
pub(super) fn unavailable(error: impl fmt::Display) -> PresenceError {
    PresenceError::Unavailable(in_our_words(&error.to_string()).into())
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::presence::Url;

    /// Greets a client after a while, and says nothing more.
    async fn greet(mut stream: TcpStream) {
        let mut said = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut said).await {
            let greetings = said[..length]
                .windows(7)
                .filter(|part| **part == *b"SETINFO");
            let answers = b"+OK\r\n".repeat(greetings.count());
            tokio::time::sleep(Duration::from_millis(20)).await;
            if stream.write_all(&answers).await.is_err() {
                return;
            }
        }
    }

    /// The time of a call begins before that of its question, and so is over first.
    #[tokio::test]
    async fn a_shared_connection_that_does_not_answer_is_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(greet(stream));
            }
        });
        let Ok(Url::Redis(url)) = format!("redis://{address}").parse() else {
            panic!("{address}")
        };
        let lease = Duration::from_millis(600);
        let connections = Connections::new(&url, &RedisConfig::default(), lease).unwrap();
        let shared = Shared::default();
        let mut question = Pipeline::new();
        question.cmd("PING");
        for calls in 1..=2 {
            let answer = connections.share::<Value>(&shared, "", &question).await;
            assert!(matches!(answer, Err(PresenceError::Unavailable(_))));
            assert_eq!(made.load(Ordering::Relaxed), calls);
        }
        serving.abort();
    }

    #[test]
    fn a_connection_that_cannot_be_made_is_told_in_redis_words() {
        let error = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = no_connection(PoolError::Backend(error.into()));
        assert_eq!(error.to_string(), "unreachable: connection refused");
    }

    #[test]
    fn a_right_that_is_missing_is_told_with_the_remedy() {
        let reply = b"-NOPERM this user has no permissions to run the 'eval' command\r\n";
        let error = deadpool_redis::redis::parse_redis_value(reply)
            .unwrap()
            .extract_error();
        let text = refused(error.unwrap_err()).to_string();
        assert!(
            text.contains("'eval'") && text.contains("docs/presence.md"),
            "{text}"
        );
    }
}
