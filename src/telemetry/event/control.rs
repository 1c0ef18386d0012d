//! Commands and bans.

use std::{
    fmt::Display,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use humantime::format_rfc3339_seconds;
use tracing::{error, info, warn};

use super::millis;

/// Commands of other nodes and of backends are heard (again).
pub fn control_up(exchange: &str) {
    info!(target: "stentor::control", exchange, "listening for commands");
}

/// Commands of other nodes and of backends are not heard, and some may have been lost.
pub fn control_down(exchange: &str, cause: &str, retry_in: Duration) {
    let retry_in_ms = millis(retry_in);
    warn!(
        target: "stentor::control", code = crate::codes::Code::ControlDown.name(),
        exchange, cause, retry_in_ms,
        "not listening for commands"
    );
}

/// A command was run on this node; `from` gave it, and `hits` is how much it did.
pub fn control_command(command: &str, subject: &str, from: &str, hits: u64) {
    info!(target: "stentor::control", command, subject, from, hits, "command run");
}

/// Something came by the exchange of commands that is not to be done.
pub fn control_ignored(cause: &str) {
    warn!(target: "stentor::control", cause, "command ignored");
}

/// A node begins to show frames of this one to an operator: for the audit.
pub fn tail_began(shown_at: &str, frames: &str, bodies: u32) {
    info!(target: "stentor::audit", shown_at, frames, bodies, "frames are shown at another node");
}

/// It shows them no more; this node sent it so many.
pub fn tail_ended(shown_at: &str, frames: &str, sent: u64) {
    info!(target: "stentor::audit", shown_at, frames, sent, "frames are shown no more");
}

/// Commands came faster than they could be run, and so many were not.
pub fn control_dropped(dropped: u32) {
    error!(target: "stentor::control", dropped, "commands lost");
}

/// Other nodes could not be told a command.
pub fn control_untold(command: &str, cause: &str) {
    error!(target: "stentor::control", command, cause, "command not sent to other nodes");
}

/// A banned client was refused, nor was this said of `unsaid` more since the last time.
pub fn banned_client_refused(banned: &dyn Display, address: Option<IpAddr>, at: &str, unsaid: u64) {
    let (banned, address) = (
        banned.to_string(),
        address.map(|address| address.to_string()),
    );
    info!(target: "stentor::node", banned, address, at, unsaid, "banned client refused");
}

/// A token's holder set a ban, or lifted it: for the audit.
pub fn ban_changed(token: Option<&str>, subject: &dyn Display, is_lifted: bool, ban: &BanInfo<'_>) {
    let subject = subject.to_string();
    if is_lifted {
        info!(target: "stentor::api", token, subject, reach = ban.reach, "ban lifted");
        return;
    }
    let until = ban
        .until
        .map(|until| format_rfc3339_seconds(until).to_string());
    let BanInfo { reason, reach, .. } = *ban;
    info!(target: "stentor::api", token, subject, until, reason, reach, "ban set");
}

/// A ban, for the audit.
#[derive(Clone, Copy, Debug)]
pub struct BanInfo<'a> {
    /// When it ends; `None`: it does not.
    pub until: Option<SystemTime>,
    /// The reason that was given.
    pub reason: &'a str,
    /// Which nodes hold to it.
    pub reach: &'a str,
}

/// Bans that this node had missed came from another, or from Redis.
pub fn bans_heard(from: &str, count: usize) {
    info!(target: "stentor::control", from, count, "bans learnt");
}

/// A ban was not taken, for there are as many as a node holds; nor were so many more that came with
/// it.
pub fn bans_full(subject: &dyn Display, more: usize) {
    let subject = subject.to_string();
    error!(target: "stentor::control", subject, more, "ban not taken: there are too many");
}
