//! Confirms of RabbitMQ that come late, in any order, one for many, as refusals, or never, as a seed
//! says (`CONFIRMS_SEED`).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use testkit::Meddler;
use tokio::task::JoinSet;

use super::*;
use crate::house::vhost;

const SENDERS: usize = 6;
/// Messages of each of them.
const MESSAGES: usize = 150;
/// Sent before their receipts have come.
const WINDOW: usize = 25;

/// What became of the messages of one sender.
#[derive(Default)]
struct Settled {
    taken: BTreeSet<usize>,
    refused: BTreeSet<usize>,
    logins: usize,
}

impl Settled {
    /// Of those that are not settled, the first ones.
    fn next(&self, from: usize) -> Option<usize> {
        (from..MESSAGES)
            .find(|number| !self.taken.contains(number) && !self.refused.contains(number))
    }
}

/// A RECEIPT means that the broker has the message: it never comes before the broker's confirm of that
/// very message, and each message that has one is in the queue. What is refused gets an ERROR.
#[tokio::test]
async fn a_receipt_is_never_ahead_of_the_broker() {
    let seed =
        env::var("CONFIRMS_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("CONFIRMS_SEED={seed}");
    let vhost = vhost().await;
    let meddler = Arc::new(Meddler::start(&vhost.node().amqp_address(), seed).await);
    let channel = vhost.channel().await;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let declaring = channel.queue_declare("all".into(), options, Default::default());
    declaring.await.unwrap();
    let house = House::start(vhost.clone(), |builder| {
        builder
            .vhost_via(&vhost, &meddler.address())
            // A link that is cut within five seconds is a bad one, and its pauses grow; with the
            // usual ten seconds a test with many cuts would last for minutes.
            .set("broker.reconnect_max", "500ms")
    })
    .await;
    let receipts = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let address = house.gateway.stomp_address().to_owned();
        let login = Login::new(&format!("sender-{sender}"), PASSCODE, vhost.name());
        let (receipts, meddler) = (Arc::clone(&receipts), Arc::clone(&meddler));
        senders.spawn(async move {
            let settled = send_all(sender, &address, &login, &receipts, &meddler).await;
            (sender, settled)
        });
    }
    let all = senders.join_all().await;
    let mut came: Vec<Vec<usize>> = vec![Vec::new(); SENDERS];
    while let Some(message) = channel
        .basic_get("all".into(), BasicGetOptions { no_ack: true })
        .await
        .unwrap()
    {
        let text = String::from_utf8(message.delivery.data).unwrap();
        let mut words = text.split(' ').map(|word| word.parse::<usize>().unwrap());
        let [sender, number] = [(); 2].map(|()| words.next().unwrap());
        came[sender].push(number);
    }
    let (mut refused, mut logins) = (0, 0);
    for (sender, settled) in all {
        refused += settled.refused.len();
        logins += settled.logins;
        let mut first = BTreeSet::new();
        for number in &came[sender] {
            // Again, or the next one.
            let is_next = first.last().is_none_or(|last| last < number);
            assert!(
                is_next || first.contains(number),
                "{number} of sender {sender} came out of order: {:?}",
                came[sender]
            );
            first.insert(*number);
        }
        let lost: Vec<_> = settled.taken.difference(&first).collect();
        assert!(lost.is_empty(), "sender {sender} has receipts for {lost:?}");
    }
    println!(
        "{} receipts, {refused} refused, {logins} logins; {} cut links, {} refusals; {} in the queue",
        receipts.load(Ordering::SeqCst),
        meddler.cut(),
        meddler.refused(),
        came.iter().map(Vec::len).sum::<usize>()
    );
    assert!(meddler.refused() > 0 && refused > 0, "some are refused");
}

/// Sends all messages, again where it does not know what became of them.
async fn send_all(
    sender: usize,
    address: &str,
    account: &Login,
    receipts: &AtomicUsize,
    meddler: &Meddler,
) -> Settled {
    let mut settled = Settled::default();
    while settled.next(0).is_some() {
        let mut client = StompClient::tcp(address).await;
        client.connect(account).await;
        settled.logins += 1;
        // No two messages are the same, so that a confirm is of one.
        let login = settled.logins;
        let body = |number: usize| format!("{sender} {number} {login}");
        let (mut next, mut open) = (0, 0);
        loop {
            while open < WINDOW
                && let Some(number) = settled.next(next)
            {
                let send = Frame::new(Command::Send)
                    .with_header("destination", "/amq/queue/all")
                    .with_header("receipt", &number.to_string())
                    .with_body(body(number));
                client.send(&send).await;
                (next, open) = (number + 1, open + 1);
            }
            if open == 0 {
                break;
            }
            let answer = client.expect_frame().await;
            let receipt = answer.header("receipt-id");
            let number = receipt.and_then(|receipt| receipt.parse::<usize>().ok());
            if answer.command != Command::Receipt {
                settled.refused.extend(number);
                break;
            }
            receipts.fetch_add(1, Ordering::SeqCst);
            let number = number.unwrap();
            let is_confirmed = meddler.has_confirmed(body(number).as_bytes());
            assert!(is_confirmed, "a receipt of {number} before its confirm");
            assert!(settled.taken.insert(number), "a second receipt");
            open -= 1;
        }
    }
    settled
}
