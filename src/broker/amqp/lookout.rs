//! Looks out for nodes of a cluster that are cut off from the others, and not from here.
//!
//! RabbitMQ 4.3 lets such a node go on: it keeps its connections, takes and confirms messages, and
//! gives a feed there only what is published there. To whatever changes the cluster's metadata it
//! says nothing. So each address that links lead to is asked from time to time for such a change,
//! one without effect: to take away a binding that never was. All versions answer it at once, and
//! none keeps anything of it.
//!
//! A node is taken for cut off if it is silent, and silent again on a new connection, while another
//! node answers at once. A cluster that is slow as a whole, or that has no leader, so stays as it is.
//! The time for a login does not count: it depends on whoever knows the accounts.
//! All links then leave the node ([`Hosts::leave`]), as if it had closed them. A feed whose queue is
//! there is found to be without it; to other feeds it is a lost link.
//!
//! Each node is looked at by itself: an address that drops all it is sent takes as long as a login may,
//! and delays no judgement of others.
//!
//! Where the broker has one address, nothing is asked: there would be nowhere to go. But its name is
//! resolved anew from time to time: it may stand for more addresses than when a link was last made.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use lapin::{
    Channel,
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    convert::short,
    hosts::{Address, Hosts},
    link::{self, LinkConfig, LoggedIn},
};
use crate::{
    broker::{BrokerError, FEED_QUEUES},
    telemetry,
};

/// Between two rounds of questions.
const EVERY: Duration = Duration::from_secs(3);
/// How long a node may be silent; and once more, on a new connection.
const SILENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(3)];
/// How long another node may take for the question to which that one said nothing; and to let this one
/// in after others did.
const AT_ONCE: Duration = Duration::from_secs(1);
/// Between two questions to a node that was left. Links try it last for longer than that. And between
/// two looks for further addresses.
const AGAIN: Duration = Duration::from_secs(30);

/// What a node says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// Anything: a refusal is an answer, too.
    Given,
    /// Nothing in time.
    Silence,
    /// There is no connection to it, which its links notice themselves.
    Gone,
}

/// Asks nodes for something that they cannot do alone.
trait Ask: Sync {
    type Connection: Send + Sync;

    /// Logs in at a node, if it lets this one in.
    fn connect(&self, address: &Address) -> impl Future<Output = Option<Self::Connection>> + Send;

    fn is_open(&self, connection: &Self::Connection) -> bool;

    /// Waits for its answer for as long as it takes.
    fn ask(&self, connection: &Self::Connection) -> impl Future<Output = Answer> + Send;
}

struct Lookout<A: Ask> {
    hosts: Arc<Hosts>,
    asking: A,
    /// How long it may take to connect and to log in.
    login: Duration,
    /// To nodes that are asked often.
    kept: Mutex<HashMap<SocketAddr, A::Connection>>,
    /// Nodes that all links left; when each was asked last.
    left: Mutex<HashMap<SocketAddr, (Address, Instant)>>,
    /// When addresses were looked for, where there was only one.
    looked: Mutex<Option<Instant>>,
}

/// Looks out, for ever.
pub(super) async fn keep(config: LinkConfig) {
    let (hosts, login) = (Arc::clone(&config.hosts), config.connection_timeout);
    let Ok(questions) = Questions::new(config) else {
        return;
    };
    Lookout::new(hosts, questions, login).run().await;
}

impl<A: Ask> Lookout<A> {
    fn new(hosts: Arc<Hosts>, asking: A, login: Duration) -> Self {
        Self {
            hosts,
            asking,
            login,
            kept: Mutex::default(),
            left: Mutex::default(),
            looked: Mutex::default(),
        }
    }

    /// Looks at each node from time to time, and at none twice at a time.
    async fn run(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = FuturesUnordered::new();
        let mut under_way = HashSet::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    for (address, was_left) in self.due().await {
                        if under_way.insert(address.socket) {
                            looks.push(self.look(address, was_left));
                        }
                    }
                }
                Some(socket) = looks.next() => {
                    under_way.remove(&socket);
                }
            }
        }
    }

    /// The nodes to look at now, and whether links have left them: those that links lead to, and from
    /// time to time those that were left.
    async fn due(&self) -> Vec<(Address, bool)> {
        if !self.has_choice().await {
            return Vec::new();
        }
        let used = self.hosts.used();
        let is_used = |socket: SocketAddr| used.iter().any(|used| used.socket == socket);
        self.kept.lock().retain(|socket, _| is_used(*socket));
        let left = self.left.lock();
        let left = left.values();
        let left = left.filter(|(_, asked)| asked.elapsed() >= AGAIN);
        let left = left.map(|(address, _)| (address.clone(), true));
        let used = used.iter().map(|address| (address.clone(), false));
        left.chain(used).collect()
    }

    /// Whether there is more than one node.
    async fn has_choice(&self) -> bool {
        let is_due = |looked: Instant| looked.elapsed() >= AGAIN;
        let looked = *self.looked.lock();
        if !self.hosts.are_many() && looked.is_none_or(is_due) {
            *self.looked.lock() = Some(Instant::now());
            self.hosts.look_up(AT_ONCE).await;
        }
        self.hosts.are_many()
    }

    /// Looks at a node; where it is.
    async fn look(&self, address: Address, was_left: bool) -> SocketAddr {
        let socket = address.socket;
        match was_left {
            true => self.visit(address).await,
            false => self.judge(address).await,
        }
        socket
    }

    /// Has all links leave a node if it is cut off.
    async fn judge(&self, address: Address) {
        let [first, second] = SILENCE;
        if self.ask(&address, false, first).await != Answer::Silence {
            return;
        }
        let silent = vec![address.clone()];
        let others = self.hosts.others(&silent, AT_ONCE).await;
        let met = watch::Sender::new(0);
        let (silent, others) = tokio::join!(
            self.log_in_at(silent, true, &met),
            self.log_in_at(others, false, &met)
        );
        // At the same time: who has a new leader has it for both.
        let (silent, others) =
            tokio::join!(self.answers(silent, second), self.answers(others, AT_ONCE));
        if silent.contains(&Answer::Silence) && others.contains(&Answer::Given) {
            telemetry::broker_node_cut_off(&address);
            self.hosts.leave(&address);
            let now = Instant::now();
            self.left.lock().insert(address.socket, (address, now));
        }
    }

    /// Asks one, `afresh`: on a new connection.
    async fn ask(&self, address: &Address, afresh: bool, patience: Duration) -> Answer {
        match self.log_in(address, afresh).await {
            Some(connection) => self.answer(address, connection, patience).await,
            None => Answer::Gone,
        }
    }

    /// The connection to a node. `None`: it lets nobody in now, which its links notice themselves.
    async fn log_in(&self, address: &Address, afresh: bool) -> Option<A::Connection> {
        let kept = self.kept.lock().remove(&address.socket);
        let kept = kept.filter(|kept| !afresh && self.asking.is_open(kept));
        match kept {
            Some(kept) => Some(kept),
            None => {
                let connecting = self.asking.connect(address);
                timeout(self.login, connecting).await.ok().flatten()
            }
        }
    }

    /// What a node says on that connection, which is kept if it says something.
    async fn answer(
        &self,
        address: &Address,
        connection: A::Connection,
        patience: Duration,
    ) -> Answer {
        let answer = timeout(patience, self.asking.ask(&connection)).await;
        if answer == Ok(Answer::Given) {
            self.kept.lock().insert(address.socket, connection);
        }
        answer.unwrap_or(Answer::Silence)
    }

    /// Those of these that let this one in. `met` counts the groups of nodes of which one did: soon
    /// after both have one, the others are not waited for. An address that drops what it is sent would
    /// cost as much time as a login may take.
    async fn log_in_at(
        &self,
        addresses: Vec<Address>,
        afresh: bool,
        met: &watch::Sender<usize>,
    ) -> Vec<(Address, A::Connection)> {
        let logging_in = addresses.into_iter().map(|address| async move {
            let connection = self.log_in(&address, afresh).await?;
            Some((address, connection))
        });
        let mut logging_in: FuturesUnordered<_> = logging_in.collect();
        let mut logged_in = Vec::new();
        let mut enough = pin!(async {
            // The sender outlives this.
            let _ = met.subscribe().wait_for(|groups| *groups >= 2).await;
            sleep(AT_ONCE).await;
        });
        loop {
            tokio::select! {
                biased;
                next = logging_in.next() => match next {
                    Some(Some(node)) => {
                        if logged_in.is_empty() {
                            met.send_modify(|groups| *groups = groups.saturating_add(1));
                        }
                        logged_in.push(node);
                    }
                    Some(None) => {}
                    None => return logged_in,
                },
                () = &mut enough => return logged_in,
            }
        }
    }

    async fn answers(
        &self,
        nodes: Vec<(Address, A::Connection)>,
        patience: Duration,
    ) -> Vec<Answer> {
        let asking = nodes.into_iter().map(|(address, connection)| async move {
            self.answer(&address, connection, patience).await
        });
        join_all(asking).await
    }

    /// Asks a node that was left, so that links try it last for as long as it is cut off.
    async fn visit(&self, address: Address) {
        let [_, patience] = SILENCE;
        let answer = self.ask(&address, true, patience).await;
        let mut left = self.left.lock();
        match answer {
            Answer::Silence => {
                self.hosts.failed(&address);
                left.insert(address.socket, (address, Instant::now()));
            }
            Answer::Given => {
                telemetry::broker_node_is_back(&address);
                left.remove(&address.socket);
            }
            // It is down now, which is no return.
            Answer::Gone => {
                left.remove(&address.socket);
            }
        }
    }
}

/// The questions to RabbitMQ.
struct Questions {
    config: LinkConfig,
    /// Of a queue and of an exchange, neither of which is there: one that the account may use.
    name: ShortString,
    number: AtomicU64,
}

impl Questions {
    fn new(config: LinkConfig) -> Result<Self, BrokerError> {
        let name = format!("{FEED_QUEUES}{}.lookout", config.node);
        Ok(Self {
            name: short("a name", &name)?,
            config,
            number: AtomicU64::new(0),
        })
    }
}

impl Ask for Questions {
    /// Of its own.
    type Connection = (LoggedIn, Channel);

    async fn connect(&self, address: &Address) -> Option<Self::Connection> {
        let credentials = self.config.credentials().await.ok()?;
        let connection = link::open(&self.config, address.clone(), &credentials).await;
        let connection = LoggedIn::new(Arc::new(connection.ok()?), None);
        let channel = connection.create_channel().await.ok()?;
        Some((connection, channel))
    }

    fn is_open(&self, (_, channel): &Self::Connection) -> bool {
        channel.status().connected()
    }

    async fn ask(&self, (_, channel): &Self::Connection) -> Answer {
        // Another key each time, so that no two questions are alike.
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let Ok(key) = short("a key", &number.to_string()) else {
            return Answer::Gone;
        };
        let (queue, exchange) = (self.name.clone(), self.name.clone());
        let none = FieldTable::default();
        match channel.queue_unbind(queue, exchange, key, none).await {
            Ok(()) => Answer::Given,
            Err(error) if error.is_amqp_soft_error() => Answer::Given,
            Err(_) => Answer::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, sync::atomic::AtomicUsize};

    use tokio::time::advance;

    use super::*;
    use crate::broker::amqp::hosts::{Host, InUse};

    /// How long a login may take.
    const LOGIN: Duration = Duration::from_secs(10);

    /// How a node behaves.
    #[derive(Clone, Copy)]
    enum Node {
        Well,
        /// It takes so long for anything that it is asked for.
        Slow(Duration),
        /// It takes so long to let anybody in.
        SlowLogin(Duration),
        Silent,
        /// Silent, but not on a new connection.
        SilentOnce,
        Down,
        /// All that it is sent is dropped.
        Unreachable,
    }

    /// Three nodes, by port.
    struct Cluster {
        nodes: Mutex<[Node; 3]>,
        logins: Mutex<[usize; 3]>,
        asked: AtomicUsize,
    }

    impl Cluster {
        fn new(nodes: [Node; 3]) -> Self {
            Self {
                nodes: Mutex::new(nodes),
                logins: Mutex::default(),
                asked: AtomicUsize::new(0),
            }
        }
    }

    impl Ask for Cluster {
        /// A node, and how many there were to it before.
        type Connection = (usize, usize);

        async fn connect(&self, address: &Address) -> Option<Self::Connection> {
            let place = usize::from(address.socket.port()) - 1;
            let node = self.nodes.lock()[place];
            match node {
                Node::Down => return None,
                Node::SlowLogin(takes) => sleep(takes).await,
                Node::Unreachable => pending().await,
                _ => {}
            }
            let before = self.logins.lock()[place];
            self.logins.lock()[place] += 1;
            Some((place, before))
        }

        fn is_open(&self, _: &Self::Connection) -> bool {
            true
        }

        async fn ask(&self, &(place, before): &Self::Connection) -> Answer {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let node = self.nodes.lock()[place];
            match node {
                Node::Down => return Answer::Gone,
                Node::Slow(takes) => sleep(takes).await,
                Node::Silent | Node::Unreachable => pending().await,
                Node::SilentOnce if before == 0 => pending().await,
                Node::Well | Node::SlowLogin(_) | Node::SilentOnce => {}
            }
            Answer::Given
        }
    }

    /// The ports that links leave after some rounds; a link leads to each of the first `used`.
    async fn left(used: usize, nodes: [Node; 3]) -> Vec<u16> {
        let (lookout, links) = open(used, nodes).await;
        for _ in 0..5 {
            round(&lookout).await;
        }
        ports_left(&links)
    }

    /// Looks at each node once, to the end.
    async fn round(lookout: &Lookout<Cluster>) {
        let due = lookout.due().await.into_iter();
        join_all(due.map(|(address, was_left)| lookout.look(address, was_left))).await;
    }

    async fn open(used: usize, nodes: [Node; 3]) -> (Lookout<Cluster>, Vec<(u16, InUse)>) {
        let hosts = [1, 2, 3].map(|port| Host {
            name: "127.0.0.1".into(),
            port,
        });
        let hosts = Arc::new(Hosts::new(hosts.into()));
        let mut addresses = hosts.others(&[], AT_ONCE).await;
        addresses.sort_by_key(|address| address.socket);
        let links = addresses.iter().take(used);
        let links = links.map(|address| (address.socket.port(), hosts.used_by(address)));
        let links = links.collect();
        // What happens from now on is later.
        advance(Duration::from_millis(1)).await;
        (Lookout::new(hosts, Cluster::new(nodes), LOGIN), links)
    }

    fn ports_left(links: &[(u16, InUse)]) -> Vec<u16> {
        let mut ports = Vec::new();
        for (port, link) in links {
            if link.is_left() {
                ports.push(*port);
            }
        }
        ports
    }

    #[tokio::test(start_paused = true)]
    async fn links_leave_a_silent_node_and_no_other() {
        assert_eq!(left(3, [Node::Well, Node::Silent, Node::Well]).await, [2]);
        // That no link leads to the others does not matter.
        assert_eq!(left(1, [Node::Silent, Node::Down, Node::Well]).await, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn links_stay_where_no_other_node_answers_at_once() {
        let slow = Node::Slow(2 * AT_ONCE);
        for nodes in [
            [Node::Silent; 3],
            [Node::Silent, Node::Down, Node::Down],
            [Node::Silent, slow, slow],
        ] {
            assert_eq!(left(3, nodes).await, [0_u16; 0]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn links_stay_at_a_node_that_is_slow_or_down() {
        let [first, second] = SILENCE;
        let slow = Node::Slow((first + second) / 2);
        assert_eq!(left(3, [slow, Node::Well, Node::Well]).await, [0_u16; 0]);
        let nodes = [Node::SilentOnce, Node::Down, Node::Well];
        assert_eq!(left(3, nodes).await, [0_u16; 0]);
    }

    /// It is the time of whoever knows the accounts.
    #[tokio::test(start_paused = true)]
    async fn a_slow_login_is_no_silence() {
        for takes in [LOGIN * 2 / 5, LOGIN * 2] {
            let slow = Node::SlowLogin(takes);
            for used in [1, 3] {
                let nodes = [slow, Node::Well, Node::Well];
                assert_eq!(left(used, nodes).await, [0_u16; 0], "{used}, {takes:?}");
            }
        }
        let slow = Node::SlowLogin(LOGIN * 2 / 5);
        assert_eq!(left(1, [Node::Silent, slow, Node::Down]).await, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_drops_all_delays_no_judgement() {
        const STEP: Duration = Duration::from_millis(100);
        let most = Duration::from_secs(7);
        let nodes = [Node::Silent, Node::Well, Node::Unreachable];
        let (lookout, links) = open(1, nodes).await;
        let begun = Instant::now();
        round(&lookout).await;
        assert_eq!(ports_left(&links), [1]);
        assert!(begun.elapsed() < most, "{:?}", begun.elapsed());

        // Nor if links lead there: whether it begins then, or has dropped all for some time.
        for rounds in [0, 1, 2, 3, 4, 5, 8] {
            let (lookout, links) = open(2, [Node::Well; 3]).await;
            let story = async {
                sleep(EVERY - STEP).await;
                *lookout.asking.nodes.lock() = [Node::Well, Node::Unreachable, Node::Well];
                sleep(EVERY * rounds).await;
                *lookout.asking.nodes.lock() = [Node::Silent, Node::Unreachable, Node::Well];
                let begun = Instant::now();
                while ports_left(&links).is_empty() {
                    sleep(STEP).await;
                }
                begun.elapsed()
            };
            let took = tokio::select! {
                () = lookout.run() => panic!("it ended"),
                took = story => took,
            };
            assert_eq!(ports_left(&links), [1]);
            assert!(took < most, "{rounds}: {took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_left_is_tried_last_until_it_is_back() {
        let (lookout, links) = open(3, [Node::Silent, Node::Well, Node::Well]).await;
        round(&lookout).await;
        assert_eq!(ports_left(&links), [1]);
        drop(links);
        let last = async |lookout: &Lookout<Cluster>| {
            let others = lookout.hosts.others(&[], AT_ONCE).await;
            others.last().unwrap().socket.port()
        };
        for _ in 0..20 {
            advance(AGAIN / 2).await;
            round(&lookout).await;
            assert_eq!(last(&lookout).await, 1);
        }
        lookout.asking.nodes.lock()[0] = Node::Well;
        advance(AGAIN).await;
        round(&lookout).await;
        assert!(lookout.left.lock().is_empty());
        let asked = lookout.asking.asked.load(Ordering::Relaxed);
        advance(AGAIN).await;
        round(&lookout).await;
        assert_eq!(
            lookout.asking.asked.load(Ordering::Relaxed),
            asked,
            "no link, no question"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_of_one_address_is_not_asked() {
        let config = LinkConfig::of_a_test("amqp://u:p@127.0.0.1:1");
        let asking = Cluster::new([Node::Silent; 3]);
        let lookout = Lookout::new(Arc::clone(&config.hosts), asking, LOGIN);
        let address = config.hosts.others(&[], AT_ONCE).await.remove(0);
        let _link = config.hosts.used_by(&address);
        round(&lookout).await;
        assert_eq!(lookout.asking.asked.load(Ordering::Relaxed), 0);
        assert!(
            lookout.looked.lock().is_some(),
            "its name may stand for more"
        );
    }
}
