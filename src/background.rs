//! Tasks of the program's own: few, long, or seldom begun.

use std::future::Future;

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;

/// As `tokio::spawn`, with the future in a box. tokio compiles its scheduler's part anew for each type
/// of future, 4 KB each time; for all in a box there is one. A box costs an allocation for each task,
/// and a jump for each poll: not for what is begun for each message or connection.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::spawn(future.boxed())
}
