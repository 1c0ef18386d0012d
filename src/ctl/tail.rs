//! `stentor tail`: the frames of clients, as they pass.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    time::Duration,
};

use clap::Args;
use humantime::format_rfc3339_millis;
use tokio::time::timeout;

use super::{
    Error, Server,
    client::{Client, ClientError},
};
use crate::{
    causes::of_request,
    tap::{Direction, NodeState, TailFrame, TailHeader, TailLine, Why, printable, to_line},
    units::moment,
};

/// The gateway says every five seconds that the tail goes on.
const SILENCE: Duration = Duration::from_secs(30);

/// The longest line that is read, in bytes.
const MAX_LINE: usize = 1 << 20;

/// Show the frames of clients as they pass, on all nodes, until Ctrl-C.
#[derive(Args)]
#[command(after_help = "\
Examples:
  export STENTOR_TOKEN=…                             of the scope admin; `stentor token` makes one
  stentor tail --user alice                          all frames of her sessions
  stentor tail --refused                             ERRORs, and the frames that were refused
  stentor tail --destination '/exchange/feed/*'      SEND, SUBSCRIBE and MESSAGE with it
  stentor tail --bodies --session ID                 with the beginnings of bodies
  stentor tail --json | jq …                         for programs: a JSON object a line

→ goes to the gateway, ← to the client, ✗ was refused. Times are in UTC. Values of headers that may
be secret are left out (name=***). A line says how many frames are not shown, and why.

[tail] of the gateway's configuration says how much is shown; bodies need show = \"bodies\". Each tail
is in the audit log of the gateway.

Exit codes; standard error says why:
  1  the gateway ended it, or refuses it
  2  wrong command line, or wrong contexts
  3  no gateway answers there
  4  the token is missing, unknown, or lacks the scope admin")]
pub struct Tail {
    /// The gateway.
    #[command(flatten)]
    pub gateway: Server,
    /// Only frames of this user. Before the login, the name that CONNECT gives counts.
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only frames of this session.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only frames with this destination; * stands for any characters.
    #[arg(long, value_name = "PATTERN")]
    pub destination: Option<String>,
    /// Only refusals: ERROR frames, and the frames that were refused.
    #[arg(long)]
    pub refused: bool,
    /// Show the beginning of each body, 256 bytes or as many as this says (up to 4096).
    #[arg(
        long,
        value_name = "BYTES",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "256"
    )]
    pub bodies: Option<u32>,
    /// Print the gateway's lines, as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Prints until it ends. That the reader has seen enough is no error.
pub(super) async fn follow(client: &Client, task: &Tail, is_coloured: bool) -> Result<(), Error> {
    let bodies = task.bodies.unwrap_or_default().to_string();
    let mut query = vec![("bodies", bodies.as_str())];
    for (name, value) in [
        ("user", &task.user),
        ("session", &task.session),
        ("destination", &task.destination),
    ] {
        query.extend(value.as_deref().map(|value| (name, value)));
    }
    if task.refused {
        query.push(("refused", "true"));
    }
    let mut answer = client.stream("/api/v1/tail", &query).await?;
    let ended =
        |why: String| Error::Client(ClientError::Refused(format!("the tail has ended: {why}")));
    let mut rest = Vec::new();
    loop {
        let piece = match timeout(SILENCE, answer.chunk()).await {
            Ok(Ok(Some(piece))) => piece,
            Ok(Ok(None)) => return Err(ended("the gateway closed it".to_owned())),
            Ok(Err(error)) => return Err(ended(of_request(error))),
            Err(_) => return Err(ended("the gateway is not heard any more".to_owned())),
        };
        rest.extend_from_slice(&piece);
        let whole = match rest.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => rest.drain(..=end).collect::<Vec<u8>>(),
            None if rest.len() > MAX_LINE => {
                return Err(ended("a line of it has no end".to_owned()));
            }
            None => continue,
        };
        let mut text = String::new();
        for line in whole
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
        {
            let line: TailLine = serde_json::from_slice(line).map_err(|error| {
                let why = printable(&error.to_string());
                ended(format!("a line of it is not as expected: {why}"))
            })?;
            match task.json {
                true => text.extend([&*to_line(&line), "\n"]),
                false => show(&mut text, &line, Style { is_coloured }),
            }
        }
        if print(&text).is_err() {
            return Ok(());
        }
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// How text looks on a terminal.
#[derive(Clone, Copy)]
struct Style {
    is_coloured: bool,
}

const DIM: &str = "2";
const BOLD: &str = "1";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const BLUE: &str = "34";

impl Style {
    /// A text that came from anywhere, in this look.
    fn paint(self, look: &str, text: &str) -> String {
        let text = printable(text);
        match self.is_coloured {
            true => format!("\u{1b}[{look}m{text}\u{1b}[0m"),
            false => text,
        }
    }
}

/// Appends a line as people read it.
fn show(out: &mut String, line: &TailLine, style: Style) {
    let (look, text) = match line {
        TailLine::Frame(frame) => return show_frame(out, frame, style),
        TailLine::Alive => return,
        TailLine::LeftOut { node, frames, why } => {
            let why = match why {
                Why::Pace => "more than [tail] max_frames_per_second; name a user or a destination",
                Why::Unread => "they came faster than they are read here",
            };
            (YELLOW, format!("… {frames} more on {node}: {why}"))
        }
        TailLine::Node { node, state, cause } => {
            let state = match state {
                NodeState::Begins => "shows its frames",
                NodeState::Refuses => "does not show its frames",
                NodeState::Silent => "is not heard any more",
            };
            let cause = cause.as_ref().map(|cause| format!(": {cause}"));
            let look = if cause.is_some() { YELLOW } else { DIM };
            (
                look,
                format!("· {node} {state}{}", cause.unwrap_or_default()),
            )
        }
        TailLine::Apart { cause } => (
            YELLOW,
            format!("· other nodes are not shown for now: {cause}"),
        ),
    };
    out.push_str(&style.paint(look, &text));
    out.push('\n');
}

/// One line: time, node, session, user, way, command, destination, size, headers; and further ones
/// for the reason of a refusal, and for a body.
fn show_frame(out: &mut String, frame: &TailFrame, style: Style) {
    let (look, arrow) = match (&frame.refused, frame.direction) {
        (Some(_), _) => (RED, "✗"),
        (None, Direction::In) => (GREEN, "→"),
        (None, Direction::Out) if frame.command == "ERROR" => (RED, "←"),
        (None, Direction::Out) => (BLUE, "←"),
    };
    // Nobody of this time has lived so long.
    let at = moment(Duration::from_millis(frame.at));
    let at = at.map_or_else(String::new, |at| format_rfc3339_millis(at).to_string());
    let time = at.get(11..23).unwrap_or_default();
    let user = frame.user.as_deref().unwrap_or("-");
    let who = format!("{time} {} {}", frame.node, short(&frame.session));
    let mut words = vec![
        style.paint(DIM, &who),
        style.paint(BOLD, user),
        style.paint(look, &format!("{arrow} {}", frame.command)),
    ];
    words.extend(frame.destination.as_deref().map(printable));
    if frame.size > 0 {
        words.push(format!("{} B", frame.size));
    }
    for TailHeader { name, value } in &frame.headers {
        // The size says it.
        if name != "content-length" {
            let value = value.as_deref().unwrap_or("***");
            words.push(style.paint(DIM, &format!("{name}={value}")));
        }
    }
    if frame.more_headers > 0 {
        words.push(style.paint(DIM, &format!("and {} headers more", frame.more_headers)));
    }
    out.push_str(&words.join(" "));
    out.push('\n');
    if let Some(why) = &frame.refused {
        let _ = writeln!(out, "    {}", style.paint(RED, why));
    }
    let shown = frame.body.as_deref().or(frame.body_base64.as_deref());
    if let Some(body) = shown {
        let kind = if frame.body.is_none() { "base64 " } else { "" };
        let cut = frame
            .body
            .as_ref()
            .is_some_and(|body| (body.len() as u64) < frame.size);
        let more = if cut { "…" } else { "" };
        let body = printable(body.trim_end_matches('\n'));
        // A text takes everything.
        let _ = writeln!(out, "    {kind}{body}{more}");
    }
}

/// Enough of a session's id to tell it from others.
fn short(session: &str) -> &str {
    let end = session.char_indices().nth(8).map(|(end, _)| end);
    end.and_then(|end| session.get(..end)).unwrap_or(session)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> TailFrame {
        let header = |name: &str, value: Option<&str>| TailHeader {
            name: name.to_owned(),
            value: value.map(str::to_owned),
        };
        TailFrame {
            at: 1_800_000_000_123,
            node: "host.1".to_owned(),
            session: "0123456789abcdef".to_owned(),
            user: Some("alice".to_owned()),
            vhost: None,
            remote: None,
            transport: "tcp".to_owned(),
            direction: Direction::In,
            command: "SEND".to_owned(),
            destination: Some("/topic/a".to_owned()),
            size: 5,
            headers: vec![header("receipt", Some("1")), header("x-mine", None)],
            more_headers: 0,
            body: None,
            body_base64: None,
            refused: None,
        }
    }

    fn shown(line: &TailLine, is_coloured: bool) -> String {
        let mut out = String::new();
        show(&mut out, line, Style { is_coloured });
        out
    }

    fn of(frame: TailFrame) -> TailLine {
        TailLine::Frame(Box::new(frame))
    }

    #[test]
    fn a_frame_is_one_line() {
        assert_eq!(
            shown(&of(frame()), false),
            "08:00:00.123 host.1 01234567 alice → SEND /topic/a 5 B receipt=1 x-mine=***\n"
        );
        let refused = TailFrame {
            refused: Some("access_refused: no".to_owned()),
            body: Some("hel".to_owned()),
            headers: Vec::new(),
            user: None,
            ..frame()
        };
        assert_eq!(
            shown(&of(refused), false),
            "08:00:00.123 host.1 01234567 - ✗ SEND /topic/a 5 B\n    access_refused: no\n    hel…\n"
        );
    }

    /// Whatever a client puts wherever it can.
    #[test]
    fn a_client_s_text_does_nothing_to_a_terminal() {
        let evil = "\u{1b}[2J\u{9b}31m\r\n\u{202e}x\u{7}";
        let all = TailFrame {
            node: evil.to_owned(),
            session: evil.to_owned(),
            user: Some(evil.to_owned()),
            command: evil.to_owned(),
            destination: Some(evil.to_owned()),
            headers: vec![TailHeader {
                name: evil.to_owned(),
                value: Some(evil.to_owned()),
            }],
            body: Some(evil.to_owned()),
            refused: Some(evil.to_owned()),
            ..frame()
        };
        let node = TailLine::Node {
            node: evil.to_owned(),
            state: NodeState::Refuses,
            cause: Some(evil.to_owned()),
        };
        for line in [
            of(all),
            node,
            TailLine::Apart {
                cause: evil.to_owned(),
            },
        ] {
            let plain = shown(&line, false);
            let is_bad = |character: char| character != '\n' && crate::tap::is_unsafe(character);
            assert!(!plain.contains(is_bad), "{plain:?}");
            // Of colours there are only our own.
            let coloured = shown(&line, true);
            let mut rest = coloured.clone();
            for look in [DIM, BOLD, RED, GREEN, YELLOW, BLUE, "0"] {
                rest = rest.replace(&format!("\u{1b}[{look}m"), "");
            }
            assert_eq!(rest, plain, "{coloured:?}");
        }
    }

    #[test]
    fn what_is_left_out_is_said() {
        let line = TailLine::LeftOut {
            node: "n".to_owned(),
            frames: 9_800,
            why: Why::Pace,
        };
        let text = shown(&line, false);
        assert!(
            text.starts_with("… 9800 more on n: more than [tail]"),
            "{text}"
        );
        assert_eq!(shown(&TailLine::Alive, false), "");
    }
}
