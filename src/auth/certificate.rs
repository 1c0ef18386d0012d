//! The user's name in a client's certificate, in the very text that RabbitMQ makes of it
//! (`rabbit_ssl:peer_cert_auth_name`, 3.10): names that hooks and permissions know stay valid.
//!
//! Who signs certificates decides what is in them, but need not have thought of user names: what
//! cannot be one is none.

use std::borrow::Cow;

use serde::Deserialize;
use thiserror::Error;
use x509_parser::{
    asn1_rs::{Any, Tag},
    prelude::{FromDer, X509Certificate},
    x509::{AttributeTypeAndValue, X509Name},
};

/// The longest name, in bytes: as long as a name at RabbitMQ can be.
const MAX_NAME: usize = 255;

/// Whether a client's certificate is a login, and what of it is the user's name
/// (`auth.certificate_login`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CertificateLogin {
    /// Certificates log nobody in.
    #[default]
    Off,
    /// The subject's common name; if there are several, all of them, with commas between.
    CommonName,
    /// The whole subject, the most specific part first: `CN=alice,O=Example`.
    DistinguishedName,
}

/// Why there is no user's name in a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// It cannot be read.
    #[error("it is no X.509 certificate")]
    Malformed,
    /// The subject is empty, or has no common name.
    #[error("its subject has no such name")]
    Missing,
    /// A part of it is not text.
    #[error("its subject is not all text")]
    NotText,
    /// Nobody types, and no log shows, such a name.
    #[error("its name has control characters")]
    Control,
    /// It is longer than any name at RabbitMQ.
    #[error("its name has more than {MAX_NAME} bytes")]
    TooLong,
}

/// The user's name in a certificate (DER) whose chain was verified. `None`: certificates log
/// nobody in.
///
/// # Errors
/// [`NameError`]: there is none that could be used.
pub fn user_name(
    certificate: &[u8],
    login: CertificateLogin,
) -> Result<Option<Box<str>>, NameError> {
    let read = match login {
        CertificateLogin::Off => return Ok(None),
        CertificateLogin::CommonName => common_name,
        CertificateLogin::DistinguishedName => distinguished_name,
    };
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| NameError::Malformed)?;
    let name = read(certificate.subject())?;
    if name.is_empty() {
        Err(NameError::Missing)
    } else if name.len() > MAX_NAME {
        Err(NameError::TooLong)
    } else if name.contains(char::is_control) {
        Err(NameError::Control)
    } else {
        Ok(Some(name.into()))
    }
}

/// A subject as [`CertificateLogin::DistinguishedName`] writes it.
///
/// # Errors
/// A part of it is not text.
pub fn distinguished_name(subject: &X509Name<'_>) -> Result<String, NameError> {
    let mut relative = Vec::new();
    for set in subject.iter_rdn() {
        let parts: Result<Vec<_>, _> = set.iter().map(part).collect();
        relative.push(parts?.join("+"));
    }
    relative.reverse();
    Ok(relative.join(","))
}

fn common_name(subject: &X509Name<'_>) -> Result<String, NameError> {
    let names: Result<Vec<_>, _> = subject
        .iter_common_name()
        .map(|name| text(name.attr_value(), false))
        .collect();
    Ok(names?.join(","))
}

fn part(attribute: &AttributeTypeAndValue<'_>) -> Result<String, NameError> {
    let kind = attribute.attr_type().to_id_string();
    let (kind, is_ia5) = match kind.as_str() {
        "2.5.4.3" => ("CN", false),
        "2.5.4.4" => ("SN", false),
        "2.5.4.5" => ("SERIALNUMBER", false),
        "2.5.4.6" => ("C", false),
        "2.5.4.7" => ("L", false),
        "2.5.4.8" => ("ST", false),
        "2.5.4.10" => ("O", false),
        "2.5.4.11" => ("OU", false),
        "2.5.4.12" => ("TITLE", false),
        "2.5.4.42" => ("GIVENNAME", false),
        "2.5.4.43" => ("INITIALS", false),
        "2.5.4.44" => ("GENERATIONQUALIFIER", false),
        "2.5.4.65" => ("PSEUDONYM", false),
        "0.9.2342.19200300.100.1.1" => ("UID", false),
        "0.9.2342.19200300.100.1.25" => ("DC", true),
        "1.2.840.113549.1.9.1" => ("EMAILADDRESS", true),
        other => (other, false),
    };
    let value = text(attribute.attr_value(), is_ia5)?;
    Ok(format!("{kind}={}", escaped(&value)))
}

/// A value as text. Those of most kinds are X.520's `DirectoryString`; a few are ASCII.
fn text<'a>(value: &Any<'a>, is_ia5: bool) -> Result<Cow<'a, str>, NameError> {
    let points = |points: Option<String>| points.map(Cow::Owned).ok_or(NameError::NotText);
    match value.header.tag() {
        Tag::Utf8String | Tag::PrintableString => str::from_utf8(value.data)
            .map(Cow::Borrowed)
            .map_err(|_| NameError::NotText),
        Tag::Ia5String if is_ia5 && value.data.is_ascii() => {
            Ok(String::from_utf8_lossy(value.data))
        }
        // As everybody reads it, and not as T.61 had it.
        Tag::TeletexString => Ok(Cow::Owned(
            value.data.iter().copied().map(char::from).collect(),
        )),
        Tag::BmpString => points(code_points::<2>(value.data)),
        Tag::UniversalString => points(code_points::<4>(value.data)),
        _ => Err(NameError::NotText),
    }
}

/// Characters of `N` bytes each; `None` if some are none.
fn code_points<const N: usize>(bytes: &[u8]) -> Option<String> {
    let (characters, []) = bytes.as_chunks::<N>() else {
        return None;
    };
    let number = |character: &[u8; N]| {
        let digits = character.iter();
        digits.fold(0, |number: u32, byte| number << 8 | u32::from(*byte))
    };
    characters
        .iter()
        .map(|character| char::from_u32(number(character)))
        .collect()
}

/// Escapes as RabbitMQ does: RFC 4514, and a backslash and two hexadecimal digits for each byte
/// that is not printable ASCII.
fn escaped(value: &str) -> String {
    let last = value.len().saturating_sub(1);
    let mut out = String::with_capacity(value.len());
    for (index, byte) in value.bytes().enumerate() {
        let is_edge = match byte {
            b' ' => index == 0 || index == last,
            b'#' => index == 0,
            _ => false,
        };
        if is_edge || b"\"+,;<>\\".contains(&byte) {
            out.push('\\');
            out.push(char::from(byte));
        } else if (b' '..b'~').contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("\\{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};

    use super::{CertificateLogin::*, *};

    fn certificate(subject: &[(DnType, DnValue)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), value.clone());
        }
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    fn name(subject: &[(DnType, DnValue)], login: CertificateLogin) -> Result<String, NameError> {
        user_name(&certificate(subject), login).map(|name| name.unwrap().into())
    }

    fn cn(value: &str) -> (DnType, DnValue) {
        (DnType::CommonName, value.into())
    }

    #[test]
    fn names_are_those_of_the_plugin() {
        let subject = [
            (DnType::CountryName, "DE".into()),
            (DnType::OrganizationName, "Example, Inc.".into()),
            (DnType::CustomDnType(vec![2, 5, 4, 9]), "Street 1".into()),
            (
                DnType::CustomDnType(vec![0, 9, 2342, 19_200_300, 100, 1, 25]),
                DnValue::Ia5String("example".try_into().unwrap()),
            ),
            cn("alice"),
        ];
        assert_eq!(name(&subject, CommonName).unwrap(), "alice");
        assert_eq!(
            name(&subject, DistinguishedName).unwrap(),
            "CN=alice,DC=example,2.5.4.9=Street 1,O=Example\\, Inc.,C=DE"
        );
        assert_eq!(user_name(&certificate(&subject), Off), Ok(None));
    }

    #[test]
    fn every_kind_of_text_is_read() {
        for value in [
            DnValue::Utf8String("Zoé".into()),
            DnValue::BmpString("Zoé".try_into().unwrap()),
            DnValue::UniversalString("Zoé".try_into().unwrap()),
        ] {
            let subject = [(DnType::CommonName, value)];
            assert_eq!(name(&subject, CommonName).unwrap(), "Zoé");
            assert_eq!(name(&subject, DistinguishedName).unwrap(), "CN=Zo\\C3\\A9");
        }
        let printable = DnValue::PrintableString("alice".try_into().unwrap());
        assert_eq!(
            name(&[(DnType::CommonName, printable)], CommonName).unwrap(),
            "alice"
        );
        // Not a kind that a common name may be of; the plug-in's library refuses it as well.
        let ascii = DnValue::Ia5String("alice".try_into().unwrap());
        assert_eq!(
            name(&[(DnType::CommonName, ascii)], CommonName),
            Err(NameError::NotText)
        );
    }

    #[test]
    fn what_means_something_is_escaped() {
        for (value, written) in [
            (" a b ", "\\ a b\\ "),
            (" ", "\\ "),
            ("#1#", "\\#1#"),
            ("a+b\"c<d>e;f\\g", "a\\+b\\\"c\\<d\\>e\\;f\\\\g"),
            ("a=b", "a=b"),
            ("~\n", "\\7E\\0A"),
        ] {
            assert_eq!(escaped(value), written);
        }
    }

    #[test]
    fn what_cannot_be_a_name_is_none() {
        let organization = [(DnType::OrganizationName, "Example".into())];
        assert_eq!(name(&organization, CommonName), Err(NameError::Missing));
        assert_eq!(name(&[], DistinguishedName), Err(NameError::Missing));
        assert_eq!(name(&[cn("")], CommonName), Err(NameError::Missing));
        assert_eq!(name(&[cn("a\nb")], CommonName), Err(NameError::Control));
        assert_eq!(name(&[cn("a\nb")], DistinguishedName).unwrap(), "CN=a\\0Ab");
        let long = "a".repeat(MAX_NAME);
        assert_eq!(name(&[cn(&long)], CommonName).unwrap(), long);
        assert_eq!(
            name(&[cn(&long)], DistinguishedName),
            Err(NameError::TooLong)
        );
        assert_eq!(
            user_name(b"nonsense", CommonName),
            Err(NameError::Malformed)
        );
    }
}
