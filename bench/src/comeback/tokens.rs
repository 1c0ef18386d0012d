//! Tokens of the users: JWT, signed with a secret (HS256).

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

/// The secret that the gateways know.
pub(super) const SECRET: &str = "a secret of the bench, known to all";

/// Ends in the year 2100.
const EXPIRY: u64 = 4_102_444_800;

/// The token of a user.
pub(super) fn token(user: u32) -> String {
    let head = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let claims = format!(r#"{{"sub":"{user}","exp":{EXPIRY}}}"#);
    let signed = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}
