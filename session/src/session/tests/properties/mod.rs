//! Whatever a client sends, whenever and however operations end: a model that knows only what
//! was told and asked predicts every receipt, every acknowledgement and every transaction.

mod model;

use proptest::{prelude::*, sample::Index};

use super::*;
use model::Model;

/// One thing that happens.
#[derive(Clone, Debug)]
enum Input {
    /// A frame that should be accepted, made of what the model knows.
    Valid(Valid, Option<u8>),
    /// A frame of that kind that takes no care, with one more header before all others.
    Twisted(Valid, (Text, Text)),
    /// Any frame at all.
    Garbage(Index, Vec<(Text, Text)>, u8),
    Done(Index),
    Fails(Index),
    Denied(Index),
    Deliver(Index),
    DeliverToUnknown(u32),
    Wait(u16),
    Activity,
    Undecodable(bool),
    Ends,
    Revoked(Index),
}

#[derive(Clone, Debug)]
enum Valid {
    Send {
        transaction: bool,
        which: Index,
        length: u8,
    },
    Subscribe {
        mode: u8,
    },
    Unsubscribe(Index),
    Ack {
        transaction: bool,
        which: Index,
        of: Index,
        nack: bool,
    },
    Begin,
    Commit(Index),
    Abort(Index),
    Disconnect,
}

/// A piece of a garbage header.
#[derive(Clone, Debug)]
enum Text {
    /// A header's name, or a value that means something.
    Known(Index),
    /// A message id that was given out.
    MessageId(Index),
    Any(String),
}

const KNOWN: [&str; 20] = [
    "destination",
    "id",
    "ack",
    "transaction",
    "message-id",
    "subscription",
    "receipt",
    "durable",
    "requeue",
    "accept-version",
    "heart-beat",
    "client",
    "client-individual",
    "auto",
    "true",
    "1",
    "2",
    "/temp-queue/x",
    "1@@session-x@@1",
    "2@@session-x@@99",
];

fn text() -> impl Strategy<Value = Text> {
    prop_oneof![
        6 => any::<Index>().prop_map(Text::Known),
        1 => any::<Index>().prop_map(Text::MessageId),
        // Names as those of subscriptions and transactions.
        2 => "[st]:[1-9]".prop_map(Text::Any),
        // A CR at the end of a value cannot be told from a line's end in STOMP 1.0 and 1.1, so no
        // client sends one.
        1 => ".{0,8}".prop_map(|text| Text::Any(text.trim_end_matches('\r').to_owned())),
        1 => "[0-9]{1,21}@@session-x@@[0-9]{1,21}".prop_map(Text::Any),
    ]
}

fn valid() -> impl Strategy<Value = Valid> {
    prop_oneof![
        4 => (any::<bool>(), any::<Index>(), 0..60_u8)
            .prop_map(|(transaction, which, length)| Valid::Send { transaction, which, length }),
        3 => (0..3_u8).prop_map(|mode| Valid::Subscribe { mode }),
        1 => any::<Index>().prop_map(Valid::Unsubscribe),
        6 => (any::<bool>(), any::<Index>(), any::<Index>(), any::<bool>())
            .prop_map(|(transaction, which, of, nack)| Valid::Ack { transaction, which, of, nack }),
        3 => Just(Valid::Begin),
        3 => any::<Index>().prop_map(Valid::Commit),
        1 => any::<Index>().prop_map(Valid::Abort),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let garbage = prop::collection::vec((text(), text()), 0..6);
    prop_oneof![
        400 => (valid(), any::<Option<u8>>()).prop_map(|(v, receipt)| Input::Valid(v, receipt)),
        5 => any::<Option<u8>>().prop_map(|r| Input::Valid(Valid::Disconnect, r)),
        3 => (any::<Index>(), garbage, any::<u8>())
            .prop_map(|(command, headers, body)| Input::Garbage(command, headers, body)),
        10 => (valid(), text(), text()).prop_map(|(v, name, value)| Input::Twisted(v, (name, value))),
        300 => any::<Index>().prop_map(Input::Done),
        2 => any::<Index>().prop_map(Input::Fails),
        40 => any::<Index>().prop_map(Input::Denied),
        200 => any::<Index>().prop_map(Input::Deliver),
        20 => (0..9_u32).prop_map(Input::DeliverToUnknown),
        70 => (0..9000_u16).prop_map(Input::Wait),
        60 => Just(Input::Activity),
        1 => any::<bool>().prop_map(Input::Undecodable),
        1 => Just(Input::Ends),
        1 => any::<Index>().prop_map(Input::Revoked),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 1024,
        max_shrink_iters: 4096,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_connected_client_may_do_anything(
        version in prop::sample::select(&Version::ALL[..]),
        inputs in prop::collection::vec(input(), 1..300),
    ) {
        let mut model = Model::new(version);
        for input in inputs {
            model.step(input);
            model.check();
        }
        // Whatever is open ends, and no receipt is owed.
        while let Some(operation) = model.open.pop() {
            model.peer.done(operation);
            model.check();
        }
        prop_assert!(model.frames.is_empty() || model.peer.closed.is_some());
    }

    #[test]
    fn before_the_login_anything_may_come(
        first in (any::<Index>(), prop::collection::vec((text(), text()), 0..5)),
        answer in any::<bool>(),
        then in prop::collection::vec(any::<u8>(), 0..8),
    ) {
        let (command, headers) = first;
        let texts = Model::new(Version::V1_2);
        let mut frame = Frame::new(*command.get(&Command::ALL));
        for (name, value) in &headers {
            frame.headers.push(&texts.text(name), &texts.text(value));
        }
        let mut peer = Peer::new(config());
        peer.session.handle_frame(peer.now, frame);
        peer.poll();
        let mut connected = 0;
        for step in std::iter::once(u8::from(answer)).chain(then) {
            match step % 4 {
                0 => peer.session.handle_authenticated(peer.now, Err(Problem::MissingCredentials)),
                1 => peer.session.handle_authenticated(peer.now, Ok(None)),
                2 => peer.wait(Duration::from_secs(6)),
                _ => peer.session.handle_timeout(peer.now),
            }
            peer.poll();
            for frame in peer.written() {
                connected += usize::from(frame.starts_with("CONNECTED\n"));
            }
        }
        prop_assert!(connected <= 1);
        prop_assert!(!peer.session.is_connected() || connected == 1);
        prop_assert!(peer.asked.len() <= 1);
    }
}
