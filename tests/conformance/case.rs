//! A case: its name, its course, and its expected transcripts.

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use futures_util::{
    FutureExt as _,
    future::{LocalBoxFuture, join_all},
};
use libtest_mimic::Failed;

use crate::{
    release::Release,
    scene::Scene,
    server::{Column, Servers},
    transcript::{self, Relation, Transcripts, Written},
};

type Run = dyn Fn(Scene) -> LocalBoxFuture<'static, ()> + Send + Sync;

pub(crate) struct Case {
    /// `group::name`; it says what is shown.
    pub(crate) name: String,
    /// Rows of `docs/differences.md`, by which the plug-in's transcripts differ from Stentor's, and
    /// since which release; save E1, E2 and E14, which are about every ERROR, and seen without being
    /// named.
    differs: BTreeMap<Release, &'static [&'static str]>,
    /// A row there, by which the embedded broker's transcript differs, or by which the case cannot
    /// run on it.
    pub(crate) limit: Option<&'static str>,
    columns: Vec<Column>,
    run: Box<Run>,
}

const EMPTY: &[&str] = &[];

/// A case of a group. It is run once in each column, each time on a scene of its own.
pub(crate) fn case(name: &str, run: impl AsyncFn(&mut Scene) + Send + Sync + 'static) -> Case {
    let run = Arc::new(run);
    Case {
        name: name.replace(' ', "_"),
        differs: BTreeMap::from([(Release::OLDEST, EMPTY)]),
        limit: None,
        columns: Column::ALL.to_vec(),
        run: Box::new(move |mut scene| {
            let run = Arc::clone(&run);
            Box::pin(async move { run(&mut scene).await })
        }),
    }
}

impl Case {
    /// The plug-in and Stentor differ here, as these rows say.
    pub(crate) fn differs(mut self, rows: &'static [&'static str]) -> Self {
        self.differs.insert(Release::OLDEST, rows);
        self
    }

    /// As [`Self::differs`], since this release; without rows, nothing differs from it on.
    pub(crate) fn differs_since(mut self, release: &str, rows: &'static [&'static str]) -> Self {
        let release = Release::named(release).expect("a release that the cases run on");
        self.differs.insert(release, rows);
        self
    }

    /// The rows by which it differs on a release.
    pub(crate) fn rows(&self, release: Release) -> &'static [&'static str] {
        let mut until = self.differs.range(..=release);
        until.next_back().map_or(EMPTY, |(_, rows)| rows)
    }

    /// The embedded broker differs from RabbitMQ here, as this row says.
    pub(crate) fn limited(mut self, row: &'static str) -> Self {
        self.limit = Some(row);
        self
    }

    /// The embedded broker does not run this, as this row says.
    pub(crate) fn not_embedded(mut self, row: &'static str) -> Self {
        self.limit = Some(row);
        self.columns.retain(|column| *column != Column::EmbeddedTcp);
        self
    }

    /// A backend takes part, which needs AMQP; the embedded broker does not speak it.
    pub(crate) fn with_backend(self) -> Self {
        self.not_embedded("B1")
    }

    /// This is about bytes on TCP.
    pub(crate) fn tcp_only(mut self) -> Self {
        self.columns.retain(|column| !column.is_ws());
        self
    }

    /// This is about WebSocket.
    pub(crate) fn ws_only(mut self) -> Self {
        self.columns.retain(|column| column.is_ws());
        self
    }

    pub(crate) fn columns(&self) -> impl Iterator<Item = Column> {
        self.columns.iter().copied()
    }
}

/// Runs a case in all its columns, and compares what is heard with what was written down; or
/// writes it down.
pub(crate) fn check(case: &Case, bless: bool) -> Result<(), Failed> {
    let servers = Servers::shared();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    let heard = runtime.block_on(join_all(
        case.columns().map(|column| run(case, column, &servers)),
    ));
    let mut transcripts = Transcripts::default();
    let mut faults = Vec::new();
    for (column, lines) in heard {
        match lines {
            Ok(lines) => drop(transcripts.insert(column, lines)),
            Err(fault) => faults.push(format!("{column}: {fault}")),
        }
    }
    if faults.is_empty() {
        if bless {
            let mut written = Written::read(&case.name);
            written.set(servers.release, &transcripts);
            written.write(&case.name);
        } else {
            let written = transcript::compare(&case.name, servers.release, &transcripts);
            faults.extend(written);
        }
        faults.extend(verdict(case, servers.release, &transcripts));
    }
    match faults {
        faults if faults.is_empty() => Ok(()),
        faults => Err(faults.join("\n").into()),
    }
}

/// How a case's transcripts of the plug-in and of Stentor are related, over both transports.
pub(crate) fn relation(transcripts: &Transcripts) -> Relation {
    let relation = |one: Column, other: Column| {
        let (one, other) = (transcripts.get(&one)?, transcripts.get(&other)?);
        Some(transcript::relation(one, other))
    };
    let tcp = relation(Column::PluginTcp, Column::StentorTcp);
    let ws = relation(Column::PluginWs, Column::StentorWs);
    tcp.max(ws).unwrap_or(Relation::Differs)
}

/// The fault of the rows that a case names for a release.
pub(crate) fn verdict(case: &Case, release: Release, transcripts: &Transcripts) -> Option<String> {
    let show = || transcript::print(transcripts, "");
    match (relation(transcripts), case.rows(release)) {
        (Relation::Differs, []) => {
            return Some(format!(
                "unexplained difference, RabbitMQ {release}:\n{}",
                show()
            ));
        }
        (Relation::Same | Relation::SameButEnds, rows @ [_, ..]) => {
            return Some(format!(
                "nothing differs that {rows:?} could explain, RabbitMQ {release}"
            ));
        }
        _ => {}
    }
    // The embedded broker speaks by TCP in these cases, and has no quorum queues.
    let stentor = transcripts.get(&Column::StentorTcp)?;
    if release.is_strict() {
        return None;
    }
    let is_limited = Some(stentor) != transcripts.get(&Column::EmbeddedTcp);
    match (is_limited, case.limit) {
        (true, None) => Some(format!(
            "the embedded broker differs, unexplained:\n{}",
            show()
        )),
        (false, Some(row)) => Some(format!(
            "the embedded broker does not differ; {row} says why"
        )),
        _ => None,
    }
}

async fn run(
    case: &Case,
    column: Column,
    servers: &Arc<Servers>,
) -> (Column, Result<Vec<String>, String>) {
    let scene = Scene::new(column, Arc::clone(servers));
    let lines = scene.lines();
    let ended = AssertUnwindSafe((case.run)(scene)).catch_unwind().await;
    let result = ended.map(|()| lines.take()).map_err(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        format!(
            "{}\nso far:\n{}",
            text.unwrap_or("a panic"),
            lines.take().join("\n")
        )
    });
    (column, result)
}
