//! Sockets to links: one accept loop for all listeners, the PROXY protocol and TLS, and the
//! transports.

mod config;
mod entrance;
mod outgoing;
mod proxy_protocol;
mod tcp;
pub mod tls;
mod websocket;

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::net::{TcpListener, TcpStream};

pub use config::Config;
pub(crate) use entrance::Places;
pub use entrance::{Entered, Entrance, Plain, Secure, Transport};
pub use tcp::TcpLink;
pub use tls::{Tls, TlsError};
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

/// Serves STOMP over streams of bytes until `stop` is done.
pub async fn serve_stomp<T: Transport>(
    listener: TcpListener,
    entrance: Entrance<T>,
    services: Arc<Services>,
    stop: impl Future<Output = ()>,
) {
    let what = entrance.what;
    let (entrance, places) = (Arc::new(entrance), Places::new());
    accept(listener, what, stop, |stream, remote| {
        let (entrance, places) = (Arc::clone(&entrance), places.clone());
        let services = Arc::clone(&services);
        async move {
            let Some(_place) = places.take(what) else {
                return;
            };
            let Some(entered) = entrance.admit(stream, remote).await else {
                return;
            };
            let Some(guard) = services.enter() else {
                telemetry::connection_limit_reached(what, services.registry.max());
                return;
            };
            let link = TcpLink::new(entered.stream);
            let peer = Peer {
                remote: entered.remote,
                transport: "tcp",
                certificate: entered.certificate.map(Box::new),
            };
            // A task of its own, which keeps nothing of how the client came in.
            tokio::spawn(connection::serve(services, link, peer, guard));
        }
    })
    .await;
}

#[cfg(test)]
mod tests;
