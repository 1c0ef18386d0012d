use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// A folder with `chain.pem` and `key.pem`, which belong together, and `ca.pem`.
fn folder() -> (TempDir, TlsConfig) {
    let folder = TempDir::new().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = date_time_ymd(2999, 1, 2);
    let certificate = params.self_signed(&key).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    for (file, text) in [
        ("chain.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("ca.pem", authority.pem()),
        (
            "other-key.pem",
            KeyPair::generate().unwrap().serialize_pem(),
        ),
        ("empty.pem", String::new()),
        ("cut.pem", certificate.pem()[..100].to_owned()),
        (
            "nonsense.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(),
        ),
        (
            "encrypted.pem",
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .to_owned(),
        ),
    ] {
        fs::write(folder.path().join(file), text).unwrap();
    }
    let config = TlsConfig {
        certificate: folder.path().join("chain.pem"),
        key: folder.path().join("key.pem"),
        ..TlsConfig::default()
    };
    (folder, config)
}

/// What is wrong, with names of files without their folder.
fn fault(folder: &TempDir, config: &TlsConfig) -> (&'static str, String) {
    let (key, problem) = config.check_files().unwrap_err();
    let place = format!("{}/", folder.path().display());
    (key, problem.replace(&place, ""))
}

#[test]
fn a_certificate_and_its_key_are_loaded() {
    let (_folder, config) = folder();
    assert_eq!(config.check_files(), Ok(()));
    let loaded = Loaded::read(&config).unwrap();
    assert_eq!(loaded.subject, "CN=rcgen self signed cert");
    assert_eq!(
        humantime::format_rfc3339_seconds(loaded.not_after).to_string(),
        "2999-01-02T00:00:00Z"
    );
    assert!(loaded.not_before < SystemTime::now());
    assert_eq!(
        loaded.server(Protocol::Http).alpn_protocols,
        [b"http/1.1".to_vec()]
    );
    assert!(loaded.server(Protocol::Stomp).alpn_protocols.is_empty());
}

/// One that was taken back, or whose authority was, must not come in by an old session.
#[test]
fn clients_that_show_certificates_show_them_each_time() {
    let (folder, mut config) = folder();
    let loaded = Loaded::read(&config).unwrap();
    let tickets = |loaded: &Loaded| {
        let server = loaded.server(Protocol::Stomp);
        assert!(!server.session_storage.can_cache());
        (server.send_tls13_tickets, server.ticketer.enabled())
    };
    assert_eq!(tickets(&loaded), (1, true));
    config.client_ca = folder.path().join("ca.pem");
    config.client_certificates = ClientCertificates::Optional;
    assert_eq!(tickets(&Loaded::read(&config).unwrap()), (0, false));
}

#[test]
fn a_file_that_is_wrong_is_named_with_its_key() {
    let (folder, config) = folder();
    let with = |key: &str, file: &str| {
        let mut config = config.clone();
        let path: &mut PathBuf = match key {
            "certificate" => &mut config.certificate,
            "key" => &mut config.key,
            _ => &mut config.client_ca,
        };
        *path = folder.path().join(file);
        fault(&folder, &config)
    };
    for (key, file, problem) in [
        (
            "certificate",
            "nowhere.pem",
            "nowhere.pem: No such file or directory (os error 2); correct the path",
        ),
        (
            "certificate",
            "empty.pem",
            "empty.pem has no certificate; it must be PEM (\"-----BEGIN CERTIFICATE-----\")",
        ),
        (
            "certificate",
            "key.pem",
            "key.pem has no certificate; it must be PEM (\"-----BEGIN CERTIFICATE-----\")",
        ),
        (
            "certificate",
            "cut.pem",
            "cut.pem is not PEM: it is cut off: an END line is missing",
        ),
        (
            "certificate",
            "nonsense.pem",
            "nonsense.pem: number 1 in it is no X.509 certificate",
        ),
        (
            "key",
            "other-key.pem",
            "other-key.pem is not the key of the first certificate in chain.pem",
        ),
        (
            "key",
            "encrypted.pem",
            "encrypted.pem has no private key that could be used; it must be PEM (\"-----BEGIN PRIVATE KEY-----\") and not encrypted (`openssl pkey` decrypts)",
        ),
        (
            "key",
            "chain.pem",
            "chain.pem has no private key that could be used; it must be PEM (\"-----BEGIN PRIVATE KEY-----\") and not encrypted (`openssl pkey` decrypts)",
        ),
        (
            "client_ca",
            "nowhere.pem",
            "nowhere.pem: No such file or directory (os error 2); correct the path",
        ),
        (
            "client_ca",
            "empty.pem",
            "empty.pem has no certificate; it must be PEM (\"-----BEGIN CERTIFICATE-----\")",
        ),
    ] {
        assert_eq!(with(key, file), (key, problem.to_owned()));
    }
}

#[test]
fn what_is_not_set_is_no_fault_of_the_files() {
    let (folder, config) = folder();
    let alone = TlsConfig {
        key: PathBuf::new(),
        ..config
    };
    assert_eq!(alone.check_files(), Ok(()));
    assert!(matches!(Loaded::read(&alone), Err(("certificate", _))));
    let alone = TlsConfig {
        certificate: PathBuf::new(),
        key: folder.path().join("nowhere.pem"),
        ..alone
    };
    assert_eq!(fault(&folder, &alone).0, "key");
}
