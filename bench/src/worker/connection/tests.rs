//! A client reads the same from bytes in any pieces.

use std::net::TcpListener;

use super::*;

/// A WebSocket frame, as a server sends it.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126, "{length}");
    [&[0x80 | opcode, length], payload].concat()
}

/// A client that has sent its upgrade, and the listener that keeps its other end open.
fn client(habits: Habits) -> (Connection, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    let socket = std::net::TcpStream::connect(server).unwrap();
    socket.set_nonblocking(true).unwrap();
    let socket = Socket::Plain(TcpStream::from_std(socket));
    let link = Link::new(habits.transport);
    let mut client = Connection::new(socket, link, Kind::Steady, 1, server, habits, false);
    client.connected().unwrap();
    (client, listener)
}

const UPGRADED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

/// All that a server says to a client with two subscriptions; a message is split over two frames,
/// two come in one.
fn conversation() -> Vec<u8> {
    let message = |body: &str| format!("MESSAGE\nsubscription:0\n\n{body}\0\n");
    let (first, second) = (message("one"), message("two"));
    let (begin, end) = first.split_at(20);
    [
        UPGRADED.to_vec(),
        frame(2, b"CONNECTED\nversion:1.2\n\n\0"),
        frame(1, b"RECEIPT\nreceipt-id:s\n\n\0\n"),
        frame(9, b"ping"),
        frame(1, b"RECEIPT\nreceipt-id:s\n\n\0\n"),
        frame(1, b"\n"),
        frame(1, begin.as_bytes()),
        frame(1, end.as_bytes()),
        frame(1, [second, message("three")].concat().as_bytes()),
        frame(1, b"RECEIPT\nreceipt-id:s\n\n\0\n"),
    ]
    .concat()
}

#[test]
fn the_pieces_do_not_matter() {
    let habits = Habits {
        own_key: true,
        common_key: true,
        ..Habits::default()
    };
    let bytes = conversation();
    for size in [1, 2, 3, 7, 50, bytes.len()] {
        let (mut client, _listener) = client(habits);
        let (mut subscribed, mut bodies) = (0, Vec::new());
        for piece in bytes.chunks(size) {
            let mut message = |body: &[u8]| bodies.push(String::from_utf8(body.to_vec()).unwrap());
            client
                .received(piece, &mut subscribed, &mut message)
                .unwrap();
        }
        assert_eq!(bodies, ["one", "two", "three"], "in pieces of {size}");
        assert_eq!((client.stage(), subscribed), (Stage::Ready, 1));
        assert_eq!((client.raw.len(), client.text.len()), (0, 0));
    }
}

#[test]
fn an_end_says_why() {
    for (bytes, why) in [
        (
            frame(8, b"\x03\xf0denied"),
            "closed by the server: 1008 denied",
        ),
        (frame(8, b""), "closed by the server"),
        (
            frame(1, b"ERROR\nmessage:Bad CONNECT\n\nno\n\0"),
            "ERROR Bad CONNECT: no",
        ),
        (frame(1, b"RECEIPT\nreceipt-id:s\n\n\0"), ""),
    ] {
        let (mut client, _listener) = client(Habits::default());
        let bytes = [UPGRADED, &bytes].concat();
        let ended = client.received(&bytes, &mut 0, &mut |_| {});
        assert_eq!(ended.err().unwrap_or_default(), why);
    }
}
