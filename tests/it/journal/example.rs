//! `examples/browser/resume` in Chromium: its numbers, while everything around it fails.

use serde_json::{Value, json};
use testkit::{Proxy, Remote, free_ports};

use super::*;
use crate::{
    e2e_examples::Pages,
    house::{KEY, PASSCODE, USER},
};

struct Example {
    house: House,
    port: u16,
    proxy: Proxy,
    browser: Remote,
    _pages: Pages,
    /// Numbers that were published.
    count: usize,
}

impl Example {
    async fn open() -> Self {
        let [port] = free_ports();
        let pages = Pages::start();
        pages.are_served().await;
        let house = House::open_with(|builder| at(builder, port)).await;
        is_bound(&house).await;
        let proxy = Proxy::start(&format!("127.0.0.1:{port}")).await;
        let mut browser = Remote::node("browser.mjs");
        let url = format!(
            "{}/resume/?url=ws://{}/ws&user={USER}&passcode={PASSCODE}&host={}",
            pages.origin,
            proxy.address(),
            house.vhost.name()
        );
        browser.order(&json!({ "do": "goto", "url": url }));
        assert_eq!(browser.expect("loaded").await["status"], 200);
        Self {
            house,
            port,
            proxy,
            browser,
            _pages: pages,
            count: 0,
        }
    }

    async fn publish(&mut self, count: usize) {
        let numbers = self.count + 1..=self.count + count;
        let bodies = numbers.map(|n| json!({ "run": "test", "n": n }).to_string());
        self.house.vhost.publish(FEED, KEY, bodies).await;
        self.count += count;
    }

    async fn evaluate(&mut self, script: &str) -> Value {
        self.browser
            .order(&json!({ "do": "evaluate", "script": script }));
        self.browser.expect("evaluated").await["value"].take()
    }

    /// The page shows this.
    async fn shows(&mut self, id: &str, text: &str) {
        let script = format!("document.getElementById({id:?}).textContent");
        eventually(2 * DEADLINE, format!("{id} is {text}"), async || {
            let value = self.evaluate(&script).await;
            value.as_str().unwrap_or_default().contains(text)
        })
        .await;
    }

    /// It has all, each once.
    async fn has_all(&mut self) {
        self.shows("state", "live").await;
        let count = self.count.to_string();
        self.shows("received", &count).await;
        for wrong in ["missed", "doubled"] {
            let script = format!("document.getElementById({wrong:?}).textContent");
            assert_eq!(self.evaluate(&script).await, "0", "{wrong}");
        }
        let last = "document.querySelector('#messages li').textContent";
        assert_eq!(self.evaluate(last).await, count.as_str());
    }

    async fn click(&mut self, id: &str) {
        self.browser
            .order(&json!({ "do": "click", "selector": format!("#{id}") }));
    }

    async fn network(&mut self, is: bool) {
        self.browser.order(&json!({ "do": "offline", "is": !is }));
        self.browser.expect("network").await;
    }

    async fn reload(&mut self) {
        self.browser.order(&json!({ "do": "reload" }));
        self.browser.expect("reloaded").await;
    }

    /// Kills the gateway; another one comes in its place once `meanwhile` has happened.
    async fn kill(&mut self, meanwhile: usize) {
        self.house.gateway.kill().await;
        self.publish(meanwhile).await;
        let builder = stentor().vhost(&self.house.vhost).hook(&self.house.hook);
        self.house.gateway = at(builder, self.port).ready().await;
    }
}

/// A gateway that is found again after a restart.
fn at(builder: GatewayBuilder, port: u16) -> GatewayBuilder {
    kept(builder)
        .set("listen.http", format!("127.0.0.1:{port}"))
        .set("listen.origins", "*")
}

#[tokio::test]
async fn a_page_misses_nothing_and_doubles_nothing() {
    let mut page = Example::open().await;
    page.shows("state", "live").await;
    page.publish(5).await;
    page.has_all().await;

    // Its own button.
    page.click("network").await;
    page.shows("state", "offline").await;
    page.publish(30).await;
    page.click("network").await;
    page.has_all().await;
    page.shows("late", "30").await;
    page.shows("news", "30 came meanwhile").await;

    // The network is gone for the browser, and the connection with it: as behind a closed lid.
    page.network(false).await;
    page.proxy.cut();
    page.shows("state", "connection lost").await;
    page.publish(40).await;
    page.network(true).await;
    page.has_all().await;

    // Reloads, while messages come.
    for _ in 0..5 {
        page.publish(20).await;
        page.reload().await;
        page.publish(20).await;
    }
    page.has_all().await;

    // The page is closed for a while.
    let url = page.evaluate("location.href").await;
    page.browser
        .order(&json!({ "do": "goto", "url": "about:blank" }));
    page.browser.expect("loaded").await;
    page.publish(50).await;
    page.browser.order(&json!({ "do": "goto", "url": url }));
    page.browser.expect("loaded").await;
    page.has_all().await;

    // The gateway is killed; once more, during a reload.
    page.kill(25).await;
    page.has_all().await;
    page.house.gateway.kill().await;
    page.reload().await;
    page.kill(25).await;
    page.has_all().await;

    // RabbitMQ cuts the gateway off.
    page.house.vhost.close_connections().await;
    page.publish(25).await;
    page.has_all().await;
    let said = page.browser.process().stdout().text();
    assert!(!said.contains("\"pageerror\""), "{said}");
}

/// What is kept ends somewhere, and the page says so.
#[tokio::test]
async fn a_page_is_told_of_what_is_lost() {
    let mut page = Example::open().await;
    page.shows("state", "live").await;
    page.publish(5).await;
    page.has_all().await;
    page.click("network").await;
    page.shows("state", "offline").await;
    let api = page.house.vhost.node().api();
    api.delete_queue(page.house.vhost.name(), "stentor.journal.feed")
        .await;
    page.house.gateway.until_logged("journal").await;
    is_bound(&page.house).await;
    page.publish(5).await;
    page.click("network").await;
    page.shows("news", "Messages are missing").await;
}
