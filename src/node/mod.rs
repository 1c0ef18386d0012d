//! What belongs to the node: what all its connections are served by, and what each of them may take
//! of it.
//!
//! - [`Services`]: the parts that serve a connection, [`Settings`]: how connections behave, and the
//!   names that only the gateway may use ([`Services::reserves`]).
//! - [`Registry`]: who is connected, and which sessions are logged in. It knows a session by
//!   [`LoggedIn`], which a connection implements.
//! - [`LoginPolicy`]: how often a user may be logged in; [`Logins`]: which credentials count.
//! - [`Limits`]: what one address, user or connection may take: connections, logins, frames.
//! - [`Room`]: bytes of what clients publish, while it is under way.
//! - [`Memory`]: how much memory the process takes, and what it may; above a mark less is let in,
//!   and the greatest mailboxes go.

mod config;
mod limits;
mod logged_in;
mod logins;
mod measure;
mod memory;
mod policy;
mod recheck;
mod registry;
mod reserved;
mod room;
mod services;
mod sessions;
mod settings;

pub use config::MemoryConfig;
pub use limits::{
    AddressKey, Attempt, Bucket, ClientAddress, FailedLogins, Limits, Pace, Paces, QueuePlace,
    Stomp, SubscriptionPlace, TooFast, UserPlace, Users, is_shared, session_config,
};
pub use logged_in::LoggedIn;
pub use logins::Logins;
pub use memory::{Memory, Shed};
pub use policy::{Decision, LoginPolicy, Repeated, Same, Unknown};
pub use recheck::recheck_in_turn;
pub use registry::{Guard, Registry};
pub use room::{Account, Claim, Room, Share, Ticket};
pub use services::Services;
pub use settings::{Recheck, Settings};
