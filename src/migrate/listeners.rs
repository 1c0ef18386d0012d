//! Listeners.

use std::net::{Ipv4Addr, SocketAddr};

use super::{
    conf::{Setting, address, ip_address, only},
    rules::{Draft, number, quote, switch},
};

impl Draft<'_> {
    /// The four ports, and the proxy before them.
    pub(super) fn listeners(&mut self) {
        self.stomp_address("stomp.listeners.tcp", "stomp");
        self.stomp_address("stomp.listeners.ssl", "stomps");
        self.web_address("web_stomp.tcp", "http", 15674);
        self.web_address("web_stomp.ssl", "https", 15673);
        self.proxy_protocol();
    }

    /// True if there is such a port, as far as known.
    pub(super) fn listens(&self, key: &str) -> bool {
        match self.entry(("listen", key)) {
            Some(entry) => entry.value != quote("off"),
            None => matches!(key, "http" | "stomp"),
        }
    }

    /// `none`, or one address or more, of which Stentor takes one.
    fn stomp_address(&mut self, plug_in: &str, key: &'static str) {
        let off = self.take(plug_in);
        let addresses = self.take_all(&format!("{plug_in}.$"));
        if let Some(off) = off
            && self.read(&off, only("none", off.value)).is_some()
        {
            self.enter(("listen", key), quote("off"), &[off], None);
            for address in addresses {
                self.same(
                    &address,
                    format!("is not used: line {} says none", off.line),
                );
            }
            return;
        }
        let mut first: Option<Setting<'_>> = None;
        for setting in addresses {
            let Some(address) = self.read(&setting, address(setting.value)) else {
                continue;
            };
            match &first {
                None => {
                    let address = quote(&address.to_string());
                    self.enter(("listen", key), address, &[setting], None);
                    first = Some(setting);
                }
                Some(first) => {
                    let why = format!(
                        "[listen] {key} is one address, that of line {}: \"0.0.0.0:PORT\" is all \
                         of this machine's, \"[::]:PORT\" the IPv6 ones too",
                        first.line
                    );
                    self.without(&setting, why);
                }
            }
        }
    }

    /// One key for all of the address, or one for its port and one for its IP.
    fn web_address(&mut self, plug_in: &str, key: &'static str, usual_port: u16) {
        let port = self.take(&format!("{plug_in}.port"));
        let old_port = match key {
            "http" => self.take("web_stomp.port"),
            _ => None,
        };
        let ip = self.take(&format!("{plug_in}.ip"));
        let whole = self.take(&format!("{plug_in}.listener"));
        let target = ("listen", key);
        if let Some(whole) = whole {
            for other in [port, old_port, ip].into_iter().flatten() {
                self.same(&other, format!("is not used: line {} says all", whole.line));
            }
            if whole.value == "none" {
                self.enter(target, quote("off"), &[whole], None);
            } else if let Some(address) = self.read(&whole, address(whole.value)) {
                self.enter(target, quote(&address.to_string()), &[whole], None);
            }
            return;
        }
        if let (Some(port), Some(old)) = (port, old_port) {
            self.same(&old, format!("is not used: line {} counts", port.line));
        }
        let port = port.or(old_port);
        let from: Vec<_> = ip.into_iter().chain(port).collect();
        let number = match port {
            Some(port) => self.read(&port, number::<u16>(port.value)),
            None => Some(usual_port),
        };
        let ip = match ip {
            Some(ip) => self.read(&ip, ip_address(ip.value)),
            None => Some(Ipv4Addr::UNSPECIFIED.into()),
        };
        if let (Some(ip), Some(number), false) = (ip, number, from.is_empty()) {
            let address = SocketAddr::new(ip, number).to_string();
            self.enter(target, quote(&address), &from, None);
        }
    }

    /// One key for all ports; with RabbitMQ, one for each plug-in.
    fn proxy_protocol(&mut self) {
        let (mut on, mut off) = (Vec::new(), Vec::new());
        // Without a listener, no client comes without a certificate.
        let mut without = Vec::new();
        for (key, ports) in [
            ("stomp.proxy_protocol", ["stomp", "stomps"]),
            ("web_stomp.proxy_protocol", ["http", "https"]),
        ] {
            let setting = self.take(key);
            let is_on = setting.and_then(|setting| self.read(&setting, switch(setting.value)));
            if is_on != Some(true) {
                without.extend(ports.into_iter().filter(|port| self.listens(port)));
            }
            match is_on {
                Some(true) => on.extend(setting),
                Some(false) => off.extend(setting),
                None => {}
            }
        }
        for setting in off {
            let why = match without.is_empty() {
                true => "is not used: this plug-in does not listen",
                false => "the default: [listen] proxy_protocol = false",
            };
            self.same(&setting, why);
        }
        if on.is_empty() {
            return;
        }
        if without.is_empty() {
            let comment = "For all ports. Let only the proxy reach them.";
            let target = ("listen", "proxy_protocol");
            self.enter(target, "true".to_owned(), &on, Some(comment));
            return;
        }
        let ports = without.join(" and ");
        for setting in on {
            let why = format!(
                "[listen] proxy_protocol counts for all ports, and clients of {ports} come without \
                 the header: write \"off\" for {ports} if nobody uses that, or let the proxy send \
                 the header there, too; then set proxy_protocol = true"
            );
            self.without(&setting, why);
        }
    }
}
