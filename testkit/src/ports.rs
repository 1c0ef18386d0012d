//! Names and ports that nobody else has.

use std::{
    net::TcpListener,
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// A name that is used once on this machine, for queues, users, virtual hosts and the like.
#[must_use]
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{next}", process::id())
}

/// Ports of 127.0.0.1 that are free now, for programs that cannot be told to take any. They lie
/// below the range from which the system takes the ports of outgoing connections, so that a port
/// stays free while its server restarts. A caller must expect to lose a race, and retry.
#[must_use]
pub fn free_ports<const N: usize>() -> [u16; N] {
    let listeners: [TcpListener; N] = std::array::from_fn(|_| {
        (0..1000)
            .find_map(|_| {
                let port = rand::random_range(10_000..32_000);
                TcpListener::bind(("127.0.0.1", port)).ok()
            })
            .expect("some port is free")
    });
    listeners.map(|listener| listener.local_addr().expect("it is bound").port())
}
