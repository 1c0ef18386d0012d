//! The operator's page, in a browser, at the built program.

use serde_json::{Value, json};
use stomp_grammar::Command;
use testkit::{API_TOKEN, DEADLINE, FEED, Gateway, Hook, Login, Remote, StompClient, eventually};

use crate::{
    e2e_demo::see,
    house::{DESTINATION, House, stentor},
};

const READER: &str = "reader-0123456789abcdef";
const WRITER: &str = "writer-0123456789abcdef";

/// With the embedded broker, presence in memory, and a token for each scope.
async fn gateway(hook: &Hook) -> Gateway {
    let tokens = format!("ops=admin {API_TOKEN},reader=read {READER},writer=publish {WRITER}");
    let builder = stentor()
        .hook(hook)
        .set("broker.url", "embedded:")
        .set("broker.exchanges", "feed=topic")
        .set("presence.url", "memory:")
        .set("shutdown.drain", "100ms")
        .set("api.tokens", tokens);
    builder.ready().await
}

async fn client(gateway: &Gateway, user: &str) -> StompClient {
    let mut client = StompClient::tcp(gateway.stomp_address()).await;
    let connected = client.connect(&Login::new(user, "passcode", "/")).await;
    assert_eq!(connected.command, Command::Connected);
    client
}

/// A browser that shows the login.
async fn visitor(gateway: &Gateway) -> Remote {
    let mut browser = Remote::node("browser.mjs");
    browser.order(&json!({ "do": "goto", "url": format!("{}/", gateway.admin_url()) }));
    let loaded = browser.expect("loaded").await;
    assert_eq!(loaded["status"], 200, "{loaded}");
    see(&mut browser, "#login:not([hidden]) h1", "Stentor").await;
    browser
}

async fn log_in(browser: &mut Remote, token: &str) {
    fill(browser, "#token", token);
    click(browser, "#login-form button");
    see(browser, "#shell:not([hidden]) #who .name", "").await;
}

/// A browser that shows the first view of a token.
async fn operator(gateway: &Gateway, token: &str) -> Remote {
    let mut browser = visitor(gateway).await;
    log_in(&mut browser, token).await;
    browser
}

fn fill(browser: &mut Remote, selector: &str, text: &str) {
    browser.order(&json!({ "do": "fill", "selector": selector, "text": text }));
}

fn click(browser: &mut Remote, selector: &str) {
    browser.order(&json!({ "do": "click", "selector": selector }));
}

async fn go(browser: &mut Remote, view: &str) {
    evaluate(browser, &format!("location.hash = '{view}'")).await;
    let view = view.split(['/', '?']).next().unwrap();
    see(browser, &format!(".view-{view} h1"), "").await;
}

async fn evaluate(browser: &mut Remote, script: &str) -> Value {
    browser.order(&json!({ "do": "evaluate", "script": script }));
    browser.expect("evaluated").await["value"].clone()
}

async fn count(browser: &mut Remote, selector: &str) -> u64 {
    browser.order(&json!({ "do": "count", "selector": selector }));
    browser.expect("counted").await["count"].as_u64().unwrap()
}

/// What a token is refused, and a gateway that is away, are lines of the browser's own.
fn has_no_faults(browser: &Remote) {
    let said = browser.process().stdout().text();
    for wrong in ["pageerror", "Content Security Policy", "TrustedHTML"] {
        assert!(!said.contains(wrong), "{said}");
    }
}

#[tokio::test]
async fn an_operator_logs_in_looks_around_and_kicks() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut alice = client(&gateway, "alice").await;
    alice.subscribe("s", "/exchange/feed/user_alice").await;
    let _bob = client(&gateway, "bob").await;

    let mut browser = visitor(&gateway).await;
    fill(&mut browser, "#token", "wrong-0123456789abcdef");
    click(&mut browser, "#login-form button");
    see(&mut browser, "#login-error", "not known here").await;
    log_in(&mut browser, API_TOKEN).await;
    see(&mut browser, "#who", "ops").await;

    // All nodes at a glance; and numbers that move.
    see(&mut browser, ".view-overview .tiles", "Sessions2").await;
    see(&mut browser, ".view-overview tbody", "ready").await;
    let moved = "document.querySelector('.chart svg').getAttribute('aria-label')";
    eventually(DEADLINE, "the chart shows the sessions", async || {
        let label = evaluate(&mut browser, moved).await;
        label.as_str().unwrap().contains("now 2, at most 2")
    })
    .await;

    // A session is found by a part of its user, looked at, and ended.
    go(&mut browser, "sessions").await;
    see(
        &mut browser,
        ".view-sessions [role=status]",
        "1–2 of 2 sessions",
    )
    .await;
    fill(&mut browser, ".view-sessions input[type=search]", "LIC");
    see(&mut browser, ".view-sessions [role=status]", "1 found").await;
    see(&mut browser, ".view-sessions tbody tr", "alice").await;
    click(&mut browser, ".view-sessions tbody button.link");
    see(&mut browser, ".side-panel h2", "alice").await;
    see(&mut browser, ".side-panel .now tbody", "feed / user_alice").await;
    click(&mut browser, ".side-panel .danger");
    fill(&mut browser, "dialog.question input[type=text]", "not paid");
    click(&mut browser, "dialog.question .danger");
    see(&mut browser, "#notes", "1 session of alice told to end").await;
    let error = alice.expect_error("kicked").await;
    assert!(String::from_utf8_lossy(&error.body).contains("not paid"));
    fill(&mut browser, ".view-sessions input[type=search]", "");
    see(
        &mut browser,
        ".view-sessions [role=status]",
        "1–1 of 1 session",
    )
    .await;

    // It is among the refusals, too.
    go(&mut browser, "refusals").await;
    see(&mut browser, ".view-refusals tbody tr:has(a)", "not paid").await;

    go(&mut browser, "configuration").await;
    fill(
        &mut browser,
        ".view-configuration input[type=search]",
        "presence.url",
    );
    see(
        &mut browser,
        ".view-configuration tbody tr:first-child",
        "memory:",
    )
    .await;
    see(
        &mut browser,
        ".view-configuration tbody tr:first-child",
        "STENTOR__PRESENCE__URL",
    )
    .await;
    fill(
        &mut browser,
        ".view-configuration input[type=search]",
        "[api] tokens",
    );
    see(&mut browser, ".view-configuration tbody", "***").await;
    let page = evaluate(&mut browser, "document.body.textContent").await;
    assert!(!page.as_str().unwrap().contains(API_TOKEN), "{page}");
    has_no_faults(&browser);
}

#[tokio::test]
async fn an_operator_publishes_bans_and_looks_who_is_there() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut alice = client(&gateway, "alice").await;
    alice.subscribe("s", "/exchange/feed/user_alice").await;
    let mut browser = operator(&gateway, API_TOKEN).await;

    go(&mut browser, "publish").await;
    fill(&mut browser, "#exchange", "feed");
    fill(&mut browser, "#keys", "user_alice");
    fill(&mut browser, "#body", "hello from the page");
    click(&mut browser, ".view-publish [type=submit]");
    see(&mut browser, "#outcome", "1 message published").await;
    alice.expect_message("hello from the page").await;
    fill(&mut browser, "#keys", "user_alice\nuser_nobody\n");
    click(&mut browser, ".view-publish [type=submit]");
    see(&mut browser, "#outcome tbody", "user_nobody").await;
    // Its table does not make the form wider than its card.
    browser.order(&json!({ "do": "dress", "scheme": "light", "width": 375 }));
    browser.expect("dressed").await;
    let edge = |part| format!("document.querySelector('{part}').getBoundingClientRect().right");
    let room = format!("{} - {}", edge(".view-publish form"), edge("#body"));
    let room = evaluate(&mut browser, &room).await;
    assert!(room.as_f64().unwrap() > 15.0, "{room}");
    browser.order(&json!({ "do": "dress", "scheme": "light", "width": 1280 }));
    browser.expect("dressed").await;

    go(&mut browser, "destinations").await;
    see(&mut browser, "#destinations tbody", "user_alice").await;
    fill(&mut browser, ".view-destinations input", "nothing like it");
    see(&mut browser, "#destinations .empty", "nothing like it").await;

    go(&mut browser, "presence").await;
    fill(&mut browser, ".columns .card:first-child input", "alice");
    click(&mut browser, ".columns .card:first-child button");
    see(&mut browser, ".found .facts", "online").await;

    go(&mut browser, "bans").await;
    see(&mut browser, ".view-bans .empty", "Nobody is banned").await;
    click(&mut browser, ".view-bans .primary");
    fill(&mut browser, "dialog input[required]", "alice");
    click(&mut browser, "dialog .danger");
    see(&mut browser, ".view-bans tbody", "alice").await;
    alice.expect_error("banned").await;
    click(&mut browser, ".view-bans tbody button");
    click(&mut browser, "dialog .primary");
    see(&mut browser, ".view-bans .empty", "Nobody is banned").await;
    has_no_faults(&browser);
}

/// Names are what clients say.
#[tokio::test]
async fn names_of_clients_are_text_and_nothing_else() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let name = "<img src=x onerror=alert(1)>";
    let mut evil = client(&gateway, name).await;
    evil.subscribe("<b>s</b>", "/exchange/feed/user_<script>")
        .await;
    let mut browser = operator(&gateway, API_TOKEN).await;
    go(&mut browser, "sessions").await;
    see(&mut browser, ".view-sessions tbody", name).await;
    click(&mut browser, ".view-sessions tbody button.link");
    see(&mut browser, ".side-panel .now tbody", "user_<script>").await;
    go(&mut browser, "destinations").await;
    see(&mut browser, "#destinations tbody", "user_<script>").await;
    assert_eq!(
        count(&mut browser, "#view img, #view b, #view script").await,
        0
    );
    has_no_faults(&browser);
}

#[tokio::test]
async fn a_token_sees_no_button_that_it_may_not_press() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let _alice = client(&gateway, "alice").await;
    let mut browser = operator(&gateway, READER).await;
    assert_eq!(count(&mut browser, "#nav a").await, 7);
    assert_eq!(count(&mut browser, "#nav [data-view=publish]").await, 0);
    go(&mut browser, "sessions").await;
    see(&mut browser, ".view-sessions tbody", "alice").await;
    click(&mut browser, ".view-sessions tbody button.link");
    see(&mut browser, ".side-panel .about .facts", "127.0.0.1").await;
    for view in ["sessions", "bans", "configuration"] {
        go(&mut browser, view).await;
        see(&mut browser, "#view", "").await;
        let acts = "#view .danger, #view .primary, #view .small, #view .buttons button";
        assert_eq!(count(&mut browser, acts).await, 0, "{view}");
    }
    // Nor does it by its address.
    evaluate(&mut browser, "location.hash = 'publish'").await;
    see(&mut browser, ".view-overview h1", "Overview").await;

    click(&mut browser, "#logout");
    see(&mut browser, "#login:not([hidden])", "").await;
    assert_eq!(evaluate(&mut browser, "sessionStorage.length").await, 0);
    log_in(&mut browser, WRITER).await;
    assert_eq!(count(&mut browser, "#nav a").await, 1);
    see(&mut browser, ".view-publish h1", "Publish").await;
    has_no_faults(&browser);
}

#[tokio::test]
async fn a_token_that_ends_and_a_gateway_that_goes_are_told() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut browser = operator(&gateway, READER).await;
    see(&mut browser, ".view-overview tbody", "ready").await;
    // As if it were taken out of the configuration.
    evaluate(&mut browser, "sessionStorage.setItem('stentor-token', 'x')").await;
    see(&mut browser, "#login-error", "does not count any more").await;
    log_in(&mut browser, READER).await;
    see(&mut browser, ".view-overview tbody", "ready").await;
    assert_eq!(gateway.terminate(DEADLINE).await.code(), Some(0));
    see(&mut browser, "#banner", "does not answer").await;
    see(&mut browser, ".view-overview .calm", "unknown").await;
    has_no_faults(&browser);
}

/// However many sessions there are, one page of them is shown.
#[tokio::test]
async fn many_sessions_come_in_pages() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut clients = Vec::new();
    for number in 0..130 {
        clients.push(client(&gateway, &format!("user_{number}")).await);
    }
    let mut browser = operator(&gateway, READER).await;
    go(&mut browser, "sessions").await;
    let status = ".view-sessions [role=status]";
    see(&mut browser, status, "1–100 of 130 sessions").await;
    assert_eq!(count(&mut browser, ".view-sessions tbody tr").await, 100);
    click(&mut browser, ".pager button:last-child");
    see(&mut browser, status, "101–130 of 130 sessions").await;
    assert_eq!(count(&mut browser, ".pager button:disabled").await, 1);
    click(&mut browser, ".pager button:first-child");
    see(&mut browser, status, "1–100 of 130 sessions").await;
    fill(&mut browser, ".view-sessions input[type=search]", "user_12");
    see(&mut browser, status, "11 found among 130 sessions").await;
    has_no_faults(&browser);
}

/// axe-core finds no fault with any view, in each dress; and no page is wider than its window.
#[tokio::test]
async fn every_view_is_accessible_light_and_dark_wide_and_on_a_phone() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut alice = client(&gateway, "alice").await;
    alice.subscribe("s", "/exchange/feed/user_alice").await;
    let ban = json!({ "user": "mallory", "reason": "spam" });
    let (status, _) = gateway.api("POST /api/v1/bans", Some(&ban)).await;
    assert_eq!(status, 200);
    let mut browser = visitor(&gateway).await;
    examine(&mut browser, "login").await;
    log_in(&mut browser, API_TOKEN).await;
    see(&mut browser, ".view-overview tbody", "ready").await;
    for (scheme, width) in [
        ("light", 1280),
        ("dark", 1280),
        ("light", 375),
        ("dark", 375),
    ] {
        browser.order(&json!({ "do": "dress", "scheme": scheme, "width": width }));
        browser.expect("dressed").await;
        for (view, seen) in [
            ("overview", ".tile"),
            ("sessions", "tbody tr"),
            ("destinations", "tbody tr"),
            ("refusals", ".empty"),
            ("presence", ".card"),
            ("bans", "tbody tr"),
            ("publish", "form"),
            ("configuration", "tbody tr"),
        ] {
            go(&mut browser, view).await;
            eventually(DEADLINE, format!("{view} is there"), async || {
                count(&mut browser, &format!(".view-{view} {seen}")).await > 0
            })
            .await;
            examine(&mut browser, &format!("{view} {scheme} {width}")).await;
        }
        go(&mut browser, "sessions").await;
        click(&mut browser, ".view-sessions tbody button.link");
        see(&mut browser, ".side-panel .now tbody", "user_alice").await;
        examine(&mut browser, &format!("session {scheme} {width}")).await;
        click(&mut browser, ".side-panel .danger");
        see(&mut browser, "dialog.question h2", "Kick alice?").await;
        examine(&mut browser, &format!("kick {scheme} {width}")).await;
        press(&mut browser, "Escape").await;
        press(&mut browser, "Escape").await;
    }
    has_no_faults(&browser);
}

async fn examine(browser: &mut Remote, what: &str) {
    browser.order(&json!({ "do": "examine" }));
    let examined = browser.expect("examined").await;
    assert_eq!(examined["faults"], json!([]), "{what}");
    assert_eq!(examined["isTooWide"], false, "{what}");
}

async fn press(browser: &mut Remote, key: &str) -> Value {
    browser.order(&json!({ "do": "press", "key": key }));
    browser.expect("pressed").await["focus"].clone()
}

/// Without a pointer: the login has the focus, `/` goes to the search, Enter opens, Escape closes.
#[tokio::test]
async fn keys_alone_are_enough() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut alice = client(&gateway, "alice").await;
    let mut browser = visitor(&gateway).await;
    let focused = evaluate(&mut browser, "document.activeElement.id").await;
    assert_eq!(focused, "token");
    fill(&mut browser, "#token", API_TOKEN);
    press(&mut browser, "Enter").await;
    see(&mut browser, ".view-overview tbody", "ready").await;
    let skip = press(&mut browser, "Tab").await;
    assert_eq!(skip["id"], "skip", "{skip}");
    press(&mut browser, "Tab").await;
    let link = press(&mut browser, "Tab").await;
    assert_eq!(link["text"], "Sessions", "{link}");
    press(&mut browser, "Enter").await;
    see(&mut browser, ".view-sessions tbody", "alice").await;
    let focused = evaluate(&mut browser, "document.activeElement.id").await;
    assert_eq!(focused, "content");
    let search = press(&mut browser, "/").await;
    assert_eq!(search["tag"], "input", "{search}");
    // Refresh, the table (which may scroll), and its first row.
    press(&mut browser, "Tab").await;
    press(&mut browser, "Tab").await;
    let row = press(&mut browser, "Tab").await;
    assert_eq!(row["text"], "alice", "{row}");
    press(&mut browser, "Enter").await;
    see(&mut browser, ".side-panel .now", "Subscriptions").await;
    press(&mut browser, "Escape").await;
    assert_eq!(count(&mut browser, "dialog").await, 0);
    // The focus is where it was; beside it is what ends the session.
    let kick = press(&mut browser, "Tab").await;
    assert_eq!(kick["text"], "Kick", "{kick}");
    press(&mut browser, "Enter").await;
    see(&mut browser, "dialog.question h2", "Kick alice?").await;
    let reason = evaluate(&mut browser, "document.activeElement.type").await;
    assert_eq!(reason, "text");
    press(&mut browser, "Enter").await;
    alice.expect_error("kicked").await;
    has_no_faults(&browser);
}

/// The files come from the program, and need no token; the API beside them does.
#[tokio::test]
async fn the_page_asks_nobody_else() {
    let hook = Hook::start().await;
    let gateway = gateway(&hook).await;
    let mut browser = operator(&gateway, READER).await;
    see(&mut browser, ".view-overview tbody", "ready").await;
    let asked = "performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin)";
    let origins = evaluate(&mut browser, asked).await;
    for origin in origins.as_array().unwrap() {
        assert_eq!(*origin, gateway.admin_url(), "{origins}");
    }
    // No cookie goes with a request, so that no other page can make one in the operator's name.
    assert_eq!(evaluate(&mut browser, "document.cookie").await, "");
    let (status, text) = gateway.admin("/api/v1/overview").await;
    assert_eq!(status, 401, "{text}");
}

/// Each node is seen from each, with its sessions and what they are subscribed to.
#[tokio::test]
async fn all_nodes_are_seen_from_one() {
    let one = House::open().await;
    let two = stentor().vhost(&one.vhost).hook(&one.hook).ready().await;
    let mut alice = one.tcp().await;
    alice.subscribe("s", "/exchange/feed/user_alice").await;
    let mut client = StompClient::tcp(two.stomp_address()).await;
    let connected = client.connect(&one.login()).await;
    let session = connected.headers.get("session").unwrap().to_owned();
    client.subscribe("mine", "/exchange/feed/user_alice").await;
    client.subscribe("all", "/exchange/feed/news.*").await;

    for gateway in [&one.gateway, &two] {
        let overview = eventually(DEADLINE, "both nodes answer", async || {
            let (status, overview) = gateway.api("GET /api/v1/overview", None).await;
            assert_eq!(status, 200, "{overview}");
            let nodes = overview["nodes"].as_array().unwrap();
            let are_ready = nodes.iter().all(|node| node["sessions"] == 1);
            (nodes.len() == 2 && are_ready).then_some(overview)
        })
        .await;
        let (_, own) = gateway.api("GET /api/v1/node", None).await;
        assert_eq!(overview["nodes"][0]["node"], own["name"], "{overview}");
        for node in overview["nodes"].as_array().unwrap() {
            assert_eq!(node["broker"], "ok", "{node}");
            assert_eq!(
                node["figures"]["values"]["stentor_logins_total"], 1.0,
                "{node}"
            );
            assert!(node["links"][0]["links"].as_u64() > Some(0), "{node}");
            let feeds = node["feeds"].as_array().unwrap();
            assert!(
                feeds.iter().any(|feed| feed["exchange"] == "feed"),
                "{node}"
            );
        }
        // The session is at the second one.
        let path = format!("GET /api/v1/sessions/{session}/details");
        let (status, details) = gateway.api(&path, None).await;
        assert_eq!(status, 200, "{details}");
        let subscriptions = details["subscriptions"].as_array().unwrap();
        let ids: Vec<_> = subscriptions.iter().map(|one| one["id"].as_str()).collect();
        assert_eq!(ids, [Some("mine"), Some("all")], "{details}");
        assert_eq!(subscriptions[1]["key"], "news.*", "{details}");

        let (_, found) = gateway
            .api("GET /api/v1/destinations?search=USER_ALICE", None)
            .await;
        let nodes = found["nodes"].as_array().unwrap();
        let counts: Vec<_> = nodes
            .iter()
            .map(|node| node["destinations"][0]["subscriptions"].as_u64())
            .collect();
        assert_eq!(counts, [Some(1), Some(1)], "{found}");
        let nowhere = "GET /api/v1/sessions/nope/details";
        assert_eq!(gateway.api(nowhere, None).await.0, 404);
    }
}

/// A client that does not read cannot keep its connection from saying so.
#[tokio::test]
async fn what_waits_for_a_client_that_does_not_read_is_seen() {
    let house = House::open_with(|builder| builder.set("mailbox.max_bytes", "256MiB")).await;
    let mut slow = house.raw_tcp().await;
    let connected = slow.connect(&house.login()).await;
    let session = connected.headers.get("session").unwrap().to_owned();
    slow.subscribe("s", DESTINATION).await;
    // More than the sockets hold.
    let large = "x".repeat(256 * 1024);
    house.push((0..96).map(|_| &large)).await;
    let path = format!("GET /api/v1/sessions/{session}/details");
    let details = eventually(DEADLINE, "its socket is full", async || {
        let (status, details) = house.gateway.api(&path, None).await;
        assert_eq!(status, 200, "{details}");
        let is_full = details["unwritten_bytes"].as_u64() > Some(0);
        (is_full && details["waiting_messages"].as_u64() > Some(0)).then_some(details)
    })
    .await;
    assert_eq!(details["frames_in"], 2, "{details}");
    assert!(
        details["waiting_bytes"].as_u64() > Some(256 * 1024),
        "{details}"
    );
    let subscription = &details["subscriptions"][0];
    assert_eq!(subscription["exchange"], FEED, "{details}");
    assert!(subscription["messages"].as_u64() > Some(0), "{details}");
}
