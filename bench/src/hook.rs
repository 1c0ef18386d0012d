//! A hook that allows everything, for the servers that are measured. Both ask the same.

use anyhow::Result;
use auth_hook::service::{self, Rules};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

/// The text before the address that it prints.
pub(crate) const LISTENING: &str = "listening on ";

/// Serves until standard input ends.
///
/// # Errors
/// It cannot listen.
pub(crate) async fn run() -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    service::serve(listener, Rules::allow_all(), async {
        // Neither the bytes nor the kind of end matter.
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
    })
    .await;
    Ok(())
}
