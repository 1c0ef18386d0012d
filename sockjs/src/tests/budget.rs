//! Room for what clients send is claimed before it is read.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;

use super::*;

/// An account that has room for everything, and knows how much of it is taken.
#[derive(Debug, Default)]
struct Account {
    claimed: AtomicUsize,
}

struct Part {
    account: Arc<Account>,
    bytes: usize,
}

impl Budget for Account {
    fn free(&self) -> usize {
        1024
    }

    fn claim(self: Arc<Self>) -> Box<dyn Claim> {
        Box::new(Part {
            account: self,
            bytes: 0,
        })
    }
}

impl Claim for Part {
    fn bytes(&self) -> usize {
        self.bytes
    }

    fn poll_grow(&mut self, bytes: usize, _: &mut Context<'_>) -> Poll<()> {
        self.account.claimed.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        Poll::Ready(())
    }

    fn attach(&mut self, message: Bytes) -> Bytes {
        let bytes = message.len().min(self.bytes);
        self.bytes -= bytes;
        let part = Self {
            account: Arc::clone(&self.account),
            bytes,
        };
        Bytes::from_owner(Kept {
            message,
            _part: part,
        })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.account
            .claimed
            .fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

struct Kept {
    message: Bytes,
    _part: Part,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.message
    }
}

#[tokio::test]
async fn a_message_keeps_its_claim_until_it_is_gone() {
    let account = Arc::new(Account::default());
    let service = Service {
        does: Does::Wait,
        max_message_size: 16 * 1024,
        budget: Some(Arc::clone(&account) as Arc<dyn Budget>),
    };
    let server = serve(Options::at("/echo"), service).await;
    server.open("a").await;
    let claimed = || account.claimed.load(Ordering::Relaxed);
    server.send("a", "[\"small\"]").await;
    assert_eq!(claimed(), 0);
    let large = "x".repeat(10_000);
    server
        .send("a", &format!("[\"{large}\",\"{large}\"]"))
        .await;
    assert_eq!(claimed(), 20_000);
    // A request that is refused gives back all.
    let broken = server
        .post("/echo/0/a/xhr_send", &format!("[\"{large}"))
        .await;
    assert_eq!(broken.status, 500);
    assert_eq!(claimed(), 20_000);
}
