//! Bans of users, addresses and devices, on all nodes.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use warp::http::StatusCode;

use super::{
    Api,
    answer::{Answer, Refusal, Reply, Request},
    commands::{NodeOutcome, nodes},
    node::time,
};
use crate::{
    control::{self, Change, Command, Subject},
    node::MAX_BANS,
    telemetry::{self, BanInfo},
};

/// Bans on one page.
const MAX_PAGE: usize = 1_000;

/// Longer bans are for ever. In seconds: a hundred years.
const MAX_SECONDS: u64 = 100 * 365 * 24 * 60 * 60;

/// A ban.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Ban {
    /// The user who is banned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Or the address or network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Or the device, by the header `device-id` of its CONNECT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_id: Option<String>,
    /// When it was set.
    #[schema(format = DateTime)]
    pub since: String,
    /// When it ends; without it, it has to be lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    pub until: Option<String>,
    /// The reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A page of bans.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Bans {
    /// Those in force on the node that is asked: users first, then addresses, then devices.
    pub bans: Vec<Ban>,
    /// `cursor` of the next page; without it, this is the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// A ban to set: one of `user`, `address` and `device_id`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({ "address": "192.0.2.0/24", "seconds": 3600, "reason": "spam" }))]
pub struct BanRequest {
    /// A user's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 255)]
    pub user: Option<String>,
    /// An address, or a network: `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// A device, by the header `device-id` of its CONNECT. A client chooses that itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 128)]
    pub device_id: Option<String>,
    /// The duration; without it, the ban lasts until it is lifted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub seconds: Option<u64>,
    /// The reason. Sessions that end, and banned addresses and devices, are told; a login as a
    /// banned user is not, for it has proved nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 256)]
    pub reason: String,
}

/// The nodes that hold to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// All, also those that start later or are cut off now.
    AllNodes,
    /// Only the one that was asked.
    ThisNodeOnly,
}

/// The outcome of a ban, or of its lifting.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BanOutcome {
    /// The ban that was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ban: Option<Ban>,
    /// The nodes that hold to it.
    pub reach: Reach,
    /// Why only this one does, or why Redis or others may learn of it later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreached: Option<String>,
    /// Sessions that ended, on the nodes that answered; of a ban that was lifted, the nodes on
    /// which it was in force.
    pub hits: u64,
    /// The nodes that answered in time.
    pub nodes: Vec<NodeOutcome>,
    /// Nodes that are known, and that did not answer. If all nodes hold to it, they do once
    /// they are back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent: Vec<String>,
}

/// The page of bans to list.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct BansQuery {
    /// The most bans on the page. 100 if it is not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// The ban to lift: one of these.
#[derive(Clone, Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct UnbanQuery {
    /// A user's name.
    #[param(min_length = 1, max_length = 255)]
    user: Option<String>,
    /// An address or network, as it was banned.
    address: Option<String>,
    /// A device.
    #[param(min_length = 1, max_length = 128)]
    device_id: Option<String>,
}

/// The bans in force, page by page.
#[utoipa::path(
    get, path = "/api/v1/bans", tag = "bans", params(BansQuery),
    responses((status = 200, description = "A page", body = Bans)),
    security(("token" = ["read"])),
)]
pub(super) async fn bans(api: &Api, request: Request) -> Answer {
    let BansQuery { limit, cursor } = request.query()?;
    let limit = limit.unwrap_or(100);
    if !(1..=MAX_PAGE).contains(&limit) {
        let error = format!("is a number from 1 to {MAX_PAGE}");
        return Err(Refusal::field("limit", error));
    }
    let after = match cursor {
        None => None,
        Some(key) => Some(Subject::from_key(&key).ok_or_else(|| {
            let error = "is not one of a page's: take \"next\" of the page before, as it is";
            Refusal::field("cursor", error)
        })?),
    };
    let bans = api.services.registry.bans();
    let page = bans.list(SystemTime::now(), after.as_ref(), limit);
    let bans = page.bans.iter();
    Reply::ok(&Bans {
        bans: bans
            .map(|(subject, since, ban)| shown(subject, *since, ban))
            .collect(),
        next: page.next,
    })
}

/// Ban a user, an address or network, or a device. Its sessions end with ERROR `banned`, and it is
/// kept out, on all nodes. A ban that is there already is replaced.
#[utoipa::path(
    post, path = "/api/v1/bans", tag = "bans", request_body = BanRequest,
    responses(
        (status = 200, description = "It is in force", body = BanOutcome),
        (status = 409, description = "There are 10,000 bans: lift some", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn ban(api: &Api, request: Request) -> Answer {
    request.no_query()?;
    let BanRequest {
        user,
        address,
        device_id,
        seconds,
        reason,
    } = request.json()?;
    let subject = subject(user, address, device_id)?;
    if reason.chars().count() > control::Ban::MAX_REASON {
        let error = format!("has more than {} characters", control::Ban::MAX_REASON);
        return Err(Refusal::field("reason", error));
    }
    if seconds.is_some_and(|seconds| !(1..=MAX_SECONDS).contains(&seconds)) {
        let error = "is a number from 1 to 3153600000, a hundred years; leave it out for no end";
        return Err(Refusal::field("seconds", error));
    }
    let now = SystemTime::now();
    let until = seconds.and_then(|seconds| now.checked_add(Duration::from_secs(seconds)));
    request.acts_on(subject.to_string());
    let bans = api.services.registry.bans();
    if bans.of(now, &subject).is_none() && bans.len(now) >= MAX_BANS {
        let error = format!("there are {MAX_BANS} bans, as many as a node holds: lift some");
        return Err(Refusal::new(StatusCode::CONFLICT, error));
    }
    let ban = control::Ban {
        until,
        reason: reason.into(),
    };
    let change = bans.change(now, subject, Some(ban));
    set(api, request.caller.as_deref(), now, change).await
}

/// Lift a ban, on all nodes.
#[utoipa::path(
    delete, path = "/api/v1/bans", tag = "bans", params(UnbanQuery),
    responses(
        (status = 200, description = "It is lifted", body = BanOutcome),
        (status = 404, description = "No node that was heard has it", body = super::ErrorBody),
    ),
    security(("token" = ["admin"])),
)]
pub(super) async fn unban(api: &Api, request: Request) -> Answer {
    let UnbanQuery {
        user,
        address,
        device_id,
    } = request.query()?;
    let subject = subject(user, address, device_id)?;
    request.acts_on(subject.to_string());
    let now = SystemTime::now();
    let change = api.services.registry.bans().change(now, subject, None);
    set(api, request.caller.as_deref(), now, change).await
}

fn subject(
    user: Option<String>,
    address: Option<String>,
    device_id: Option<String>,
) -> Result<Subject, Refusal> {
    let (field, subject) = match (user, address, device_id) {
        (Some(name), None, None) => ("user", Subject::user(&name)),
        (None, Some(text), None) => ("address", Subject::address(&text)),
        (None, None, Some(id)) => ("device_id", Subject::device(&id)),
        _ => {
            let error = "give one of user, address and device_id";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
        }
    };
    subject.map_err(|problem| Refusal::field(field, problem))
}

/// Sets or lifts a ban everywhere.
async fn set(api: &Api, caller: Option<&str>, now: SystemTime, change: Change) -> Answer {
    let services = &api.services;
    let command = Command::Ban(change.clone());
    let report = services.control.run(command).await;
    let report = report.map_err(|off| Refusal::new(StatusCode::CONFLICT, off.to_string()))?;
    let recorded = services.registry.record_ban(&change).await;
    let hits = report.hits();
    let is_sure =
        report.unreached.is_none() && report.silent.is_empty() && !matches!(recorded, Some(Err(_)));
    let (reach, unreached) = reach(
        &recorded,
        services.control.leaves_nobody_out(),
        report.unreached,
    );
    if change.ban.is_none() && hits == 0 && is_sure {
        let error = format!("{} is not banned", change.subject);
        return Err(Refusal::new(StatusCode::NOT_FOUND, error));
    }
    let reach_text = match reach {
        Reach::AllNodes => "all nodes",
        Reach::ThisNodeOnly => "this node only",
    };
    let info = BanInfo {
        until: change.ban.as_ref().and_then(|ban| ban.until),
        reason: change.ban.as_ref().map_or("", |ban| &ban.reason),
        reach: reach_text,
    };
    telemetry::ban_changed(caller, &change.subject, change.ban.is_none(), &info);
    let ban = change.ban.as_ref();
    Reply::ok(&BanOutcome {
        ban: ban.map(|ban| shown(&change.subject, now, ban)),
        reach,
        unreached,
        hits,
        nodes: nodes(report.nodes),
        silent: report.silent.into_iter().map(Into::into).collect(),
    })
}

/// The nodes that hold to a change: Redis tells all of them, or each asks the others when it
/// begins to listen.
fn reach(
    recorded: &Option<Result<(), Box<str>>>,
    leaves_nobody_out: bool,
    untold: Option<Box<str>>,
) -> (Reach, Option<String>) {
    match (recorded, untold) {
        (Some(Ok(())), untold) => (Reach::AllNodes, untold.map(Into::into)),
        (Some(Err(error)), None) if leaves_nobody_out => {
            (Reach::AllNodes, Some(format!("Redis: {error}")))
        }
        (None, None) if leaves_nobody_out => (Reach::AllNodes, None),
        (_, Some(untold)) => (Reach::ThisNodeOnly, Some(untold.into())),
        (Some(Err(error)), None) => (Reach::ThisNodeOnly, Some(format!("Redis: {error}"))),
        (None, None) => {
            let why = "no other node can be told: [control] exchange is off, and presence is not in \
                       Redis";
            (Reach::ThisNodeOnly, Some(why.to_owned()))
        }
    }
}

fn shown(subject: &Subject, since: SystemTime, ban: &control::Ban) -> Ban {
    let mut shown = Ban {
        since: time(since),
        until: ban.until.map(time),
        reason: ban.reason.to_string(),
        ..Ban::default()
    };
    let value = Some(subject.value());
    match subject {
        Subject::User(_) => shown.user = value,
        Subject::Address(_) => shown.address = value,
        Subject::Device(_) => shown.device_id = value,
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ban_that_others_may_never_hear_of_says_so() {
        let away = || Some(Err(Box::<str>::from("away")));
        let untold = || Some(Box::from("no exchange"));
        for (recorded, leaves_nobody_out, untold, reach_is_all, says) in [
            (Some(Ok(())), true, None, true, None),
            (Some(Ok(())), false, None, true, None),
            (Some(Ok(())), true, untold(), true, Some("no exchange")),
            (None, true, None, true, None),
            (away(), true, None, true, Some("away")),
            (None, false, None, false, Some("no other node can be told")),
            (None, true, untold(), false, Some("no exchange")),
            (away(), true, untold(), false, Some("no exchange")),
            (away(), false, None, false, Some("away")),
        ] {
            let (reach, why) = reach(&recorded, leaves_nobody_out, untold);
            let case = format!("{recorded:?} {leaves_nobody_out} {why:?}");
            assert_eq!(reach == Reach::AllNodes, reach_is_all, "{case}");
            assert_eq!(why.is_some(), says.is_some(), "{case}");
            assert!(
                why.unwrap_or_default().contains(says.unwrap_or_default()),
                "{case}"
            );
        }
    }
}
