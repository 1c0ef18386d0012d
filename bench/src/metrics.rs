//! The measures.

use std::collections::BTreeMap;

/// Measures by name; [`METRICS`] says what each is.
pub(crate) type Metrics = BTreeMap<String, f64>;

/// Which of two values is the better one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Better {
    More,
    Less,
    /// It depends: a server that does more needs more.
    Neither,
}

/// A measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metric {
    /// In the files.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) label: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

/// A name, a label, a unit, and which of two values is better, a line each.
macro_rules! metrics {
    ($($name:ident $label:literal $unit:literal $better:ident;)*) => {
        &[$(Metric {
            name: stringify!($name),
            label: $label,
            unit: $unit,
            better: Better::$better,
        }),*]
    };
}

/// All measures, in the order in which they are printed. "Servers" are the gateways and RabbitMQ
/// together; the hook and the client are apart.
pub(crate) const METRICS: &[Metric] = metrics! {
    set_ups_per_second "set-ups" "/s" More;
    set_up_p50_ms "set-up, p50" "ms" Less;
    set_up_p99_ms "set-up, p99" "ms" Less;
    set_up_max_ms "set-up, longest" "ms" Less;
    set_up_cpu_ms_gateway "gateway's CPU a set-up" "ms" Less;
    set_up_cpu_ms_rabbitmq "RabbitMQ's CPU a set-up" "ms" Less;
    set_up_cpu_ms_servers "servers' CPU a set-up" "ms" Less;
    set_up_cpu_ms_hook "hook's CPU a set-up" "ms" Less;
    kib_per_connection_gateway "gateway's memory a connection" "KiB" Less;
    kib_per_connection_rabbitmq "RabbitMQ's memory a connection" "KiB" Less;
    kib_per_connection_servers "servers' memory a connection" "KiB" Less;
    memory_mib_servers "servers' memory with all connected" "MiB" Less;
    idle_cpu_percent_gateway "gateway's CPU, of a core" "%" Less;
    idle_cpu_percent_rabbitmq "RabbitMQ's CPU, of a core" "%" Less;
    idle_cpu_percent_servers "servers' CPU, of a core" "%" Less;
    all_seconds "from the first message to the last delivery" "s" Less;
    deliveries_per_second "deliveries" "/s" More;
    floor_per_second "bare writes of that size" "/s" Neither;
    latency_p50_us "latency, p50" "µs" Less;
    latency_p90_us "latency, p90" "µs" Less;
    latency_p99_us "latency, p99" "µs" Less;
    latency_p999_us "latency, p99.9" "µs" Less;
    latency_max_us "latency, longest" "µs" Less;
    broadcast_deliveries_per_second "deliveries of broadcasts" "/s" More;
    broadcast_latency_p50_us "latency of broadcasts, p50" "µs" Less;
    broadcast_latency_p99_us "latency of broadcasts, p99" "µs" Less;
    broadcast_latency_max_us "latency of broadcasts, longest" "µs" Less;
    come_per_second "coming and going" "/s" More;
    come_p50_ms "until the receipt, p50" "ms" Less;
    come_p99_ms "until the receipt, p99" "ms" Less;
    cpu_ms_per_1000_gateway "gateway's CPU for 1,000 deliveries" "ms" Less;
    bare_read_us "CPU of a bare read of the queue" "µs" Neither;
    bare_write_us "CPU of a bare write to each socket in turn" "µs" Neither;
    gateway_times_bare "gateway's CPU, of a bare read and a bare write" "×" Less;
    cpu_ms_per_1000_rabbitmq "RabbitMQ's CPU for 1,000 deliveries" "ms" Less;
    cpu_ms_per_1000_servers "servers' CPU for 1,000 deliveries" "ms" Less;
    cpu_percent_gateway "gateway's CPU, of a core" "%" Neither;
    cpu_percent_rabbitmq "RabbitMQ's CPU, of a core" "%" Neither;
    cpu_percent_servers "servers' CPU, of a core" "%" Neither;
    cpu_percent_client "client's CPU, of a core" "%" Neither;
    peak_mib_gateway "gateway's memory at its peak" "MiB" Less;
    peak_mib_rabbitmq "RabbitMQ's memory at its peak" "MiB" Less;
    slow_closed "slow clients that were disconnected" "" Neither;
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> =
            METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
    }
}
