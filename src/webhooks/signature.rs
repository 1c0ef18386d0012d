//! The signature of a request (pure).

use std::fmt::Write as _;

use ring::hmac;

/// The header that carries it.
pub(super) const HEADER: &str = "stentor-signature";

/// The value of the header `Stentor-Signature`: `t=SECONDS,v1=HEX`. `v1` is the HMAC-SHA256, by the
/// secret, of the seconds in decimal digits, a point, and the body.
pub(super) fn sign(secret: &str, seconds: u64, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(seconds.to_string().as_bytes());
    context.update(b".");
    context.update(body);
    let mut header = format!("t={seconds},v1=");
    for byte in context.sign().as_ref() {
        // Writing to a `String` cannot fail.
        let _ = write!(header, "{byte:02x}");
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digits are Python's: `hmac.new(b"0123456789abcdef", b"1795000000.{}", "sha256")`.
    #[test]
    fn time_and_body_are_signed() {
        let signed = sign("0123456789abcdef", 1_795_000_000, b"{}");
        assert_eq!(
            signed,
            "t=1795000000,v1=0e41ae18dec0c98f9ccccdfc9da1d6b897e12bde7815a6055d8739af8b38df59"
        );
        for other in [
            sign("0123456789abcdeF", 1_795_000_000, b"{}"),
            sign("0123456789abcdef", 1_795_000_001, b"{}"),
            sign("0123456789abcdef", 1_795_000_000, b"{ }"),
        ] {
            assert_ne!(signed, other);
        }
    }
}
