//! Frames and bytes: escapes, line ends, lengths, headers, limits.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use super::says;
use crate::{
    case::{Case, case},
    scene::Scene,
};

/// A client subscribes, sends these bytes, and hears what it gets of them before a last message.
fn round_trip(version: &'static str, bytes: &'static [u8]) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.client_speaking(version).await;
        a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
        let text = String::from_utf8_lossy(bytes).replace('~', &t.real("~"));
        a.bytes(text).await;
        a.hear(1).await;
        a.end().await;
    }
}

/// Sends bytes to a socket, and answers all that comes until `until` is in it.
async fn raw(t: &Scene, says: &str, until: &str) -> String {
    let mut socket = t.socket().await;
    let connect = "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest\n\n\0";
    socket.write_all(t.real(connect).as_bytes()).await.unwrap();
    socket.write_all(t.real(says).as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let reading = timeout(testkit::DEADLINE, socket.read(&mut buffer)).await;
        let length = reading.expect("more comes").expect("it is connected");
        heard.extend_from_slice(&buffer[..length]);
        let text = String::from_utf8_lossy(&heard).into_owned();
        if length == 0 || text.contains(until) {
            return text;
        }
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "line ends between frames",
            round_trip(
                "1.2",
                b"\n\n\r\n\nSEND\ndestination:/topic/~a\n\nx\0\n\n\r\n",
            ),
        ),
        case(
            "NULs between frames",
            round_trip("1.2", b"\0\0\nSEND\ndestination:/topic/~a\n\nx\0\0\r\n\0"),
        ),
        case(
            "CR LF in 1.2",
            round_trip(
                "1.2",
                b"SEND\r\ndestination:/topic/~a\r\nfoo:bar\r\n\r\nx\0\r\n",
            ),
        ),
        case(
            "CR LF in 1.1",
            round_trip(
                "1.1",
                b"SEND\r\ndestination:/topic/~a\r\nfoo:bar\r\n\r\nx\0\r\n",
            ),
        ),
        case(
            "CR LF in 1.0",
            round_trip(
                "1.0",
                b"SEND\r\ndestination:/topic/~a\r\nfoo:bar\r\n\r\nx\0\r\n",
            ),
        ),
        case(
            "NUL in a body with content-length",
            round_trip(
                "1.2",
                b"SEND\ndestination:/topic/~a\ncontent-length:3\n\na\0b\0",
            ),
        ),
        case(
            "a body without content-length ends at NUL",
            round_trip("1.2", b"SEND\ndestination:/topic/~a\n\nline\nline\r\n\n\0"),
        ),
        case(
            "an empty body",
            round_trip("1.2", b"SEND\ndestination:/topic/~a\n\n\0"),
        ),
        case(
            "an empty body with content-length 0",
            round_trip(
                "1.2",
                b"SEND\ndestination:/topic/~a\ncontent-length:0\n\n\0",
            ),
        ),
        case(
            "blanks around a content-length",
            round_trip(
                "1.2",
                b"SEND\ndestination:/topic/~a\ncontent-length: 3 \n\na\0b\0",
            ),
        ),
        case(
            "a content-length that is too short",
            says(
                "1.2",
                ["SEND\ndestination:/topic/~a\ncontent-length:2\n\nhello"],
            ),
        )
        .differs(&["E4"]),
        case(
            "a content-length of letters",
            says(
                "1.2",
                ["SEND\ndestination:/topic/~a\ncontent-length:zz\n\nhello"],
            ),
        )
        .differs(&["E4"]),
        case(
            "a content-length below zero",
            says(
                "1.2",
                ["SEND\ndestination:/topic/~a\ncontent-length:-1\n\nhello"],
            ),
        )
        .differs(&["E4"]),
        case("byte by byte", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.drip("SEND\ndestination:/topic/~a\nfoo:b\\cr\n\nx\0")
                .await;
            a.hear(1).await;
        })
        .tcp_only(),
        case("two frames in one piece", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.text("SEND\ndestination:/topic/~a\n\none\0SEND\ndestination:/topic/~a\n\ntwo\0")
                .await;
            a.hear(2).await;
        }),
        case("a frame in two pieces", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.text("SEND\ndestination:/topic/~a\nfoo:").await;
            a.text("bar\n\nx\0").await;
            a.hear(1).await;
        }),
        case(
            "the first of a repeated header counts",
            round_trip("1.2", b"SEND\ndestination:/topic/~a\nfoo:1\nfoo:2\n\nx\0"),
        ),
        case(
            "the first of two destinations counts",
            round_trip(
                "1.2",
                b"SEND\ndestination:/topic/~a\ndestination:/topic/~b\n\nx\0",
            ),
        ),
        case(
            "escapes in 1.2",
            round_trip(
                "1.2",
                b"SEND\ndestination:/topic/~a\nfo\\co:a\\nb\\cc\\\\d\\re\n\nx\0",
            ),
        ),
        case(
            "escapes in 1.1",
            round_trip(
                "1.1",
                b"SEND\ndestination:/topic/~a\nfo\\co:a\\nb\\cc\\\\d\n\nx\0",
            ),
        ),
        case(
            "no escapes in 1.0",
            round_trip(
                "1.0",
                b"SEND\ndestination:/topic/~a\nfoo:a\\nb\\cc\\\\d\n\nx\0",
            ),
        ),
        case(
            "an undefined escape in 1.2",
            says("1.2", ["SEND\ndestination:/topic/~a\nx:\\t\n\nx"]),
        )
        .differs(&["E4"]),
        case(
            "an undefined escape in 1.1",
            says("1.1", ["SEND\ndestination:/topic/~a\nx:\\t\n\nx"]),
        )
        .differs(&["E4"]),
        case("the escape of CR in 1.1", async |t| {
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            let mut a = t.client_speaking("1.1").await;
            a.ask("SEND\ndestination:/topic/~a\nfoo:a\\rb\n\nx").await;
            a.end().await;
            b.ask("SEND\ndestination:/topic/~a\n\nlast").await;
            while b.body_of_message().await != "last" {}
        })
        .differs(&["F2"]),
        case("headers with escapes from 1.2 to 1.1", async |t| {
            let mut a = t.client().await;
            let mut b = t.client_speaking("1.1").await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\nfoo:a\\cb\\nc\\\\d\n\nx")
                .await;
            b.hear(1).await;
        }),
        case("a header with a colon from 1.2 to 1.0", async |t| {
            let mut a = t.client().await;
            let mut b = t.client_speaking("1.0").await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SEND\ndestination:/topic/~a\nfoo:a\\cb\n\nx").await;
            b.hear(1).await;
        })
        .differs(&["F1"]),
        case(
            "a header without a colon",
            says("1.2", ["SEND\ndestination\n\nx"]),
        )
        .differs(&["E4"]),
        case(
            "colons in a header's value",
            round_trip("1.2", b"SEND\ndestination:/topic/~a\nfoo:b:c:d\n\nx\0"),
        ),
        case(
            "a header without a value",
            round_trip("1.2", b"SEND\ndestination:/topic/~a\nfoo:\n\nx\0"),
        ),
        case(
            "blanks of headers are kept",
            round_trip("1.2", b"SEND\ndestination:/topic/~a\nfoo: a b \n\nx\0"),
        ),
        case(
            "headers beyond ASCII",
            round_trip(
                "1.2",
                "SEND\ndestination:/topic/~a\nfoo:für \u{1F600}\n\nö\0".as_bytes(),
            ),
        ),
        case(
            "headers in capitals are others",
            round_trip(
                "1.2",
                b"SEND\ndestination:/topic/~a\nFoo:1\nfoo:2\nContent-Type:text/x\n\nx\0",
            ),
        ),
        case("a header that is not UTF-8", async |t| {
            let mut a = t.client().await;
            let mut bytes = t
                .real("SEND\ndestination:/topic/~a\nreceipt:r\nfoo:")
                .into_bytes();
            bytes.extend(b"\xff\xfe\n\nx\0");
            a.bytes(&bytes).await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["E4"])
        .tcp_only(),
        case("an unknown command", says("1.2", ["WRONG\nfoo:bar"])),
        case(
            "a command in small letters",
            says("1.2", ["send\ndestination:/topic/~a\n\nx"]),
        ),
        case(
            "a command of servers",
            says("1.2", ["MESSAGE\ndestination:/topic/~a\n\nx"]),
        ),
        case(
            "a body on SUBSCRIBE",
            says(
                "1.2",
                ["SUBSCRIBE\nid:1\nreceipt:r\ndestination:/topic/~a\n\nbody"],
            ),
        )
        .differs(&["E11"]),
        case("an empty line too many on other frames", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a\n\n\n").await;
            a.ask("BEGIN\ntransaction:t\n\n\r\n\n").await;
            a.ask("UNSUBSCRIBE\nid:1\n\n\n\n").await;
            a.end().await;
        }),
        case(
            "a header without a name",
            says(
                "1.2",
                ["SEND\ndestination:/topic/~a\nreceipt:r\n:value\n\nx"],
            ),
        )
        .differs(&["F3"]),
        case("a large body", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask(format!(
                "SEND\ndestination:/topic/~a\n\n{}",
                "0123456789abcdef".repeat(65_536)
            ))
            .await;
            a.hear(1).await;
            a.end().await;
        }),
        case("a body of 5 MB", async |t| {
            let mut a = t.client().await;
            a.ask(format!(
                "SEND\ndestination:/topic/~a\ncontent-length:5000000\n\n{}",
                "x".repeat(5_000_000)
            ))
            .await;
            a.end().await;
        })
        .differs(&["E10"]),
        case("200 headers", async |t| {
            let mut a = t.client().await;
            let headers: String = (0..200).map(|number| format!("h{number}:x\n")).collect();
            a.ask(format!("SEND\ndestination:/topic/~a\n{headers}\nx"))
                .await;
            a.end().await;
        })
        .differs(&["E10"]),
        case("a header of 20 kB", async |t| {
            let mut a = t.client().await;
            a.ask(format!(
                "SEND\ndestination:/topic/~a\nfoo:{}\n\nx",
                "x".repeat(20_000)
            ))
            .await;
            a.end().await;
        })
        .differs(&["E10"]),
        case("HTTP on the STOMP port", async |t| {
            let mut a = t.stranger().await;
            a.bytes("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n\0")
                .await;
            a.hear(1).await;
            a.end().await;
        })
        .tcp_only(),
        case("what follows the NUL of a frame", async |t| {
            let heard = raw(
                t,
                "SEND\ndestination:/topic/~a\nreceipt:last\n\nx\0\n",
                "receipt-id:last\n\n\0",
            )
            .await;
            let ends = heard.matches("\n\n\0\n").count();
            t.saw(&format!(
                "{ends} of 2 frames: a line end after the NUL, when the next frame comes"
            ));
        })
        .differs(&["E8"])
        .tcp_only(),
        case("the order of headers in MESSAGE", async |t| {
            let says = "SUBSCRIBE\nid:1\nack:client\ndestination:/topic/~a\n\n\0\
                        SEND\ndestination:/topic/~a\na:1\ncontent-type:x\n\nthe body\0";
            let heard = raw(t, says, "the body").await;
            let (_, message) = heard.split_once("MESSAGE\n").expect("a message");
            let (head, _) = message.split_once("\n\n").expect("its head");
            let names = head
                .lines()
                .filter_map(|line| Some(line.split_once(':')?.0));
            t.saw(
                &names
                    .filter(|name| *name != "x-stomp-user")
                    .collect::<Vec<_>>()
                    .join(", "),
            );
        })
        .differs(&["S12"])
        .tcp_only(),
    ]
}
