//! Random conversations, from a seed: each runs at the plug-in and at Stentor, by TCP. Where their
//! transcripts part, a row of `docs/differences.md` must explain it.
//!
//! Two clients subscribe, send, acknowledge, open and end transactions, and make mistakes. No two
//! subscriptions share a queue, each frame asks for a receipt, and the end waits for a last message
//! of each subscription: so nothing depends on moments. A client ends with its first ERROR, for
//! after it the plug-in goes on, and Stentor does not (row E1).

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use futures_util::{FutureExt as _, future::join};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::{
    client::Client,
    scene::Scene,
    server::{Column, Servers},
};

/// After so many it says what was found until then.
const SOME: u64 = 500;
/// At a time: most of their time they wait.
const AT_ONCE: usize = 12;

/// One step of a conversation.
#[derive(Clone, Debug)]
enum Step {
    /// A frame, which asks for a receipt.
    Ask(String),
    /// A frame within a transaction, whose receipt would come with COMMIT.
    Say(String),
    /// A SUBSCRIBE, by its id; where a last message has to go to reach it.
    Subscribe(String, String, String),
    Unsubscribe(String),
    /// SEND to the queue of a subscription, its MESSAGE, and ACK or NACK with these headers; whether
    /// it comes again.
    Cycle(String, String, &'static str, String, bool),
}

/// Wrong, or unusual.
const ODD: [&str; 25] = [
    "SEND\n\nx",
    "SEND\ndestination:/nowhere/a\n\nx",
    "SEND\ndestination:/exchange/missing~/a\n\nx",
    "SEND\ndestination:/queue/\n\nx",
    "SEND\ndestination:/temp-queue/a\n\nx",
    "SEND\ndestination:/topic/~a\nmandatory:true\n\nx",
    "SEND\ndestination:/topic/~a\npriority:many\n\nx",
    "SEND\ndestination:/topic/~a\nuser-id:nobody\n\nx",
    "SEND\ndestination:/topic/~a\ntransaction:unknown\n\nx",
    "SUBSCRIBE\nid:odd",
    "SUBSCRIBE\nid:odd\ndestination:/exchange/missing~/a",
    "SUBSCRIBE\nid:odd\ndestination:/amq/queue/missing~",
    "SUBSCRIBE\nid:odd\ndestination:/topic/~a\nack:maybe",
    "SUBSCRIBE\nid:odd\ndestination:/queue/~odd\nprefetch-count:many",
    "UNSUBSCRIBE",
    "UNSUBSCRIBE\nid:unknown",
    "ACK\nid:unknown",
    "NACK\nid:unknown@@x@@1",
    "ACK",
    "BEGIN",
    "COMMIT\ntransaction:unknown",
    "ABORT\ntransaction:unknown",
    "COMMIT",
    "CONNECT\naccept-version:1.2\nhost:{vhost}\nlogin:guest\npasscode:guest",
    "HELLO\na:b",
];

const HEADERS: [&str; 10] = [
    "",
    "",
    "\npersistent:true",
    "\ncontent-type:text/plain",
    "\npriority:3",
    "\ncorrelation-id:c",
    "\nexpiration:60000",
    "\nx-own:a\\cb\\\\c\\nd",
    "\nown:",
    "\ntype:t\napp-id:a\ntimestamp:1700000000",
];

/// What a client has open, so that most frames are right.
#[derive(Default)]
struct Model {
    /// By id: the acknowledgements, and the queue of its own.
    subscriptions: BTreeMap<String, (&'static str, Option<String>)>,
    transactions: Vec<String>,
    number: usize,
}

impl Model {
    fn step(&mut self, who: usize, rng: &mut StdRng) -> Step {
        self.number += 1;
        let number = self.number;
        match rng.random_range(0..100) {
            0..22 => self.subscribe(who, rng),
            22..30 => {
                let ids: Vec<_> = self.subscriptions.keys().cloned().collect();
                if ids.is_empty() {
                    return self.subscribe(who, rng);
                }
                let id = ids[rng.random_range(0..ids.len())].clone();
                self.subscriptions.remove(&id);
                Step::Unsubscribe(id)
            }
            30..58 => {
                let places = [
                    "/topic/~a",
                    "/topic/~a.b",
                    "/exchange/amq.direct/~d",
                    "/topic/~c.x.y",
                ];
                let place = places[rng.random_range(0..places.len())];
                let headers = HEADERS[rng.random_range(0..HEADERS.len())];
                let body = ["", "a", "a\nb", "ä€😀", "\n\n", "0123456789"][rng.random_range(0..6)];
                let send = format!("SEND\ndestination:{place}{headers}");
                let body = format!("{who}.{number} {body}");
                match self.transaction(rng) {
                    Some(transaction) if rng.random_bool(0.4) => {
                        Step::Say(format!("{send}\ntransaction:{transaction}\n\n{body}"))
                    }
                    _ => Step::Ask(format!("{send}\n\n{body}")),
                }
            }
            58..66 => {
                let again = rng.random_bool(0.05) && !self.transactions.is_empty();
                let name = match again {
                    true => self.transactions[0].clone(),
                    false => format!("t{number}"),
                };
                if !again {
                    self.transactions.push(name.clone());
                }
                Step::Ask(format!("BEGIN\ntransaction:{name}"))
            }
            66..74 => match self.transaction(rng) {
                Some(name) => {
                    self.transactions.retain(|other| *other != name);
                    let end = if rng.random_bool(0.7) {
                        "COMMIT"
                    } else {
                        "ABORT"
                    };
                    Step::Ask(format!("{end}\ntransaction:{name}"))
                }
                None => Step::Ask("SEND\ndestination:/topic/~a\n\nalone".to_owned()),
            },
            74..94 => self.cycle(rng).unwrap_or_else(|| self.subscribe(who, rng)),
            _ => Step::Ask(ODD[rng.random_range(0..ODD.len())].to_owned()),
        }
    }

    fn transaction(&self, rng: &mut StdRng) -> Option<String> {
        let count = self.transactions.len();
        (count > 0).then(|| self.transactions[rng.random_range(0..count)].clone())
    }

    fn subscribe(&mut self, who: usize, rng: &mut StdRng) -> Step {
        let number = self.number;
        let taken = self.subscriptions.keys().next().cloned();
        let id = match taken {
            Some(id) if rng.random_bool(0.04) => id,
            _ => format!("s{number}"),
        };
        let ack = ["auto", "client", "client-individual"][rng.random_range(0..3)];
        let own = format!("/queue/~q{who}s{number}");
        let (destination, last, queue) = match rng.random_range(0..8) {
            0 => ("/topic/~a".to_owned(), "/topic/~a".to_owned(), None),
            1 => ("/topic/~a.*".to_owned(), "/topic/~a.last".to_owned(), None),
            2 => ("/topic/~c.#".to_owned(), "/topic/~c.last".to_owned(), None),
            3 => {
                let place = "/exchange/amq.direct/~d".to_owned();
                (place.clone(), place, None)
            }
            _ => (own.clone(), own.clone(), Some(own)),
        };
        let more = [
            "",
            "",
            "",
            "\nprefetch-count:10",
            "\nauto-delete:true",
            "\nx-own:1",
            "\ndurable:true\nauto-delete:false",
        ][rng.random_range(0..7)];
        // A durable subscription to a topic outlives its conversation; and with a prefetch, nothing
        // comes behind what is not acknowledged.
        let is_for_queues = more.contains("durable") || more.contains("prefetch");
        let more = match queue {
            None if is_for_queues => "",
            _ => more,
        };
        self.subscriptions.insert(id.clone(), (ack, queue));
        let frame = format!("SUBSCRIBE\nid:{id}\ndestination:{destination}\nack:{ack}{more}");
        Step::Subscribe(id, last, frame)
    }

    fn cycle(&mut self, rng: &mut StdRng) -> Option<Step> {
        let own = self
            .subscriptions
            .iter()
            .filter_map(|(id, (ack, queue))| Some((id.clone(), *ack, queue.clone()?)));
        let own: Vec<_> = own.filter(|(_, ack, _)| *ack != "auto").collect();
        if own.is_empty() {
            return None;
        }
        let (id, _, queue) = own[rng.random_range(0..own.len())].clone();
        let send = format!("SEND\ndestination:{queue}\n\ncycle {}", self.number);
        let (verdict, headers, again) = match rng.random_range(0..10) {
            0 | 1 => ("NACK", "\nrequeue:false", false),
            2 | 3 => ("NACK", "", true),
            _ => ("ACK", "", false),
        };
        Some(Step::Cycle(id, send, verdict, headers.to_owned(), again))
    }
}

/// A conversation: who does what.
fn conversation(seed: u64) -> Vec<(usize, Step)> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut models = [Model::default(), Model::default()];
    let steps = rng.random_range(3..16);
    let step = |_| {
        let who = rng.random_range(0..2);
        (who, models[who].step(who, &mut rng))
    };
    (0..steps).map(step).collect()
}

/// Plays it to a server.
async fn play(scene: &mut Scene, seed: u64) {
    let version = ["1.2", "1.2", "1.1"][usize::try_from(seed % 3).expect("it is small")];
    let mut clients = [
        scene.client_speaking(version).await,
        scene.client_speaking(version).await,
    ];
    let mut open: [Vec<(String, String)>; 2] = Default::default();
    for (who, step) in conversation(seed) {
        let client = &mut clients[who];
        if !client.is_well() {
            continue;
        }
        match step {
            Step::Ask(frame) => {
                client.ask(&frame).await;
                if frame.starts_with("COMMIT") && client.is_well() {
                    // The plug-in's receipt does not wait for the broker (row T4).
                    client.ask("SEND\ndestination:/topic/~sync\n\nx").await;
                }
            }
            Step::Say(frame) => client.say(frame).await,
            Step::Subscribe(id, last, frame) => {
                client.ask(frame).await;
                open[who].push((id, last));
            }
            Step::Unsubscribe(id) => {
                let at = open[who].iter().position(|(other, _)| *other == id);
                if let Some((_, place)) = at.map(|at| open[who].remove(at)) {
                    // The plug-in fails over a MESSAGE that comes just after UNSUBSCRIBE.
                    let mark = format!("last of {id}");
                    let send = format!("SEND\ndestination:{place}\n\n{mark}");
                    client.ask(send).await;
                    client.keep_up_to(&mark, &id).await;
                }
                if client.is_well() {
                    client.ask(format!("UNSUBSCRIBE\nid:{id}")).await;
                }
            }
            Step::Cycle(id, send, verdict, headers, again) => {
                cycle(client, version, &id, &send, verdict, &headers, again).await;
            }
        }
    }
    for (who, client) in clients.iter_mut().enumerate() {
        let mark = format!("last of {who}");
        let places: BTreeSet<_> = open[who].iter().map(|(_, place)| place).collect();
        for destination in places {
            if client.is_well() {
                let send = format!("SEND\ndestination:{destination}\n\n{mark}");
                client.ask(send).await;
            }
        }
        if client.is_well() {
            let ids: Vec<_> = open[who].iter().map(|(id, _)| id.clone()).collect();
            client.hear_up_to(&mark, &ids).await;
        }
        if client.is_well() {
            client.end().await;
        }
    }
}

async fn cycle(
    client: &mut Client,
    version: &str,
    id: &str,
    send: &str,
    verdict: &str,
    headers: &str,
    again: bool,
) {
    client.ask(send).await;
    let rounds = if again {
        vec![(verdict, headers), ("ACK", "")]
    } else {
        vec![(verdict, headers)]
    };
    for (verdict, headers) in rounds {
        if !client.is_well() {
            return;
        }
        let Some(ack) = client.message_of(id).await else {
            return;
        };
        let name = if version == "1.2" { "id" } else { "message-id" };
        let subscription = match version {
            "1.2" => String::new(),
            _ => format!("\nsubscription:{id}"),
        };
        client
            .ask(format!("{verdict}\n{name}:{ack}{subscription}{headers}"))
            .await;
    }
}

/// Where two transcripts part: the last frame that a client said before, and what each heard.
struct Parting {
    said: String,
    plugin: String,
    stentor: String,
}

impl Parting {
    /// What many have in common.
    fn kind(&self) -> String {
        let kind = |line: &str| {
            let line = line.split(" | ").next().unwrap_or_default();
            let words = line.split(' ').filter(|word| {
                let name = word.split(':').next().unwrap_or_default();
                !word.contains(':') || ["message", "own", "x-own"].contains(&name)
            });
            words.collect::<Vec<_>>().join(" ")
        };
        let said = match ODD.iter().find(|odd| self.said.contains(&said_as(odd))) {
            Some(odd) => said_as(odd),
            None => kind(&self.said),
        };
        format!("{said}: {} / {}", kind(&self.plugin), kind(&self.stentor))
    }

    /// The row of `docs/differences.md` that explains it, or another reason.
    fn row(&self) -> Option<&'static str> {
        let (said, plugin, stentor) = (&*self.said, &*self.plugin, &*self.stentor);
        let is_closed = plugin.contains("= closed");
        Some(match () {
            // A message that comes just after UNSUBSCRIBE.
            () if plugin.contains("no current subscription with tag") => "its own race",
            // A NACK of the plug-in is about all subscriptions of the connection.
            () if plugin.contains("redelivered:true") => "A1",
            () if said.contains("mandatory:true") => "P2",
            () if said.contains("> CONNECT ") && stentor.contains("Illegal command") => "E5",
            () if said.contains("> BEGIN ") && stentor.contains("Duplicated") => "T1",
            () if stentor.contains("Malformed frame") && is_closed => "E4",
            () if stentor.contains("Invalid header") => "E9",
            () => return None,
        })
    }
}

/// A frame as a record shows it, from its first header on.
fn said_as(frame: &str) -> String {
    let (command, rest) = frame.split_once('\n').unwrap_or((frame, ""));
    let head = rest.split("\n\n").next().unwrap_or_default();
    let text = format!("{command} {}", head.replace('\n', " "));
    text.trim().to_owned()
}

/// An ERROR without its `receipt-id` (row E2).
fn bare(line: &str) -> String {
    if !line.contains("< ERROR ") {
        return line.to_owned();
    }
    let (head, body) = line.split_once(" | ").unwrap_or((line, ""));
    let words = head
        .split(' ')
        .filter(|word| !word.starts_with("receipt-id:"));
    format!("{} | {body}", words.collect::<Vec<_>>().join(" "))
}

fn parting(plugin: &[String], stentor: &[String]) -> Option<Parting> {
    let longest = plugin.len().max(stentor.len());
    let line =
        |lines: &[String], at: usize| lines.get(at).map_or_else(String::new, |line| bare(line));
    let at = (0..longest).find(|at| line(plugin, *at) != line(stentor, *at))?;
    let said = plugin[..at.min(plugin.len())].iter().rev();
    let said = said.clone().find(|line| line.contains("> ")).cloned();
    let said = said.unwrap_or_default();
    // Receipts have numbers of their own.
    let words = said.split(' ').filter(|word| !word.starts_with("receipt:"));
    Some(Parting {
        said: words.collect::<Vec<_>>().join(" "),
        plugin: line(plugin, at),
        stentor: line(stentor, at),
    })
}

async fn heard(servers: &Arc<Servers>, column: Column, seed: u64) -> Result<Vec<String>, String> {
    let mut scene = Scene::new(column, Arc::clone(servers));
    let lines = scene.lines();
    let played = AssertUnwindSafe(play(&mut scene, seed))
        .catch_unwind()
        .await;
    played
        .map(|()| lines.take())
        .map_err(|_| format!("{column}: it waits in vain\n{}", lines.take().join("\n")))
}

/// How a conversation differs.
struct Difference {
    /// What explains it.
    row: Option<&'static str>,
    kind: String,
    example: String,
}

/// Plays a conversation to both; `None`: they say the same. Prints it if it is to be shown.
async fn difference(servers: &Arc<Servers>, seed: u64, is_shown: bool) -> Option<Difference> {
    let both = join(
        heard(servers, Column::PluginTcp, seed),
        heard(servers, Column::StentorTcp, seed),
    );
    let both = both.await;
    if let ((Ok(plugin), Ok(stentor)), true) = (&both, is_shown) {
        println!("--- plug-in\n{}", plugin.join("\n"));
        println!("--- Stentor\n{}", stentor.join("\n"));
    }
    match both {
        (Ok(plugin), Ok(stentor)) => {
            let parting = parting(&plugin, &stentor)?;
            Some(Difference {
                row: parting.row(),
                kind: parting.kind(),
                example: format!(
                    "said {}\n  plug-in {}\n  Stentor {}",
                    parting.said, parting.plugin, parting.stentor
                ),
            })
        }
        (plugin, stentor) => {
            let faults = [plugin.err(), stentor.err()].into_iter().flatten();
            Some(Difference {
                row: None,
                kind: "waits in vain".to_owned(),
                example: faults.collect::<Vec<_>>().join("\n"),
            })
        }
    }
}

/// What was found: the kinds of differences, with the row that explains each, how often it was met,
/// and the first conversation that met it.
#[derive(Default)]
struct Found {
    kinds: BTreeMap<(Option<&'static str>, String), (u64, u64, String)>,
}

impl Found {
    fn show(&self) {
        let differ: u64 = self.kinds.values().map(|(count, ..)| count).sum();
        println!("{differ} differ");
        for ((row, kind), (count, seed, example)) in &self.kinds {
            println!("{count:>6} {} {kind} (seed {seed})", row.unwrap_or("??"));
            if row.is_none() {
                println!("  {example}");
            }
        }
    }
}

/// Plays so many conversations, of seeds from `first` on; a single one is shown. True if rows explain
/// all differences.
pub(crate) fn run(count: u64, first: u64) -> bool {
    let servers = Servers::shared();
    // So many queues would stay.
    let vhost = &servers.vhost;
    let expire = json!({ "expires": 20_000 });
    let api = vhost.node().api();
    let setting = api.set_policy(vhost.name(), "q[01]s[0-9]+$", expire);
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made")
        .block_on(setting);
    let (next, found) = (AtomicU64::new(0), Mutex::new(Found::default()));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime can be made");
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            if number.is_multiple_of(SOME) && number > 0 {
                let found = found.lock().expect("nobody panics with it");
                println!("{number} conversations");
                found.show();
            }
            let seed = first + number;
            let Some(mut difference) = runtime.block_on(difference(&servers, seed, count == 1))
            else {
                continue;
            };
            if difference.row.is_none() {
                // It may be a matter of moments: a machine that is busy keeps a client waiting.
                let again = runtime.block_on(self::difference(&servers, seed, false));
                if again.is_none_or(|again| again.row.is_some()) {
                    difference.row = Some("not again");
                }
            }
            let key = (difference.row, difference.kind);
            let example = difference.example;
            let mut found = found.lock().expect("nobody panics with it");
            let entry = found.kinds.entry(key).or_insert((0, seed, example));
            entry.0 += 1;
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let found = found.into_inner().expect("nobody panics with it");
    println!("{count} conversations from seed {first} on");
    found.show();
    found.kinds.keys().all(|(row, _)| row.is_some())
}
