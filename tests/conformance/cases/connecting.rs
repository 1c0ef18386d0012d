//! CONNECT: versions, credentials, virtual hosts, heart-beats.

use crate::{
    case::{Case, case},
    client::Client,
    scene::Scene,
};

/// A stranger says this, hears one frame, and may try a proper CONNECT then.
fn says(frame: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.stranger().await;
        a.say(frame).await;
        a.hear(1).await;
        a.end().await;
    }
}

/// CONNECT with this `accept-version`.
fn versions(accepted: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| {
        let mut a = t.stranger().await;
        a.say(format!(
            "CONNECT\naccept-version:{accepted}\nhost:{{vhost}}\nlogin:guest\npasscode:guest"
        ))
        .await;
        a.hear(1).await;
        a.end().await;
    }
}

/// CONNECT with this `heart-beat`.
fn heart_beat(wish: &'static str) -> impl AsyncFn(&mut Scene) {
    async move |t| beating(t, wish).await.end().await
}

/// A client that said CONNECT with this `heart-beat`, and heard the answer.
async fn beating(t: &mut Scene, wish: &str) -> Client {
    let mut a = t.stranger().await;
    a.say(format!(
        "CONNECT\naccept-version:1.2\nhost:{{vhost}}\nheart-beat:{wish}\nlogin:guest\npasscode:guest"
    ))
    .await;
    a.hear(1).await;
    a
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "without accept-version it is 1.0",
            says("CONNECT\nhost:{vhost}\nlogin:guest\npasscode:guest"),
        ),
        case("accept-version 1.0", versions("1.0")),
        case("accept-version 1.1", versions("1.1")),
        case("accept-version 1.2", versions("1.2")),
        case("the highest version in common", versions("1.0,1.1,1.2")),
        case("versions in any order", versions("1.1,1.0")),
        case("unknown versions are passed over", versions("1.1,1.9,2.0")),
        case("no version in common", versions("1.3")),
        case("blanks between versions", versions("1.0, 1.1, 1.2")).differs(&["C4"]),
        case(
            "STOMP is CONNECT",
            says("STOMP\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest"),
        ),
        case(
            "without host it is the default virtual host",
            says("CONNECT\naccept-version:1.2\nlogin:guest\npasscode:guest"),
        ),
        case(
            "a virtual host that is not there",
            says("CONNECT\naccept-version:1.2\nhost:nowhere\nlogin:guest\npasscode:guest"),
        ),
        case(
            "a virtual host that the user may not enter",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:nobody\npasscode:nobody"),
        ),
        case(
            "a wrong passcode",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:wrong"),
        )
        .differs_since("4.0", &["V1"]),
        case(
            "an unknown user",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:mallory\npasscode:guest"),
        )
        .differs_since("4.0", &["V1"]),
        case(
            "no login and no passcode",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}"),
        )
        .differs(&["C9"]),
        case(
            "no passcode",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest"),
        )
        .differs(&["C7"]),
        case(
            "an empty passcode",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:"),
        )
        .differs_since("4.0", &["V1"]),
        case(
            "nothing is unescaped in CONNECT",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:gu\\c\\\\est:x\npasscode:guest"),
        )
        .differs(&["C8"]),
        case(
            "blanks of a login count",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin: guest\npasscode:guest"),
        )
        .differs_since("4.0", &["V1"]),
        case(
            "the first of a repeated header counts in CONNECT",
            says(
                "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\nlogin:nobody\npasscode:guest",
            ),
        ),
        case("CONNECT with CR LF", async |t| {
            let mut a = t.stranger().await;
            a.text("CONNECT\r\naccept-version:1.2\r\nhost:{vhost}\r\nlogin:guest\r\npasscode:guest\r\n\r\n\0").await;
            a.hear(1).await;
            a.end().await;
        }),
        case(
            "a body on CONNECT",
            says("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest\n\nbody"),
        )
        .differs(&["E11"]),
        case("an empty line too many on CONNECT", async |t| {
            let mut a = t.stranger().await;
            a.text(
                "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest\n\n\n\0",
            )
            .await;
            a.hear(1).await;
            a.end().await;
        }),
        case("the server's name", async |t| {
            let mut a = t.stranger().await;
            a.say("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest")
                .await;
            let server = a.headers_of_message(&["server"]).await;
            t.saw(server.split('/').next().unwrap_or_default());
        })
        .differs(&["C19"]),
        case("line ends before CONNECT", async |t| {
            let mut a = t.stranger().await;
            a.bytes("\n\r\n\n").await;
            a.say("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest")
                .await;
            a.hear(1).await;
            a.end().await;
        }),
        case(
            "CONNECT with a content-length",
            says(
                "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest\ncontent-length:0",
            ),
        ),
        case(
            "CONNECT with a receipt",
            says(
                "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest\nreceipt:r",
            ),
        ),
        case(
            "unknown headers of CONNECT are passed over",
            says(
                "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest\nclient-id:x",
            ),
        ),
        case(
            "connect in small letters",
            says("connect\naccept-version:1.2\nhost:{vhost}"),
        ),
        case(
            "SEND before CONNECT",
            says("SEND\ndestination:/topic/~a\n\nx"),
        ),
        case(
            "SUBSCRIBE before CONNECT",
            says("SUBSCRIBE\nid:1\ndestination:/topic/~a"),
        ),
        case("an unknown command before CONNECT", says("WRONG\nx:y")),
        case("CONNECT twice", async |t| {
            let mut a = t.client().await;
            a.say("CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest")
                .await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["E5"]),
        case("heart-beat absent", versions("1.1,1.2")),
        case("heart-beat 0,0", heart_beat("0,0")),
        case("heart-beat 20000,30000", heart_beat("20000,30000")),
        case("heart-beat 60000,0", heart_beat("60000,0")),
        case("heart-beat 0,60000", heart_beat("0,60000")),
        case("heart-beats in whole seconds", heart_beat("20500,30700")).differs(&["C2"]),
        case(
            "heart-beats every second and a half",
            heart_beat("1500,1500"),
        )
        .differs(&["C2"]),
        case("heart-beats every second", async |t| {
            let mut a = beating(t, "1000,1000").await;
            for _ in 0..4 {
                a.hear_beat().await;
                a.bytes("\n").await;
            }
            a.end().await;
        }),
        case(
            "a client hears heart-beats and has none of its own",
            async |t| {
                let mut a = beating(t, "0,1000").await;
                for _ in 0..4 {
                    a.hear_beat().await;
                }
                a.end().await;
            },
        ),
        case("a client that misses its heart-beats", async |t| {
            let mut a = beating(t, "1000,0").await;
            a.closes().await;
        })
        .tcp_only()
        .differs(&["C3"]),
        case("heart-beat of words", heart_beat("often,never")).differs(&["C1"]),
        case("heart-beat with one figure", heart_beat("1000")).differs(&["C1"]),
        case("heart-beat below zero", heart_beat("-1,0")).differs(&["C1"]),
        case("DISCONNECT with a receipt", async |t| {
            let mut a = t.client().await;
            a.ask("DISCONNECT").await;
            a.closes().await;
        })
        .differs(&["E6"])
        .differs_since("4.0", &[]),
        case("DISCONNECT without a receipt", async |t| {
            let mut a = t.client().await;
            a.leave().await;
        }),
        case("frames after DISCONNECT are not done", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.text("DISCONNECT\n\n\0SEND\ndestination:/topic/~a\n\nafter\0")
                .await;
            a.closes().await;
            b.ask("SEND\ndestination:/topic/~a\n\nend").await;
            b.hear(1).await;
        }),
    ]
}
