//! The promises, as a model with random faults; and a sequence at work, in virtual time.

mod model;
mod working;
