//! The four services that the public test document of SockJS (`sockjs-protocol`) asks for.
//!
//! ```sh
//! cargo run --release -p sockjs-server --example protocol -- --port 8081
//! ```
//!
//! `/echo` says what it hears, and so do `/disabled_websocket_echo`, which has no WebSocket, and
//! `/cookie_needed_echo`, which sets `JSESSIONID`. `/close` closes at once. Streaming answers end
//! after 4,096 bytes. At `/echo/websocket` is a WebSocket without SockJS's frames.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use clap::Parser;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sockjs_server::{
    Application, Channel, ChannelError, Opening, Options, Payload, Refusal, SockJs, Transport,
    not_found,
};
use tokio::net::TcpListener;

/// The longest message, in bytes.
const MAX_MESSAGE: usize = 17 * 1024 * 1024;
/// Bytes that may wait for a client before it is read on.
const CONGESTED: usize = 64 * 1024;
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
    let services = Arc::new(services());
    loop {
        let (stream, remote) = listener.accept().await?;
        let services = Arc::clone(&services);
        let service = service_fn(move |request: Request<Incoming>| {
            let services = Arc::clone(&services);
            async move {
                let path = request.uri().path();
                Ok::<_, Infallible>(match services.iter().find(|(at, _)| at.is_at(path)) {
                    Some((sockjs, service)) => sockjs.answer(service, request, remote).await,
                    None => not_found(),
                })
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection.with_upgrades());
    }
}

fn services() -> [(SockJs, Arc<Service>); 4] {
    let options = |prefix: &str| Options {
        response_limit: 4096,
        ..Options::at(prefix)
    };
    let mut without_websocket = options("/disabled_websocket_echo");
    without_websocket
        .transports
        .retain(|transport| *transport != Transport::Websocket);
    let with_cookie = Options {
        cookie: true,
        ..options("/cookie_needed_echo")
    };
    [
        (options("/echo"), Service::Echo),
        (options("/close"), Service::Close),
        (without_websocket, Service::Echo),
        (with_cookie, Service::Echo),
    ]
    .map(|(options, service)| (SockJs::new(options), Arc::new(service)))
}

#[derive(Clone, Copy)]
enum Service {
    Echo,
    Close,
}

impl Application for Service {
    type Caller = SocketAddr;
    type Place = ();

    fn admit(&self, _: Opening<'_, SocketAddr>) -> Result<(), Refusal> {
        Ok(())
    }

    fn max_message_size(&self) -> usize {
        MAX_MESSAGE
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
            // A client that does not listen is left.
            let _ = tokio::time::timeout(LAST_WORDS, channel.close(code, reason)).await;
        });
    }
}

/// Says what it hears, until the client has closed. Unlike the example `echo` it goes on to receive
/// while messages wait to be written, up to a bound.
fn poll_echo<C: Channel>(
    channel: &mut C,
    context: &mut Context<'_>,
) -> Poll<Result<(), ChannelError>> {
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
            Poll::Ready(Ok(Some(message))) => channel.send(Payload::whole(&message)),
            Poll::Ready(Ok(None)) => return Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// The code to close with (RFC 6455, 7.4.1).
fn farewell(error: Option<ChannelError>) -> (u16, &'static str) {
    match error {
        None => (1000, "Normal closure"),
        Some(ChannelError::NotUtf8) => (1007, "not UTF-8"),
        Some(ChannelError::TooLong { .. }) => (1009, "message too large"),
        Some(_) => (1002, "protocol error"),
    }
}
