//! Row by row what SockJS owes, on real sockets, with a service that says what it hears.

mod budget;
mod client;
mod rules;
mod sessions;

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinSet,
    time::timeout,
};

use self::client::{Reply, Stream, ask};
use super::*;

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
    /// Receives nothing.
    Wait,
    /// Asks the client if it lives, and says so when it does.
    Ask,
}

struct Service {
    does: Does,
    max_message_size: usize,
    budget: Option<Arc<dyn Budget>>,
}

impl Application for Service {
    type Caller = SocketAddr;
    type Place = ();

    const PROTOCOLS: &'static [&'static str] = &["v1.echo"];

    fn check(&self, headers: &HeaderMap, _: &SocketAddr) -> Result<(), Refusal> {
        if headers
            .get(header::ORIGIN)
            .is_some_and(|origin| origin == "https://evil.example")
        {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "not you"));
        }
        Ok(())
    }

    fn admit(&self, _: Opening<'_, SocketAddr>) -> Result<(), Refusal> {
        match self.does {
            Does::Refuse => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no room")),
            _ => Ok(()),
        }
    }

    fn max_message_size(&self) -> usize {
        self.max_message_size
    }

    fn serve<C: Channel>(&self, mut channel: C, (): ()) {
        let (does, budget) = (self.does, self.budget.clone());
        channel.set_budget(&|| budget.clone());
        tokio::spawn(async move {
            match does {
                Does::Echo => while echo(&mut channel).await {},
                Does::Wait => pending().await,
                Does::Ask => ask_if_it_lives(&mut channel).await,
                Does::Close | Does::Refuse => {}
            }
            let _ = timeout(TIMEOUT, channel.close(3000, "Go away!")).await;
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
        Ok(Some(message)) => channel.send(Payload::whole(&message)),
        Ok(None) | Err(_) => return false,
    }
    true
}

async fn ask_if_it_lives<C: Channel>(channel: &mut C) {
    assert!(channel.has_pings() && !channel.was_answered());
    channel.ping();
    channel.flush().await.unwrap();
    let answer = channel.receive().await.unwrap();
    assert_eq!(answer.as_deref(), Some(&b""[..]));
    assert!(channel.was_answered() && !channel.was_answered());
    channel.send(Payload::text("alive"));
    channel.flush().await.unwrap();
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

async fn server_with(does: Does, set: impl FnOnce(&mut Options)) -> Server {
    let mut options = Options {
        response_limit: 4096,
        ..Options::at("/echo")
    };
    set(&mut options);
    let service = Service {
        does,
        max_message_size: 16 * 1024,
        budget: None,
    };
    serve(options, service).await
}

async fn serve(options: Options, service: Service) -> Server {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let sockjs = Arc::new(SockJs::new(options));
    let (stop, stopped) = oneshot::channel::<()>();
    let (served, service) = (Arc::clone(&sockjs), Arc::new(service));
    let accepting = async move {
        while let Ok((stream, remote)) = listener.accept().await {
            let (sockjs, service) = (Arc::clone(&served), Arc::clone(&service));
            let answer = service_fn(move |request: Request<Incoming>| {
                let (sockjs, service) = (Arc::clone(&sockjs), Arc::clone(&service));
                async move { Ok::<_, Infallible>(sockjs.answer(&service, request, remote).await) }
            });
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
            tokio::spawn(connection.with_upgrades());
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = accepting => {}
            _ = stopped => {}
        }
    });
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
        let reply = self.post(&format!("/echo/000/{id}/xhr"), "").await;
        assert_eq!((reply.status, &*reply.body), (200, "o\n"));
    }

    async fn poll(&self, id: &str) -> String {
        let reply = self.post(&format!("/echo/000/{id}/xhr"), "").await;
        assert_eq!(reply.status, 200);
        reply.body
    }

    /// Waits until a request receives for this session.
    async fn until_received(&self, id: &str) {
        let query = SessionQuery {
            id,
            address: Some(self.address.ip()),
            identity: None,
        };
        until(|| {
            let session = self.sockjs.sessions().find(query);
            session.is_some_and(|session| session.has_receiver())
        })
        .await;
    }

    async fn send(&self, id: &str, body: &str) {
        let path = format!("/echo/000/{id}/xhr_send");
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
