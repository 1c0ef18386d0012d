//! `examples/browser/chat` in Chromium: two people, a backend that mutes, and a connection that breaks.

use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::{DEADLINE, Gateway, Process, Proxy, Remote, Vhost, eventually, free_ports};

use crate::{
    e2e_examples::Pages,
    house::{stentor, vhost},
};

/// A token of the API with the rights that the example's backend needs.
const TOKEN: &str = "chat-example-0123456789";

struct Chat {
    vhost: Vhost,
    gateway: Gateway,
    /// Bob's way to the gateway.
    proxy: Proxy,
    backend: Process,
    backend_origin: String,
    pages: Pages,
}

impl Chat {
    async fn open() -> Self {
        let pages = Pages::start();
        pages.are_served().await;
        let vhost = vhost().await;
        let [port, admin] = free_ports();
        let backend_origin = format!("http://127.0.0.1:{port}");
        let mut command = Command::new("node");
        command
            .arg("backend.mjs")
            .current_dir(
                testkit::tests_dir()
                    .parent()
                    .unwrap()
                    .join("examples/browser/chat"),
            )
            .env("PORT", port.to_string())
            .env("PAGES", &pages.origin)
            .env("VHOST", vhost.name())
            .env("STENTOR_API", format!("http://127.0.0.1:{admin}"))
            .env("STENTOR_TOKEN", TOKEN);
        let backend = Process::start("backend", &mut command, Stdio::null()).unwrap();
        eventually(DEADLINE, "the backend listens", async || {
            backend.output().contains("listening")
        })
        .await;
        // As the example's stentor.toml, and quicker.
        let gateway = stentor()
            .vhost(&vhost)
            .set("listen.admin", format!("127.0.0.1:{admin}"))
            .set("listen.origins", &pages.origin)
            .set("broker.exchanges", "chat=topic,chat.typing=topic")
            .set("journal.exchanges", "chat")
            .set("auth.hook", format!("{backend_origin}/auth"))
            .set("auth.groups_path", format!("{backend_origin}/auth/groups"))
            .set("auth.soft_deny", true)
            .set("auth.disclose_reason", true)
            .set("auth.cache_ttl", "0s")
            .set("presence.url", "memory:")
            .set("presence.debounce", "100ms")
            .set("feed.verify_interval", "500ms")
            .set(
                "api.tokens",
                format!(
                    "testkit=admin {},chat=read publish {TOKEN}",
                    testkit::API_TOKEN
                ),
            )
            .ready()
            .await;
        let address = gateway.origin();
        let proxy = Proxy::start(address.trim_start_matches("http://")).await;
        Self {
            vhost,
            gateway,
            proxy,
            backend,
            backend_origin,
            pages,
        }
    }

    /// Somebody's browser, in a room.
    async fn person(&self, user: &str, room: &str) -> Remote {
        let mut browser = Remote::node("browser.mjs");
        let address = match user {
            "bob" => format!("ws://{}/ws", self.proxy.address()),
            _ => self.gateway.ws_url(),
        };
        let url = format!(
            "{}/chat/?url={address}&backend={}&host={}&user={user}#{room}",
            self.pages.origin,
            self.backend_origin,
            self.vhost.name()
        );
        browser.order(&json!({ "do": "goto", "url": url }));
        assert_eq!(browser.expect("loaded").await["status"], 200);
        see(&mut browser, "#state", "online").await;
        browser
    }
}

/// The elements of a page show this.
async fn see(browser: &mut Remote, selector: &str, text: &str) {
    let script = format!(
        "[...document.querySelectorAll({selector:?})].map((one) => one.textContent).join('|')"
    );
    eventually(2 * DEADLINE, format!("{selector} is {text}"), async || {
        let shown = evaluate(browser, &script).await;
        shown.as_str().unwrap_or_default().contains(text)
    })
    .await;
}

async fn evaluate(browser: &mut Remote, script: &str) -> Value {
    browser.order(&json!({ "do": "evaluate", "script": script }));
    browser.expect("evaluated").await["value"].take()
}

fn click(browser: &mut Remote, selector: &str) {
    browser.order(&json!({ "do": "click", "selector": selector }));
}

fn say(browser: &mut Remote, text: &str) {
    browser.order(&json!({ "do": "fill", "selector": "#text", "text": text }));
    click(browser, "#send");
}

/// What was said in the open room, as it stands there.
async fn said(browser: &mut Remote) -> Vec<String> {
    let script = "[...document.querySelectorAll('.said:not([data-state]) .text')].map((one) => one.textContent)";
    let texts = evaluate(browser, script).await;
    let texts = texts.as_array().unwrap().iter();
    texts
        .map(|text| text.as_str().unwrap().to_owned())
        .collect()
}

async fn until_said(browser: &mut Remote, texts: &[&str]) {
    eventually(2 * DEADLINE, format!("{texts:?} was said"), async || {
        said(browser).await == texts
    })
    .await;
}

fn is_without_faults(browser: &Remote) {
    let out = browser.process().stdout().text();
    assert!(!out.contains("\"pageerror\""), "{out}");
}

#[tokio::test]
async fn two_people_talk_and_miss_nothing() {
    let chat = Chat::open().await;
    let mut alice = chat.person("alice", "garden").await;
    see(&mut alice, "[data-user=bob] .member-status", "offline").await;
    say(&mut alice, "before Bob came");
    until_said(&mut alice, &["before Bob came"]).await;

    // History; and each sees the other come.
    let mut bob = chat.person("bob", "garden").await;
    until_said(&mut bob, &["before Bob came"]).await;
    see(&mut alice, "[data-user=bob] .member-status", "online").await;
    see(&mut bob, "[data-user=alice] .member-status", "online").await;

    // Typing, until the message comes.
    let mut keys = String::from("here");
    eventually(2 * DEADLINE, "Alice sees Bob type", async || {
        // A page says so once its room is live.
        keys.push('.');
        bob.order(&json!({ "do": "fill", "selector": "#text", "text": keys }));
        let typing = evaluate(&mut alice, "document.querySelector('#typing').textContent").await;
        typing == "Bob is typing"
    })
    .await;
    say(&mut bob, "here I am");
    until_said(&mut alice, &["before Bob came", "here I am"]).await;
    assert_eq!(
        evaluate(&mut alice, "document.querySelector('#typing').textContent").await,
        ""
    );
    assert_eq!(
        evaluate(&mut alice, "document.querySelectorAll('.is-mine').length").await,
        1
    );

    // Another room counts what was not read there.
    click(&mut bob, "[data-room=lobby]");
    see(&mut bob, "#title", "Lobby").await;
    say(&mut alice, "are you there?");
    see(&mut bob, "[data-room=garden] .badge", "1").await;
    click(&mut bob, "[data-room=garden]");
    let all = ["before Bob came", "here I am", "are you there?"];
    until_said(&mut bob, &all).await;

    // Bob's connection is lost while Alice talks; a reload has it all, too.
    bob.order(&json!({ "do": "offline", "is": true }));
    bob.expect("network").await;
    chat.proxy.cut();
    see(&mut bob, "#state", "offline").await;
    say(&mut alice, "still there?");
    let all = [&all[..], &["still there?"]].concat();
    until_said(&mut alice, &all).await;
    bob.order(&json!({ "do": "offline", "is": false }));
    bob.expect("network").await;
    until_said(&mut bob, &all).await;
    bob.order(&json!({ "do": "reload" }));
    bob.expect("reloaded").await;
    until_said(&mut bob, &all).await;

    // A room that Carol is not in.
    let mut carol = chat.person("carol", "lobby").await;
    assert_eq!(
        evaluate(
            &mut carol,
            "document.querySelectorAll('.room-button').length"
        )
        .await,
        2
    );

    for page in [&alice, &bob] {
        is_without_faults(page);
    }
    assert!(chat.backend.exit_status().is_none());
}

#[tokio::test]
async fn a_muted_member_is_told_and_can_try_again() {
    let chat = Chat::open().await;
    let mut alice = chat.person("alice", "garden").await;
    let mut bob = chat.person("bob", "garden").await;
    see(&mut bob, "#messages", "Nobody has said anything yet").await;
    assert_eq!(
        evaluate(&mut bob, "document.querySelectorAll('.mute').length").await,
        0
    );
    click(&mut alice, "[data-user=bob] .mute");
    see(&mut bob, ".notice", "Alice muted you").await;
    see(&mut bob, "#muted:not([hidden])", "You are muted in Garden").await;
    see(&mut alice, "[data-user=bob] .member-status", "muted").await;

    say(&mut bob, "let me speak");
    see(&mut bob, ".failed", "Not sent: you are muted in Garden").await;
    // He stays, hears the others, and may speak elsewhere.
    see(&mut bob, "#state", "online").await;
    say(&mut alice, "not now");
    until_said(&mut bob, &["not now"]).await;
    click(&mut bob, "[data-room=lobby]");
    say(&mut bob, "I am muted there");
    until_said(&mut bob, &["I am muted there"]).await;

    click(&mut alice, "[data-user=bob] .mute");
    click(&mut bob, "[data-room=garden]");
    see(&mut bob, ".notice", "Alice unmuted you").await;
    let is_gone = "document.querySelector('#muted').hidden";
    eventually(DEADLINE, "the notice goes", async || {
        evaluate(&mut bob, is_gone).await == true
    })
    .await;
    bob.order(&json!({ "do": "click", "selector": ".failed button" }));
    until_said(&mut alice, &["not now", "let me speak"]).await;
    until_said(&mut bob, &["not now", "let me speak"]).await;
    for page in [&alice, &bob] {
        is_without_faults(page);
    }
}

#[tokio::test]
async fn it_looks_right_on_phones_and_in_the_dark() {
    let chat = Chat::open().await;
    let mut alice = chat.person("alice", "garden").await;
    let mut bob = chat.person("bob", "garden").await;
    say(
        &mut bob,
        &"long words and a-word-that-is-longer-than-any-phone-is-wide".repeat(2),
    );
    say(&mut alice, "yes");
    see(&mut alice, "#messages", "yes").await;
    click(&mut alice, "[data-user=bob] .mute");
    see(&mut bob, "#muted:not([hidden])", "You are muted").await;
    say(&mut bob, "refused");
    see(&mut bob, ".failed", "Not sent").await;
    for (scheme, width) in [
        ("light", 320),
        ("dark", 390),
        ("dark", 820),
        ("light", 1280),
    ] {
        for (name, page) in [("alice", &mut alice), ("bob", &mut bob)] {
            page.order(&json!({ "do": "dress", "scheme": scheme, "width": width, "height": 740 }));
            page.expect("dressed").await;
            page.order(&json!({ "do": "examine" }));
            let found = page.expect("examined").await;
            assert_eq!(found["faults"], json!([]), "{name}, {scheme}, {width}");
            assert_eq!(found["isTooWide"], false, "{name}, {scheme}, {width}");
        }
    }
    // On a phone one pane is shown: the rooms, the room, or its members.
    bob.order(&json!({ "do": "dress", "scheme": "dark", "width": 390, "height": 740 }));
    bob.expect("dressed").await;
    for (button, pane) in [
        ("#to-people", ".people"),
        ("#close-people", ".room"),
        ("#to-rooms", ".rooms"),
        ("[data-room=lobby]", ".room"),
    ] {
        click(&mut bob, button);
        let seen = "[...document.querySelectorAll('.pane')].filter((one) => getComputedStyle(one).visibility === 'visible').map((one) => `.${one.className.split(' ')[1]}`).join()";
        eventually(DEADLINE, format!("{button} shows {pane}"), async || {
            evaluate(&mut bob, seen).await == pane
        })
        .await;
    }
    is_without_faults(&bob);
}
