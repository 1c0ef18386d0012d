//! Nodes that clear up after a killed one, while answers of Redis are lost.

use std::{
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use stentor::presence::{
    Outbox, Presence, Status,
    rooms::{Occupancy, Occupant, Room, RoomChange, RoomRules},
};
use testkit::{DEADLINE, Redis, eventually, unique, within};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::presence_contract::{
    AT_ONCE, new_session, next_event, redis_presence, session, settings, until_sessions,
};

const SHORT: Duration = Duration::from_secs(2);

/// Texts, and how often each is answered still. Then the connection that says it gets no more answers
/// after it. Redis hears it, and all behind it.
type Unanswered = Arc<Mutex<Vec<(&'static str, usize)>>>;

/// A way to Redis on which answers get lost.
struct Lossy {
    address: String,
    unanswered: Unanswered,
    task: JoinHandle<()>,
}

impl Lossy {
    async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (server, unanswered) = (server.to_owned(), Unanswered::default());
        let texts = Arc::clone(&unanswered);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, texts) = (server.clone(), Arc::clone(&texts));
                tokio::spawn(async move { join(client, &server, &texts).await });
            }
        });
        Self {
            address,
            unanswered,
            task,
        }
    }

    fn lose(&self, text: &'static str, answered: usize) {
        self.unanswered.lock().unwrap().push((text, answered));
    }

    async fn until_lost(&self, text: &str) {
        eventually(
            DEADLINE,
            format!("an answer to {text} is lost"),
            async || {
                let unanswered = self.unanswered.lock().unwrap();
                !unanswered.iter().any(|(wanted, _)| *wanted == text)
            },
        )
        .await;
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Until either side ends it.
async fn join(client: TcpStream, server: &str, texts: &Unanswered) -> io::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let [mut asked, mut answer] = [(); 2].map(|()| Vec::with_capacity(64 * 1024));
    let mut is_lost = false;
    loop {
        tokio::select! {
            read = from_client.read_buf(&mut asked) => {
                if read? == 0 {
                    return Ok(());
                }
                let text = String::from_utf8_lossy(&asked);
                texts.lock().unwrap().retain_mut(|(wanted, answered)| {
                    if is_lost || !text.contains(*wanted) {
                        return true;
                    }
                    is_lost = *answered == 0;
                    *answered = answered.saturating_sub(1);
                    !is_lost
                });
                to_server.write_all(&asked).await?;
                asked.clear();
            }
            read = from_server.read_buf(&mut answer) => {
                if read? == 0 {
                    return Ok(());
                }
                if !is_lost {
                    to_client.write_all(&answer).await?;
                }
                answer.clear();
            }
        }
    }
}

/// The survivor that lost the answer may be killed as well: then another one begins anew.
async fn unlock(redis: &Redis) {
    let unlock = "for _, key in ipairs(redis.call('KEYS', ARGV[1])) do redis.call('DEL', key) end";
    redis
        .command(&["EVAL", unlock, "0", "stentor:clearing:*"])
        .await;
}

#[tokio::test]
async fn who_went_with_a_killed_node_is_told_though_answers_are_lost() {
    let redis = Redis::own().await;
    let way = Lossy::start(&redis.address()).await;
    let (events, room_events) = (Outbox::new(), Outbox::new());
    let node = |events, room_events| {
        let mut node = settings(&unique("node"), AT_ONCE, events);
        node.rooms = Some(RoomRules {
            exchanges: ["room".into()].into(),
            max_members: 0,
            max_rooms: 9,
            events: room_events,
        });
        node
    };
    let url = format!("redis://{}/", way.address);
    let told = (Some(Arc::clone(&events)), Some(Arc::clone(&room_events)));
    let survivor = redis_presence(&url, SHORT, node(told.0, told.1));
    let killed = redis_presence(&redis.url(), SHORT, node(None, None));
    let lobby = Room {
        vhost: "/".into(),
        exchange: "room".into(),
        key: "lobby".into(),
    };
    let occupants = [("alice", 1), ("bob", 2)].map(|(user, session)| Occupant {
        room: Arc::new(lobby.clone()),
        user: user.into(),
        session,
    });
    let rooms = killed.rooms().unwrap();
    for occupant in &occupants {
        killed.join(session(&occupant.user, &[]));
        rooms.enter(occupant).await.unwrap();
        until_sessions(&survivor, &occupant.user, 1).await;
    }
    eventually(DEADLINE, "both are in the room", async || {
        let found = rooms.occupancy(std::slice::from_ref(&lobby)).await;
        let (members, sessions) = (2, 2);
        found == Ok(vec![Occupancy { members, sessions }])
    })
    .await;

    // Keys of the scripts that settle users, and members of rooms.
    let texts = ["stentor:users", "stentor:leaving:"];
    for text in texts {
        way.lose(text, 0);
    }
    drop((killed, rooms));
    for text in texts {
        way.until_lost(text).await;
        unlock(&redis).await;
    }

    let mut gone = [next_event(&events).await, next_event(&events).await];
    gone.sort();
    assert_eq!(gone, ["alice online>offline", "bob online>offline"]);
    let mut changes = Vec::new();
    while changes.len() < 3 {
        let some = within(DEADLINE, "an event of the room", room_events.next(9)).await;
        changes.extend(some.into_iter().map(|event| event.change));
    }
    changes.sort_by_key(|change| format!("{change:?}"));
    let leave = |user: &str| RoomChange::Leave(user.into());
    assert_eq!(changes, [leave("alice"), leave("bob"), RoomChange::Vacated]);
}

/// Others never saw that the user was there.
#[tokio::test]
async fn an_invisible_user_of_a_killed_node_stays_unseen_though_an_answer_is_lost() {
    stays_unseen(1, 0).await;
}

/// They are in many lists, and some were settled before the answer was lost.
#[tokio::test]
async fn an_invisible_user_with_many_sessions_stays_unseen_too() {
    stays_unseen(20, 1).await;
}

/// Of so many sessions; and so many answers of the script that settles come before one is lost.
async fn stays_unseen(sessions: usize, answered: usize) {
    let redis = Redis::own().await;
    let way = Lossy::start(&redis.address()).await;
    let events = Outbox::new();
    let node = |events| settings(&unique("node"), AT_ONCE, events);
    let url = format!("redis://{}/", way.address);
    let survivor = redis_presence(&url, SHORT, node(Some(Arc::clone(&events))));
    let killed = redis_presence(&redis.url(), SHORT, node(None));
    for _ in 0..sessions {
        let hidden = new_session("hidden", &[]).with_status(Status::Invisible);
        killed.join(Arc::new(hidden));
    }
    until_sessions(&survivor, "hidden", sessions).await;

    // The script that settles users.
    let text = "stentor:users";
    way.lose(text, answered);
    drop(killed);
    way.until_lost(text).await;
    unlock(&redis).await;
    // The list of nodes, with the epoch and the survivor's lease, and that lease are all there is.
    for words in [&["HLEN", "stentor:nodes"][..], &["DBSIZE"][..]] {
        eventually(DEADLINE, "the dead node is cleared up", async || {
            redis.command(words).await == ":2"
        })
        .await;
    }
    survivor.join(session("fence", &[]));
    assert_eq!(next_event(&events).await, "fence offline>online");
}

/// What keeps a survivor from clearing up after one node does not keep it from the others.
#[tokio::test]
async fn a_dead_node_that_cannot_be_cleared_up_holds_no_other_up() {
    let redis = Redis::own().await;
    let events = Outbox::new();
    let node = |events| settings(&unique("node"), AT_ONCE, events);
    let survivor = redis_presence(&redis.url(), SHORT, node(Some(Arc::clone(&events))));
    // One after the other, so that the list of nodes has them in this order.
    let first = redis_presence(&redis.url(), SHORT, node(None));
    first.join(session("alice", &["group"]));
    until_sessions(&survivor, "alice", 1).await;
    let second = redis_presence(&redis.url(), SHORT, node(None));
    second.join(session("bob", &[]));
    until_sessions(&survivor, "bob", 1).await;
    let group = "stentor:group:group";
    redis.command(&["DEL", group]).await;
    assert_eq!(redis.command(&["SET", group, "x"]).await, "+OK");
    drop((first, second));
    eventually(DEADLINE, "the second is cleared up", async || {
        // The lock that the failure left would have the first passed over for a while.
        unlock(&redis).await;
        redis.command(&["EXISTS", "stentor:user:bob"]).await == ":0"
    })
    .await;
    let mut gone = [next_event(&events).await, next_event(&events).await];
    gone.sort();
    assert_eq!(gone, ["alice online>offline", "bob online>offline"]);
    // The first is not given up.
    redis.command(&["DEL", group]).await;
    eventually(DEADLINE, "the first is cleared up", async || {
        unlock(&redis).await;
        redis.command(&["HLEN", "stentor:nodes"]).await == ":2"
    })
    .await;
}

/// A keeper that has nothing to say does not notice it.
#[tokio::test]
async fn scripts_that_redis_dropped_are_loaded_anew_by_who_clears_up() {
    let redis = Redis::own().await;
    let events = Outbox::new();
    let node = |events| settings(&unique("node"), AT_ONCE, events);
    let survivor = redis_presence(&redis.url(), SHORT, node(Some(Arc::clone(&events))));
    let killed = redis_presence(&redis.url(), SHORT, node(None));
    killed.join(session("alice", &[]));
    until_sessions(&survivor, "alice", 1).await;
    drop(killed);
    assert_eq!(redis.command(&["SCRIPT", "FLUSH"]).await, "+OK");
    assert_eq!(next_event(&events).await, "alice online>offline");
}
