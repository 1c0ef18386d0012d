//! TLS on the gateway's own ports, certificates as logins, a certificate that is replaced, and the
//! PROXY protocol.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    sync::Arc,
};

use rcgen::DnType;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use tempfile::TempDir;
use testkit::{
    Authority, Call, DEADLINE, Gateway, GatewayBuilder, Hook, Login, Remote, StompClient,
    TlsClient, WsOptions, within,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    foreign::{Server, a_day},
    house::{DESTINATION, House, PASSCODE, USER, numbers, stentor},
};

/// A gateway with a certificate, on the embedded broker.
struct Secured {
    authority: Authority,
    folder: TempDir,
    hook: Hook,
    gateway: Gateway,
}

impl Secured {
    async fn open(settings: impl FnOnce(GatewayBuilder) -> GatewayBuilder) -> Self {
        Self::open_in(|builder, _| settings(builder)).await
    }

    async fn open_in(settings: impl FnOnce(GatewayBuilder, &Path) -> GatewayBuilder) -> Self {
        let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
        authority.serve_from(folder.path(), "first");
        let hook = Hook::start().await;
        let builder = stentor()
            .hook(&hook)
            .tls(folder.path())
            .set("broker.url", "embedded:")
            .set("broker.exchanges", "feed=direct")
            .set("log.level", "debug");
        let gateway = settings(builder, folder.path()).ready().await;
        Self {
            authority,
            folder,
            hook,
            gateway,
        }
    }

    /// Asks clients for certificates of the authority.
    async fn asking(asked: &str, login: &str) -> Self {
        Self::open_in(|builder, folder| {
            builder
                .set("tls.client_ca", folder.join("ca.pem").display())
                .set("tls.client_certificates", asked)
                .set("auth.certificate_login", login)
        })
        .await
    }

    async fn stomps(&self, client: &TlsClient) -> StompClient {
        let stream = client.connect(self.gateway.stomps_address()).await;
        StompClient::over(stream.unwrap())
    }

    async fn wss(&self, client: &TlsClient) -> StompClient {
        let stream = client.connect(self.gateway.https_address()).await.unwrap();
        StompClient::ws_over(&self.gateway.wss_url(), stream, WsOptions::default()).await
    }

    async fn sockjs(&self, client: &Arc<TlsClient>) -> StompClient {
        let address: Arc<str> = self.gateway.https_address().into();
        let client = Arc::clone(client);
        let dial = move || {
            let (client, address) = (Arc::clone(&client), Arc::clone(&address));
            async move { client.connect(&address).await }
        };
        let opened = StompClient::sockjs_by("http://127.0.0.1/stomp", dial).await;
        opened.unwrap()
    }

    /// The common name in the certificate that it shows.
    async fn shown(&self, address: &str) -> String {
        let stream = self.authority.client().connect(address).await.unwrap();
        let shown = stream.get_ref().1.peer_certificates().unwrap();
        let text = String::from_utf8_lossy(&shown[0]).into_owned();
        let known = ["first", "second", "third"].into_iter();
        known.filter(|name| text.contains(name)).collect()
    }
}

fn login() -> Login {
    Login::new(USER, PASSCODE, "/")
}

/// A CONNECT that says no name.
fn nameless() -> Frame {
    Frame::new(Command::Connect)
        .with_header("accept-version", "1.2")
        .with_header("host", "/")
}

/// The connection ends by itself, after any last words.
async fn until_ended(stream: &mut (impl AsyncReadExt + Unpin)) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end, too.
    let _ = within(
        DEADLINE,
        "the connection ends",
        stream.read_to_end(&mut said),
    )
    .await;
    said
}

#[tokio::test]
async fn tls_carries_what_tcp_websocket_and_sockjs_do() {
    let secured = Secured::open(|builder| builder).await;
    let large = "ä".repeat(512 * 1024);
    for version in [&TLS12, &TLS13] {
        let client = Arc::new(secured.authority.client().version(version));
        for mut stomp in [
            secured.stomps(&client).await,
            secured.wss(&client).await,
            secured.sockjs(&client).await,
        ] {
            stomp.connect(&login()).await;
            stomp.subscribe("1", DESTINATION).await;
            for body in ["small", &large, "last"] {
                let send = Frame::new(Command::Send)
                    .with_header("destination", DESTINATION)
                    .with_body(body.to_owned());
                stomp.send(&send).await;
                stomp.expect_message(body).await;
            }
            stomp.disconnect().await;
        }
    }
    // The plain ports serve on.
    let mut plain = StompClient::tcp(secured.gateway.stomp_address()).await;
    plain.connect(&login()).await;
}

/// Bytes that TLS holds back while the client does not read come when it does, to the last.
#[tokio::test]
async fn a_client_that_reads_late_gets_all() {
    let secured = Secured::open(|builder| builder).await;
    let client = secured.authority.client();
    let mut sender = StompClient::tcp(secured.gateway.stomp_address()).await;
    sender.connect(&login()).await;
    let bodies: Vec<String> = (0..100)
        .map(|number| format!("{number} {}", "x".repeat(50_000)))
        .collect();
    for mut late in [secured.stomps(&client).await, secured.wss(&client).await] {
        late.connect(&login()).await;
        late.subscribe("1", DESTINATION).await;
        for body in &bodies {
            sender.publish(DESTINATION, body.clone()).await;
        }
        assert_eq!(late.expect_messages(bodies.len()).await, bodies);
        late.disconnect().await;
    }
}

#[tokio::test]
async fn stomp_py_and_stompjs_speak_tls() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    authority.serve_from(folder.path(), "first");
    let house = House::open_with(|builder| {
        let builder = builder.tls(folder.path()).set("listen.origins", "*");
        builder
            .set("stomp.heartbeat_send", "1s")
            .set("stomp.heartbeat_receive", "1s")
    })
    .await;
    let (wss, stomps) = (house.gateway.wss_url(), house.gateway.stomps_address());
    let by_node = json!({ "url": wss, "ca": authority.pem() });
    let ca = folder.path().join("ca.pem");
    let by_python = json!({ "address": stomps, "ca": ca.display().to_string() });
    let server = Server::Gateway(Box::new(house));
    let connect = server.connect_ws(&by_node);
    a_day(&server, Remote::node("stompjs.mjs"), &connect, "1.2").await;
    let connect = server.connect_tcp(&by_python);
    a_day(&server, Remote::python("stomppy.py"), &connect, "1.2").await;
}

#[tokio::test]
async fn a_certificate_is_a_login() {
    let subject = [
        (DnType::OrganizationName, "Example, Inc.".into()),
        (DnType::CommonName, "till-7".into()),
    ];
    for (source, name) in [
        ("common_name", "till-7"),
        ("distinguished_name", "CN=till-7,O=Example\\, Inc."),
    ] {
        let secured = Secured::asking("optional", source).await;
        let client = secured.authority.client();
        let till = secured
            .authority
            .client()
            .showing(&secured.authority, &subject);
        for mut stomp in [secured.stomps(&till).await, secured.wss(&till).await] {
            stomp.send(&nameless()).await;
            stomp
                .expect("CONNECTED", |frame| frame.command == Command::Connected)
                .await;
            stomp.subscribe("1", DESTINATION).await;
            stomp.disconnect().await;
        }
        let asked = secured.hook.calls_of(Call::User);
        assert_eq!(asked.len(), 2);
        for call in asked {
            let named = |parameter| call.parameters.iter().any(|(name, _)| name == parameter);
            assert_eq!(call.get("username"), name);
            assert!(named("vhost") && !named("password"), "{call:?}");
        }
        let topics = secured.hook.calls_of(Call::Topic);
        assert!(topics.iter().all(|call| call.get("username") == name));

        // A client that names a user is judged by name and passcode alone, as at the plug-in.
        let mut stomp = secured.stomps(&till).await;
        stomp.connect(&login()).await;
        let asked = secured.hook.calls_of(Call::User);
        let last = asked.last().unwrap();
        assert_eq!(
            [last.get("username"), last.get("password")],
            [USER, PASSCODE]
        );
        let mut stomp = secured.stomps(&till).await;
        stomp.send(&nameless().with_header("login", USER)).await;
        stomp.expect_error("Bad CONNECT").await;

        // Without a certificate there is no name but the one that is said.
        let mut stomp = secured.stomps(&client).await;
        stomp.send(&nameless()).await;
        stomp.expect_error("Bad CONNECT").await;
        let mut stomp = secured.wss(&client).await;
        stomp.connect(&login()).await;
        assert_eq!(secured.hook.calls_of(Call::User).len(), 4);
    }
}

#[tokio::test]
async fn a_certificate_without_a_name_is_no_login() {
    let secured = Secured::asking("required", "common_name").await;
    let client = secured.authority.client().showing(
        &secured.authority,
        &[(DnType::OrganizationName, "Example".into())],
    );
    let mut stomp = secured.stomps(&client).await;
    stomp.send(&nameless()).await;
    stomp.expect_error("Bad CONNECT").await;
    secured
        .gateway
        .until_logged("a client's certificate has no user's name")
        .await;
    assert!(secured.hook.calls_of(Call::User).is_empty());
}

#[tokio::test]
async fn a_client_without_a_required_certificate_does_not_come_in() {
    let secured = Secured::asking("required", "off").await;
    let stranger = Authority::new();
    let alice = [(DnType::CommonName, "alice".into())];
    let without = || secured.authority.client();
    let strange = || secured.authority.client().showing(&stranger, &alice);
    let mut failed = 0;
    for client in [
        without().version(&TLS12),
        without(),
        strange().version(&TLS12),
        strange(),
    ] {
        // With TLS 1.3 a client has shaken hands before the server has looked at it.
        for address in [
            secured.gateway.stomps_address(),
            secured.gateway.https_address(),
        ] {
            let done: io::Result<()> = async {
                let mut stream = client.connect(address).await?;
                let mut byte = [0];
                stream.write_all(b"CONNECT\n").await?;
                stream.read_exact(&mut byte).await.map(drop)
            }
            .await;
            let refused = done.unwrap_err().to_string();
            assert!(
                refused.contains("alert") || refused.contains("reset"),
                "{refused}"
            );
            failed += 1;
        }
    }
    secured
        .gateway
        .until_events("handshake failed", failed)
        .await;
    secured
        .gateway
        .until_logged("peer sent no certificates")
        .await;
    secured
        .gateway
        .until_logged("invalid peer certificate")
        .await;

    // It serves those who have one.
    let sound = without().showing(&secured.authority, &alice);
    secured.wss(&sound).await.connect(&login()).await;
    secured.stomps(&sound).await.connect(&login()).await;
    // A client, too, looks at whom it talks to.
    let wary = stranger.client();
    let connected = wary.connect(secured.gateway.stomps_address()).await;
    assert!(connected.is_err());
}

#[tokio::test]
async fn a_certificate_of_a_stranger_is_refused_though_none_is_needed() {
    let secured = Secured::asking("optional", "common_name").await;
    let alice = [(DnType::CommonName, "alice".into())];
    let client = secured.authority.client().version(&TLS12);
    let strange = client.showing(&Authority::new(), &alice);
    assert!(
        strange
            .connect(secured.gateway.stomps_address())
            .await
            .is_err()
    );
}

/// Connections that were refused before STOMP or HTTP, by reason.
async fn turned_away(gateway: &Gateway) -> BTreeMap<String, usize> {
    let (_, metrics) = gateway.admin("/metrics").await;
    let counts = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("stentor_refused_total{at=\"connection\",reason=\"")?;
        let (reason, count) = rest.split_once("\"} ")?;
        Some((reason.to_owned(), count.parse().ok()?))
    });
    counts.collect()
}

/// What the log says of them: at most a line in 5 s for each reason. Each line comes before its
/// connection's `handshake failed`.
fn said_before_login(gateway: &Gateway) -> Vec<Value> {
    let mut events = gateway.events();
    events.retain(|event| event["message"] == "client refused before its login");
    events
}

/// Old versions, other protocols, and those who say nothing.
#[tokio::test]
async fn what_is_no_handshake_ends() {
    let secured = Secured::open(|builder| {
        builder
            .set("listen.handshake_timeout", "300ms")
            .set("tls.min_version", "1.3")
    })
    .await;
    let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x13, 1, 0]);
    let tls_1_1: &[u8] = &hello;
    let mut failed = 0;
    for address in [
        secured.gateway.stomps_address(),
        secured.gateway.https_address(),
    ] {
        for said in [
            tls_1_1,
            b"CONNECT\naccept-version:1.2\nhost:/\n\n\0",
            b"GET /ws HTTP/1.1\r\n\r\n",
            b"",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said).await.unwrap();
            let answer = until_ended(&mut stream).await;
            // Nothing, or an alert.
            assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
            failed += 1;
        }
        let old = secured.authority.client().version(&TLS12);
        assert!(old.connect(address).await.is_err());
        failed += 1;
    }
    let events = secured
        .gateway
        .until_events("handshake failed", failed)
        .await;
    assert!(events.iter().all(|event| event["level"] == "DEBUG"));
    secured.gateway.until_logged("it took too long").await;
    assert!(secured.hook.calls().is_empty());

    // Each counts once. A slow machine may find more of them too slow.
    let counted = turned_away(&secured.gateway).await;
    let of = |reason: &str| counted.get(reason).copied().unwrap_or_default();
    let (tls, slow) = (of("tls"), of("handshake-timeout"));
    assert_eq!((tls + slow, counted.len()), (failed, 2), "{counted:?}");
    assert!(slow >= 2, "{counted:?}");
    // Of each kind the operator has a line, however many they are.
    let said = said_before_login(&secured.gateway);
    let reasons: BTreeSet<_> = said.iter().map(|event| event["reason"].as_str()).collect();
    let expected = [Some("handshake-timeout"), Some("tls")];
    assert_eq!(reasons, BTreeSet::from(expected), "{said:?}");
    assert!(said.len() < failed, "{said:?}");

    // Whoever goes by itself was refused nothing.
    let gone = TcpStream::connect(secured.gateway.stomps_address()).await;
    drop(gone.unwrap());
    let failures = failed + 1;
    secured
        .gateway
        .until_events("handshake failed", failures)
        .await;
    assert_eq!(turned_away(&secured.gateway).await, counted);
}

#[tokio::test]
async fn a_new_certificate_is_served_and_nobody_is_disconnected() {
    let secured = Secured::open(|builder| builder).await;
    let gateway = &secured.gateway;
    let addresses = [gateway.stomps_address(), gateway.https_address()];
    let client = secured.authority.client();
    let mut old = [secured.stomps(&client).await, secured.wss(&client).await];
    for stomp in &mut old {
        stomp.connect(&login()).await;
        stomp.subscribe("1", DESTINATION).await;
    }
    gateway.until_events("certificate loaded", 1).await;
    assert_eq!(secured.shown(addresses[0]).await, "first");

    secured
        .authority
        .serve_from(secured.folder.path(), "second");
    gateway.process().signal("HUP");
    let loaded = gateway.until_events("certificate loaded", 2).await;
    assert_eq!(loaded[1]["subject"], "CN=second");
    for address in addresses {
        assert_eq!(secured.shown(address).await, "second");
    }

    // A mistake keeps what is there, and says what it is.
    fs::write(secured.folder.path().join("key.pem"), "oops").unwrap();
    gateway.process().signal("HUP");
    let kept = gateway
        .until_events("configuration not reloaded: the old one stays", 1)
        .await;
    let cause = kept[0]["cause"].as_str().unwrap();
    assert!(
        cause.contains("[tls] key: ") && cause.contains("key.pem has no private key"),
        "{cause}"
    );
    assert_eq!(kept[0]["level"], "ERROR");
    for address in addresses {
        assert_eq!(secured.shown(address).await, "second");
    }

    secured.authority.serve_from(secured.folder.path(), "third");
    gateway.process().signal("HUP");
    gateway.until_events("certificate loaded", 3).await;
    assert_eq!(secured.shown(addresses[1]).await, "third");

    // Those of the first hour are still here.
    let mut sender = secured.wss(&client).await;
    sender.connect(&login()).await;
    for body in numbers(0..10) {
        sender.publish(DESTINATION, body).await;
    }
    for mut stomp in old {
        assert_eq!(stomp.expect_messages(10).await, numbers(0..10));
        stomp.disconnect().await;
    }
}

/// An authority that was taken out lets nobody in.
#[tokio::test]
async fn authorities_of_clients_are_replaced_too() {
    let secured = Secured::asking("required", "common_name").await;
    let alice = [(DnType::CommonName, "alice".into())];
    let client = secured
        .authority
        .client()
        .version(&TLS12)
        .showing(&secured.authority, &alice);
    let address = secured.gateway.stomps_address();
    assert!(client.connect(address).await.is_ok());
    let ca = secured.folder.path().join("ca.pem");
    fs::write(ca, Authority::new().pem()).unwrap();
    secured.gateway.process().signal("HUP");
    secured.gateway.until_events("certificate loaded", 2).await;
    assert!(client.connect(address).await.is_err());
}

/// The system's way to ask a daemon to read its files again must not end one that has none.
#[tokio::test]
async fn a_hangup_without_tls_ends_nothing() {
    let hook = Hook::start().await;
    let builder = stentor().hook(&hook).set("broker.url", "embedded:");
    let gateway = builder.ready().await;
    gateway.process().signal("HUP");
    gateway.until_events("configuration reloaded", 1).await;
    let mut stomp = StompClient::tcp(gateway.stomp_address()).await;
    stomp.connect(&login()).await;
    assert!(gateway.terminate(DEADLINE).await.success());
}

/// Behind a proxy: first the header, then TLS or not, then STOMP or HTTP.
#[tokio::test]
async fn a_proxy_says_where_clients_come_from() {
    let secured = Secured::open(|builder| builder.set("listen.proxy_protocol", "true")).await;
    let gateway = &secured.gateway;
    let v1 = b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n".as_slice();
    let v2 = &[
        b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24".as_slice(),
        &[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7],
        &[0; 15],
        &[1, 0x12, 0x67, 1, 0xbb],
    ]
    .concat();
    let proxied = async |address: Option<&str>, header: &[u8]| {
        let mut stream = TcpStream::connect(address.unwrap()).await.unwrap();
        stream.write_all(header).await.unwrap();
        stream
    };
    let tls = secured.authority.client();
    let addresses = gateway.addresses().clone();
    let ws = |stream| StompClient::ws_over("ws://127.0.0.1/ws", stream, WsOptions::default());
    let sockjs = async |header: &[u8]| {
        let (address, header) = (addresses.http.clone().unwrap(), header.to_vec());
        let dial = move || {
            let (address, header) = (address.clone(), header.clone());
            async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(&header).await?;
                Ok(stream)
            }
        };
        let opened = StompClient::sockjs_by("http://127.0.0.1/stomp", dial).await;
        opened.unwrap()
    };
    for (header, ip, remote) in [
        (v1, "192.0.2.7", "192.0.2.7:4711"),
        (v2, "2001:db8::7", "[2001:db8::7]:4711"),
    ] {
        let stomp = proxied(addresses.stomp.as_deref(), header).await;
        let http = proxied(addresses.http.as_deref(), header).await;
        let stomps = proxied(addresses.stomps.as_deref(), header).await;
        let https = proxied(addresses.https.as_deref(), header).await;
        for mut client in [
            StompClient::over(stomp),
            ws(http).await,
            sockjs(header).await,
            StompClient::over(tls.over(stomps).await.unwrap()),
            StompClient::ws_over(
                "wss://127.0.0.1/ws",
                tls.over(https).await.unwrap(),
                WsOptions::default(),
            )
            .await,
        ] {
            client.connect(&login()).await;
            client.disconnect().await;
            let asked = secured.hook.calls_of(Call::Vhost);
            assert_eq!(asked.last().unwrap().get("ip"), ip);
        }
        let log = format!("\"remote\":\"{remote}\"");
        gateway.until_logged(&log).await;
    }
    assert_eq!(secured.hook.calls_of(Call::User).len(), 10);

    // A health check of the proxy's own comes from where it comes from.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let mut http = proxied(addresses.http.as_deref(), local).await;
    http.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    assert!(until_ended(&mut http).await.starts_with(b"HTTP/1.0 404"));
    let unknown = b"PROXY UNKNOWN\r\n";
    let stomp = proxied(addresses.stomp.as_deref(), unknown).await;
    StompClient::over(stomp).connect(&login()).await;
    let asked = secured.hook.calls_of(Call::Vhost);
    assert_eq!(asked.last().unwrap().get("ip"), "127.0.0.1");

    // Without a header nobody comes in.
    for address in [
        &addresses.stomp,
        &addresses.stomps,
        &addresses.http,
        &addresses.https,
    ] {
        let request = b"GET /ws HTTP/1.1\r\nhost: a\r\n\r\n";
        let mut stream = proxied(address.as_deref(), request).await;
        assert!(until_ended(&mut stream).await.is_empty());
    }
    gateway.until_events("handshake failed", 4).await;
    // A balancer that sends no header keeps everybody out: its operator sees it.
    let counted = BTreeMap::from([("proxy-header".to_owned(), 4)]);
    assert_eq!(turned_away(gateway).await, counted);
    let said = said_before_login(gateway);
    assert_eq!(said[0]["level"], "INFO", "{said:?}");
    assert_eq!(said[0]["reason"], "proxy-header", "{said:?}");
    // The operator's side has none.
    assert_eq!(gateway.admin("/readyz").await.0, 200);
}
