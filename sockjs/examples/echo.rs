//! An echo by every transport, and a page to try them.
//!
//! ```sh
//! cargo run -p sockjs-server --example echo
//! ```

use std::{convert::Infallible, io, net::SocketAddr, sync::Arc};

use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use sockjs_server::{
    Application, Body, Channel, Opening, Options, Payload, Refusal, SockJs, not_found,
};
use tokio::net::TcpListener;

struct Echo;

impl Application for Echo {
    type Caller = SocketAddr;
    type Place = ();

    fn admit(&self, _: Opening<'_, SocketAddr>) -> Result<(), Refusal> {
        Ok(())
    }

    fn serve<C: Channel>(&self, mut channel: C, (): ()) {
        tokio::spawn(async move {
            while channel.flush().await.is_ok()
                && let Ok(Some(message)) = channel.receive().await
            {
                channel.send(Payload::whole(&message));
            }
        });
    }
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let port = std::env::args().nth(1);
    let port = port.map_or(Ok(8081), |port| port.parse().map_err(io::Error::other))?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("http://{}/", listener.local_addr()?);
    let (sockjs, echo) = (Arc::new(SockJs::new(Options::at("/echo"))), Arc::new(Echo));
    loop {
        let (stream, remote) = listener.accept().await?;
        let (sockjs, echo) = (Arc::clone(&sockjs), Arc::clone(&echo));
        let service = service_fn(move |request: Request<Incoming>| {
            let (sockjs, echo) = (Arc::clone(&sockjs), Arc::clone(&echo));
            async move {
                Ok::<_, Infallible>(match request.uri().path() {
                    "/" => Response::new(Body::from(include_str!("echo.html"))),
                    path if sockjs.is_at(path) => sockjs.answer(&echo, request, remote).await,
                    _ => not_found(),
                })
            }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection.with_upgrades());
    }
}
