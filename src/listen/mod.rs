//! Sockets to links: one accept loop for all listeners, and the transports.

mod config;
mod outgoing;
mod tcp;
mod websocket;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

pub use config::Config;
pub use tcp::TcpLink;
pub use websocket::WebSocketLink;

use crate::{
    connection::{self, Peer, Services},
    telemetry,
};

/// Opens an address.
///
/// # Errors
/// It cannot be opened; the text names it.
pub async fn bind(address: SocketAddr, what: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("cannot listen on {address} ({what}): {error}"),
        )
    })?;
    telemetry::listening(listener.local_addr()?, what);
    Ok(listener)
}

/// Accepts until `stop` is done, and hands each stream to `serve`.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    what: &'static str,
    stop: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, remote)) => {
                // Frames are small, and wait for no others. If it fails, the socket is gone.
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, remote));
            }
            Err(error) => {
                telemetry::accept_failed(what, &error);
                // Out of files, most likely: that takes a moment to get better.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves STOMP over plain streams until `stop` is done.
pub async fn serve_stomp(
    listener: TcpListener,
    services: Arc<Services>,
    stop: impl Future<Output = ()>,
) {
    accept(listener, "stomp", stop, |stream, remote| {
        let services = Arc::clone(&services);
        async move {
            match services.enter() {
                Some(guard) => {
                    let peer = Peer {
                        remote,
                        transport: "tcp",
                        carried: None,
                    };
                    connection::serve(services, TcpLink::new(stream), peer, guard).await;
                }
                None => {
                    telemetry::connection_limit_reached("stomp", services.registry.max());
                }
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests;
