//! The node: the parts that serve all its connections, and the bounds of each connection's share.
//!
//! - [`Services`]: the parts that serve a connection, [`Settings`]: how connections behave, and the
//!   names that only the gateway may use ([`Services::reserves`]).
//! - [`Registry`]: the connections, and the sessions that are logged in. It knows a session by
//!   [`LoggedIn`], which a connection implements.
//! - [`Places`]: the connections that are not logged in, shared fairly by address.
//! - [`Bans`]: users, networks and devices that are kept out, on all nodes.
//! - [`LoginPolicy`]: how often a user may be logged in; [`Logins`]: which credentials count.
//! - [`Limits`]: what one address, user or connection may take: connections, logins, frames.
//! - [`LastWrites`]: what sessions leave to be written, which the end of the node waits for.
//! - [`Room`]: bytes of what clients publish, while it is under way.
//! - [`Memory`]: how much memory the process takes, and what it may; above a mark less is let in,
//!   and the greatest mailboxes go.

mod ban_book;
mod bans;
mod config;
mod inquiries;
mod keep_bans;
mod last_writes;
mod limits;
mod logged_in;
mod logins;
mod measure;
mod memory;
mod places;
mod policy;
mod recheck;
mod recheck_place;
mod registry;
mod reserved;
mod room;
mod services;
mod sessions;
mod settings;
mod withdrawals;

pub use bans::{BanPage, Bans, MAX_BANS, Suspect};
pub use config::MemoryConfig;
pub use inquiries::{SessionDetails, Source, SubscriptionDetails};
pub use keep_bans::keep_bans;
pub use last_writes::LastWrites;
pub use limits::{
    AddressKey, Attempt, Bucket, ClientAddress, FailedLogins, Limits, Pace, Paces, QueuePlace,
    ServerHeader, Stomp, SubscriptionPlace, TooFast, UserPlace, Users, is_shared, session_config,
};
pub use logged_in::LoggedIn;
pub use logins::Logins;
pub use memory::{Memory, Shed, WORTH_SHEDDING, mark_now};
pub use places::{Place, Places, Stage};
pub use policy::{Decision, LoginPolicy, Repeated, Same, Unknown};
pub use recheck::{recheck_in_turn, recheck_users};
pub use recheck_place::RecheckPlace;
pub use registry::{Guard, Registry};
pub use room::{Account, Claim, Room, Share, Ticket};
pub use services::Services;
pub use settings::{Recheck, Settings};
pub use withdrawals::Withdrawal;
