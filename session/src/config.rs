//! How sessions behave.

use std::time::Duration;

/// How sessions behave; all sessions of a server share it.
#[derive(Clone, Debug)]
pub struct Config {
    /// The `server` header of CONNECTED; `None` hides it.
    pub server: Option<Box<str>>,
    /// How long a client may take from the transport's opening to a complete login, the hook's
    /// answer included.
    pub login_timeout: Duration,
    /// The shortest interval at which this server will send heart-beats; zero: it sends none.
    /// In whole milliseconds, rounded up.
    pub heartbeat_send: Duration,
    /// The interval at which this server wishes to hear the client; zero: no wish.
    /// In whole milliseconds, rounded up.
    pub heartbeat_receive: Duration,
    /// How many intervals a client may miss: background tabs throttle their timers. 0 means 1.
    pub heartbeat_tolerance: u32,
    /// The shortest silence for which a client is given up, however short its heart-beat: mobile
    /// networks have tunnels.
    pub heartbeat_patience: Duration,
    /// After so much time in which nothing was written, or nothing was heard, the client gets a
    /// ping, if the transport has pings and no heart-beat comes sooner; zero: no pings. A client
    /// that has answered a ping before is given up after two unanswered ones.
    pub ping_interval: Duration,
    /// How long a session that is about to end waits for pending operations.
    pub finish_timeout: Duration,
    /// The same where [`crate::Problem::ShuttingDown`] ends it, if that is less.
    pub drain_timeout: Duration,
    /// How long a client may take to close after its DISCONNECT was answered.
    pub disconnect_linger: Duration,
    /// Subscriptions open at once.
    pub max_subscriptions: usize,
    /// Transactions open at once.
    pub max_transactions: usize,
    /// Frames in one transaction.
    pub max_transaction_frames: usize,
    /// Bytes in all open transactions together, as [`crate::gathered_bytes`] counts them.
    pub max_transaction_bytes: usize,
    /// Operations begun and not done, and receipts that wait for them; at this number
    /// [`crate::Session::wants_frame`] is false. 0 means 1.
    pub max_pending: usize,
    /// The meaning of a NACK without a `requeue` header: true, [`crate::Verdict::Requeue`].
    pub nack_requeue: bool,
    /// Whether a session goes on after [`crate::Problem::PermissionDenied`],
    /// [`crate::Problem::PermissionUnavailable`], [`crate::Problem::RoomFull`] and
    /// [`crate::Problem::RoomsUnavailable`], if the denied frame has left no trace in it.
    pub soft_deny: bool,
    /// How often it goes on so: the next denial ends it.
    pub max_denials: u32,
    /// A SUBSCRIBE of 1.1 or 1.2 without `id` is an error, as the specification says. Otherwise its
    /// destination is its name, as in 1.0.
    pub require_subscription_id: bool,
    /// Whether a first frame that is no CONNECT logs in by itself: as if a CONNECT without any
    /// header had come before it, but CONNECTED is not sent.
    pub implicit_connect: bool,
}
