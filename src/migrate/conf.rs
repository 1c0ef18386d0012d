//! Reads `rabbitmq.conf`: a setting a line, `key = value`, and comments from `#` on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A line that sets something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Setting<'a> {
    /// Counted from 1.
    pub(super) line: usize,
    /// Words joined by dots.
    pub(super) key: &'a str,
    /// Without the blanks around it, the comment behind it, and its quotes.
    pub(super) value: &'a str,
}

/// A line that cannot be read, and why. It is not shown: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub(super) line: usize,
    pub(super) why: &'static str,
}

/// Reads all lines.
pub(super) fn parse(text: &str) -> impl Iterator<Item = Result<Setting<'_>, Broken>> {
    let lines = text.lines().enumerate();
    lines.filter_map(|(index, text)| {
        let line = index.saturating_add(1);
        let text = text.trim();
        if text.is_empty() || text.starts_with('#') {
            return None;
        }
        let setting = setting(text).map(|(key, value)| Setting { line, key, value });
        Some(setting.map_err(|why| Broken { line, why }))
    })
}

/// True for RabbitMQ's older configuration, a list of Erlang terms (`rabbitmq.config`,
/// `advanced.config`).
pub(super) fn is_erlang(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim);
    lines
        .find(|line| !line.is_empty() && !line.starts_with('%') && !line.starts_with('#'))
        .is_some_and(|line| line.starts_with(['[', '{', ']']))
}

fn setting(text: &str) -> Result<(&str, &str), &'static str> {
    if text
        .strip_prefix("include")
        .is_some_and(|rest| rest.starts_with([' ', '\t']))
    {
        return Err("includes other files, which are not read here: migrate them one by one");
    }
    let (key, rest) = text
        .split_once('=')
        .ok_or("is no setting: it has no \"=\"")?;
    let key = key.trim_end();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-\\".contains(&byte);
    if key.is_empty() || !key.bytes().all(is_plain) {
        return Err("is no setting: the text before \"=\" is not a key");
    }
    let rest = rest.trim_start();
    // As in RabbitMQ 4, where quotes protect a "#"; before, they were a part of the value.
    let quoted = rest
        .strip_prefix('\'')
        .and_then(|rest| rest.split_once('\''));
    let value = match quoted {
        Some((value, rest))
            if rest.trim_start().is_empty() || rest.trim_start().starts_with('#') =>
        {
            value
        }
        _ => rest.split('#').next().unwrap_or_default().trim_end(),
    };
    if value.is_empty() {
        return Err("has no value");
    }
    if value.contains(char::is_control) {
        return Err("holds a control character");
    }
    Ok((key, value))
}

/// Takes this word alone.
pub(super) fn only(word: &str, value: &str) -> Result<(), &'static str> {
    if value == word {
        return Ok(());
    }
    Err("can only be \"none\" here: the name of a listener follows this key")
}

/// A port, on all addresses, or an address and a port; the IP may stand in brackets.
pub(super) fn address(value: &str) -> Result<SocketAddr, &'static str> {
    const WRONG: &str = "is neither a port nor an IP address and a port, such as 127.0.0.1:61613";
    let Some((ip, port)) = value.rsplit_once(':') else {
        let port = value.parse().map_err(|_| WRONG)?;
        return Ok((Ipv4Addr::UNSPECIFIED, port).into());
    };
    let ip = ip_address(ip).map_err(|_| WRONG)?;
    Ok(SocketAddr::new(ip, port.parse().map_err(|_| WRONG)?))
}

/// An IP address, perhaps in brackets.
pub(super) fn ip_address(value: &str) -> Result<IpAddr, &'static str> {
    let bare = value
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    let ip = bare.unwrap_or(value).parse();
    ip.map_err(|_| "is no IP address")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line's number, and its key and value or what is wrong.
    type Line<'a> = (usize, Result<(&'a str, &'a str), &'static str>);

    fn read(text: &str) -> Vec<Line<'_>> {
        parse(text)
            .map(|read| match read {
                Ok(Setting { line, key, value }) => (line, Ok((key, value))),
                Err(Broken { line, why }) => (line, Err(why)),
            })
            .collect()
    }

    /// As RabbitMQ's own reader (cuttlefish) reads them.
    #[test]
    fn settings_are_read_and_comments_are_not() {
        let text = "## a comment\n\n  # another\na.b = x # behind\r\na.c=y#z\n\t a-j.k_1 = one two \n\
                    a\\.f.g = it's\n";
        assert_eq!(
            read(text),
            [
                (4, Ok(("a.b", "x"))),
                (5, Ok(("a.c", "y"))),
                (6, Ok(("a-j.k_1", "one two"))),
                (7, Ok(("a\\.f.g", "it's"))),
            ]
        );
    }

    #[test]
    fn quotes_protect_a_comment_s_sign() {
        assert_eq!(read("a = 'p#1' # c"), [(1, Ok(("a", "p#1")))]);
        assert_eq!(read("a = 'p' q"), [(1, Ok(("a", "'p' q")))]);
        assert_eq!(read("a = 'p"), [(1, Ok(("a", "'p")))]);
    }

    #[test]
    fn a_broken_line_is_named_and_the_others_are_read() {
        let text = "a\nb = 1\n= 2\nc d = 3\ne =\nf = # g\ninclude x/*.conf\n\
                    g = \u{7f}\n";
        let read = read(text);
        let broken = read.iter().filter(|(_, read)| read.is_err());
        let lines: Vec<usize> = broken.map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8]);
        assert_eq!(read.get(1), Some(&(2, Ok(("b", "1")))));
    }

    #[test]
    fn erlang_terms_are_recognised() {
        for text in [
            "[{rabbitmq_stomp, []}].",
            "%% -*- erlang -*-\n\n [\n  {rabbit, []}].",
            "{a, b}.",
        ] {
            assert!(is_erlang(text), "{text}");
        }
        for text in ["", "# [\na.b = [", "a = 1"] {
            assert!(!is_erlang(text), "{text}");
        }
    }
}
