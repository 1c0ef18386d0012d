//! Presence with TLS, and by an account that may do no more than `docs/presence.md` says.

use std::{fs, sync::Arc, time::Duration};

use stentor::{
    messaging::{self, Holder, RedisSequences, SequenceName, SequenceStore as _},
    presence::{
        Listing, Presence, PresenceError, Record, RedisConfig, Status, Url,
        rooms::{MemberListing, Occupant, Room, RoomRules},
    },
};
use tempfile::TempDir;
use testkit::{Authority, DEADLINE, Proxy, Redis, RedisCluster, RedisSentinels, eventually};

use crate::presence_contract::{
    AT_ONCE, next_event, redis_presence_by, session, settings, until_group, until_sessions,
    until_status,
};

const SHORT: Duration = Duration::from_secs(2);

/// The rights in the page for operators: the words of its line that begins so.
fn rights(begins: &str) -> Vec<String> {
    let page = fs::read_to_string("docs/presence.md").unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(begins));
    let words = line.unwrap_or_else(|| panic!("docs/presence.md has no line {begins}…"));
    words.split_whitespace().map(str::to_owned).collect()
}

/// Makes the account of the page, and another kind's `more` rights.
async fn account(redis: &Redis, more: &[String]) {
    let rights = rights("ACL SETUSER stentor ");
    let mut words = vec!["ACL", "SETUSER", "stentor", "reset"];
    words.extend(rights.iter().chain(more).map(String::as_str));
    assert_eq!(redis.command(&words).await, "+OK", "{words:?}");
    // `>PASSWORD` is the page's.
    assert!(rights.iter().any(|word| word == ">PASSWORD"));
}

/// Everything that presence does.
async fn works(url: &str, config: &RedisConfig) {
    let events = stentor::presence::Outbox::new();
    let node = |name: &str, events| settings(name, AT_ONCE, events);
    let start = |name: &str, events| {
        let mut node = node(name, events);
        node.rooms = Some(RoomRules {
            exchanges: ["room".into()].into(),
            max_members: 3,
            max_rooms: 1_000,
            events: None,
        });
        redis_presence_by(url, config, SHORT, node)
    };
    let presence = start("stays", Some(Arc::clone(&events)));
    let killed = start("killed", None);
    let joined = session("alice", &["group"]);
    presence.join(Arc::clone(&joined));
    assert_eq!(next_event(&events).await, "alice offline>online");
    killed.join(session("bob", &["group"]));
    until_group(&presence, "group", &["alice", "bob"]).await;
    presence.set_status(&joined, Status::Busy);
    until_status(&presence, "alice", Status::Busy).await;
    assert_eq!(next_event(&events).await, "alice online>busy");
    presence.regroup(&joined, vec!["other".into()]);
    until_group(&presence, "other", &["alice"]).await;
    let found = presence.session(&joined.id).await.unwrap();
    assert_eq!(found.unwrap().id, joined.id);
    let listing = Listing {
        user: None,
        node: None,
        after: None,
        limit: 10,
    };
    assert_eq!(presence.sessions(&listing).await.unwrap().sessions.len(), 2);
    assert_eq!(presence.count_sessions("alice").await, Ok(1));
    assert_eq!(presence.counts().await.unwrap().users, 2);
    assert_eq!(presence.nodes().await.unwrap().len(), 2);
    let claims = session("alice", &[]);
    assert_eq!(presence.claim(Arc::clone(&claims)).await.unwrap().len(), 1);
    presence.leave(&claims);
    // A user of more sessions than are read at a time.
    for _ in 0..1_100 {
        presence.join(session("guest", &[]));
    }
    eventually(DEADLINE, "all guests are here", async || {
        presence
            .user("guest")
            .await
            .is_ok_and(|user| user.count == 1_100)
    })
    .await;
    let records = presence.records().unwrap();
    let record = [Record {
        key: "a".into(),
        stamp: 1,
        value: b"x".as_slice().into(),
    }];
    records.put(&record).await.unwrap();
    assert_eq!(records.read(None).await.unwrap().unwrap().records, record);
    records.remove(&record).await.unwrap();
    let room = Arc::new(Room {
        vhost: "/".into(),
        exchange: "room".into(),
        key: "lobby".into(),
    });
    let occupant = |user: &str| Occupant {
        room: Arc::clone(&room),
        user: user.into(),
        session: 1,
    };
    let rooms = presence.rooms().unwrap();
    rooms.enter(&occupant("alice")).await.unwrap();
    rooms.enter(&occupant("carol")).await.unwrap();
    rooms.leave(&occupant("carol"));
    let entered = killed.rooms().unwrap().enter(&occupant("bob")).await;
    entered.unwrap();
    let until_members = async |members: u64| {
        eventually(DEADLINE, format!("{members} are in the room"), async || {
            let count = rooms.occupancy(&[(*room).clone()]).await;
            count.is_ok_and(|count| count[0].members == members)
        })
        .await;
    };
    until_members(2).await;
    let listing = MemberListing {
        after: None,
        limit: 9,
    };
    let page = rooms.members(&room, &listing).await.unwrap();
    assert_eq!(page.members.len(), 2);
    // Others clear up after a dead node.
    drop(killed);
    until_sessions(&presence, "bob", 0).await;
    eventually(DEADLINE, "it is cleared up", async || {
        presence
            .counts()
            .await
            .is_ok_and(|counts| counts.users == 2)
    })
    .await;
    until_members(1).await;
    presence.leave(&joined);
    until_sessions(&presence, "alice", 0).await;
    assert_eq!(presence.health(), Ok(()));
    presence.close().await;
}

/// Everything that numbered messages and keys need.
async fn sequences_work(url: &str, config: &RedisConfig) {
    let Url::Redis(url) = url.parse().unwrap() else {
        panic!("{url}")
    };
    let sequences = messaging::Config {
        max_devices: 1,
        max_keys: 1,
        ..messaging::Config::default()
    };
    let store = RedisSequences::new(&url, config, sequences).unwrap();
    let holder = Holder {
        vhost: "/".into(),
        user: "alice".into(),
    };
    // The second pushes the first out.
    for device in ["phone", "tablet"] {
        let name = SequenceName {
            holder: holder.clone(),
            device: device.into(),
        };
        store.open(&name, 0, 7, 0).await.unwrap();
        store.reserve(&name, 7, 1).await.unwrap();
        store.commit(&name, 7, 0, 1).await.unwrap();
        assert_eq!(store.look(&name).await.unwrap().last, 1);
        store.release(&name, 7, 1).await.unwrap();
    }
    for key in ["a", "b"] {
        store.begin_key(&holder, key).await.unwrap();
        store.finish_key(&holder, key).await.unwrap();
    }
}

#[tokio::test]
async fn an_account_needs_no_more_than_the_page_says() {
    let redis = Redis::own().await;
    account(&redis, &[]).await;
    let url = format!("redis://stentor:PASSWORD@{}/", redis.address());
    works(&url, &RedisConfig::default()).await;
    sequences_work(&url, &RedisConfig::default()).await;
    // Nothing was tried that it may not do.
    assert_eq!(redis.command(&["ACL", "LOG"]).await, "*0");
}

#[tokio::test]
async fn an_account_at_sentinels_and_clusters_needs_the_page_s_further_rights() {
    let redis = RedisSentinels::own().await;
    for server in redis.roles().await {
        account(server, &rights("# with Sentinel: ")).await;
    }
    let config = RedisConfig {
        sentinels: redis.addresses().into_iter().map(Into::into).collect(),
        sentinel_password: RedisSentinels::PASSWORD.into(),
        ..RedisConfig::default()
    };
    let url = format!("redis://stentor:PASSWORD@{}/", RedisSentinels::MASTER);
    works(&url, &config).await;
    for server in redis.roles().await {
        assert_eq!(server.command(&["ACL", "LOG"]).await, "*0");
    }

    let redis = RedisCluster::own().await;
    for server in redis.servers() {
        account(server, &rights("# with a cluster: ")).await;
    }
    let config = RedisConfig {
        cluster: true,
        ..RedisConfig::default()
    };
    let url = redis.url().replace("redis://", "redis://stentor:PASSWORD@");
    works(&url, &config).await;
    for server in redis.servers() {
        assert_eq!(server.command(&["ACL", "LOG"]).await, "*0");
    }
}

#[tokio::test]
async fn a_right_that_is_missing_is_named() {
    let redis = Redis::own().await;
    let url = format!("redis://stentor:PASSWORD@{}/", redis.address());
    // Within a script, Redis 7.0 does not name the command.
    let rights = [
        ("-evalsha", "evalsha"),
        ("-hset", "hset"),
        ("-hkeys", "script"),
    ];
    for (missing, named) in rights {
        account(&redis, &[missing.to_owned()]).await;
        let node = settings("n", AT_ONCE, None);
        let presence = redis_presence_by(&url, &RedisConfig::default(), SHORT, node);
        presence.join(session("alice", &[]));
        let why = eventually(
            DEADLINE,
            format!("{named} is named"),
            async || match presence.health() {
                Err(PresenceError::Unavailable(why)) if why.contains(named) => Some(why),
                _ => None,
            },
        )
        .await;
        assert!(why.contains("docs/presence.md"), "{why}");
        println!("without {named}: {why}");
    }
}

/// A right that only writes need, and a key of another kind.
#[tokio::test]
async fn writes_that_fail_again_and_again_leave_few_leases() {
    let redis = Redis::own().await;
    let proxy = Proxy::start(&redis.address()).await;
    let url = format!("redis://stentor:PASSWORD@{}/", proxy.address());
    let odd = "stentor:user:alice";
    for fault in ["a right", "a key"] {
        if fault == "a right" {
            account(&redis, &["-hkeys".to_owned()]).await;
        } else {
            account(&redis, &[]).await;
            assert_eq!(redis.command(&["SET", odd, "x"]).await, "+OK");
        }
        let node = settings("n", AT_ONCE, None);
        let presence = redis_presence_by(&url, &RedisConfig::default(), SHORT, node);
        presence.join(session("alice", &[]));
        eventually(DEADLINE, "writes fail", async || {
            matches!(presence.health(), Err(PresenceError::Unavailable(why))
                if !why.contains("not connected yet"))
        })
        .await;
        let before = proxy.accepted();
        // After each failure it connects anew.
        eventually(DEADLINE, "a dozen more attempts", async || {
            proxy.accepted() >= before + 12
        })
        .await;
        assert!(presence.health().is_err(), "{fault}");
        let leases = redis.command(&["HLEN", "stentor:nodes"]).await;
        let leases: u64 = leases.strip_prefix(':').unwrap().parse().unwrap();
        assert!(leases < 10, "{leases} leases for {fault}");

        account(&redis, &[]).await;
        if fault == "a key" {
            redis.command(&["DEL", odd]).await;
        }
        eventually(DEADLINE, "writes succeed", async || {
            presence.health().is_ok()
        })
        .await;
        until_sessions(&presence, "alice", 1).await;
        // The leases of before are cleared up.
        eventually(DEADLINE, "one lease is left", async || {
            redis.command(&["HLEN", "stentor:nodes"]).await == ":2"
        })
        .await;
        presence.close().await;
        redis.command(&["FLUSHALL"]).await;
    }
}

#[tokio::test]
async fn redis_is_reached_over_tls_with_certificates_of_both() {
    let folders = [(); 3].map(|()| TempDir::new().unwrap());
    let [server, client, stranger] = folders.each_ref().map(TempDir::path);
    let authority = Authority::new();
    authority.serve_from(server, "redis");
    authority.serve_from(client, "stentor");
    Authority::new().serve_from(stranger, "stentor");
    let redis = Redis::with_tls(server).await;
    let url = format!("rediss://{}/", redis.tls_address());
    let shown = RedisConfig {
        ca: client.join("ca.pem"),
        certificate: client.join("chain.pem"),
        key: client.join("key.pem"),
        ..RedisConfig::default()
    };
    works(&url, &shown).await;
    for (config, what) in [
        (
            RedisConfig {
                ca: stranger.join("ca.pem"),
                ..shown.clone()
            },
            "a server that nobody known vouches for",
        ),
        (
            RedisConfig {
                certificate: stranger.join("chain.pem"),
                key: stranger.join("key.pem"),
                ..shown.clone()
            },
            "a client that nobody known vouches for",
        ),
        (
            RedisConfig {
                certificate: "".into(),
                key: "".into(),
                ..shown.clone()
            },
            "a client that shows nothing",
        ),
    ] {
        let presence = redis_presence_by(&url, &config, SHORT, settings("n", AT_ONCE, None));
        let why = eventually(DEADLINE, what, async || match presence.health() {
            Err(PresenceError::Unavailable(why)) if !why.contains("not connected yet") => Some(why),
            _ => None,
        })
        .await;
        println!("{what}: {why}");
        assert!(presence.user("alice").await.is_err(), "{what}");
    }
}
