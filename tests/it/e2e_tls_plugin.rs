//! Names in certificates: at the gateway they are those that RabbitMQ's own plug-in makes of them.

use rcgen::{DnType, DnValue};
use stomp_grammar::{Command, Frame};
use tempfile::TempDir;
use testkit::{
    Answer, Authority, Call, Gateway, Hook, RabbitMq, StompClient, TlsClient, free_ports,
};

use crate::house::stentor;

/// The server's name for the user of this certificate, when it refuses it.
async fn name_at(address: &str, client: &TlsClient) -> String {
    let mut stomp = StompClient::over(client.connect(address).await.unwrap());
    let connect = Frame::new(Command::Connect)
        .with_header("accept-version", "1.2")
        .with_header("host", "/");
    stomp.send(&connect).await;
    let error = stomp.expect_error("Bad CONNECT").await;
    String::from_utf8_lossy(&error.body).trim().to_owned()
}

async fn gateway(folder: &TempDir, hook: &Hook, login: &str) -> Gateway {
    stentor()
        .hook(hook)
        .tls(folder.path())
        .set("broker.url", "embedded:")
        .set("tls.client_ca", folder.path().join("ca.pem").display())
        .set("tls.client_certificates", "required")
        .set("auth.certificate_login", login)
        .ready()
        .await
}

fn subjects() -> Vec<Vec<(DnType, DnValue)>> {
    let cn = |name: &str| (DnType::CommonName, DnValue::from(name));
    let custom = |oid: &[u64], value: DnValue| (DnType::CustomDnType(oid.to_vec()), value);
    let ascii = |text: &str| DnValue::Ia5String(text.try_into().unwrap());
    let printable = |text: &str| DnValue::PrintableString(text.try_into().unwrap());
    vec![
        vec![cn("alice")],
        vec![
            (DnType::CountryName, printable("DE")),
            (DnType::StateOrProvinceName, "Bayern".into()),
            (DnType::LocalityName, "Nürnberg".into()),
            (DnType::OrganizationName, "Example, Inc.".into()),
            (DnType::OrganizationalUnitName, "R+D; #1 \"x\"".into()),
            cn("till 7"),
        ],
        vec![cn("#1"), custom(&[2, 5, 4, 5], printable("4711"))],
        vec![
            custom(&[0, 9, 2342, 19_200_300, 100, 1, 25], ascii("example")),
            custom(&[0, 9, 2342, 19_200_300, 100, 1, 1], "uid-1".into()),
            custom(&[1, 2, 840, 113_549, 1, 9, 1], ascii("a@example.com")),
            custom(&[2, 5, 4, 9], "Street 1".into()),
            custom(&[2, 5, 4, 4], "Doe".into()),
            custom(&[2, 5, 4, 42], "Zoé~".into()),
            cn(" a=b "),
        ],
        vec![(
            DnType::CommonName,
            DnValue::BmpString("Zoé".try_into().unwrap()),
        )],
        vec![(
            DnType::CommonName,
            DnValue::TeletexString("Zoe".try_into().unwrap()),
        )],
    ]
}

#[tokio::test]
async fn names_are_those_of_the_plugin() {
    let (authority, folder) = (Authority::new(), TempDir::new().unwrap());
    authority.serve_from(folder.path(), "server");
    let place = folder.path().display();
    let [port] = free_ports();
    let node = RabbitMq::own_with(&format!(
        "stomp.listeners.ssl.1 = 127.0.0.1:{port}\n\
         stomp.ssl_cert_login = true\n\
         ssl_options.cacertfile = {place}/ca.pem\n\
         ssl_options.certfile = {place}/chain.pem\n\
         ssl_options.keyfile = {place}/key.pem\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n"
    ))
    .await;
    let plugin = format!("127.0.0.1:{port}");
    let hook = Hook::start().await;
    hook.answer(Call::User, Answer::Deny);
    for login in ["distinguished_name", "common_name"] {
        let set = format!("application:set_env(rabbit, ssl_cert_login_from, {login}).");
        node.ctl(&["eval", &set]).await;
        let gateway = gateway(&folder, &hook, login).await;
        for subject in subjects() {
            let client = authority.client().showing(&authority, &subject);
            let theirs = name_at(&plugin, &client).await;
            let ours = name_at(gateway.stomps_address(), &client).await;
            assert!(theirs.contains("Access refused for user '"), "{theirs}");
            // Erlang 29, which RabbitMQ 4.3 runs on, no longer decodes two of these attributes, and
            // the plug-in prints Erlang's own form instead.
            if theirs.contains("{asn1_OPENTYPE") {
                assert!(ours.contains(",2.5.4.9=Street 1,"), "{ours}");
                assert!(ours.contains(",UID=uid-1,"), "{ours}");
                continue;
            }
            assert_eq!(ours, theirs, "{login}, {subject:?}");
        }
    }
}
