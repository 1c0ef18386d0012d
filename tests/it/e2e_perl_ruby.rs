//! Net::Stomp of Perl, and the gem "stomp" of Ruby.

use serde_json::json;
use testkit::Remote;

use crate::foreign::{Server, a_day, work};

fn perl() -> Remote {
    Remote::perl("net-stomp.pl")
}

fn ruby() -> Remote {
    Remote::ruby("stomp_gem.rb")
}

async fn a_life(server: &Server, start: fn() -> Remote, version: &str) {
    let connect = server.connect_tcp(&json!({}));
    a_day(server, start(), &connect, version).await;
    work(server, start, &connect).await;
}

#[tokio::test]
async fn perl_at_the_plugin() {
    a_life(&Server::plugins().await, perl, "1.1").await;
}

#[tokio::test]
async fn perl_at_the_gateway() {
    a_life(&Server::gateway().await, perl, "1.1").await;
}

#[tokio::test]
async fn ruby_at_the_plugin() {
    a_life(&Server::plugins().await, ruby, "1.2").await;
}

#[tokio::test]
async fn ruby_at_the_gateway() {
    a_life(&Server::gateway().await, ruby, "1.2").await;
}
