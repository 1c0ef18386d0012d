//! The PROXY protocol, versions 1 and 2: a proxy says first whom it speaks for
//! (<https://www.haproxy.org/download/2.8/doc/proxy-protocol.txt>).
//!
//! How far a header goes is found out here, so that not a byte behind it is read; what it says is
//! read by the crate `proxy-header`.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use proxy_header::{ParseConfig, Protocol, ProxyHeader};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
};

/// Section 2.1: the longest line, with CR LF.
const MAX_V1: usize = 107;
/// The shortest: `PROXY UNKNOWN` and CR LF. A header of version 2 is longer.
const MIN_V1: usize = 15;
const V1: &[u8] = b"PROXY ";
/// Section 2.2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and protocol, length.
const V2_FIXED: usize = 16;
/// Of a header of version 2, in bytes. Addresses take 36; what proxies add to them (names,
/// versions of TLS) is not used, and far shorter.
const MAX_V2: usize = 4 * 1024;

/// What begins a connection, as far as it is known.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// So many bytes more, at least, belong to the header.
    Need(usize),
    /// The header is whole.
    Done(Option<SocketAddr>),
}

/// Reads a header, and nothing behind it: the client's address. `None`: the proxy speaks for
/// itself (a health check), or knows no address; the connection's own is as good as any.
///
/// # Errors
/// There is none, or it cannot be read.
pub async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<SocketAddr>> {
    let mut header = Vec::with_capacity(MAX_V1);
    loop {
        match step(&header).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
            Step::Done(client) => return Ok(client),
            Step::Need(more) => {
                let known = header.len();
                header.resize(known.saturating_add(more), 0);
                let rest = header.get_mut(known..).unwrap_or_default();
                stream.read_exact(rest).await?;
            }
        }
    }
}

/// Whether a client's first bytes are a PROXY header, as far as they have come; they stay unread. In
/// no other protocol here could they be the beginning, so a header that comes in parts is refused
/// further on.
pub(super) async fn is_next(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; V2.len()];
    let count = stream.peek(&mut first).await?;
    let begun = first.get(..count).unwrap_or_default();
    Ok(begun.starts_with(V1) || begun.starts_with(V2))
}

fn step(header: &[u8]) -> Result<Step, &'static str> {
    let begins = |signature: &[u8]| {
        let length = header.len().min(signature.len());
        header.get(..length) == signature.get(..length)
    };
    let is_v2 = begins(V2);
    if !is_v2 && !begins(V1) {
        return Err("it does not begin with a PROXY header");
    }
    let missing = if header.len() < MIN_V1 {
        MIN_V1.saturating_sub(header.len())
    } else if is_v2 {
        missing_v2(header)?
    } else {
        missing_v1(header)?
    };
    if missing > 0 {
        return Ok(Step::Need(missing));
    }
    let options = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let (parsed, _) =
        ProxyHeader::parse(header, options).map_err(|_| "its PROXY header is malformed")?;
    match parsed.proxied_address() {
        None => Ok(Step::Done(None)),
        Some(address) if address.protocol == Protocol::Stream => {
            Ok(Step::Done(Some(canonical(address.source))))
        }
        Some(_) => Err("its PROXY header is not about TCP"),
    }
}

/// A line: that it goes on is known, but not how far.
fn missing_v1(header: &[u8]) -> Result<usize, &'static str> {
    if header.ends_with(b"\r\n") {
        Ok(0)
    } else if header.contains(&b'\n') || header.len() >= MAX_V1 {
        Err("its PROXY header is malformed")
    } else if header.ends_with(b"\r") {
        Ok(1)
    } else {
        Ok(2)
    }
}

/// The fixed part says how long the rest is.
fn missing_v2(header: &[u8]) -> Result<usize, &'static str> {
    let Some(&[high, low]) = header.get(V2_FIXED - 2..V2_FIXED) else {
        return Ok(V2_FIXED.saturating_sub(header.len()));
    };
    let whole = usize::from(u16::from_be_bytes([high, low])).saturating_add(V2_FIXED);
    if whole > MAX_V2 {
        return Err("its PROXY header is too long");
    }
    Ok(whole.saturating_sub(header.len()))
}

/// An IPv4 client that came by an IPv6 socket is an IPv4 client.
fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use proxy_header::ProxiedAddress;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn v1(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn v2(header: &ProxyHeader<'_>) -> Vec<u8> {
        let mut bytes = [0; 256];
        let length = header.encode_to_slice_v2(&mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    fn sound() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let four = ProxiedAddress::stream(address("192.0.2.7:4711"), address("192.0.2.1:443"));
        let six = ProxiedAddress::stream(address("[2001:db8::7]:4711"), address("[::1]:443"));
        let mut with_more = ProxyHeader::with_address(four.clone());
        with_more.append_tlv(proxy_header::Tlv::Authority("push.example.com".into()));
        vec![
            (
                v1("PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n"),
                Some(address("192.0.2.7:4711")),
            ),
            (
                v1("PROXY TCP6 2001:db8::7 ::1 4711 443\r\n"),
                Some(address("[2001:db8::7]:4711")),
            ),
            (
                v1("PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 443\r\n"),
                Some(address("192.0.2.7:4711")),
            ),
            (v1("PROXY UNKNOWN\r\n"), None),
            (
                v1("PROXY UNKNOWN ffff:f...f:ffff ffff 65535 65535\r\n"),
                None,
            ),
            (
                v2(&ProxyHeader::with_address(four)),
                Some(address("192.0.2.7:4711")),
            ),
            (
                v2(&ProxyHeader::with_address(six)),
                Some(address("[2001:db8::7]:4711")),
            ),
            (v2(&with_more), Some(address("192.0.2.7:4711"))),
            (v2(&ProxyHeader::with_local()), None),
        ]
    }

    /// However the header is cut, and whatever is behind it.
    #[tokio::test]
    async fn a_header_is_read_and_nothing_behind_it() {
        for (header, client) in sound() {
            for cut in 0..header.len() {
                let (first, second) = header.split_at(cut);
                let mut stream = first.chain(second).chain(&b"CONNECT"[..]);
                assert_eq!(read(&mut stream).await.unwrap(), client);
                let mut rest = String::new();
                stream.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, "CONNECT", "{header:?} cut at {cut}");
            }
        }
    }

    #[tokio::test]
    async fn a_part_of_a_header_is_none() {
        for (header, _) in sound() {
            for cut in 0..header.len() {
                let error = read(&mut &header[..cut]).await.unwrap_err();
                assert_eq!(
                    error.kind(),
                    io::ErrorKind::UnexpectedEof,
                    "{header:?}, {cut}"
                );
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_as_soon_as_it_shows() {
        let mut udp = v2(&ProxyHeader::with_address(ProxiedAddress::datagram(
            address("192.0.2.7:4711"),
            address("192.0.2.1:443"),
        )));
        let mut too_long = V2.to_vec();
        too_long.extend([0x21, 0x11, 0xff, 0xff]);
        let mut version_3 = v2(&ProxyHeader::with_local());
        version_3[12] = 0x30;
        let mut short = V2.to_vec();
        short.extend([0x21, 0x11, 0, 4, 192, 0, 2, 7]);
        udp.extend([0; 100]);
        let no_end = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        for bytes in [
            &b"CONNECT\naccept-version:1.2\n\n\0"[..],
            b"GET /ws HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00\x00\x00",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 66000\r\n",
            b"PROXY TCP4 2001:db8::7 ::1 4711 443\r\n",
            b"PROXY TCP5 192.0.2.7 192.0.2.1 4711 443\r\n",
            b"PROXY TCP4 192.0.2.7\r\n\r\n\r\n\r\n",
            b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\n\n\n\n\n",
            &no_end,
            &udp,
            &too_long,
            &version_3,
            &short,
        ] {
            let error = read(&mut &bytes[..]).await.unwrap_err();
            assert_eq!(
                error.kind(),
                io::ErrorKind::InvalidData,
                "{:?}: {error}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
