//! The servers, and the columns in which every case runs.

use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use testkit::{Answer, Call, Gateway, Hook, RabbitMq, Vhost};
use tokio::{runtime::Runtime, sync::OnceCell};

use crate::release::Release;

/// A server, and how it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Column {
    PluginTcp,
    PluginWs,
    StentorTcp,
    StentorWs,
    /// Stentor without RabbitMQ.
    EmbeddedTcp,
}

impl Column {
    pub(crate) const ALL: [Self; 5] = [
        Self::PluginTcp,
        Self::PluginWs,
        Self::StentorTcp,
        Self::StentorWs,
        Self::EmbeddedTcp,
    ];

    pub(crate) const fn is_ws(self) -> bool {
        matches!(self, Self::PluginWs | Self::StentorWs)
    }

    pub(crate) const fn is_stentor(self) -> bool {
        !matches!(self, Self::PluginTcp | Self::PluginWs)
    }
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PluginTcp => "plug-in TCP",
            Self::PluginWs => "plug-in WebSocket",
            Self::StentorTcp => "Stentor TCP",
            Self::StentorWs => "Stentor WebSocket",
            Self::EmbeddedTcp => "Stentor embedded",
        })
    }
}

/// May do everything.
pub(crate) const GUEST: &str = "guest";
/// May do everything, save where a name or a routing key says "secret". The passcode is the name.
pub(crate) const LIMITED: &str = "limited";
/// May enter no virtual host. The passcode is the name.
pub(crate) const NOBODY: &str = "nobody";

const UNLESS_SECRET: &str = "^((?!secret).)*$";

pub(crate) struct Servers {
    pub(crate) vhost: Vhost,
    /// That the transcripts are of.
    pub(crate) release: Release,
    gateway: Gateway,
    embedded: Gateway,
    _hook: Hook,
}

impl Servers {
    /// The servers that all cases share; the first one that asks starts them.
    pub(crate) fn shared() -> Arc<Self> {
        RUNTIME.block_on(async {
            let servers = SHARED
                .get_or_init(async || Mutex::new(Some(Arc::new(Self::start().await))))
                .await
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(servers.as_ref().expect("they are stopped at the end only"))
        })
    }

    async fn start() -> Self {
        let vhost = RabbitMq::shared().await.vhost().await;
        let api = vhost.node().api();
        let overview = api.get("/overview").await;
        let version = overview["rabbitmq_version"].as_str();
        let version = version.expect("a node tells its version");
        let release = Release::of(version, testkit::is_strict());
        for user in [LIMITED, NOBODY] {
            api.add_user(user, user).await;
        }
        api.allow(vhost.name(), LIMITED, [UNLESS_SECRET; 3]).await;
        api.allow_topics(vhost.name(), LIMITED, "amq.topic", [UNLESS_SECRET; 2])
            .await;

        // The same rights by the hook.
        let hook = Hook::start().await;
        hook.rule(|asked| {
            let user = asked.get("username");
            let denied = match asked.call {
                Call::User => {
                    ![GUEST, LIMITED, NOBODY].contains(&user) || asked.get("password") != user
                }
                Call::Vhost => user == NOBODY,
                Call::Resource => user == LIMITED && asked.get("name").contains("secret"),
                Call::Topic => user == LIMITED && asked.get("routing_key").contains("secret"),
                Call::Groups => false,
            };
            denied.then_some(Answer::Deny)
        });
        let stentor = || Gateway::builder(env!("CARGO_BIN_EXE_stentor")).hook(&hook);
        let gateway = stentor().vhost(&vhost).ready().await;
        let embedded = stentor()
            .set("broker.url", "embedded:")
            .set("broker.vhosts", vhost.name())
            .set("broker.default_vhost", vhost.name())
            .ready()
            .await;
        Self {
            vhost,
            release,
            gateway,
            embedded,
            _hook: hook,
        }
    }

    /// `host:port`, or a WebSocket's address.
    pub(crate) fn address(&self, column: Column) -> String {
        let node = self.vhost.node();
        match column {
            Column::PluginTcp => node.stomp_address(),
            Column::PluginWs => node.web_stomp_url(),
            Column::StentorTcp => self.gateway.stomp_address().to_owned(),
            Column::StentorWs => self.gateway.ws_url(),
            Column::EmbeddedTcp => self.embedded.stomp_address().to_owned(),
        }
    }
}

/// The runtime of the hook; each case has a runtime of its own.
static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("threads can be started"));
static SHARED: OnceCell<Mutex<Option<Arc<Servers>>>> = OnceCell::const_new();

/// Ends the servers, for nothing that is static is ever dropped. RabbitMQ is the keeper's.
pub(crate) fn stop() {
    if let Some(servers) = SHARED.get() {
        servers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
    }
}
