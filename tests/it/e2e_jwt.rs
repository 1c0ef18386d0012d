//! Tokens as logins: made by PyJWT, with keys that their issuer publishes, rotates, and sometimes
//! does not; and logins that end by themselves, and are renewed.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Value, json};
use stomp_grammar::{Command, Frame};
use testkit::{
    Answer, Call, DEADLINE, FEED, Gateway, Hook, Remote, StompClient, Vhost, WsOptions, eventually,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};

use crate::house::{self, DESTINATION, KEY, stentor};

/// An issuer of tokens, and the place where it publishes its keys.
struct Issuer {
    program: Remote,
    url: String,
    /// `None`: it is away.
    published: Arc<Mutex<Option<Vec<Value>>>>,
    server: JoinHandle<()>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks.json", listener.local_addr().unwrap());
        let published = Arc::new(Mutex::new(Some(Vec::new())));
        let keys = Arc::clone(&published);
        let server = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let Some(keys) = keys.lock().unwrap().clone() else {
                    continue;
                };
                let body = json!({ "keys": keys }).to_string();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Self {
            program: Remote::python("issuer.py"),
            url,
            published,
            server,
        }
    }

    /// Makes a key, and publishes it beside the others.
    async fn key(&mut self, id: &str, algorithm: &str) {
        self.program
            .order(&json!({ "do": "key", "id": id, "alg": algorithm }));
        let made = self.program.expect("key").await;
        let mut published = self.published.lock().unwrap();
        published.get_or_insert_default().push(made["jwk"].clone());
    }

    fn publish(&self, keys: Option<Vec<Value>>) -> Option<Vec<Value>> {
        std::mem::replace(&mut self.published.lock().unwrap(), keys)
    }

    async fn token(&mut self, key: &str, claims: &Value) -> String {
        self.program
            .order(&json!({ "do": "token", "id": key, "claims": claims }));
        let made = self.program.expect("token").await;
        made["token"].as_str().unwrap().to_owned()
    }

    /// A token of `user` for so many seconds, and what else it says.
    async fn token_for(&mut self, user: &str, seconds: u64, more: Value) -> String {
        self.token("k", &claims(user, seconds, more)).await
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn claims(user: &str, seconds: u64, more: Value) -> Value {
    let mut claims = json!({
        "iss": "https://login.example.com", "aud": "stentor", "sub": user,
        // The next whole second, so that a token counts for at least as long.
        "exp": now().as_secs() + 1 + seconds,
    });
    let more = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(more);
    claims
}

/// A gateway that takes tokens.
struct Tokens {
    issuer: Issuer,
    vhost: Vhost,
    gateway: Gateway,
}

const RIGHTS: &str = "subscribe = [\"/exchange/feed/user_{sub}\", \"/queue/{sub}\"]\n\
                      send = [\"/exchange/feed/user_{sub}\", \"/queue/{sub}\"]\n\
                      subscribe_claim = \"sub_to\"\n";

impl Tokens {
    async fn start(settings: &str) -> Self {
        let mut issuer = Issuer::start().await;
        issuer.key("k", "ES256").await;
        let vhost = house::vhost().await;
        let file = file(&issuer, settings);
        let gateway = stentor().vhost(&vhost).file(&file).ready().await;
        Self {
            issuer,
            vhost,
            gateway,
        }
    }

    fn connect(&self, headers: &[(&str, &str)]) -> Frame {
        let connect = Frame::new(Command::Connect)
            .with_header("accept-version", "1.2")
            .with_header("host", self.vhost.name());
        headers.iter().fold(connect, |frame, (name, value)| {
            frame.with_header(name, value)
        })
    }

    async fn tcp(&self) -> StompClient {
        StompClient::tcp(self.gateway.stomp_address()).await
    }

    /// Over TCP and over WebSocket, logged in; with their CONNECTED.
    async fn clients(&self, token: &str) -> [(StompClient, Frame); 2] {
        let ws = WsOptions::default();
        let ws = StompClient::ws_with(&self.gateway.ws_url(), ws).await;
        let mut clients = Vec::new();
        for mut client in [self.tcp().await, ws] {
            client.send(&self.connect(&[("passcode", token)])).await;
            let connected = connected(&mut client).await;
            clients.push((client, connected));
        }
        clients.try_into().ok().unwrap()
    }

    async fn refused(&self, headers: &[(&str, &str)]) -> Frame {
        let mut client = self.tcp().await;
        client.send(&self.connect(headers)).await;
        client.expect_error("Bad CONNECT").await
    }
}

fn file(issuer: &Issuer, settings: &str) -> String {
    format!(
        "[auth.jwt]\njwks_url = \"{}\"\njwks_cooldown = \"1s\"\nleeway = \"0s\"\n\
         audiences = [\"stentor\"]\nissuers = [\"https://login.example.com\"]\n{settings}",
        issuer.url
    )
}

async fn connected(client: &mut StompClient) -> Frame {
    let is_connected = |frame: &Frame| frame.command == Command::Connected;
    client.expect("CONNECTED", is_connected).await
}

fn renewal(token: &str) -> Frame {
    Frame::new(Command::Send)
        .with_header("destination", "/auth/renew")
        .with_header("token", token)
        .with_header("receipt", "renewed")
}

fn code(frame: &Frame) -> Option<&str> {
    frame.header("error-code")
}

/// No hook is there: the token is the login, and the rights.
#[tokio::test]
async fn tokens_of_each_algorithm_log_in_without_a_hook() {
    let mut tokens = Tokens::start(RIGHTS).await;
    for algorithm in ["RS256", "EdDSA"] {
        tokens.issuer.key(algorithm, algorithm).await;
    }
    for key in ["k", "RS256", "EdDSA"] {
        let token = claims("alice", 60, json!({}));
        let token = tokens.issuer.token(key, &token).await;
        // The new keys are fetched for the first token of each.
        let mut client = eventually(DEADLINE, "the key is known", async || {
            let mut client = tokens.tcp().await;
            client.send(&tokens.connect(&[("passcode", &token)])).await;
            let frame = client.expect_frame().await;
            (frame.command == Command::Connected).then_some(client)
        })
        .await;
        client.subscribe("1", DESTINATION).await;
        tokens.vhost.publish(FEED, KEY, [key]).await;
        client.expect_message(key).await;
        // Queues of its own, for which it needs no right by name.
        let acked = Frame::new(Command::Subscribe)
            .with_header("id", "2")
            .with_header("ack", "client")
            .with_header("destination", DESTINATION);
        client.request(acked).await;
        let durable = Frame::new(Command::Subscribe)
            .with_header("id", "3")
            .with_header("durable", "true")
            .with_header("auto-delete", "false")
            .with_header("destination", DESTINATION);
        client.request(durable).await;
        let gone = Frame::new(Command::Unsubscribe)
            .with_header("id", "3")
            .with_header("durable", "true");
        client.request(gone).await;
        client
            .send(
                &Frame::new(Command::Subscribe)
                    .with_header("id", "4")
                    .with_header("destination", "/exchange/feed/user_bob"),
            )
            .await;
        let error = client.expect_error("access_refused").await;
        assert_eq!(code(&error), Some("permission-denied"));
    }
}

#[tokio::test]
async fn a_token_may_come_in_a_header_a_cookie_the_url_or_a_subprotocol() {
    let settings = "header = \"authorization\"\ncookie = \"jwt\"\nquery = \"jwt\"\n\
                    subprotocol = true\n";
    let mut tokens = Tokens::start(&format!("{RIGHTS}{settings}")).await;
    let token = tokens.issuer.token_for("alice", 60, json!({})).await;
    let url = tokens.gateway.ws_url();
    for (query, headers, protocol) in [
        ("", vec![("authorization", format!("Bearer {token}"))], None),
        (
            "",
            vec![("cookie", format!("theme=dark; jwt={token}"))],
            None,
        ),
        (&*format!("?jwt={token}"), vec![], None),
        ("", vec![], Some(format!("bearer.{token}"))),
    ] {
        let mut options = WsOptions {
            headers,
            ..WsOptions::default()
        };
        if let Some(protocol) = protocol {
            options.protocols = vec!["v12.stomp", protocol.leak()];
        }
        let mut client = StompClient::ws_with(&format!("{url}{query}"), options).await;
        client.send(&tokens.connect(&[])).await;
        connected(&mut client).await;
        client.subscribe("1", DESTINATION).await;
    }
    let lines = tokens.gateway.log().all();
    assert!(
        !lines.iter().any(|line| line.contains(&token)),
        "the token is in the log"
    );
}

#[tokio::test]
async fn tokens_that_do_not_count_are_refused_and_say_to_renew() {
    let mut tokens = Tokens::start(RIGHTS).await;
    let good = tokens.issuer.token_for("alice", 60, json!({})).await;
    for (more, login) in [
        (json!({ "exp": 1 }), ""),
        (json!({ "aud": "other" }), ""),
        (json!({ "iss": "https://attacker.example" }), ""),
        (json!({ "nbf": now().as_secs() + 1000 }), ""),
        (json!({}), "bob"),
    ] {
        let token = tokens.issuer.token_for("alice", 60, more).await;
        let error = tokens
            .refused(&[("login", login), ("passcode", &token)])
            .await;
        assert_eq!(code(&error), Some("login-refused"));
        assert_eq!(error.header("reconnect"), Some("renew"));
    }
    // No password is one, and there is nobody who could know it.
    let error = tokens
        .refused(&[("login", "alice"), ("passcode", "s3cret")])
        .await;
    assert_eq!(code(&error), Some("login-refused"));
    let (head, _) = good.rsplit_once('.').unwrap();
    let error = tokens.refused(&[("passcode", &format!("{head}."))]).await;
    assert_eq!(code(&error), Some("login-refused"));
    let mut client = tokens.tcp().await;
    let named = [("login", "alice"), ("passcode", &*good)];
    client.send(&tokens.connect(&named)).await;
    connected(&mut client).await;
}

#[tokio::test]
async fn keys_rotate_and_count_while_the_issuer_is_away() {
    let mut tokens = Tokens::start(RIGHTS).await;
    let old = tokens.issuer.token_for("alice", 600, json!({})).await;
    tokens.clients(&old).await;

    // Away: keys that are known count, and of others nobody can say.
    let keys = tokens.issuer.publish(None);
    tokens
        .issuer
        .program
        .order(&json!({ "do": "key", "id": "new", "alg": "EdDSA" }));
    let new = tokens.issuer.program.expect("key").await["jwk"].clone();
    let rotated = claims("alice", 600, json!({}));
    let rotated = tokens.issuer.token("new", &rotated).await;
    let what = "that the issuer is away is logged";
    eventually(DEADLINE, what, async || {
        let error = tokens.refused(&[("passcode", &rotated)]).await;
        assert_eq!(code(&error), Some("login-unavailable"));
        assert_eq!(error.header("reconnect"), Some("5s"));
        let said = "keys of the tokens' issuer cannot be fetched";
        tokens.gateway.log().text().contains(said)
    })
    .await;
    tokens.clients(&old).await;

    // Back, with another key: the old one no longer counts.
    drop(keys);
    tokens.issuer.publish(Some(vec![new]));
    eventually(DEADLINE, "the new key is known", async || {
        let mut client = tokens.tcp().await;
        client
            .send(&tokens.connect(&[("passcode", &rotated)]))
            .await;
        (client.expect_frame().await.command == Command::Connected).then_some(())
    })
    .await;
    eventually(DEADLINE, "the old key is forgotten", async || {
        let error = tokens.refused(&[("passcode", &old)]).await;
        (code(&error) == Some("login-refused")).then_some(())
    })
    .await;
    let (_, metrics) = tokens.gateway.admin("/metrics").await;
    for name in ["stentor_jwks_fetches_total", "stentor_tokens_refused_total"] {
        assert!(metrics.contains(name), "{metrics}");
    }
}

/// Over TCP and WebSocket: told before, ended in time, and renewed without reconnecting.
#[tokio::test]
async fn a_session_ends_with_its_token_unless_it_is_renewed() {
    let mut tokens = Tokens::start(RIGHTS).await;
    let short = tokens.issuer.token_for("alice", 2, json!({})).await;
    let long = tokens.issuer.token_for("alice", 600, json!({})).await;
    let mut renewed = tokens.clients(&short).await;
    let ended = tokens.clients(&short).await;
    for (client, connected) in &mut renewed {
        let left: u64 = connected.header("expires-in").unwrap().parse().unwrap();
        assert!(left <= 3, "{left}");
        client.subscribe("1", DESTINATION).await;
        client.send(&renewal(&long)).await;
        let receipt = client.expect_receipt("renewed").await;
        let left: u64 = receipt.header("expires-in").unwrap().parse().unwrap();
        assert!((590..=601).contains(&left), "{left}");
    }
    for (mut client, _) in ended {
        let error = client.expect_error("token expired").await;
        assert_eq!(code(&error), Some("token-expired"));
        assert_eq!(error.header("reconnect"), Some("renew"));
        client.expect_closed().await;
    }
    tokens.vhost.publish(FEED, KEY, ["still here"]).await;
    for (client, _) in &mut renewed {
        client.expect_message("still here").await;
    }
    // The ended token does not renew anything, and its refusal ends nothing.
    for (client, _) in &mut renewed {
        client.send(&renewal(&short)).await;
        let error = client.expect_error("renewal refused").await;
        assert_eq!(error.header("receipt-id"), Some("renewed"));
        client.publish(DESTINATION, "on").await;
    }
}

/// The new token's rights replace the old ones, for this session alone.
#[tokio::test]
async fn a_renewal_brings_other_rights_for_its_own_session() {
    let mut tokens = Tokens::start(RIGHTS).await;
    let more = json!({ "sub_to": ["/exchange/feed/team_red", "/exchange/feed/team_blue"] });
    let both = tokens.issuer.token_for("alice", 600, more).await;
    let more = json!({ "sub_to": "/exchange/feed/team_blue" });
    let blue = tokens.issuer.token_for("alice", 600, more).await;
    let [(mut first, _), (mut second, _)] = tokens.clients(&both).await;
    for client in [&mut first, &mut second] {
        client.subscribe("red", "/exchange/feed/team_red").await;
        client.subscribe("blue", "/exchange/feed/team_blue").await;
    }
    first.send(&renewal(&blue)).await;
    let error = first.expect_error("access_refused").await;
    assert_eq!(error.header("subscription"), Some("red"));
    assert_eq!(code(&error), Some("permission-withdrawn"));
    first.expect_receipt("renewed").await;
    // Not even now, although another session of the same user has the right.
    second.subscribe("again", "/exchange/feed/team_red").await;
    tokens.vhost.publish(FEED, "team_red", ["red"]).await;
    tokens.vhost.publish(FEED, "team_blue", ["blue"]).await;
    first.expect_message("blue").await;
    second.expect_message("red").await;
    let again = Frame::new(Command::Subscribe)
        .with_header("id", "red")
        .with_header("destination", "/exchange/feed/team_red");
    first.send(&again).await;
    first.expect_error("access_refused").await;

    let other = tokens.issuer.token_for("bob", 600, json!({})).await;
    second.send(&renewal(&other)).await;
    let error = second.expect_error("renewal refused").await;
    assert!(String::from_utf8_lossy(&error.body).contains("another user"));
    second.publish(DESTINATION, "on").await;
}

/// RabbitMQ's own form of rights.
#[tokio::test]
async fn scopes_of_rabbitmq_are_rights() {
    let mut tokens = Tokens::start("resource_server_id = \"rabbitmq\"\n").await;
    let scope = "openid rabbitmq.read:*/feed/user_alice rabbitmq.tag:monitoring";
    let token = tokens
        .issuer
        .token_for("alice", 60, json!({ "scope": scope }))
        .await;
    let [(mut client, _), (mut other, _)] = tokens.clients(&token).await;
    client.subscribe("1", DESTINATION).await;
    tokens.vhost.publish(FEED, KEY, ["hello"]).await;
    client.expect_message("hello").await;
    let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
    other.send(&send).await;
    let error = other.expect_error("access_refused").await;
    assert_eq!(code(&error), Some("permission-denied"));
}

#[tokio::test]
async fn libraries_log_in_and_renew_by_tokens() {
    let mut tokens = Tokens::start(RIGHTS).await;
    let first = tokens.issuer.token_for("alice", 20, json!({})).await;
    let second = tokens.issuer.token_for("alice", 600, json!({})).await;
    let connect = json!({
        "do": "connect", "passcode": first, "host": tokens.vhost.name(),
        "url": tokens.gateway.ws_url(), "login": "",
    });
    let over_tcp = json!({
        "do": "connect", "passcode": first, "host": tokens.vhost.name(),
        "address": tokens.gateway.stomp_address(), "login": "alice",
    });
    for (mut client, connect) in [
        (Remote::node("stompjs.mjs"), &connect),
        (Remote::node("stompjs-old.mjs"), &connect),
        (Remote::python("stomppy.py"), &over_tcp),
    ] {
        client.order(connect);
        let connected = client.expect("connected").await;
        let left = connected["headers"]["expires-in"].as_str().unwrap();
        assert!(left.parse::<u64>().unwrap() <= 21, "{left}");
        client.order(&json!({
            "do": "subscribe", "destination": DESTINATION, "headers": { "id": "1" },
        }));
        client.order(&json!({
            "do": "send", "destination": "/auth/renew", "body": second,
            "headers": { "receipt": "renewed" },
        }));
        client.expect("receipt").await;
        client.order(&json!({ "do": "send", "destination": DESTINATION, "body": "x" }));
        assert_eq!(client.expect_bodies(1).await, ["x"]);
        client.order(&json!({ "do": "disconnect" }));
    }
}

/// A page logs in by a token, hears of its end, is pushed to, and renews.
async fn a_page_with_a_token(tokens: &Tokens, page: &mut Remote, connect: &Value, renewed: &str) {
    page.order(connect);
    let connected = page.expect("connected").await;
    let left = connected["headers"]["expires-in"].as_str().unwrap();
    assert!(left.parse::<u64>().unwrap() <= 61, "{left}");
    page.order(&json!({
        "do": "subscribe", "destination": DESTINATION,
        "headers": { "id": "1", "receipt": "subscribed" },
    }));
    page.expect("receipt").await;
    tokens.vhost.publish(FEED, KEY, ["pushed"]).await;
    assert_eq!(page.expect_bodies(1).await, ["pushed"]);
    page.order(&json!({
        "do": "send", "destination": "/auth/renew", "body": renewed,
        "headers": { "receipt": "renewed" },
    }));
    assert_eq!(page.expect("receipt").await["id"], "renewed");
    page.order(&json!({ "do": "disconnect" }));
    page.expect("closed").await;
}

/// Chromium cannot set headers of a WebSocket: the token is in `passcode`, or in the URL.
#[tokio::test]
async fn a_page_in_chromium_logs_in_and_renews_by_tokens() {
    let mut page = Remote::node("browser.mjs");
    page.order(&json!({ "do": "open" }));
    let origin = page.expect("opened").await["origin"].clone();
    let settings = format!("query = \"jwt\"\n{RIGHTS}[listen]\norigins = [{origin}]\n");
    let mut tokens = Tokens::start(&settings).await;
    let first = tokens.issuer.token_for("alice", 60, json!({})).await;
    let second = tokens.issuer.token_for("alice", 600, json!({})).await;
    let url = tokens.gateway.ws_url();
    for (url, passcode) in [(url.clone(), &*first), (format!("{url}?jwt={first}"), "")] {
        let connect = json!({
            "do": "connect", "url": url, "login": "", "passcode": passcode,
            "host": tokens.vhost.name(),
        });
        a_page_with_a_token(&tokens, &mut page, &connect, &second).await;
    }
}

/// Over SockJS without WebSocket, in Node and in Chromium.
#[tokio::test]
async fn sockjs_logs_in_and_renews_by_tokens() {
    let mut page = Remote::node("browser.mjs");
    page.order(&json!({ "do": "open" }));
    let origin = page.expect("opened").await["origin"].clone();
    let mut tokens = Tokens::start(&format!("{RIGHTS}[listen]\norigins = [{origin}]\n")).await;
    let first = tokens.issuer.token_for("alice", 60, json!({})).await;
    let second = tokens.issuer.token_for("alice", 600, json!({})).await;
    let mut node = Remote::node("stompjs.mjs");
    for (is_page, transport) in [
        (false, "xhr-streaming"),
        (true, "xhr-streaming"),
        (true, "xhr-polling"),
    ] {
        let client = if is_page { &mut page } else { &mut node };
        let connect = json!({
            "do": "connect", "url": tokens.gateway.sockjs_url(), "transports": [transport],
            "login": "", "passcode": first, "host": tokens.vhost.name(),
        });
        a_page_with_a_token(&tokens, client, &connect, &second).await;
    }
}

/// The hook gives logins a lifetime, and is asked again by a renewal.
#[tokio::test]
async fn a_hook_s_login_ends_and_is_renewed_too() {
    let house =
        house::House::open_with(|builder| builder.set("auth.lifetime_header", "x-session-seconds"))
            .await;
    house.hook.rule(|asked| {
        (asked.call == Call::User).then(|| match asked.get("password") {
            "once-more" => Answer::AllowFor(600),
            "wrong" => Answer::Deny,
            _ => Answer::AllowFor(2),
        })
    });
    for mut client in [house.raw_tcp().await, house.raw_ws().await] {
        client.send(&house.login().frame()).await;
        let frame = connected(&mut client).await;
        let left = frame.header("expires-in").unwrap();
        assert!(["1", "2"].contains(&left), "{left}");
        client.subscribe("1", DESTINATION).await;
        client.send(&renewal("wrong")).await;
        client.expect_error("renewal refused").await;
        client.send(&renewal("once-more")).await;
        let receipt = client.expect_receipt("renewed").await;
        let left = receipt.header("expires-in").unwrap();
        assert!(["599", "600"].contains(&left), "{left}");
        let asked = house.hook.calls_of(Call::User);
        assert_eq!(asked.last().unwrap().get("username"), house::USER);
        client.disconnect().await;
    }
    let mut ended = house.raw_tcp().await;
    ended.send(&house.login().frame()).await;
    connected(&mut ended).await;
    let error = ended.expect_error("token expired").await;
    assert_eq!(code(&error), Some("token-expired"));
}

/// The token is the login, and the hook says what its user may do.
#[tokio::test]
async fn a_chain_of_a_token_and_a_hook() {
    let mut issuer = Issuer::start().await;
    issuer.key("k", "ES256").await;
    let (vhost, hook) = (house::vhost().await, Hook::start().await);
    let file = file(&issuer, "rights = \"hook\"\n");
    let builder = stentor().vhost(&vhost).hook(&hook).file(&file);
    let gateway = builder.ready().await;
    hook.rule(|asked| {
        let is_denied = asked.call == Call::Topic && asked.get("routing_key") == "denied";
        is_denied.then_some(Answer::Deny)
    });
    let tokens = Tokens {
        issuer,
        vhost,
        gateway,
    };
    let mut tokens = tokens;
    let token = tokens.issuer.token_for("alice", 60, json!({})).await;
    let [(mut client, _), (mut other, _)] = tokens.clients(&token).await;
    assert!(
        hook.calls_of(Call::User).is_empty(),
        "the token is the login"
    );
    client.subscribe("1", DESTINATION).await;
    let asked = hook.calls_of(Call::Topic);
    assert_eq!(asked.last().unwrap().get("username"), "alice");
    let denied = Frame::new(Command::Subscribe)
        .with_header("id", "1")
        .with_header("destination", "/exchange/feed/denied");
    other.send(&denied).await;
    other.expect_error("access_refused").await;
    // A password is the hook's, and a token that does not count is nobody's.
    let mut by_password = tokens.tcp().await;
    let login = [("login", "bob"), ("passcode", "s3cret")];
    by_password.send(&tokens.connect(&login)).await;
    connected(&mut by_password).await;
    assert_eq!(hook.calls_of(Call::User).len(), 1);
    let ended = tokens
        .issuer
        .token_for("bob", 60, json!({ "exp": 1 }))
        .await;
    tokens
        .refused(&[("login", "bob"), ("passcode", &ended)])
        .await;
    assert_eq!(hook.calls_of(Call::User).len(), 1);
}
