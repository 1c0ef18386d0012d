//! WebSocket: messages and frames, subprotocols, text and binary.

use testkit::WsOptions;

use crate::{
    case::{Case, case},
    scene::Scene,
};

/// Offers these subprotocols, and connects.
fn offers(protocols: &'static [&'static str]) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let options = WsOptions {
            protocols: protocols.to_vec(),
            ..WsOptions::default()
        };
        let mut a = t.stranger_with(options).await;
        t.saw(&format!("subprotocol {:?}", a.protocol().unwrap_or("none")));
        a.end().await;
    }
}

/// Says CONNECT and a SEND in text or in binary messages, and looks at what the answers are.
fn speaks(binary: bool) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let options = WsOptions {
            binary,
            ..WsOptions::default()
        };
        let mut a = t.stranger_with(options).await;
        a.log_in("guest", "1.2").await;
        a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
        a.ask("SEND\ndestination:/topic/~a\n\nx").await;
        a.hear(1).await;
        t.saw(if a.was_text() == Some(true) {
            "a text message"
        } else {
            "a binary message"
        });
        a.end().await;
    }
}

/// Asks for an upgrade, and looks at the answer.
fn upgrades(path: &'static str, headers: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let answer = t.upgrade(path, headers).await;
        t.saw(&answer);
    }
}

pub(crate) fn cases() -> Vec<Case> {
    let cases = vec![
        case("an upgrade", upgrades("/ws", "")),
        case("an upgrade elsewhere", upgrades("/nowhere", "")),
        case(
            "an upgrade from a page of another host",
            upgrades("/ws", "Origin: https://elsewhere.example\r\n"),
        )
        .differs(&["C5"]),
        case(
            "an upgrade that offers compression",
            upgrades("/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n"),
        )
        .differs(&["W7"]),
        case("no subprotocol is offered", offers(&[])),
        case(
            "v12, v11 and v10 are offered",
            offers(&["v12.stomp", "v11.stomp", "v10.stomp"]),
        ),
        case(
            "v10 and v11 are offered",
            offers(&["v10.stomp", "v11.stomp"]),
        ),
        case("v10 is offered", offers(&["v10.stomp"])),
        case("a client that speaks text", speaks(false)),
        case("a client that speaks binary", speaks(true)).differs(&["W2"]),
        case("a frame over three messages", async |t| {
            let mut a = t.client().await;
            a.text("SEND\ndesti").await;
            a.text("nation:/topic/~a\nreceipt:r\n").await;
            a.text("\nx\0").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("three frames in one message", async |t| {
            let mut a = t.client().await;
            a.text("BEGIN\ntransaction:t\nreceipt:1\n\n\0ABORT\ntransaction:t\nreceipt:2\n\n\0\nBEGIN\ntransaction:t\nreceipt:3\n\n\0").await;
            a.hear(3).await;
            a.end().await;
        }),
        case("a message of a line end is a heart-beat", async |t| {
            let mut a = t.client().await;
            a.text("\n").await;
            a.end().await;
        }),
        case(
            "a body that is not UTF-8 to a client that speaks binary",
            async |t| {
                let options = WsOptions {
                    binary: true,
                    ..WsOptions::default()
                };
                let mut a = t.stranger_with(options).await;
                a.log_in("guest", "1.2").await;
                a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
                let mut frame = t
                    .real("SEND\ndestination:/topic/~a\ncontent-length:2\n\n")
                    .into_bytes();
                frame.extend(b"\xff\xfe\0");
                a.bytes(&frame).await;
                a.hear(1).await;
                a.end().await;
            },
        )
        .differs(&["W1"]),
        case(
            "a body that is not UTF-8 to a client that speaks text",
            async |t| {
                let options = WsOptions {
                    binary: true,
                    ..WsOptions::default()
                };
                let mut a = t.client().await;
                a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
                let mut b = t.stranger_with(options).await;
                b.log_in("guest", "1.2").await;
                let mut frame = t
                    .real("SEND\ndestination:/topic/~a\ncontent-length:2\n\n")
                    .into_bytes();
                frame.extend(b"\xff\xfe\0");
                b.bytes(&frame).await;
                a.hear(1).await;
                a.end().await;
            },
        )
        .differs(&["W1"]),
    ];
    cases.into_iter().map(Case::ws_only).collect()
}
