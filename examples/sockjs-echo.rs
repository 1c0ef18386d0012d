//! The four services that the public test document of SockJS (`sockjs-protocol`) asks for, on the
//! gateway's own transport. Only what they say is here.
//!
//! ```sh
//! cargo run --release --example sockjs-echo -- --port 8081
//! ```
//!
//! `/echo` says what it hears, and so do `/disabled_websocket_echo`, which has no WebSocket, and
//! `/cookie_needed_echo`, which sets `JSESSIONID`. `/close` closes at once. Streaming answers end
//! after 4,096 bytes. At `/echo/websocket` is a WebSocket without SockJS's frames.

use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clap::Parser;
use hyper::{HeaderMap, Request, body::Incoming, header::HeaderValue};
use stentor::{
    connection::{LinkError, Outbound},
    http::{
        Client, Refusal, serve_requests,
        sockjs::{Application, Opening, SockJs, not_found},
    },
    listen::{
        Entrance, KeepAlive, Plain,
        sockjs::{Channel, Config, Transport},
    },
};
use tokio::net::{TcpListener, TcpStream};

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 17 * 1024 * 1024;
/// Bytes that may wait for a client before it is read on.
const CONGESTED: usize = 64 * 1024;
/// How long a client may read nothing of what is written to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take for the last words.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The services of SockJS's test document.
#[derive(Parser)]
struct Arguments {
    /// The port to listen on; 0: any that is free.
    #[arg(long, default_value_t = 8081)]
    port: u16,
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let address = SocketAddr::new(arguments.host, arguments.port);
    let listener = TcpListener::bind(address).await?;
    println!("http://{}/echo", listener.local_addr()?);
    let entrance = Entrance {
        what: "http",
        layer: Plain,
        proxy_protocol: false,
        keep_alive: KeepAlive::default(),
        timeout: Duration::from_secs(10),
    };
    let services = Arc::new(services());
    let stop = async {
        // If there is no such signal, it runs until it is killed.
        let _ = tokio::signal::ctrl_c().await;
    };
    let answer = move |request: Request<Incoming>, client| {
        let services = Arc::clone(&services);
        async move {
            let path = request.uri().path();
            match services.iter().find(|(sockjs, _)| sockjs.is_at(path)) {
                Some((sockjs, service)) => {
                    sockjs
                        .answer::<TcpStream, _>(service, request, client)
                        .await
                }
                None => not_found(),
            }
        }
    };
    serve_requests(listener, entrance, WRITE_TIMEOUT, stop, answer).await;
    Ok(())
}

fn services() -> Vec<(SockJs, Arc<Service>)> {
    let config = |prefix: &str| Config {
        prefix: Some(prefix.to_owned()),
        response_limit: 4096,
        ..Config::default()
    };
    let mut without_websocket = config("/disabled_websocket_echo");
    without_websocket
        .transports
        .retain(|transport| *transport != Transport::Websocket);
    let with_cookie = Config {
        cookie: true,
        ..config("/cookie_needed_echo")
    };
    let services = [
        (config("/echo"), Service::Echo),
        (config("/close"), Service::Close),
        (without_websocket, Service::Echo),
        (with_cookie, Service::Echo),
    ];
    let services = services.into_iter();
    services
        .filter_map(|(config, service)| Some((SockJs::new(config)?, Arc::new(service))))
        .collect()
}

#[derive(Clone, Copy)]
enum Service {
    Echo,
    Close,
}

impl Application for Service {
    type Place = ();

    const PROTOCOLS: &'static [&'static str] = &[];

    fn check(&self, _: &HeaderMap, _: &Client) -> Result<(), Refusal> {
        Ok(())
    }

    fn check_web_socket(&self, _: &HeaderMap) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit(&self, _: Opening<'_>) -> Result<(), Refusal> {
        Ok(())
    }

    fn max_message_size(&self) -> usize {
        MAX_MESSAGE
    }

    fn frame_ancestors(&self) -> Option<HeaderValue> {
        None
    }

    fn serve<C: Channel>(&self, mut channel: C, (): ()) {
        let service = *self;
        tokio::spawn(async move {
            let (code, reason) = match service {
                Service::Echo => {
                    let ended = poll_fn(|context| poll_echo(&mut channel, context)).await;
                    farewell(ended.err())
                }
                Service::Close => (3000, "Go away!"),
            };
            let closing = poll_fn(|context| channel.poll_close_with(context, code, reason));
            // Who does not listen is left.
            let _ = tokio::time::timeout(LAST_WORDS, closing).await;
        });
    }
}

/// Says what it hears, until the client has closed.
fn poll_echo<C: Channel>(
    channel: &mut C,
    context: &mut Context<'_>,
) -> Poll<Result<(), LinkError>> {
    loop {
        if channel.pending() > 0
            && let Poll::Ready(flushed) = channel.poll_flush(context)
        {
            flushed?;
        }
        if channel.pending() >= CONGESTED {
            return Poll::Pending;
        }
        match channel.poll_receive(context) {
            Poll::Ready(Ok(Some(message))) => channel.send(Outbound::whole(&message)),
            Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// The code to close with (RFC 6455, 7.4.1).
fn farewell(error: Option<LinkError>) -> (u16, &'static str) {
    match error {
        None => (1000, "Normal closure"),
        Some(LinkError::NotUtf8) => (1007, "not UTF-8"),
        Some(LinkError::TooBig { .. }) => (1009, "message too large"),
        Some(_) => (1002, "protocol error"),
    }
}
