//! What a node needs of a session that is logged in; its connection has the rest.

use std::{net::IpAddr, sync::Arc};

use futures_util::future::BoxFuture;
use stomp_session::Problem;

use super::{recheck_place::RecheckPlace, settings::Settings};
use crate::presence::Device;

/// A session that is logged in, as its node reaches it.
pub trait LoggedIn: Send + Sync {
    /// The session's id.
    fn id(&self) -> &str;

    /// Whose it is.
    fn user(&self) -> Option<&str>;

    /// The device that its CONNECT named, where presence is on.
    fn device(&self) -> Option<&Device>;

    /// The id of the device that its CONNECT named.
    fn device_id(&self) -> Option<&str>;

    /// Where it comes from.
    fn address(&self) -> IpAddr;

    /// Whether presence knows it.
    fn is_in_presence(&self) -> bool;

    /// How its connection behaves.
    fn settings(&self) -> &Settings;

    /// Ends it, with this ERROR.
    fn end(&self, problem: Problem);

    /// Asks the hook what it was asked at the login, and about each subscription; a refusal ends
    /// the session. It gives way before each subscription, and leaves those for which it has no time
    /// to the next recheck. The future holds the session only while one question is asked: a session
    /// that ends meanwhile gives its place on the node back.
    fn recheck(self: Arc<Self>, place: RecheckPlace) -> BoxFuture<'static, ()>;

    /// Asks the hook which groups the user is in, and tells presence, unless a later question is
    /// answered before. Where the hook is at fault, the groups stay as they are; the hook's fault is
    /// in the log. A session that presence does not know yet asks when it does.
    fn refresh_groups(self: Arc<Self>) -> BoxFuture<'static, ()>;
}
