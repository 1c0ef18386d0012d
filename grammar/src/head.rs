//! The grammar of a frame's head: command line, header lines, empty line. The rules are nom
//! parsers over a head that is known to be complete.

use nom::{
    IResult, Parser as _,
    branch::alt,
    bytes::complete::{is_not, tag, take_until},
    character::complete::char,
    combinator::{map, rest, value},
    error::{Error, ErrorKind},
    sequence::{separated_pair, terminated},
};

use crate::{Command, DecodeErrorKind, Headers, Version, error::printable, scan::find};

/// The content of a head.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) command: Command,
    pub(crate) headers: Headers,
    /// The value of `content-length`, in bytes.
    pub(crate) content_length: Option<u64>,
}

/// Reads a complete head. `header_count` sizes the memory of the headers; it need not be exact.
pub(crate) fn parse(
    head: &[u8],
    header_count: usize,
    version: Version,
) -> Result<Head, DecodeErrorKind> {
    #[cfg(test)]
    crate::scan::work::add(head.len());
    let (lines, name) = line_of_bytes(head).unwrap_or((&[], head));
    let command =
        Command::parse(name).ok_or_else(|| DecodeErrorKind::UnknownCommand(printable(name)))?;
    let lines = std::str::from_utf8(lines)
        .map_err(|error| DecodeErrorKind::NotUtf8(name_at(lines, error.valid_up_to())))?;
    if let Some(at) = find(0, lines.as_bytes()) {
        return Err(DecodeErrorKind::NulInHeader(name_at(lines.as_bytes(), at)));
    }

    let escapes = Escapes::of(command, version);
    let is_connect = matches!(command, Command::Connect | Command::Stomp);
    let blanks = version == Version::V1_0 && !is_connect;
    let mut headers = parse_headers(lines, header_count, escapes, blanks)?;
    if is_connect && is_of_1_0(&headers) {
        headers = parse_headers(lines, header_count, escapes, true)?;
    }
    let content_length = headers
        .get("content-length")
        .map(content_length)
        .transpose()?;
    Ok(Head {
        command,
        headers,
        content_length,
    })
}

/// The value of the first `receipt` header among these lines, if it can be read: for the ERROR
/// that answers a frame which cannot. Lines that cannot be read are passed over.
pub(crate) fn receipt(head: &[u8], version: Version) -> Option<Box<str>> {
    let (mut lines, name) = line_of_bytes(head).ok()?;
    let escapes = Command::parse(name).map_or(Escapes::of_version(version), |command| {
        Escapes::of(command, version)
    });
    let blanks = version == Version::V1_0;
    while let Ok((after, line)) = line_of_bytes(lines) {
        lines = after;
        let Ok(line) = std::str::from_utf8(line) else {
            continue;
        };
        let Ok((_, (name, value))) = header(line) else {
            continue;
        };
        if trimmed(name, blanks) == "receipt" {
            if find(0, value.as_bytes()).is_some() {
                return None;
            }
            let mut text = String::new();
            unescape(&mut text, trimmed(value, blanks), escapes).ok()?;
            return Some(text.into());
        }
    }
    None
}

/// A CONNECT says itself who it comes from, for no version is agreed yet: one that offers 1.0 only
/// comes from a client of 1.0, which may pad its headers with blanks.
fn is_of_1_0(headers: &Headers) -> bool {
    Version::negotiate(headers.get("accept-version")) == Some(Version::V1_0)
}

/// Reads header lines up to the empty line.
fn parse_headers(
    mut lines: &str,
    count: usize,
    escapes: Escapes,
    blanks: bool,
) -> Result<Headers, DecodeErrorKind> {
    // Each header line has at least its colon and its LF that are not kept.
    let text = lines.len().saturating_sub(count.saturating_mul(2));
    let mut headers = Headers::with_capacity(text, count);
    // One look at the whole head spares one look at each name and value.
    let escapes = if find(b'\\', lines.as_bytes()).is_some() {
        escapes
    } else {
        Escapes::NONE
    };
    while let Ok((after, line)) = line(lines) {
        if line.is_empty() {
            break;
        }
        lines = after;
        let Ok((_, (name, value))) = header(line) else {
            let line = headers.len().saturating_add(1);
            return Err(DecodeErrorKind::HeaderWithoutColon { line });
        };
        let (name, value) = (trimmed(name, blanks), trimmed(value, blanks));
        if name.is_empty() {
            return Err(DecodeErrorKind::EmptyHeaderName);
        }
        if escapes == Escapes::NONE {
            headers.push(name, value);
        } else {
            headers
                .push_with(
                    |text| unescape(text, name, escapes),
                    |text| unescape(text, value, escapes),
                )
                .map_err(|escape| DecodeErrorKind::UndefinedEscape {
                    header: printable(name.as_bytes()),
                    escape,
                    version: escapes.0.unwrap_or(Version::V1_2),
                })?;
        }
    }
    Ok(headers)
}

/// `line = *OCTET [CR] LF`; exactly one CR is stripped, in every version. 1.0 and 1.1 know no
/// CR LF, but clients send it and RabbitMQ strips it in all versions too.
fn line(input: &str) -> IResult<&str, &str> {
    map(terminated(until(b'\n'), char('\n')), |line| {
        line.strip_suffix('\r').unwrap_or(line)
    })
    .parse(input)
}

/// The same rule, before it is known to be text.
fn line_of_bytes(input: &[u8]) -> IResult<&[u8], &[u8]> {
    map(terminated(take_until("\n"), tag("\n")), |line: &[u8]| {
        line.strip_suffix(b"\r").unwrap_or(line)
    })
    .parse(input)
}

/// `header = name ":" value`; further colons belong to the value, since clients of all versions
/// send them bare.
fn header(line: &str) -> IResult<&str, (&str, &str)> {
    separated_pair(until(b':'), char(':'), rest).parse(line)
}

/// All text before an ASCII character, which must come. nom's `take_until` sets up a substring
/// search for each call, which costs more than finding one byte in so short a line.
fn until<'a>(byte: u8) -> impl Fn(&'a str) -> IResult<&'a str, &'a str> {
    move |input| {
        find(byte, input.as_bytes())
            .and_then(|at| input.split_at_checked(at))
            .map(|(before, after)| (after, before))
            .ok_or_else(|| nom::Err::Error(Error::new(input, ErrorKind::TakeUntil)))
    }
}

/// `escape-1-1 = "\n" / "\c" / "\\"`
fn escape_1_1(input: &str) -> IResult<&str, char> {
    alt((
        value('\n', tag(r"\n")),
        value(':', tag(r"\c")),
        value('\\', tag(r"\\")),
    ))
    .parse(input)
}

/// `escape-1-2 = escape-1-1 / "\r"`
fn escape_1_2(input: &str) -> IResult<&str, char> {
    alt((escape_1_1, value('\r', tag(r"\r")))).parse(input)
}

/// Appends `text` with its escapes undone. The error is the escape that is not defined.
fn unescape(out: &mut String, mut text: &str, escapes: Escapes) -> Result<(), Box<str>> {
    let Some(version) = escapes.0 else {
        out.push_str(text);
        return Ok(());
    };
    let escape = if version == Version::V1_2 {
        escape_1_2
    } else {
        escape_1_1
    };
    while !text.is_empty() {
        if let Ok((after, plain)) = plain(text) {
            out.push_str(plain);
            text = after;
        } else if let Ok((after, special)) = escape(text) {
            out.push(special);
            text = after;
        } else {
            return Err(text.chars().take(2).collect::<String>().into());
        }
    }
    Ok(())
}

/// `plain = 1*<any character but "\">`
fn plain(input: &str) -> IResult<&str, &str> {
    is_not("\\").parse(input)
}

/// The version whose escapes hold in a frame; `None`: text has no escapes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Escapes(Option<Version>);

impl Escapes {
    const NONE: Self = Self(None);

    fn of(command: Command, version: Version) -> Self {
        if command.is_escaped() {
            Self::of_version(version)
        } else {
            Self::NONE
        }
    }

    fn of_version(version: Version) -> Self {
        Self((version != Version::V1_0).then_some(version))
    }
}

/// Clients of 1.0 may pad names and values with blanks; later versions say "MUST NOT trim".
fn trimmed(text: &str, blanks: bool) -> &str {
    if blanks {
        text.trim_matches([' ', '\t'])
    } else {
        text
    }
}

/// `content-length = 1*DIGIT`; blanks around it are no part of the number in any version, as for
/// RabbitMQ.
fn content_length(text: &str) -> Result<u64, DecodeErrorKind> {
    let number = trimmed(text, true);
    // `parse` alone would take a sign.
    let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| number.parse().ok())
        .flatten()
        .ok_or_else(|| DecodeErrorKind::InvalidContentLength(printable(text.as_bytes())))
}

/// The name of the header in whose line a fault stands; up to the fault, if that is in the name.
fn name_at(lines: &[u8], at: usize) -> Box<str> {
    let (before, after) = lines.split_at_checked(at).unwrap_or((lines, &[]));
    let start = memchr::memrchr(b'\n', before).map_or(0, |lf| lf.saturating_add(1));
    let end = memchr::memchr2(b'\n', b':', after).map_or(lines.len(), |end| at.saturating_add(end));
    let line = lines.get(start..end).unwrap_or_default();
    printable(line.split(|&byte| byte == b':').next().unwrap_or(line))
}
