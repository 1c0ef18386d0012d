use super::*;
use crate::broker::{Properties, USER_HEADER};

const CONTEXT: Context<'static> = Context {
    user: "alice",
    connection: 7,
    impersonate: false,
    topics: "amq.topic",
    auto_prefetch: 100,
    max_unacked: 1_000,
    keys: KeyLimits {
        max_words: 64,
        max_fast_words: 16,
        max_hashes: 2,
    },
    presence: true,
    journals: true,
    sequences: true,
    device: "phone",
};

fn sent(destination: &str, headers: &[(&str, &str)]) -> Result<Sending, Problem> {
    let headers: Headers = headers.iter().copied().collect();
    publish(
        &Destination::parse(destination)?,
        &headers,
        Bytes::new(),
        &CONTEXT,
    )
}

fn plan(destination: &str, ack: AckMode, headers: &[(&str, &str)]) -> Result<Plan, Problem> {
    let headers: Headers = headers.iter().copied().collect();
    subscribe(
        &Destination::parse(destination)?,
        ack,
        &headers,
        7,
        &CONTEXT,
    )
}

#[track_caller]
fn own_queue(destination: &str, headers: &[(&str, &str)]) -> Consume {
    match plan(destination, AckMode::Client, headers) {
        Ok(Plan::Dedicated(consume)) => consume,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn properties(headers: &[(&str, &str)]) -> Properties {
    sent("/topic/m", headers).unwrap().publish.properties
}

fn route(sending: &Sending) -> (&str, &str) {
    (&sending.publish.exchange, &sending.publish.routing_key)
}

#[test]
fn sends_go_where_the_plug_in_sends_them() {
    for (destination, expected, declares) in [
        ("/exchange/feed/k", ("feed", "k"), false),
        ("/exchange/feed", ("feed", ""), false),
        ("/topic/a.b", ("amq.topic", "a.b"), false),
        ("/queue/a%2Fb", ("", "a/b"), true),
        ("a", ("", "a"), true),
        ("/amq/queue/a", ("", "a"), false),
        ("/reply-queue/amq.gen-x", ("", "amq.gen-x"), false),
    ] {
        let sending = sent(destination, &[]).unwrap();
        assert_eq!(route(&sending), expected, "{destination}");
        assert_eq!(sending.declare.is_some(), declares, "{destination}");
    }
    assert_eq!(
        sent("/temp-queue/x", &[]).unwrap_err(),
        Problem::InvalidDestination(
            "'/temp-queue/x' is not a valid destination for 'SEND'\n".into()
        )
    );
    assert_eq!(
        sent("/foo/bar", &[]).unwrap_err(),
        Problem::UnknownDestination("/foo/bar".into())
    );
}

/// Their answers come at once, and a COMMIT is done as a whole, or not at all.
#[test]
fn questions_are_no_part_of_a_transaction() {
    let all: [(&str, &[(&str, &str)]); 2] = [
        (
            "/presence/rooms/room/lobby",
            &[("reply-to", "/temp-queue/r")],
        ),
        (
            "/history",
            &[
                ("exchange", "feed"),
                ("key", "k"),
                ("reply-to", "/temp-queue/r"),
            ],
        ),
    ];
    for (destination, own) in all {
        let ask = |more: &[(&str, &str)]| {
            let headers: Headers = own.iter().chain(more).copied().collect();
            send(destination, &headers, Bytes::new(), &CONTEXT)
        };
        assert!(ask(&[]).is_ok(), "{destination}");
        let refused = ask(&[("transaction", "t")]).unwrap_err();
        let Problem::InvalidHeader {
            header, expected, ..
        } = refused
        else {
            panic!("{destination}: {refused:?}");
        };
        assert_eq!(header, "transaction");
        assert!(expected.contains("stands by itself"), "{expected}");
    }
    // What is said to presence is said with the rest.
    let headers: Headers = [("status", "away"), ("transaction", "t")]
        .into_iter()
        .collect();
    let said = send("/presence", &headers, Bytes::new(), &CONTEXT);
    assert!(matches!(said, Ok(Sent::Status(_))), "{said:?}");
}

#[test]
fn headers_become_properties_or_amqp_headers() {
    let some = |text: &str| Some(Box::from(text));
    assert_eq!(
        properties(&[
            ("destination", "/topic/m"),
            ("receipt", "r"),
            ("transaction", "t"),
            ("content-length", "0"),
            ("content-type", "text/plain"),
            ("content-encoding", "utf-8"),
            ("persistent", "true"),
            ("priority", " 3 "),
            ("correlation-id", "cc"),
            ("reply-to", "rt"),
            ("expiration", "10000"),
            ("amqp-message-id", "am"),
            ("timestamp", "123"),
            ("type", "ty"),
            ("user-id", "alice"),
            ("app-id", "ap"),
            ("foo", "1"),
            ("x-message-ttl", "5"),
            ("foo", "2"),
            ("bar", ""),
        ]),
        Properties {
            content_type: some("text/plain"),
            content_encoding: some("utf-8"),
            persistent: true,
            priority: Some(3),
            correlation_id: some("cc"),
            reply_to: some("rt"),
            expiration: some("10000"),
            message_id: some("am"),
            timestamp: Some(123),
            kind: some("ty"),
            user_id: None,
            app_id: some("ap"),
            headers: vec![
                ("foo".into(), "1".into()),
                ("bar".into(), "".into()),
                (USER_HEADER.into(), "alice".into()),
            ],
        }
    );
}

#[test]
fn nobody_sends_in_another_s_name() {
    assert!(matches!(
        sent("/topic/m", &[("user-id", "bob")]),
        Err(Problem::PreconditionFailed(_))
    ));
    // Nor in a spelling that some receiver takes for the same.
    for forged in [
        USER_HEADER,
        " x-stomp-user",
        "X-Stomp-User\t",
        "\u{feff}x-stomp-user",
        "x-dropped",
        "X-DROPPED ",
        " user-id",
        "User-Id",
        "x-basic-priority",
        "x-stream-offset",
    ] {
        let carried = properties(&[(forged, "bob"), ("x-stomp-user-2", "b")]).headers;
        let expected = [("x-stomp-user-2", "b"), (USER_HEADER, "alice")];
        let expected = expected.map(|(name, value)| (name.into(), value.into()));
        assert_eq!(carried, expected, "{forged:?}");
    }

    let destination = Destination::Topic("m".into());
    let context = Context {
        impersonate: true,
        ..CONTEXT
    };
    let sending = publish(&destination, &Headers::default(), Bytes::new(), &context).unwrap();
    assert_eq!(sending.publish.properties.user_id.as_deref(), Some("alice"));
}

/// Each of these would cost the gateway's channel.
#[test]
fn what_the_broker_would_not_take_is_refused_before() {
    let long = "x".repeat(256);
    for (name, value) in [
        ("priority", "x"),
        ("priority", "256"),
        ("expiration", "soon"),
        ("expiration", "-1"),
        ("expiration", "4294967296"),
        ("timestamp", "1.5"),
        ("persistent", "yes"),
        ("mandatory", "1"),
        ("type", &long),
        ("correlation-id", &long),
        ("type", "amqp-1.0"),
        ("x-stream-filter-value", &long),
        (&long, "x"),
        ("CC", "other"),
        ("BCC", "other"),
    ] {
        let refused = sent("/topic/m", &[(name, value)]).unwrap_err();
        assert!(matches!(refused, Problem::InvalidHeader { .. }), "{name}");
    }
}

#[test]
fn answers_can_go_to_a_queue_of_the_session() {
    let sending = sent("/topic/m", &[("reply-to", "/temp-queue/foo")]).unwrap();
    assert_eq!(sending.temp_queue.as_deref(), Some("/temp-queue/foo"));
    assert_eq!(sending.publish.properties.reply_to, None);
    let sending = sent("/topic/m", &[("reply-to", "/queue/foo")]).unwrap();
    assert_eq!(sending.temp_queue, None);
    let reply_to = sending.publish.properties.reply_to;
    assert_eq!(reply_to.as_deref(), Some("/queue/foo"));
    assert!(sent("/topic/m", &[("reply-to", "/foo/bar")]).is_err());

    let consume = temp_queue(1, &CONTEXT);
    assert!(consume.exclusive && consume.queue.exclusive && consume.queue.auto_delete);
    assert_ne!(consume.queue.name, temp_queue(2, &CONTEXT).queue.name);
    // The broker's side knows them by it.
    assert!(consume.queue.name.starts_with("stomp-temp-"));
}

#[test]
fn a_send_declares_its_queue() {
    let declared = |headers| sent("/queue/q", headers).unwrap().declare.unwrap();
    let durable = QueueSpec {
        name: "q".into(),
        durable: true,
        ..QueueSpec::default()
    };
    assert_eq!(declared(&[]), durable);
    assert_eq!(declared(&[("persistent", "false")]), durable);
    let passing = declared(&[("durable", "false"), ("x-max-length", " 5 ")]);
    assert!(!passing.durable && passing.auto_delete && !passing.exclusive);
    assert_eq!(
        passing.arguments,
        [("x-max-length".into(), Argument::Number(5))]
    );
    assert!(sent("/queue/q", &[("x-max-length", "many")]).is_err());
    assert_eq!(check_send_declares(&passing), Ok(()));
    // As its client said to SUBSCRIBE, perhaps; but it cannot be declared by SEND.
    let exclusive = declared(&[("exclusive", "true")]);
    assert!(exclusive.exclusive && check_send_declares(&exclusive).is_err());
}

#[test]
fn queues_that_other_frames_may_name_are_known_by_their_names() {
    let named = |destination: &str, headers: &[(&str, &str)]| {
        named_queue(destination, &headers.iter().copied().collect())
    };
    assert_eq!(named("/queue/a%2Fb", &[]).as_deref(), Some("a/b"));
    assert_eq!(named("a", &[]).as_deref(), Some("a"));
    let mine = [("x-queue-name", "mine")];
    assert_eq!(named("/topic/a", &mine).as_deref(), Some("mine"));
    assert_eq!(named("/queue/a", &mine).as_deref(), Some("a"));
    for destination in ["/topic/a", "/exchange/feed/k", "/amq/queue/a", "/foo/a"] {
        assert_eq!(named(destination, &[]), None, "{destination}");
    }
    assert!(is_made_up(&own_queue("/topic/a", &[]).queue));
    assert!(!is_made_up(&own_queue("/topic/a", &mine).queue));
    let durable = [("durable", "true"), ("id", "news")];
    assert!(!is_made_up(&own_queue("/topic/a", &durable).queue));
}

#[test]
fn an_exclusive_queue_with_a_name_is_its_connection_s() {
    for (destination, header) in [("/queue/a", "x-priority"), ("/topic/a", "x-queue-name")] {
        let consume = own_queue(destination, &[("exclusive", "true"), (header, "1")]);
        // It may have several consumers, so that none of them is alone.
        assert!(consume.queue.exclusive && !consume.exclusive);
        assert_eq!(consume.owner, 7);
    }
}

#[test]
fn a_headers_exchange_is_bound_by_the_headers_that_mean_nothing_else() {
    let text = |name: &str, value: &str| (name.into(), Argument::Text(value.into()));
    let headers = [
        ("id", "1"),
        ("receipt", "r"),
        ("ack", "client"),
        ("prefetch-count", "5"),
        ("x-max-length", "5"),
        ("redeliver", "1500,3000"),
        ("redeliver-then", "requeue"),
        ("traceparent", "00-0af7651916cd43dd-b7ad6b7169203331-01"),
        ("x-match", "any"),
        ("colour", " red "),
        ("size", "5"),
    ];
    let consume = own_queue("/exchange/amq.headers/k", &headers);
    let expected = [
        text("x-match", "any"),
        text("colour", " red "),
        text("size", "5"),
    ];
    assert_eq!(consume.binding_arguments, expected);
    // Without `x-match`, as with the plug-in.
    let consume = own_queue("/exchange/amq.headers", &headers[9..]);
    assert_eq!(consume.binding_arguments, []);
    for mode in ["all", "all-with-x", "any-with-x"] {
        let consume = own_queue("/exchange/amq.headers", &[("x-match", mode)]);
        assert_eq!(consume.binding_arguments, [text("x-match", mode)]);
    }
    let refused = |headers: &[(&str, &str)]| {
        let plan = plan("/exchange/amq.headers", AckMode::Client, headers);
        matches!(plan, Err(Problem::InvalidHeader { .. }))
    };
    assert!(refused(&[("x-match", "some")]));
    let long = "x".repeat(300);
    assert!(refused(&[("x-match", "all"), (&long, "1")]));
    // RabbitMQ closes a connection over what exceeds a frame.
    let long = "x".repeat(20_000);
    assert!(refused(&[("x-match", "all"), ("a", &long), ("b", &long)]));
}

#[test]
fn a_durable_subscription_to_other_headers_is_another() {
    let name = |headers: &[(&str, &str)]| {
        let durable = [("durable", "true"), ("id", "news")];
        let headers: Vec<_> = durable.iter().chain(headers).copied().collect();
        own_queue("/exchange/amq.headers/k", &headers).queue.name
    };
    let plain = name(&[]);
    let red = name(&[("x-match", "all"), ("colour", "red")]);
    let blue = name(&[("x-match", "all"), ("colour", "blue")]);
    assert!(plain != red && red != blue);
    // Libraries write headers in an order of their own.
    let (small, large) = (("size", "s"), ("size", "l"));
    let red = ("colour", "red");
    let both = name(&[("x-match", "all"), red, small]);
    assert_eq!(both, name(&[small, red, ("x-match", "all")]));
    assert_ne!(both, name(&[("x-match", "all"), red, large]));
    // The first of a name counts.
    assert_eq!(both, name(&[red, small, large, ("x-match", "all")]));
    assert_eq!(plain, name(&[("colour", "red")]));
}

#[test]
fn plain_subscriptions_share() {
    let shared = |exchange: &str, pattern: &str| {
        Ok(Plan::Shared {
            exchange: exchange.into(),
            pattern: pattern.into(),
            resume: None,
            stored: None,
            conflate: None,
            deltas: false,
        })
    };
    let auto =
        |destination: &str, headers: &[(&str, &str)]| plan(destination, AckMode::Auto, headers);
    let plain = [
        ("id", "1"),
        ("destination", "…"),
        ("x-app", "shop"),
        ("receipt", "r"),
    ];
    assert_eq!(
        auto("/exchange/feed/user_1", &plain),
        shared("feed", "user_1")
    );
    assert_eq!(auto("/exchange/feed", &[]), shared("feed", ""));
    assert_eq!(auto("/topic/a.#", &[]), shared("amq.topic", "a.#"));
    for header in [
        ("durable", "false"),
        ("persistent", "false"),
        ("auto-delete", "true"),
        ("exclusive", "false"),
        ("prefetch-count", "1"),
        ("x-queue-name", "q"),
        ("x-priority", "1"),
        ("x-message-ttl", "1"),
        ("x-stream-offset", "first"),
    ] {
        let plan = auto("/topic/a", &[header]);
        assert!(matches!(plan, Ok(Plan::Dedicated(_))), "{header:?}");
    }
    for destination in ["/queue/a", "/amq/queue/a", "a"] {
        assert!(matches!(auto(destination, &[]), Ok(Plan::Dedicated(_))));
    }
    let acked = plan("/topic/a", AckMode::ClientIndividual, &[]);
    assert!(matches!(acked, Ok(Plan::Dedicated(_))));
}

#[test]
fn subscriptions_to_exchanges_have_passing_queues() {
    let consume = own_queue("/exchange/feed/k", &[]);
    assert_eq!(consume.binding, Some(("feed".into(), "k".into())));
    assert!(consume.declare);
    assert!(consume.queue.name.starts_with("stomp-subscription-"));
    assert!(!consume.queue.durable && consume.queue.auto_delete && consume.queue.exclusive);
    let named = own_queue("/topic/a", &[("x-queue-name", "mine")]);
    assert_eq!(&*named.queue.name, "mine");
    assert!(
        !named.exclusive && !named.queue.exclusive,
        "others may know it"
    );
    let exclusive = own_queue("/topic/a", &[("exclusive", "true")]);
    assert!(exclusive.exclusive && exclusive.queue.exclusive);
    // It is the gateway's link's, so it must not outlive the client.
    let headers = [("exclusive", "true"), ("auto-delete", "false")];
    for destination in ["/topic/a", "/queue/a"] {
        assert!(own_queue(destination, &headers).queue.auto_delete);
    }
    // Its name is random: no client can come back to it, or delete it.
    let kept = [("auto-delete", "false"), ("x-expires", "4000000000")];
    for headers in [&kept[..1], &kept] {
        let nameless = own_queue("/topic/a", headers).queue;
        assert!(nameless.auto_delete && nameless.exclusive, "{headers:?}");
    }
    let named = [("auto-delete", "false"), ("x-queue-name", "mine")];
    assert!(!own_queue("/topic/a", &named).queue.auto_delete);
}

/// With any default queue type and policies of the virtual host.
#[test]
fn queues_of_the_gateway_s_own_say_all_of_themselves() {
    let text = |name: &str, value: &str| (name.into(), Argument::Text(value.into()));
    let all = [
        text("x-queue-type", "classic"),
        text("x-overflow", "drop-head"),
    ];
    assert_eq!(own_queue("/topic/a", &[]).queue.arguments, all);
    assert_eq!(temp_queue(1, &CONTEXT).queue.arguments, all);
    let rejects = own_queue("/topic/a", &[("x-overflow", "reject-publish")]);
    let rejects = rejects.queue.arguments;
    assert_eq!(
        rejects,
        [text("x-overflow", "reject-publish"), all[0].clone()]
    );
    // Those of clients, and those that an older version declared, are as they say.
    let durable = [("durable", "true"), ("id", "1")];
    for queue in [
        own_queue("/queue/q", &[]),
        own_queue("/topic/a", &durable),
        own_queue("/topic/a", &[("x-queue-name", "q")]),
    ] {
        assert_eq!(queue.queue.arguments, []);
    }
}

#[test]
fn durable_subscriptions_find_their_queue_again() {
    let durable = [("durable", "true"), ("auto-delete", "false"), ("id", "1")];
    let name = |destination, headers: &[_]| own_queue(destination, headers).queue.name;
    let consume = own_queue("/topic/a", &durable);
    assert!(consume.queue.durable && !consume.queue.auto_delete);
    // Fixed for all time: clients come back after an upgrade of the gateway.
    let fixed = DURABLE;
    assert_eq!(&*consume.queue.name, fixed);
    assert_eq!(&*name("/exchange/amq.topic/a", &durable), fixed);
    assert_ne!(&*name("/topic/b", &durable), fixed);
    assert_ne!(
        &*name("/topic/a", &[("durable", "true"), ("id", "2")]),
        fixed
    );
    assert!(
        own_queue("/topic/a", &[("durable", "true"), ("id", "2")])
            .queue
            .auto_delete
    );
    assert!(
        own_queue("/topic/a", &[("persistent", "true"), ("id", "2")])
            .queue
            .durable
    );
    let refused = plan("/topic/a", AckMode::Auto, &[("durable", "true")]);
    assert!(matches!(
        refused,
        Err(Problem::MissingHeader { header: "id", .. })
    ));

    let destination = Destination::Topic("a".into());
    let headers: Headers = durable.iter().copied().collect();
    let bob = Context {
        user: "bob",
        ..CONTEXT
    };
    let other = dedicated(&destination, AckMode::Auto, &headers, 7, &bob).unwrap();
    assert_ne!(&*other.queue.name, fixed);
}

/// The name of alice's to `/topic/a` with the id 1.
const DURABLE: &str = "stomp-subscription-_yK_r_Qj7fVnZqSD06JQ88AjmHMAu5R4";

#[test]
fn a_durable_subscription_s_queue_is_its_own_alone() {
    let temp = temp_queue(7, &CONTEXT).queue.name;
    let plugins = "stomp-subscription-ajoCv6rxNt3zcbLCMbqDbQ";
    let amq = |name: &str| format!("/amq/queue/{name}");
    let durable = ("durable", "true");
    for (destination, headers, user, is_foreign) in [
        ("/topic/a", &[durable, ("id", "1")][..], "alice", false),
        ("/topic/a", &[durable, ("id", "1")], "bob", false),
        (
            "/topic/a",
            &[durable, ("id", "1"), ("x-queue-name", DURABLE)],
            "alice",
            false,
        ),
        (
            "/topic/a",
            &[durable, ("id", "1"), ("x-queue-name", DURABLE)],
            "bob",
            true,
        ),
        (
            "/topic/b",
            &[durable, ("id", "1"), ("x-queue-name", DURABLE)],
            "alice",
            true,
        ),
        (
            "/topic/a",
            &[durable, ("id", "2"), ("x-queue-name", DURABLE)],
            "alice",
            true,
        ),
        ("/topic/a", &[("x-queue-name", DURABLE)], "alice", true),
        (&amq(DURABLE), &[("id", "1")], "alice", true),
        (
            &format!("/queue/{DURABLE}"),
            &[durable, ("id", "1")],
            "bob",
            true,
        ),
        // The plug-in's are the hook's to decide: they are read at a migration.
        (&amq(plugins), &[], "bob", false),
        ("/topic/a", &[("x-queue-name", plugins)], "bob", false),
        ("/topic/a", &[("x-queue-name", &temp)], "bob", true),
        ("/topic/a", &[("x-queue-name", "mine")], "bob", false),
    ] {
        let context = Context { user, ..CONTEXT };
        let mut all = Headers::default();
        for (name, value) in headers {
            all.push(name, value);
        }
        let parsed = Destination::parse(destination).unwrap();
        let request = dedicated(&parsed, AckMode::Auto, &all, 1, &context).unwrap();
        let found = super::is_foreign(&parsed, &all, &request, &context);
        assert_eq!(found, is_foreign, "{destination} {headers:?} of {user}");
    }
}

#[test]
fn queues_are_durable_and_existing_ones_left_alone() {
    let consume = own_queue("/queue/q", &[]);
    assert_eq!(&*consume.queue.name, "q");
    assert!(consume.declare && consume.queue.durable && !consume.queue.auto_delete);
    assert_eq!(consume.binding, None);
    let consume = own_queue("/amq/queue/q", &[("x-max-length", "1")]);
    assert!(!consume.declare);
    for (destination, words) in [("/temp-queue/x", "temp"), ("/reply-queue/x", "reply")] {
        let refused = plan(destination, AckMode::Auto, &[]).unwrap_err();
        let expected = format!("'/{words}-queue/x' is not a valid destination for 'SUBSCRIBE'\n");
        assert_eq!(refused, Problem::InvalidDestination(expected.into()));
    }
}

#[test]
fn arguments_have_their_types() {
    let consume = own_queue(
        "/queue/q",
        &[
            ("x-dead-letter-exchange", " dlx "),
            ("x-dead-letter-routing-key", "k"),
            ("x-expires", "1"),
            ("x-max-length", "2"),
            ("x-max-length-bytes", "3"),
            ("x-overflow", "reject-publish"),
            ("x-max-age", "1h"),
            ("x-stream-max-segment-size-bytes", "4"),
            ("x-max-priority", "5"),
            ("x-message-ttl", "6"),
            ("x-queue-type", "classic"),
            ("x-stream-filter-size-bytes", "16"),
            ("x-priority", "-2"),
            ("x-stream-offset", "timestamp=9"),
            ("x-stream-filter", "a,b"),
            ("x-stream-match-unfiltered", "true"),
        ],
    );
    let text = |text: &str| Argument::Text(text.into());
    let named = |pairs: Vec<(&str, Argument)>| -> Vec<(Box<str>, Argument)> {
        pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value))
            .collect()
    };
    assert_eq!(
        consume.queue.arguments,
        named(vec![
            ("x-dead-letter-exchange", text("dlx")),
            ("x-dead-letter-routing-key", text("k")),
            ("x-expires", Argument::Number(1)),
            ("x-max-length", Argument::Number(2)),
            ("x-max-length-bytes", Argument::Number(3)),
            ("x-overflow", text("reject-publish")),
            ("x-max-age", text("1h")),
            ("x-stream-max-segment-size-bytes", Argument::Number(4)),
            ("x-max-priority", Argument::Number(5)),
            ("x-message-ttl", Argument::Number(6)),
            ("x-queue-type", text("classic")),
            ("x-stream-filter-size-bytes", Argument::Number(16)),
        ])
    );
    assert_eq!(
        consume.arguments,
        named(vec![
            ("x-priority", Argument::Number(-2)),
            ("x-stream-offset", Argument::Timestamp(9)),
            (
                "x-stream-filter",
                Argument::Texts(vec!["a".into(), "b".into()])
            ),
            ("x-stream-match-unfiltered", Argument::Switch(true)),
        ])
    );
    for (offset, expected) in [
        ("first", Some(text("first"))),
        ("last", Some(text("last"))),
        ("next", Some(text("next"))),
        ("offset=5", Some(Argument::Number(5))),
        ("5", Some(Argument::Number(5))),
        ("timestamp=x", None),
        ("middle", None),
    ] {
        let plan = plan("/queue/q", AckMode::Client, &[("x-stream-offset", offset)]);
        let found = match plan {
            Ok(Plan::Dedicated(mut consume)) => consume.arguments.pop().map(|(_, value)| value),
            _ => None,
        };
        assert_eq!(found, expected, "{offset}");
    }
}

#[test]
fn prefetch_is_the_client_s_wish_within_bounds() {
    let prefetch = |ack, headers: &[_]| match plan("/queue/q", ack, headers) {
        Ok(Plan::Dedicated(consume)) => consume.prefetch,
        other => panic!("{other:?}"),
    };
    let wish = |count| [("prefetch-count", count)];
    assert_eq!(prefetch(AckMode::Auto, &[]), 100);
    assert_eq!(prefetch(AckMode::Auto, &wish("5")), 5);
    assert_eq!(prefetch(AckMode::Client, &[]), 1_000);
    assert_eq!(prefetch(AckMode::Client, &wish("0")), 1_000);
    assert_eq!(prefetch(AckMode::Client, &wish("5")), 5);
    assert_eq!(prefetch(AckMode::ClientIndividual, &wish("60000")), 1_000);
    for bad in ["-1", "x", "65536"] {
        assert!(plan("/queue/q", AckMode::Client, &wish(bad)).is_err());
    }
}

#[test]
fn only_durable_subscriptions_take_their_queue_along() {
    let ends = |consume: &Consume, headers: &[(&str, &str)]| {
        let headers: Headers = headers.iter().copied().collect();
        unsubscribe_deletes_queue(consume, &headers).unwrap()
    };
    let durable = [("durable", "true"), ("auto-delete", "false"), ("id", "1")];
    let subscription = own_queue("/topic/a", &durable);
    assert!(ends(&subscription, &durable));
    assert!(ends(&subscription, &[("durable", "true")]));
    assert!(!ends(&subscription, &[("id", "1")]));
    assert!(!ends(&own_queue("/queue/q", &[]), &durable));
    assert!(!ends(&own_queue("/topic/a", &[]), &durable));
}

/// RabbitMQ closes the connection that all clients publish by over a header frame that is larger.
#[test]
fn headers_together_fit_into_a_frame_of_amqp() {
    let value = "x".repeat(8_000);
    let names: Vec<String> = (0..16).map(|number| format!("h{number}")).collect();
    let headers = |count: usize| -> Vec<(&str, &str)> {
        let names = names.iter().take(count);
        names.map(|name| (name.as_str(), value.as_str())).collect()
    };
    assert!(sent("/topic/m", &headers(15)).is_ok());
    assert_eq!(
        sent("/topic/m", &headers(16)).unwrap_err(),
        Problem::HeadersTooBig {
            length: 128_221,
            limit: 122_880
        }
    );
}

#[test]
fn patterns_are_bounded() {
    let pattern = |destination: &str| match plan(destination, AckMode::Auto, &[]) {
        Ok(Plan::Shared { pattern, .. }) => Ok(String::from(pattern)),
        Ok(other) => panic!("{other:?}"),
        Err(problem) => Err(problem),
    };
    for (asked, bound) in [
        ("/topic/#.#.#.#.a", "#.a"),
        ("/topic/a.#.#", "a.#"),
        ("/topic/#.a.#.b", "#.a.#.b"),
        ("/topic/#.#.a.#.#.b", "#.a.#.b"),
        ("/exchange/feed/*.*.a.a", "*.*.a.a"),
        ("/topic/a#.#b.##.a#.##", "a#.#b.##.a#.##"),
        ("/exchange/feed", ""),
    ] {
        assert_eq!(pattern(asked).as_deref(), Ok(bound), "{asked}");
    }
    let refusal =
        Problem::InvalidDestination("a pattern has 3 words '#'; at most 2 are allowed\n".into());
    for destination in ["/topic/#.a.#.a.#.a.b", "/exchange/feed/#.a.#.#.a.#"] {
        assert_eq!(pattern(destination), Err(refusal.clone()));
        let acked = plan(destination, AckMode::Client, &[]);
        assert_eq!(acked, Err(refusal.clone()));
    }
    let consume = own_queue("/topic/#.#.a", &[]);
    assert_eq!(consume.binding, Some(("amq.topic".into(), "#.a".into())));
}

/// A key of so many words.
fn key(words: usize) -> String {
    vec!["a"; words].join(".")
}

#[test]
fn keys_of_many_words_go_beside_the_others_or_not_at_all() {
    let slow = |destination: String| sent(&destination, &[]).map(|sending| sending.publish.slow);
    for words in [1, 16] {
        assert_eq!(slow(format!("/topic/{}", key(words))), Ok(None), "{words}");
    }
    for words in [17, 64] {
        let destination = format!("/exchange/feed/{}", key(words));
        assert_eq!(slow(destination), Ok(Some("alice".into())), "{words}");
    }
    let refusal = "the routing key has 65 words; at most 64 are allowed\n";
    for destination in ["/topic/", "/exchange/feed/"] {
        assert_eq!(
            slow(format!("{destination}{}", key(65))),
            Err(Problem::InvalidDestination(refusal.into()))
        );
    }
    // A queue's name has dots, but no words; nor has the key of an exchange that takes it whole.
    for destination in [
        "/queue/",
        "/amq/queue/",
        "/reply-queue/",
        "/exchange/amq.direct/",
    ] {
        assert_eq!(slow(format!("{destination}{}", key(100))), Ok(None));
    }
}

#[test]
fn dead_letters_have_short_keys() {
    let key = key(17);
    let headers = [
        ("x-dead-letter-exchange", "amq.topic"),
        ("x-dead-letter-routing-key", &*key),
    ];
    let refused = |problem| matches!(problem, Err(Problem::InvalidHeader { header, .. }) if header == headers[1].0);
    assert!(refused(sent("/queue/q", &headers).map(drop)));
    assert!(refused(
        plan("/queue/q", AckMode::Client, &headers).map(drop)
    ));
    let harmless = [("x-dead-letter-exchange", ""), headers[1]];
    assert!(sent("/queue/q", &harmless).is_ok());
}

#[test]
fn replies_by_rabbitmq_s_shortcut_are_refused() {
    let reply_to = |text| sent("/topic/a", &[("reply-to", text)]).map(drop);
    assert_eq!(
        reply_to("amq.rabbitmq.reply-to"),
        Err(Problem::PreconditionFailed(
            "PRECONDITION_FAILED - fast reply consumer does not exist".into()
        ))
    );
    // The address that another client's shortcut leads to is an address like any.
    assert_eq!(reply_to("amq.rabbitmq.reply-to.g1h2AA5yZXBseUA"), Ok(()));
}
