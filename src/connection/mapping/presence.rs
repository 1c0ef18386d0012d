//! A client's own statements to presence (pure): with CONNECT, and by SEND to `/presence`.

use stomp_grammar::{Command, Headers};
use stomp_session::Problem;

use crate::presence::{Device, Status};

/// A client sets its status here, in the header `status`. It is no exchange or queue.
pub(super) const DESTINATION: &str = "/presence";

/// The device that a CONNECT names (`device-type`, `device-id`), and how available its client is
/// from the start (`presence-status`).
///
/// # Errors
/// [`Problem::InvalidHeader`].
pub(crate) fn connect(headers: &Headers) -> Result<(Option<Box<Device>>, Status), Problem> {
    let of = |header, most, expected| match headers.get(header) {
        None | Some("") => Ok(None),
        Some(text) if text.len() <= most => Ok(Some(text.into())),
        Some(_) => Err(invalid(Command::Connect, header, expected)),
    };
    let device = Device {
        kind: of("device-type", Device::MAX_KIND, "at most 32 bytes")?,
        id: of("device-id", Device::MAX_ID, "at most 128 bytes")?,
    };
    let status = match headers.get("presence-status") {
        None => Status::default(),
        Some(text) => status(Command::Connect, "presence-status", text)?,
    };
    let is_named = device != Device::default();
    Ok((is_named.then(|| Box::new(device)), status))
}

/// The status of a SEND to [`DESTINATION`]. Its body has no meaning.
///
/// # Errors
/// [`Problem::MissingHeader`], [`Problem::InvalidHeader`].
pub(super) fn send(headers: &Headers) -> Result<Status, Problem> {
    let (command, header) = (Command::Send, "status");
    let text = headers
        .get(header)
        .ok_or(Problem::MissingHeader { command, header })?;
    status(command, header, text)
}

fn status(command: Command, header: &'static str, text: &str) -> Result<Status, Problem> {
    text.parse()
        .map_err(|_| invalid(command, header, Status::SETTABLE))
}

fn invalid(command: Command, header: &'static str, expected: &'static str) -> Problem {
    Problem::InvalidHeader {
        command,
        header,
        expected,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(headers: &[(&str, &str)]) -> Headers {
        let mut made = Headers::default();
        for (name, value) in headers {
            made.push(name, value);
        }
        made
    }

    #[test]
    fn a_connect_may_name_its_device_and_status() {
        let none = connect(&headers(&[("login", "a"), ("device-id", "")]));
        assert_eq!(none.unwrap(), (None, Status::Online));
        let (device, status) = connect(&headers(&[
            ("device-type", "phone"),
            ("presence-status", "invisible"),
        ]))
        .unwrap();
        let phone = Device {
            kind: Some("phone".into()),
            id: None,
        };
        assert_eq!((*device.unwrap(), status), (phone, Status::Invisible));
    }

    #[test]
    fn what_cannot_be_is_named_with_what_can() {
        let long = "x".repeat(129);
        for (header, value, expected) in [
            ("device-type", &*long, "at most 32 bytes"),
            ("device-id", &long, "at most 128 bytes"),
            ("presence-status", "offline", Status::SETTABLE),
        ] {
            let detail = connect(&headers(&[(header, value)])).unwrap_err().detail();
            assert!(
                detail.contains(header) && detail.contains(expected),
                "{detail}"
            );
        }
        let detail = send(&headers(&[("status", "gone")])).unwrap_err().detail();
        assert!(
            detail.contains("online, away, busy or invisible"),
            "{detail}"
        );
        let missing = send(&headers(&[])).unwrap_err();
        assert_eq!(missing.message(), "Missing header");
        assert_eq!(send(&headers(&[("status", "busy")])).unwrap(), Status::Busy);
    }
}
