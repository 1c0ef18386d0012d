//! The application's hook.

use std::{fmt::Display, time::Duration};

use tracing::{error, info, warn};

use crate::{codes::Code, telemetry::metrics};

/// A call of the hook failed, and what follows; nor had `unsaid` more since this was said the last
/// time.
pub fn hook_at_fault(
    call: &dyn Display,
    path: &str,
    result: &str,
    cause: &dyn Display,
    unsaid: u64,
) {
    let call = call.to_string();
    error!(
        target: "stentor::auth", code = Code::HookFault.name(), call, path, unsaid,
        "the auth hook is at fault, {result}: {cause}"
    );
}

/// The hook answers again; so many faults went unsaid.
pub fn hook_answers_again(call: &dyn Display, path: &str, unsaid: u64) {
    let call = call.to_string();
    info!(target: "stentor::auth", call, path, unsaid, "the auth hook answers again");
}

/// The hook's server takes no URL as long as that of a question. Said now and then, with the number
/// that went unsaid.
pub fn hook_url_too_long(call: &dyn Display, path: &str, status: u16, unsaid: u64) {
    let call = call.to_string();
    warn!(
        target: "stentor::auth", call, path, status, unsaid,
        "the auth hook's server refused a question for its length, and who asks so is denied; \
         with [auth] http_method = \"post\" questions may be longer"
    );
}

/// So many times in an interval of `[auth] recheck` a session's turn came while the hook was still
/// being asked about it; and so many subscriptions were left to the next recheck of their session, for
/// want of time or of an answer.
pub fn rechecks_late(passed_over: u64, left: u64) {
    warn!(
        target: "stentor::auth", passed_over, left,
        "sessions or their subscriptions are asked about less often than [auth] recheck says: the \
         hook is slow, or gives no answer"
    );
}

/// These paths of the hook are not set, so the requests that they check are denied to everybody, or
/// allowed.
pub fn hook_unset(keys: &str, is_allowed: bool) {
    let done = if is_allowed { "ALLOWED" } else { "DENIED" };
    warn!(
        target: "stentor::auth::http", code = Code::HookUnset.name(),
        "auth: not set: {keys}; requests that they check are {done} TO EVERYBODY"
    );
}

/// The hook was called: the time that it took, and if it failed. The log has the fault.
pub fn hook_called(call: &'static str, took: Duration, is_fault: bool) {
    metrics::hook_called(call, took, is_fault);
}

/// So many questions of a call with many have no answer of the contract. The log has the fault.
pub fn hook_faults(call: &'static str, questions: usize) {
    metrics::hook_faults(call, questions);
}

/// The hook was called with so many questions at once.
pub fn hook_batched(questions: usize) {
    metrics::hook_batched(questions);
}
