//! BEGIN, COMMIT, ABORT, and what is done within.

use super::{asks, with_message};
use crate::case::{Case, case};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case("COMMIT sends what was gathered, in order", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/topic/~a\n\ntwo")
                .await;
            a.say("SEND\ntransaction:t\ndestination:/topic/~a\n\nthree")
                .await;
            a.ask("SEND\ndestination:/topic/~a\n\none").await;
            a.ask("COMMIT\ntransaction:t").await;
            a.hear(3).await;
            a.end().await;
        }),
        case("ABORT sends nothing", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/topic/~a\n\ndropped")
                .await;
            a.ask("ABORT\ntransaction:t").await;
            a.ask("SEND\ndestination:/topic/~a\n\nsent").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("a client that leaves aborts", async |t| {
            let mut a = t.client().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/queue/~q\n\ndropped")
                .await;
            a.leave().await;
            let mut b = t.client().await;
            b.ask("SEND\ndestination:/queue/~q\n\nsent").await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            b.hear(1).await;
            b.end().await;
        }),
        case("two at once", async |t| {
            let mut a = t.client().await;
            a.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask("BEGIN\ntransaction:u").await;
            a.say("SEND\ntransaction:t\ndestination:/topic/~a\n\nof t")
                .await;
            a.say("SEND\ntransaction:u\ndestination:/topic/~a\n\nof u")
                .await;
            a.ask("COMMIT\ntransaction:u").await;
            a.ask("COMMIT\ntransaction:t").await;
            a.hear(2).await;
            a.end().await;
        }),
        case(
            "a name can be used again",
            asks([
                "BEGIN\ntransaction:t",
                "COMMIT\ntransaction:t",
                "BEGIN\ntransaction:t",
                "ABORT\ntransaction:t",
            ]),
        ),
        case(
            "BEGIN of an open one",
            asks(["BEGIN\ntransaction:t", "BEGIN\ntransaction:t"]),
        )
        .differs(&["T1"]),
        case("BEGIN without a name", asks(["BEGIN"])),
        case("COMMIT without a name", asks(["COMMIT"])),
        case("ABORT without a name", asks(["ABORT"])),
        case("COMMIT of an unknown one", asks(["COMMIT\ntransaction:t"])),
        case("ABORT of an unknown one", asks(["ABORT\ntransaction:t"])),
        case(
            "SEND in an unknown one",
            asks(["SEND\ntransaction:t\ndestination:/topic/~a\n\nx"]),
        ),
        case(
            "COMMIT twice",
            asks([
                "BEGIN\ntransaction:t",
                "COMMIT\ntransaction:t",
                "COMMIT\ntransaction:t",
            ]),
        ),
        case(
            "a name of any text",
            asks([
                "BEGIN\ntransaction:a b\\cc \"für\"",
                "COMMIT\ntransaction:a b",
            ]),
        ),
        case("ACK in an unknown one", async |t| {
            let (mut a, id) = with_message(t, "client").await;
            a.ask(format!("ACK\ntransaction:t\nid:{id}")).await;
            a.end().await;
        }),
        case("ACK within, and COMMIT", async |t| {
            let (mut a, id) = with_message(t, "client").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask(format!("ACK\ntransaction:t\nid:{id}")).await;
            a.ask("COMMIT\ntransaction:t").await;
            a.leave().await;
            let mut b = t.client().await;
            b.ask("SEND\ndestination:/queue/~q\n\nlast").await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            b.hear(1).await;
        }),
        case("ACK within, and ABORT", async |t| {
            let (mut a, id) = with_message(t, "client").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask(format!("ACK\ntransaction:t\nid:{id}")).await;
            a.ask("ABORT\ntransaction:t").await;
            a.leave().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/queue/~q").await;
            b.hear(1).await;
        }),
        case("ACK after an ABORT of it", async |t| {
            let (mut a, id) = with_message(t, "client").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask(format!("ACK\ntransaction:t\nid:{id}")).await;
            a.ask("ABORT\ntransaction:t").await;
            a.ask(format!("ACK\nid:{id}")).await;
            a.end().await;
        }),
        case("NACK within, and COMMIT", async |t| {
            let (mut a, id) = with_message(t, "client").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask(format!("NACK\ntransaction:t\nid:{id}")).await;
            a.ask("COMMIT\ntransaction:t").await;
            a.hear(1).await;
            a.end().await;
        }),
        case("COMMIT of an ACK whose subscription has ended", async |t| {
            let mut a = t.client().await;
            let mut b = t.client().await;
            b.ask("SUBSCRIBE\nid:1\ndestination:/topic/~a").await;
            a.ask("SUBSCRIBE\nid:1\nack:client\ndestination:/queue/~q")
                .await;
            a.ask("SEND\ndestination:/queue/~q\n\nx").await;
            let id = a.message().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.ask(format!("ACK\ntransaction:t\nid:{id}")).await;
            a.say("SEND\ntransaction:t\ndestination:/topic/~a\n\nthe rest")
                .await;
            a.ask("UNSUBSCRIBE\nid:1").await;
            a.ask("COMMIT\ntransaction:t").await;
            // If that went well, the rest is on its way before this is confirmed.
            a.ask("SEND\ndestination:/topic/~z\n\nx").await;
            a.end().await;
            b.ask("SEND\ndestination:/topic/~a\n\nlast").await;
            while b.body_of_message().await != "last" {}
        }),
        case("COMMIT of a SEND to a missing exchange", async |t| {
            let mut a = t.client().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/exchange/~x/k\n\nx")
                .await;
            a.say("COMMIT\ntransaction:t").await;
            a.hear(1).await;
            a.end().await;
        })
        .differs(&["E7"]),
        case("a SEND within whose destination is none", async |t| {
            let mut a = t.client().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\ndestination:/foo/bar\n\nx")
                .await;
            a.ask("COMMIT\ntransaction:t").await;
            a.end().await;
        })
        .differs(&["E3"]),
        case("the receipt of a SEND within", async |t| {
            let mut a = t.client().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\nreceipt:sent\ndestination:/topic/~a\n\nx")
                .await;
            a.ask("BEGIN\ntransaction:u").await;
            a.ask("COMMIT\ntransaction:t").await;
            a.ask("SEND\ndestination:/topic/~a\n\nlast").await;
            a.end().await;
        })
        .differs(&["T4"]),
        case("the receipts of ACK and NACK within", async |t| {
            let (mut a, id) = with_message(t, "client-individual").await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say(format!("ACK\ntransaction:t\nreceipt:acked\nid:{id}"))
                .await;
            a.ask("SEND\ndestination:/topic/~a\n\nx").await;
            a.ask("COMMIT\ntransaction:t").await;
            a.end().await;
        }),
        case("the receipt of a SEND within, and ABORT", async |t| {
            let mut a = t.client().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\nreceipt:sent\ndestination:/topic/~a\n\nx")
                .await;
            a.ask("ABORT\ntransaction:t").await;
            a.ask("SEND\ndestination:/topic/~a\n\nlast").await;
            a.end().await;
        }),
        case("a SEND beside it is receipted before COMMIT", async |t| {
            let mut a = t.client().await;
            a.ask("BEGIN\ntransaction:t").await;
            a.say("SEND\ntransaction:t\nreceipt:sent\ndestination:/topic/~a\n\nx")
                .await;
            a.ask("SEND\ndestination:/topic/~a\n\nbeside").await;
            a.ask("ABORT\ntransaction:t").await;
            a.end().await;
        }),
        case("20 open ones", async |t| {
            let mut a = t.client().await;
            for number in 0..20 {
                a.ask(format!("BEGIN\ntransaction:{number}")).await;
            }
            a.end().await;
        })
        .differs(&["T3"]),
        case(
            "SUBSCRIBE knows no transaction",
            asks(["SUBSCRIBE\nid:1\ntransaction:t\ndestination:/topic/~a"]),
        ),
    ]
}
