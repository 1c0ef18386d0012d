//! In any order of events: a client that was told that it is subscribed, is; and no binding stays
//! without a subscription.

use proptest::prelude::*;

use super::*;

const PATTERNS: [&str; 4] = ["user.1", "user.*", "#", "a.b"];

#[derive(Clone, Debug)]
enum Op {
    Subscribe(usize),
    /// Somebody leaves, subscribed or still waiting.
    Leave(usize),
    /// The broker answers a call, the error being one of which nobody knows what it did.
    Answer(usize, Reply),
    /// Calls to come take effect before, or with, their answer.
    Early(bool),
    Pass(u64),
    /// The broker's queues are lost, and set up anew.
    Restart,
    /// The link was lost, and is back.
    Resume,
    /// The exchange is deleted and made anew, unless it is just being bound to; nobody is told.
    Rebuild,
    Publish,
}

#[derive(Clone, Copy, Debug)]
enum Reply {
    Done,
    Refused,
    Silence { took_effect: bool },
}

fn op() -> impl Strategy<Value = Op> {
    let reply = prop_oneof![
        6 => Just(Reply::Done),
        1 => Just(Reply::Refused),
        1 => any::<bool>().prop_map(|took_effect| Reply::Silence { took_effect }),
    ];
    prop_oneof![
        4 => (0..PATTERNS.len()).prop_map(Op::Subscribe),
        3 => (0..100_usize).prop_map(Op::Leave),
        6 => (0..100_usize, reply).prop_map(|(index, reply)| Op::Answer(index, reply)),
        1 => any::<bool>().prop_map(Op::Early),
        3 => prop_oneof![
            4 => 0..100_u64,
            4 => 4_000..12_000_u64,
            // A feed that nobody uses meanwhile is given up.
            1 => 300_000..650_000_u64,
        ]
        .prop_map(Op::Pass),
        1 => Just(Op::Restart),
        1 => Just(Op::Resume),
        1 => Just(Op::Rebuild),
        2 => Just(Op::Publish),
    ]
}

/// Somebody who came.
enum Visitor {
    Waiting(Subscribing),
    Subscribed(SharedSubscription),
    /// The exchange was made anew since: nothing is known of it.
    Forsaken(#[expect(dead_code, reason = "held for its drop")] SharedSubscription),
}

struct Run {
    scene: Scene,
    all: bool,
    visitors: Vec<(&'static str, Client, Visitor)>,
}

impl Run {
    async fn step(&mut self, op: Op) {
        match op {
            Op::Subscribe(pattern) => {
                let (pattern, client) = (PATTERNS[pattern], Client::new());
                let subscribing = self.scene.subscribing("topic", pattern, &client);
                let visitor = Visitor::Waiting(subscribing);
                self.visitors.push((pattern, client, visitor));
            }
            Op::Leave(index) => {
                if !self.visitors.is_empty() {
                    let index = index % self.visitors.len();
                    let (_, _, visitor) = self.visitors.swap_remove(index);
                    if let Visitor::Waiting(subscribing) = visitor {
                        subscribing.abort();
                    }
                }
            }
            Op::Answer(index, reply) => {
                let waiting = self.scene.fake.waiting();
                if waiting > 0 {
                    let index = index % waiting;
                    let fake = &self.scene.fake;
                    let is_gone = matches!(reply, Reply::Refused) && fake.nth_binds(index);
                    // Others relied on that, and are told.
                    if is_gone && fake.nth_is_bound(index) {
                        fake.lose("topic");
                        self.forsake();
                    }
                    let (answer, took_effect) = match reply {
                        // An absent binding is unbound.
                        Reply::Refused if !self.scene.fake.nth_binds(index) => (Ok(()), true),
                        Reply::Done => (Ok(()), true),
                        Reply::Refused => (Err(BrokerError::NotFound("gone".into())), false),
                        Reply::Silence { took_effect } => (Err(unavailable()), took_effect),
                    };
                    self.scene.fake.answer_nth(index, answer, took_effect);
                }
            }
            Op::Early(early) => self.scene.fake.set_early(early),
            Op::Pass(millis) => sleep(Duration::from_millis(millis)).await,
            Op::Restart => self.scene.fake.restart(),
            Op::Resume => {
                let feeds: Vec<_> = self.scene.hub.feeds.open.read().keys().cloned().collect();
                for feed in feeds {
                    self.scene.fake.sink().resumed(&feed, false);
                }
            }
            Op::Rebuild => self.rebuild(),
            Op::Publish => self.publish().await,
        }
        settle().await;
        self.look().await;
    }

    fn rebuild(&mut self) {
        if self.scene.fake.waiting() > 0 {
            return;
        }
        self.scene.fake.rebuild("topic", ExchangeKind::Topic);
        self.forsake();
    }

    /// The subscribed clients no longer are.
    fn forsake(&mut self) {
        let visitors =
            std::mem::take(&mut self.visitors)
                .into_iter()
                .map(|(pattern, client, visitor)| match visitor {
                    Visitor::Subscribed(guard) => (pattern, client, Visitor::Forsaken(guard)),
                    visitor => (pattern, client, visitor),
                });
        self.visitors = visitors.collect();
    }

    /// Every client that was told so is bound.
    async fn look(&mut self) {
        for (pattern, _, visitor) in &mut self.visitors {
            if let Visitor::Waiting(subscribing) = visitor
                && subscribing.is_finished()
            {
                let Ok(guard) = subscribing.await.unwrap() else {
                    continue;
                };
                *visitor = Visitor::Subscribed(guard.unwrap());
            }
            if matches!(visitor, Visitor::Subscribed(_)) {
                let binding = if self.all { "#" } else { *pattern };
                let bound = self.scene.fake.is_bound("topic", binding);
                assert!(bound, "{pattern} is not bound");
            }
        }
        self.visitors.retain(|(_, _, visitor)| match visitor {
            Visitor::Waiting(subscribing) => !subscribing.is_finished(),
            Visitor::Subscribed(_) | Visitor::Forsaken(_) => true,
        });
    }

    /// Everybody who is subscribed gets a message that matches once.
    async fn publish(&mut self) {
        settle().await;
        self.look().await;
        for (_, client, _) in &self.visitors {
            client.bodies();
        }
        self.scene.fake.publish("topic", &["user.1", "user.2"], "x");
        for (pattern, client, visitor) in &self.visitors {
            let got = client.bodies().len();
            match (visitor, *pattern) {
                (_, "a.b") => assert_eq!(got, 0),
                (Visitor::Subscribed(_), _) => assert_eq!(got, 1, "{pattern}"),
                (_, _) => assert!(got <= 1, "{pattern}"),
            }
        }
    }

    /// The broker answers everything; then everybody has an answer, and leaves.
    async fn end(mut self) {
        for _ in 0..1000 {
            if self.scene.fake.waiting() == 0 {
                // Somebody may wait until a pattern has rested.
                sleep(Duration::from_secs(2)).await;
                if self.scene.fake.waiting() == 0 {
                    break;
                }
            }
            self.scene.fake.answer(Ok(()));
            settle().await;
        }
        self.look().await;
        let waiting = |visitor: &Visitor| matches!(visitor, Visitor::Waiting(_));
        let stuck = self.visitors.iter().filter(|(_, _, it)| waiting(it));
        assert_eq!(stuck.count(), 0, "waiting for ever");
        self.visitors.clear();
        self.scene.fake.release();
        sleep(LINGER * 3).await;
        assert_eq!(self.scene.fake.waiting(), 0);
        if self.all {
            assert!(self.scene.fake.bound().iter().all(|pattern| pattern == "#"));
        } else {
            assert_eq!(self.scene.fake.bound(), [""; 0]);
            assert_eq!(self.scene.patterns(), [""; 0]);
        }
    }
}

fn run(config: &FeedConfig, ops: Vec<Op>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let scene = scene_with(config);
        scene.fake.hold();
        let all = config.binding == Binding::All;
        let mut run = Run {
            scene,
            all,
            visitors: Vec::new(),
        };
        for op in ops {
            run.step(op).await;
        }
        run.end().await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_client_that_is_told_so_is_subscribed(ops in prop::collection::vec(op(), 1..80)) {
        run(&config(), ops);
    }

    #[test]
    fn so_it_is_where_everything_is_bound(ops in prop::collection::vec(op(), 1..60)) {
        run(&everything(), ops);
    }
}
