//! RabbitMQ's own users at the gateway: it answers as RabbitMQ's STOMP plug-in does, question by
//! question, by the definitions that this RabbitMQ exported.

use std::{collections::BTreeSet, fs, path::PathBuf, sync::Arc};

use lapin::ExchangeKind;
use stentor::auth::rabbitmq::pattern::Pattern;
use stomp_grammar::{Command, Frame};
use tempfile::TempDir;
use testkit::{Gateway, Login, RabbitMq, StompClient, Vhost, WsOptions, show, unique};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::house::stentor;

/// The password of all users who have one.
const PASSWORD: &str = "test äöü";

/// RabbitMQ with users, and a gateway with its export.
struct Both {
    node: Arc<RabbitMq>,
    vhost: Vhost,
    gateway: Gateway,
    folder: TempDir,
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    Subscribe(&'static str),
    Send(&'static str),
}

use Ask::{Send, Subscribe};

/// A user, and its permissions to configure, write and read.
type Rights = (&'static str, [&'static str; 3]);

const USERS: &[Rights] = &[
    ("all", [".*", ".*", ".*"]),
    ("nothing", ["", "", ""]),
    ("empty", ["^$", "^$", "^$"]),
    ("reader", ["", "", "^feed$"]),
    (
        "lists",
        [
            "^(stomp-subscription-.*|work|lists-.*)$",
            r"^(stomp-subscription-.*|amq\.default|feed|lists-.*|work)$",
            "^(stomp-subscription-.*|feed|work|lists-.*)$",
        ],
    ),
    // Not anchored.
    (
        "loose",
        [
            "stomp-sub|wor",
            "stomp-sub|amq.default|fee",
            "stomp-sub|eed|ork",
        ],
    ),
    (
        "look",
        [
            "^(?!secret|lists)",
            r"^(?!secret|amq\.topic$)",
            "^(?!secret|amq)",
        ],
    ),
    (
        "cases",
        [
            "(?i)^(WORK|STOMP-)",
            "(?i)^(AMQ|Feed|stomp)",
            "^(?i:W|F|S)[a-z]+",
        ],
    ),
    (
        "classes",
        [
            r"^[[:alpha:]\-]+-[\w-]+$|^w[^a]rk$",
            // A queue's name may have two hyphens in a row.
            r"^\w+([.-]\w+)*$|^stomp-",
            r"^[^.]{4,}$|\Astomp-",
        ],
    ),
    // One that ends in a blank, one with a dollar in the middle, and `amq.gen-…`.
    (
        "odd",
        [
            "^amq\\.gen.*$|^work $|^stomp",
            "a$b|^stomp",
            "^amq\\.gen-|^stomp|^feed$",
        ],
    ),
    ("alice", [".*", ".*", ".*"]),
    ("a.c", [".*", ".*", ".*"]),
    ("a+b@x.de", [".*", ".*", ".*"]),
];

/// A user, an exchange, and the keys that it may write and read there.
const TOPICS: &[(&str, &str, [&str; 2])] = &[
    (
        "alice",
        "feed",
        [r"^{username}\.", r"^(news\..*|user_{username}|{vhost}_a)$"],
    ),
    ("alice", "amq.topic", ["", ".*"]),
    ("alice", "orders", ["^alice", "^alice"]),
    ("a.c", "feed", ["^user_{username}$", "^user_{client_id}$"]),
    (
        "a+b@x.de",
        "feed",
        ["^user_{username}$", "^user_{username}$"],
    ),
    ("lists", "feed", ["user", "news|bob"]),
    ("loose", "feed", ["^$", "(?-i)NEWS|^user_[ab]"]),
    ("look", "feed", ["^(?!.*secret)", "^user_(?!alice)"]),
];

const ASKS: &[Ask] = &[
    Subscribe("/exchange/feed/user_alice"),
    Subscribe("/exchange/feed/user_bob"),
    Subscribe("/exchange/feed/news.sport"),
    Subscribe("/exchange/feed/VHOST_a"),
    Subscribe("/exchange/feed/user_{client_id}"),
    Subscribe("/exchange/feed/user_a+b@x.de"),
    Subscribe("/topic/user_alice"),
    Subscribe("/topic/secret.x"),
    Subscribe("/exchange/orders/alice"),
    Subscribe("/exchange/orders/other"),
    Subscribe("/queue/work"),
    Subscribe("/queue/secret"),
    Subscribe("/queue/lists-1"),
    Subscribe("/amq/queue/here"),
    Subscribe("/amq/queue/amq.gen-here"),
    Send("/exchange/feed/alice.x"),
    Send("/exchange/feed/user_a.c"),
    Send("/exchange/feed/user_abc"),
    Send("/exchange/feed/user_a+b@x.de"),
    Send("/exchange/feed/secret.user"),
    Send("/topic/x"),
    Send("/exchange/amq.direct/x"),
    Send("/exchange/orders/alice"),
    Send("/exchange/orders/other"),
    Send("/queue/work"),
    Send("/queue/secret"),
    Send("/amq/queue/here"),
];

impl Both {
    async fn open() -> Self {
        let node = RabbitMq::own_with("stomp.proxy_protocol = true\n").await;
        let node = Arc::new(node);
        let vhost = node.vhost().await;
        vhost.declare_exchange("feed", ExchangeKind::Topic).await;
        vhost.declare_exchange("orders", ExchangeKind::Direct).await;
        let api = node.api();
        for (user, rights) in USERS {
            api.add_user(user, PASSWORD).await;
            api.allow(vhost.name(), user, *rights).await;
        }
        for (user, exchange, keys) in TOPICS {
            api.allow_topics(vhost.name(), user, exchange, *keys).await;
        }
        add_special_users(&node, vhost.name()).await;
        let (folder, file) = export(&node).await;
        let gateway = gateway(&vhost)
            .set("auth.rabbitmq.definitions", file.display())
            .set("listen.proxy_protocol", "true")
            .set("listen.trusted_proxies", "127.0.0.1")
            // The same users fail again and again here.
            .set("limits.max_failed_logins", "1000")
            .ready()
            .await;
        Self {
            node,
            vhost,
            gateway,
            folder,
        }
    }

    /// The plug-in's address, then the gateway's.
    fn addresses(&self) -> [String; 2] {
        let gateway = self.gateway.stomp_address().to_owned();
        [self.node.stomp_address(), gateway]
    }
}

/// Serves the broker's virtual hosts, and has no hook.
fn gateway(vhost: &Vhost) -> testkit::GatewayBuilder {
    stentor().vhost(vhost).set("broker.vhosts", "*")
}

/// RabbitMQ's definitions, in a file.
async fn export(node: &RabbitMq) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("definitions.json");
    node.ctl(&["export_definitions", file.to_str().unwrap()])
        .await;
    (folder, file)
}

/// Behind a proxy, which says where the client comes from.
async fn client(address: &str, from: &str) -> StompClient {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let line = format!("PROXY TCP4 {from} 127.0.0.1 4711 61613\r\n");
    stream.write_all(line.as_bytes()).await.unwrap();
    StompClient::over(stream)
}

/// The first frame: `None` if it is the one that is hoped for, else what the client is told.
async fn answer(client: &mut StompClient, hoped: Command) -> Option<String> {
    let frame = client.next_frame().await;
    match frame {
        Ok(frame) if frame.command == hoped => None,
        Ok(frame) if frame.command == Command::Error => Some(show(&frame)),
        other => panic!("neither {hoped:?} nor ERROR: {other:?}"),
    }
}

async fn login(client: &mut StompClient, login: &Login) -> Option<String> {
    client.send(&login.frame()).await;
    answer(client, Command::Connected).await
}

async fn ask(address: &str, user: &str, vhost: &str, ask: Ask) -> Option<String> {
    let mut client = client(address, "127.0.0.1").await;
    let refused = login(&mut client, &Login::new(user, PASSWORD, vhost)).await;
    assert_eq!(refused, None, "{user} at {address}");
    let frame = match ask {
        Subscribe(destination) => Frame::new(Command::Subscribe)
            .with_header("id", "1")
            .with_header("destination", &destination.replace("VHOST", vhost)),
        // A queue that is full of them is nobody's concern.
        Send(destination) => Frame::new(Command::Send).with_header("destination", destination),
    };
    client.send(&frame.with_header("receipt", "r")).await;
    answer(&mut client, Command::Receipt).await
}

/// Where plug-in and gateway differ on purpose: the rows of docs/rabbitmq-accounts.md.
fn differs(user: &str, ask: &Ask, [plugin, gateway]: [bool; 2]) -> Option<&'static str> {
    let is = |plugin_is: bool, gateway_is: bool| (plugin, gateway) == (plugin_is, gateway_is);
    match (user, ask) {
        ("reader", Subscribe(destination))
            if destination.starts_with("/exchange/feed/") && is(false, true) =>
        {
            Some("a plain subscription needs no queue")
        }
        ("alice", Subscribe("/exchange/orders/other") | Send("/exchange/orders/other"))
            if is(true, false) =>
        {
            Some("topic permissions count for every type of exchange")
        }
        ("a.c", Send("/exchange/feed/user_abc")) if is(true, false) => {
            Some("a user's name is no pattern")
        }
        (
            "a+b@x.de",
            Subscribe("/exchange/feed/user_a+b@x.de") | Send("/exchange/feed/user_a+b@x.de"),
        ) if is(false, true) => Some("a user's name is no pattern"),
        _ => None,
    }
}

/// One test, for it needs a node of its own.
#[tokio::test]
async fn the_gateway_answers_as_the_plugin_does() {
    let both = Both::open().await;
    permissions_are_the_same(&both).await;
    logins_are_the_same(&both).await;
    nothing_is_shown(&both);
}

async fn permissions_are_the_same(both: &Both) {
    let addresses = both.addresses();
    let mut different = Vec::new();
    let mut reasons = BTreeSet::new();
    let (mut allowed, mut denied) = (0, 0);
    for (user, _) in USERS {
        for question in ASKS {
            let mut answers = Vec::new();
            for address in &addresses {
                answers.push(ask(address, user, both.vhost.name(), *question).await);
            }
            let [plugin, gateway] = [answers[0].is_none(), answers[1].is_none()];
            if plugin == gateway {
                *(if plugin { &mut allowed } else { &mut denied }) += 1;
                continue;
            }
            match differs(user, question, [plugin, gateway]) {
                Some(reason) => drop(reasons.insert(reason)),
                None => different.push(format!("{user} {question:?}: {answers:#?}")),
            }
        }
    }
    println!("the same: {allowed} allowed, {denied} denied; on purpose: {reasons:?}");
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(allowed > 90 && denied > 90, "{allowed} {denied}");
    // Each difference is shown, or its row is wrong. RabbitMQ 4.3 takes names as texts itself.
    assert!(reasons.len() >= 2, "{reasons:?}");
}

/// A user, a passcode, a virtual host (`VHOST` is the test's), an address, and whether the plug-in
/// and the gateway let it in.
type Attempt = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    [bool; 2],
);

const LOGINS: &[Attempt] = &[
    ("all", PASSWORD, "VHOST", "127.0.0.1", [true; 2]),
    ("all", PASSWORD, "VHOST", "192.0.2.1", [true; 2]),
    ("all", "wrong", "VHOST", "127.0.0.1", [false; 2]),
    ("all", "", "VHOST", "127.0.0.1", [false; 2]),
    ("All", PASSWORD, "VHOST", "127.0.0.1", [false; 2]),
    ("all", PASSWORD, "/", "127.0.0.1", [false; 2]),
    ("all", PASSWORD, "no-such", "127.0.0.1", [false; 2]),
    ("nothing", PASSWORD, "VHOST", "127.0.0.1", [true; 2]),
    ("stranger", PASSWORD, "VHOST", "127.0.0.1", [false; 2]),
    ("nobody", PASSWORD, "VHOST", "127.0.0.1", [false; 2]),
    ("", "", "VHOST", "127.0.0.1", [false; 2]),
    ("sha256", PASSWORD, "VHOST", "127.0.0.1", [true; 2]),
    ("sha256", "wrong", "VHOST", "127.0.0.1", [false; 2]),
    ("sha512", PASSWORD, "VHOST", "127.0.0.1", [true; 2]),
    ("sha512", "wrong", "VHOST", "127.0.0.1", [false; 2]),
    ("md5", PASSWORD, "VHOST", "127.0.0.1", [true; 2]),
    ("md5", "wrong", "VHOST", "127.0.0.1", [false; 2]),
    ("tagged", PASSWORD, "VHOST", "192.0.2.1", [true; 2]),
    ("cleared", PASSWORD, "VHOST", "127.0.0.1", [false; 2]),
    ("cleared", "", "VHOST", "127.0.0.1", [false; 2]),
    ("guest", "guest", "VHOST", "127.0.0.1", [true; 2]),
    ("guest", "guest", "VHOST", "127.9.9.9", [true; 2]),
    ("guest", "guest", "VHOST", "192.0.2.1", [false; 2]),
    ("guest", "wrong", "VHOST", "127.0.0.1", [false; 2]),
];

/// A user for each way of hashing, one without a password, one with tags, one without rights.
async fn add_special_users(node: &RabbitMq, vhost: &str) {
    let add = "[begin application:set_env(rabbit, password_hashing_module, Module), \
               ok = rabbit_auth_backend_internal:add_user(Name, Password, <<\"test\">>) end \
               || {Module, Name} <- \
               [{rabbit_password_hashing_md5, <<\"md5\">>}, \
                {rabbit_password_hashing_sha512, <<\"sha512\">>}, \
                {rabbit_password_hashing_sha256, <<\"sha256\">>}]].";
    let bytes: Vec<String> = PASSWORD.bytes().map(|byte| byte.to_string()).collect();
    let add = add.replace("Password", &format!("<<{}>>", bytes.join(",")));
    node.ctl(&["eval", &add]).await;
    let api = node.api();
    for user in ["stranger", "cleared"] {
        api.add_user(user, PASSWORD).await;
    }
    api.tag_user("tagged", PASSWORD, "monitoring,policymaker")
        .await;
    for user in ["sha256", "sha512", "md5", "cleared", "tagged"] {
        api.allow(vhost, user, [".*", ".*", ".*"]).await;
    }
    // And queues that clients cannot declare, or did not: rabbitmqctl takes its time, so in one call.
    let more = "rabbit_auth_backend_internal:clear_password(<<\"cleared\">>, <<\"test\">>), \
                [rabbit_amqqueue:declare(rabbit_misc:r(<<\"VHOST\">>, queue, Name), true, false, [], \
                none, <<\"test\">>) || Name <- [<<\"here\">>, <<\"amq.gen-here\">>]].";
    node.ctl(&["eval", &more.replace("VHOST", vhost)]).await;
}

async fn logins_are_the_same(both: &Both) {
    let vhost = both.vhost.name();
    for (user, passcode, host, from, is_in) in LOGINS {
        let named = Login::new(user, passcode, &host.replace("VHOST", vhost));
        for (address, is_in) in both.addresses().iter().zip(is_in) {
            let mut client = client(address, from).await;
            let refused = login(&mut client, &named).await;
            // RabbitMQ 3.10 looks at the proxy's own address.
            if *address == both.node.stomp_address() && (*user, *from) == ("guest", "192.0.2.1") {
                continue;
            }
            let what = format!("{user} {passcode:?} {host} from {from} at {address}: {refused:?}");
            assert_eq!(refused.is_none(), *is_in, "{what}");
        }
        // Over WebSocket there is no proxy before the plug-in.
        if *from == "127.0.0.1" {
            let plugin = StompClient::ws(&both.node.web_stomp_url()).await;
            let url = both.gateway.ws_url();
            let address = url.split('/').nth(2).unwrap();
            let mut stream = TcpStream::connect(address).await.unwrap();
            let line = format!("PROXY TCP4 {from} 127.0.0.1 4711 61613\r\n");
            stream.write_all(line.as_bytes()).await.unwrap();
            let gateway = StompClient::ws_over(&url, stream, WsOptions::default()).await;
            for (mut client, is_in) in [plugin, gateway].into_iter().zip(is_in) {
                let refused = login(&mut client, &named).await;
                assert_eq!(
                    refused.is_none(),
                    *is_in,
                    "{user} over WebSocket: {refused:?}"
                );
            }
        }
    }
}

/// Neither a password nor a hash, not even a part of one.
fn nothing_is_shown(both: &Both) {
    let log = both.gateway.log().text();
    assert!(log.contains("hashed by MD5"), "{log}");
    assert!(!log.contains(PASSWORD), "{log}");
    let text = fs::read_to_string(both.folder.path().join("definitions.json")).unwrap();
    let hashes = text.split("\"password_hash\":\"").skip(1);
    let hashes: Vec<&str> = hashes.filter_map(|rest| rest.get(..20)).collect();
    assert!(hashes.len() > 10, "{hashes:?}");
    assert!(hashes.iter().all(|hash| !log.contains(*hash)), "{log}");
}

/// Patterns of all kinds, and names to match; Erlang's own `re` is asked.
const PATTERNS: &[&str] = &[
    "",
    "^$",
    ".*",
    "^.*$",
    ".",
    "^.$",
    "..",
    "^..$",
    "a",
    "^a",
    "a$",
    "^a$",
    "^a|b$",
    "^(a|b)$",
    "^(?:a|b)$",
    "^a.*",
    "^a.*$",
    "a.*b",
    "^a.b$",
    r"^a\.b$",
    "^(a|b).*",
    "^[ab]$",
    "^[^ab]$",
    "^[a-c]+$",
    "^[-a]+$",
    "^[a-]+$",
    "^[]a]$",
    "^[^]a]$",
    "^[[]$",
    "^[a&&b]$",
    "^[+--]$",
    r"^[\]a]$",
    r"^[\w]+$",
    r"^[^\W_]+$",
    r"^[\w\-.]+$",
    "^[[:alnum:]]+$",
    "^[[:^alnum:]]+$",
    "^[[:punct:]]+$",
    r"^\w+$",
    r"^\W+$",
    r"^\d+$",
    r"^\D+$",
    r"^\s$",
    r"^\S+$",
    r"^\h$",
    r"\bb\b",
    r"a\B",
    r"^\x61$",
    r"^\x{62}$",
    r"^\Qa.b\E$",
    r"^\Qa.b",
    "^a{2}$",
    "^a{1,2}$",
    "^a{2,}$",
    "a{",
    "^a{b}$",
    "^{a}$",
    "^}$",
    "^a]$",
    "^a?$",
    "^a+?$",
    "^(?i)A$",
    "^a(?i)B|C$",
    "^(?i:A)b$",
    "^(?i)[A-C]+$",
    "^(?i)[^A]$",
    "^(?-i)A$",
    "(?s)^.$",
    "(?s)^a.b$",
    "^a.b",
    "^(?!a)",
    "^(?=a)",
    "(?<=a)b",
    "(?<!a)b",
    "^(?>a+)b$",
    "^a++b$",
    r"^(.)\1$",
    "^(?<n>a)$",
    "^(?P<n>a)$",
    "^(?'n'a)$",
    "a(?#no)b",
    "^(a|)$",
    "^()$",
    "(a)(b)",
    "^(?:(?:a)|b)+$",
    r"^\Aa\z$",
    r"a\Z",
    "$",
    "^",
    "^ä$",
    "^[ä]+$",
    "^.ä",
    "^€",
    r"\t",
    r"^a\nb$",
    "a b",
    r"^\/$",
    r"^user\_a$",
    "^user_{client_id}$",
    "^user_[0-9]{1,3}$",
    r"^amq\.gen-[\w-]{22}$",
    "^#$",
    "^a#b$",
];

const NAMES: &[&str] = &[
    "",
    "a",
    "b",
    "c",
    "A",
    "B",
    "ab",
    "aB",
    "ba",
    "aa",
    "aaa",
    "aab",
    "a.b",
    "axb",
    "a-b",
    "a_b",
    "-",
    "_",
    ".",
    "+",
    "[",
    "]",
    "^",
    "&",
    "&&",
    "{",
    "}",
    "a{",
    "a{b}",
    "ab}",
    "{a}",
    "a]",
    "1",
    "12",
    "a1",
    " ",
    "a b",
    "\t",
    "\u{b}",
    "a\nb",
    "\n\n.",
    "ä",
    "aä",
    "€",
    "user_a",
    "user_12",
    "user_1234",
    "user_{client_id}",
    "amq.gen-abcdefghijklmnopqrstuv",
    "/",
    "#",
    "a#b",
    "abc",
    "cab",
];

/// As an Erlang list of binaries.
fn binaries(texts: &[&str]) -> String {
    let binary = |text: &&str| {
        let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        format!("<<{}>>", bytes.join(","))
    };
    let binaries: Vec<String> = texts.iter().map(binary).collect();
    format!("[{}]", binaries.join(","))
}

#[tokio::test]
async fn patterns_match_as_rabbitmq_s_own_do() {
    let node = RabbitMq::shared().await;
    let ask = format!(
        "iolist_to_binary([[[case re:run(Name, Pattern, [{{capture, none}}]) of match -> $+; \
         nomatch -> $- end || Name <- {}], $/] || Pattern <- {}]).",
        binaries(NAMES),
        // RabbitMQ's own rule.
        binaries(PATTERNS).replacen("<<>>", "<<94,36>>", 1),
    );
    let answer = node.ctl(&["eval", &ask]).await;
    let signs: String = answer
        .chars()
        .filter(|sign| "+-/".contains(*sign))
        .collect();
    let rows: Vec<&str> = signs.trim_end_matches('/').split('/').collect();
    assert_eq!(rows.len(), PATTERNS.len(), "{answer}");
    let mut different = Vec::new();
    for (text, row) in PATTERNS.iter().zip(rows) {
        let pattern = Pattern::new(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for (name, sign) in NAMES.iter().zip(row.chars()) {
            if pattern.matches(name) != (sign == '+') {
                different.push(format!("{text:?} {name:?}: RabbitMQ {sign}"));
            }
        }
    }
    // Until 27, Erlang takes bytes above 127 for letters of Latin-1.
    different.retain(|line| {
        !(line.contains("\\\\") || line.contains("[:"))
            || !line.contains('ä') && !line.contains('€')
    });
    assert!(different.is_empty(), "{}", different.join("\n"));
}

/// The rights of another node's export do not matter: users are new each time.
#[tokio::test]
async fn the_management_plugin_is_asked_and_its_users_stay_while_it_is_away() {
    let node = RabbitMq::shared().await;
    let vhost = node.vhost().await;
    let (user, later) = (unique("u"), unique("u"));
    node.api().add_user(&user, PASSWORD).await;
    node.api().allow(vhost.name(), &user, ["", "", ".*"]).await;
    let proxy = testkit::Proxy::start(&node.management_address()).await;
    proxy.refuse();
    let url = format!("http://guest:guest@{}", proxy.address());
    let gateway = gateway(&vhost)
        .set("auth.rabbitmq.management", url)
        .set("auth.rabbitmq.refresh", "1s")
        .start()
        .await;
    testkit::eventually(
        testkit::DEADLINE,
        "only the users are missing",
        async || {
            let (status, cause) = gateway.admin("/readyz").await;
            status == 503 && cause.contains("users were not read yet")
        },
    )
    .await;
    gateway.until_logged("none of them can log in").await;
    let named = Login::new(&user, PASSWORD, vhost.name());
    let mut early = StompClient::tcp(gateway.stomp_address()).await;
    early.send(&named.frame()).await;
    let error = early.expect_error("Bad CONNECT").await;
    assert_eq!(error.header("error-code"), Some("login-unavailable"));
    proxy.forward();
    gateway.until_ready().await;
    gateway.until_logged("RabbitMQ's users loaded").await;
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    client.connect(&named).await;
    client.subscribe("1", "/exchange/amq.topic/a").await;
    // A new user, and a right that is gone.
    node.api().add_user(&later, PASSWORD).await;
    node.api().allow(vhost.name(), &later, ["", "", ""]).await;
    let new = Login::new(&later, PASSWORD, vhost.name());
    testkit::eventually(testkit::DEADLINE, "the new user logs in", async || {
        let mut client = StompClient::tcp(gateway.stomp_address()).await;
        client.send(&new.frame()).await;
        let frame = client.next_frame().await;
        frame.is_ok_and(|frame| frame.command == Command::Connected)
    })
    .await;
    proxy.refuse();
    gateway.until_logged("those of before stay").await;
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(metrics.contains("stentor_accounts_stale 1"), "{metrics}");
    StompClient::tcp(gateway.stomp_address())
        .await
        .connect(&named)
        .await;
    node.api().allow(vhost.name(), &user, ["", "", "^x$"]).await;
    proxy.forward();
    let error = client.expect_error("access_refused").await;
    assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
    let log = gateway.log().text();
    assert!(!log.contains("guest:guest"), "{log}");
    // An account without the tag.
    node.api().tag_user(&later, PASSWORD, "monitoring").await;
    let password: String = url::form_urlencoded::byte_serialize(PASSWORD.as_bytes()).collect();
    let url = format!(
        "http://{later}:{}@{}",
        password.replace('+', "%20"),
        node.management_address()
    );
    let gateway = stentor()
        .vhost(&vhost)
        .set("auth.rabbitmq.management", url)
        .start()
        .await;
    gateway.until_logged("give it the tag administrator").await;
}

mod reloading {
    //! On the embedded broker: what changes in the file, and what follows.

    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};

    use super::*;

    const DESTINATION: &str = "/exchange/amq.topic/news";

    /// By SHA-256, with a salt.
    fn hash(password: &str) -> String {
        let salt = [1, 2, 3, 4];
        let salted = [&salt[..], password.as_bytes()].concat();
        let digest = ring::digest::digest(&ring::digest::SHA256, &salted);
        STANDARD.encode([&salt[..], digest.as_ref()].concat())
    }

    fn definitions(users: &[(&str, &str, &str)]) -> Value {
        let entry = |(name, password, _): &(&str, &str, &str)| {
            json!({
                "name": name, "password_hash": hash(password), "tags": [],
                "hashing_algorithm": "rabbit_password_hashing_sha256",
            })
        };
        let right = |(name, _, read): &(&str, &str, &str)| json!({ "user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": read });
        json!({
            "users": users.iter().map(entry).collect::<Vec<_>>(),
            "vhosts": [{ "name": "/" }],
            "permissions": users.iter().map(right).collect::<Vec<_>>(),
            "topic_permissions": [],
        })
    }

    struct Alone {
        gateway: Gateway,
        folder: TempDir,
    }

    impl Alone {
        async fn open(refresh: &str, text: &str) -> Self {
            let folder = TempDir::new().unwrap();
            let file = folder.path().join("definitions.json");
            fs::write(&file, text).unwrap();
            let gateway = stentor()
                .set("broker.url", "embedded:")
                .set("auth.rabbitmq.definitions", file.display())
                .set("auth.rabbitmq.refresh", refresh)
                .ready()
                .await;
            Self { gateway, folder }
        }

        fn write(&self, text: &str) {
            let (beside, file) = ("new.json", "definitions.json");
            fs::write(self.folder.path().join(beside), text).unwrap();
            fs::rename(
                self.folder.path().join(beside),
                self.folder.path().join(file),
            )
            .unwrap();
        }

        async fn subscriber(&self, user: &str, password: &str) -> StompClient {
            let mut client = StompClient::tcp(self.gateway.stomp_address()).await;
            client.connect(&Login::new(user, password, "/")).await;
            client.subscribe("1", DESTINATION).await;
            client
        }
    }

    /// It still publishes and is still subscribed.
    async fn hears_itself(client: &mut StompClient, body: &'static str) {
        let send = Frame::new(Command::Send).with_header("destination", DESTINATION);
        client.send(&send.with_body(body)).await;
        client.expect_message(body).await;
    }

    #[tokio::test]
    async fn sessions_of_users_who_have_changed_are_asked_about_at_once() {
        let before = [
            ("alice", "a", ".*"),
            ("bob", "b", ".*"),
            ("carol", "c", ".*"),
            ("dave", "d", ".*"),
        ];
        // Only SIGHUP reads it again in time.
        let alone = Alone::open("1h", &definitions(&before).to_string()).await;
        let mut alice = alone.subscriber("alice", "a").await;
        let mut bob = alone.subscriber("bob", "b").await;
        let mut carol = alone.subscriber("carol", "c").await;
        let mut dave = alone.subscriber("dave", "d").await;
        // A new password, a right less, one is gone, and one is as before.
        let after = [
            ("alice", "new", ".*"),
            ("bob", "b", "^x$"),
            ("dave", "d", ".*"),
        ];
        alone.write(&definitions(&after).to_string());
        alone.gateway.process().signal("HUP");
        let error = alice.expect_error("access_refused").await;
        assert_eq!(
            error.header("error-code"),
            Some("login-revoked"),
            "{}",
            show(&error)
        );
        let error = bob.expect_error("access_refused").await;
        assert_eq!(error.header("error-code"), Some("permission-withdrawn"));
        let error = carol.expect_error("access_refused").await;
        assert_eq!(error.header("error-code"), Some("login-revoked"));
        hears_itself(&mut dave, "still here").await;
        let mut alice = alone.subscriber("alice", "new").await;
        // A frame is answered by the rights of now.
        let none = [("alice", "new", ".*"), ("dave", "d", "^$")];
        alone.write(&definitions(&none).to_string());
        alone.gateway.process().signal("HUP");
        dave.expect_error("access_refused").await;
        hears_itself(&mut alice, "on and on").await;
        let loaded = alone
            .gateway
            .until_events("RabbitMQ's users loaded", 3)
            .await;
        let counts: Vec<_> = loaded.iter().map(|event| &event["changed"]).collect();
        assert_eq!(counts, [4, 3, 2]);
    }

    #[tokio::test]
    async fn a_broken_file_changes_nothing_and_is_told() {
        let users = [("alice", "a", ".*")];
        let alone = Alone::open("1s", &definitions(&users).to_string()).await;
        let mut alice = alone.subscriber("alice", "a").await;
        let mut broken = definitions(&[("alice", "new", ".*")]);
        broken["users"][0]["hashing_algorithm"] = json!("rabbit_password_hashing_mine");
        alone.write(&broken.to_string());
        alone.gateway.until_logged("those of before stay").await;
        alone
            .gateway
            .until_logged("user \\\"alice\\\": hashing_algorithm")
            .await;
        let stale = async |is: u8| {
            let line = format!("stentor_accounts_stale {is}\n");
            testkit::eventually(testkit::DEADLINE, "the metric says so", async || {
                alone.gateway.admin("/metrics").await.1.contains(&line)
            })
            .await;
        };
        stale(1).await;
        drop(alone.subscriber("alice", "a").await);
        hears_itself(&mut alice, "still here").await;
        // By the interval alone.
        alone.write(&definitions(&[("alice", "new", ".*")]).to_string());
        alice.expect_error("access_refused").await;
        stale(0).await;
        drop(alone.subscriber("alice", "new").await);
        let (_, metrics) = alone.gateway.admin("/metrics").await;
        assert!(
            metrics.contains("stentor_accounts_loads_total 2\n"),
            "{metrics}"
        );
        assert!(
            metrics.contains("stentor_accounts_failures_total 1\n"),
            "{metrics}"
        );
    }

    #[tokio::test]
    async fn a_broken_file_at_the_start_is_named_by_its_place() {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("definitions.json");
        fs::write(&file, "{\n  \"users\": [{ \"tags\": [] }]\n}").unwrap();
        let gateway = stentor()
            .set("broker.url", "embedded:")
            .set("auth.rabbitmq.definitions", file.display())
            .spawn();
        let status = gateway.process().wait(testkit::DEADLINE).await;
        assert_eq!(status.code(), Some(2));
        let log = gateway.log().text();
        let place = format!(
            "[auth.rabbitmq] definitions: {}: users[0]: missing field `name` at line 2",
            file.display()
        );
        assert!(log.contains(&place), "{log}");
    }
}
