//! Frames that pass, for tails of operators: see [`tap`](crate::tap). Where nobody looks, each call
//! here is one load of an atomic.

use stomp_grammar::{Command, Frame, Headers, Version};
use stomp_session::Problem;

use super::context::{Context, Identity};
use crate::tap::{Direction, Seen, Who, read};

/// Whether somebody looks.
pub(super) fn is_on(context: &Context) -> bool {
    context.services.control.taps().is_on()
}

/// The client has sent a frame.
pub(super) fn came(context: &Context, frame: &Frame) {
    if is_on(context) {
        show_came(context, frame);
    }
}

/// A frame of the gateway's goes to the client, in one part or two.
pub(super) fn goes(context: &Context, parts: (&[u8], &[u8]), version: Version) {
    // A line break is a heart-beat.
    if is_on(context) && parts.0.len() > 1 {
        show_going(context, parts, version);
    }
}

/// A frame that the client has sent is refused. `claimed`: the name that a CONNECT gives.
pub(super) fn refused(
    context: &Context,
    (command, destination): (Command, &str),
    claimed: Option<&str>,
    problem: &Problem,
) {
    if !is_on(context) {
        return;
    }
    let mut headers = Headers::default();
    if !destination.is_empty() {
        headers.push("destination", destination);
    }
    let reason = problem.to_string();
    let seen = Seen {
        direction: Direction::In,
        command: command.as_str(),
        headers: &headers,
        body: &[],
        refused: Some(&reason),
    };
    show(context, claimed, &seen);
}

#[cold]
fn show_came(context: &Context, frame: &Frame) {
    let is_connect = matches!(frame.command, Command::Connect | Command::Stomp);
    let claimed = frame.header("login").filter(|_| is_connect);
    let seen = Seen {
        direction: Direction::In,
        command: frame.command.as_str(),
        headers: &frame.headers,
        body: &frame.body,
        refused: None,
    };
    show(context, claimed, &seen);
}

#[cold]
fn show_going(context: &Context, (first, second): (&[u8], &[u8]), version: Version) {
    let taps = context.services.control.taps();
    let who = who(context, None);
    let meant = taps.interested(&who, first.starts_with(b"ERROR"));
    if meant.is_empty() {
        return;
    }
    if let Some(frame) = read(first, second, version) {
        let seen = Seen {
            direction: Direction::Out,
            command: frame.command,
            headers: &frame.headers,
            body: frame.body,
            refused: None,
        };
        taps.show(&meant, &who, &seen);
    }
}

fn show(context: &Context, claimed: Option<&str>, seen: &Seen<'_>) {
    let taps = context.services.control.taps();
    let who = who(context, claimed);
    let meant = taps.interested(&who, seen.is_refusal());
    if !meant.is_empty() {
        taps.show(&meant, &who, seen);
    }
}

fn who<'a>(context: &'a Context, claimed: Option<&'a str>) -> Who<'a> {
    let identity = context.identity();
    let user = identity.map(|Identity { user, .. }| &*user.name);
    Who {
        session: &context.session,
        user: user.or(claimed),
        vhost: identity.map(|Identity { vhost, .. }| &**vhost.name()),
        remote: Some(context.address.remote),
        transport: context.transport,
    }
}
