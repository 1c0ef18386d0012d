//! Row by row what SockJS owes, on real sockets, with a service that says what it hears.

mod client;
mod rules;
mod sessions;

use std::{
    future::poll_fn,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use self::client::{Reply, Stream, ask};
use super::*;
use crate::{
    connection::Outbound,
    http::{Client, serve_requests},
    listen::{Entrance, KeepAlive, Plain},
};

const TIMEOUT: Duration = Duration::from_secs(30);

/// What a service does with its sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Says what it hears.
    Echo,
    /// Closes.
    Close,
    /// Has no room.
    Refuse,
}

struct Service {
    does: Does,
    max_message_size: usize,
}

impl Application for Service {
    type Place = ();

    const PROTOCOLS: &'static [&'static str] = &["v12.stomp"];

    fn check(&self, headers: &HeaderMap, _: &Client) -> Result<(), Refusal> {
        if headers
            .get(header::ORIGIN)
            .is_some_and(|origin| origin == "https://evil.example")
        {
            return Err(Refusal {
                status: StatusCode::FORBIDDEN,
                text: "not you".to_owned(),
            });
        }
        Ok(())
    }

    fn check_web_socket(&self, _: &HeaderMap) -> Result<(), Refusal> {
        Ok(())
    }

    fn admit(&self, _: Opening<'_>) -> Result<(), Refusal> {
        match self.does {
            Does::Refuse => Err(Refusal {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: "no room".to_owned(),
            }),
            _ => Ok(()),
        }
    }

    fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    fn frame_ancestors(&self) -> Option<HeaderValue> {
        None
    }

    fn serve<C: Channel>(&self, mut channel: C, (): ()) {
        let does = self.does;
        tokio::spawn(async move {
            match does {
                Does::Echo => while echo(&mut channel).await {},
                Does::Close | Does::Refuse => {}
            }
            let close = poll_fn(|context| channel.poll_close_with(context, 3000, "Go away!"));
            let _ = timeout(TIMEOUT, close).await;
        });
    }
}

/// Hears one message, and says it.
async fn echo<C: Channel>(channel: &mut C) -> bool {
    let heard = poll_fn(|context| {
        if channel.pending() > 0 {
            let _ = channel.poll_flush(context);
        }
        channel.poll_receive(context)
    });
    match heard.await {
        Ok(Some(message)) => channel.send(Outbound::whole(&message)),
        Ok(None) | Err(_) => return false,
    }
    true
}

/// A server, until it is dropped.
struct Server {
    address: SocketAddr,
    sockjs: Arc<SockJs>,
    _stop: oneshot::Sender<()>,
}

async fn server(does: Does) -> Server {
    server_with(does, |_| {}).await
}

async fn server_with(does: Does, set: impl FnOnce(&mut Config)) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut config = Config {
        response_limit: 4096,
        ..Config::default()
    };
    set(&mut config);
    let sockjs = Arc::new(SockJs::new(config).unwrap());
    let service = Arc::new(Service {
        does,
        max_message_size: 16 * 1024,
    });
    let (stop, stopped) = oneshot::channel();
    let entrance = Entrance {
        what: "http",
        layer: Plain,
        proxy_protocol: false,
        timeout: TIMEOUT,
        keep_alive: KeepAlive::default(),
    };
    let served = Arc::clone(&sockjs);
    let stopped = async {
        let _ = stopped.await;
    };
    tokio::spawn(serve_requests(
        listener,
        entrance,
        TIMEOUT,
        stopped,
        move |request, client| {
            let (sockjs, service) = (Arc::clone(&served), Arc::clone(&service));
            async move {
                sockjs
                    .answer::<TcpStream, _>(&service, request, client)
                    .await
            }
        },
    ));
    Server {
        address,
        sockjs,
        _stop: stop,
    }
}

impl Server {
    async fn get(&self, path: &str) -> Reply {
        ask(self, "GET", path, &[], b"").await
    }

    async fn post(&self, path: &str, body: &str) -> Reply {
        ask(self, "POST", path, &[], body.as_bytes()).await
    }

    /// A session of this name that is open.
    async fn open(&self, id: &str) {
        let reply = self.post(&format!("/stomp/000/{id}/xhr"), "").await;
        assert_eq!((reply.status, &*reply.body), (200, "o\n"));
    }

    async fn poll(&self, id: &str) -> String {
        let reply = self.post(&format!("/stomp/000/{id}/xhr"), "").await;
        assert_eq!(reply.status, 200);
        reply.body
    }

    /// Waits until a request receives for this session.
    async fn until_received(&self, id: &str) {
        let asking = Asking {
            id,
            from: self.address.ip(),
            certificate: None,
        };
        until(|| {
            let session = self.sockjs.sessions().find(asking);
            session.is_some_and(|session| session.has_receiver())
        })
        .await;
    }

    async fn send(&self, id: &str, body: &str) {
        let path = format!("/stomp/000/{id}/xhr_send");
        let reply = self.post(&path, body).await;
        assert_eq!((reply.status, &*reply.body), (204, ""), "{reply:?}");
    }
}

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, waiting).await.unwrap();
}
