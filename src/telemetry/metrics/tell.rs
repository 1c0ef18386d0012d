//! How a value becomes a metric, and the table of metrics the code that counts and tells them.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        info::Info,
    },
    registry::{Metric, Registry, Unit},
};

use crate::telemetry::delays::DelaysTold;

/// Makes of the table the structs that its metrics are counted in, and the function that registers
/// them in the table's order.
macro_rules! metrics {
    (
        let $totals:pat = $feeds:expr;
        $($prefix:ident { $(
            $name:ident $([$unit:ident])? $help:literal
            $(count($count:ty $(= $new:expr)?))?
            $(tally($tally:ty))?
            $(level($level:ty))?
            $(now($now:expr))?;
        )+ })+
    ) => {
        /// Counted since the process began.
        pub(super) static COUNTS: LazyLock<Counts> = LazyLock::new(Counts::default);

        /// The fields of [`COUNTS`].
        #[derive(Debug)]
        pub(super) struct Counts {$($($(
            #[doc = $help]
            pub(super) $name: $count,
        )?)+)+}

        impl Default for Counts {
            fn default() -> Self {
                Self {$($($(
                    $name: first!($($new,)? <$count>::default()),
                )?)+)+}
            }
        }

        /// Counters of frequent events, which must not even take a table's lock.
        pub(super) static TALLIES: Tallies = Tallies {$($($(
            $name: <$tally>::new(0),
        )?)+)+};

        /// The fields of [`TALLIES`].
        #[derive(Debug)]
        pub(super) struct Tallies {$($($(
            #[doc = $help]
            pub(super) $name: $tally,
        )?)+)+}

        /// Values that are not counted, but looked up when Prometheus asks. `None`: unknown, or not
        /// applicable; it is left out.
        #[derive(Clone, Copy, Debug)]
        pub struct Levels {$($($(
            #[doc = $help]
            pub $name: $level,
        )?)+)+}

        fn registry(counts: &Counts, levels: &Levels) -> Registry {
            let $totals = $feeds;
            let mut root = Registry::default();
            $(
                let registry = root.sub_registry_with_prefix(stringify!($prefix));
                $(
                    let row = Row {
                        name: stringify!($name),
                        help: $help,
                        unit: first!($(Some(Unit::$unit),)? None),
                    };
                    $(<$count>::clone(&counts.$name).tell(row, registry);)?
                    $(<&$tally>::tell(&TALLIES.$name, row, registry);)?
                    $(<$level>::tell(levels.$name, row, registry);)?
                    $($now.tell(row, registry);)?
                )+
            )+
            root
        }
    };
}

macro_rules! first {
    ($first:expr $(, $rest:expr)*) => {
        $first
    };
}

/// A metric's row of the table, without its value.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) unit: Option<Unit>,
}

impl Row {
    fn register(self, registry: &mut Registry, metric: impl Metric) {
        match self.unit {
            Some(unit) => registry.register_with_unit(self.name, self.help, unit, metric),
            None => registry.register(self.name, self.help, metric),
        }
    }
}

/// Values that can be told.
pub(super) trait Tell {
    fn tell(self, row: Row, registry: &mut Registry);
}

/// A number that only grows.
pub(super) struct Total(pub(super) u64);

impl Tell for Total {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, ConstCounter::new(self.0));
    }
}

impl Tell for &AtomicU64 {
    fn tell(self, row: Row, registry: &mut Registry) {
        Total(self.load(Relaxed)).tell(row, registry);
    }
}

impl Tell for &AtomicI64 {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, ConstGauge::new(self.load(Relaxed)));
    }
}

impl Tell for u64 {
    fn tell(self, row: Row, registry: &mut Registry) {
        let level = i64::try_from(self).unwrap_or(i64::MAX);
        row.register(registry, ConstGauge::new(level));
    }
}

impl Tell for usize {
    fn tell(self, row: Row, registry: &mut Registry) {
        (self as u64).tell(row, registry);
    }
}

impl Tell for bool {
    fn tell(self, row: Row, registry: &mut Registry) {
        u64::from(self).tell(row, registry);
    }
}

impl Tell for SystemTime {
    fn tell(self, row: Row, registry: &mut Registry) {
        let since = self.duration_since(UNIX_EPOCH).unwrap_or_default();
        row.register(registry, ConstGauge::new(since.as_secs_f64()));
    }
}

/// A time that only grows.
impl Tell for Duration {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, ConstCounter::new(self.as_secs_f64()));
    }
}

/// Delays by a label.
#[derive(Debug)]
pub(super) struct ByLabel {
    pub(super) label: &'static str,
    pub(super) delays: Vec<(&'static str, DelaysTold)>,
}

impl EncodeMetric for ByLabel {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (value, told) in &self.delays {
            let labels = [(self.label, *value)];
            let mut encoder = encoder.encode_family(&labels)?;
            encoder.encode_histogram::<NoLabelSet>(told.sum, told.count, &told.buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl EncodeMetric for DelaysTold {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        encoder.encode_histogram::<NoLabelSet>(self.sum, self.count, &self.buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl Tell for DelaysTold {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, self);
    }
}

impl Tell for ByLabel {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, self);
    }
}

impl<T: Tell> Tell for Option<T> {
    fn tell(self, row: Row, registry: &mut Registry) {
        if let Some(value) = self {
            value.tell(row, registry);
        }
    }
}

impl Tell for Counter {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, self);
    }
}

impl Tell for Gauge {
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, self);
    }
}

impl<S, M, C> Tell for Family<S, M, C>
where
    Self: Metric,
{
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, self);
    }
}

impl<S> Tell for Info<S>
where
    Self: Metric,
{
    fn tell(self, row: Row, registry: &mut Registry) {
        row.register(registry, self);
    }
}
