//! Orders that clients carry out once they are connected, other than a load.

use anyhow::Result;

use super::fleet::Fleet;

/// An order that is under way.
pub(super) trait Duty {
    /// A message arrived at the client in this slot.
    fn arrived(&mut self, slot: usize, body: &[u8]);

    /// A connection is ready, and how many nanoseconds it took.
    fn ready(&mut self, _slot: usize, _took: u64) {}

    /// A connection is lost.
    fn ended(&mut self, slot: usize, why: &str);

    /// [`Enough`](crate::orders::Order::Enough) was ordered.
    fn enough(&mut self) {}

    /// Does what is due. Returns true at the end, once it has reported.
    ///
    /// # Errors
    /// The order cannot be carried out.
    fn turn(&mut self, now: u64, fleet: &mut Fleet) -> Result<bool>;
}
