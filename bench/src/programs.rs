//! The programs of a run: the builds of the gateway, and this one.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

/// The options of the gateway: its program, and its settings.
#[derive(Args)]
pub(crate) struct Gateway {
    /// The gateway's program [default: the one that was built along with this one]
    #[arg(long, value_name = "PROGRAM")]
    stentor: Option<PathBuf>,
    /// A build of the gateway by a name; given several times, each has its turn, and their figures are
    /// printed side by side
    #[arg(long = "gateway", value_name = "NAME=PROGRAM", value_parser = build,
          conflicts_with = "stentor")]
    builds: Vec<Build>,
    /// A further setting of the gateway, such as feed.shards=1; may be given several times
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) settings: Vec<(String, String)>,
}

impl Gateway {
    /// The builds that were named, or the program that was; or the one that was built along with
    /// this program.
    ///
    /// # Errors
    /// The system does not tell where this program is.
    pub(crate) fn builds(&self) -> Result<Vec<Build>> {
        if !self.builds.is_empty() {
            return Ok(self.builds.clone());
        }
        let program = match &self.stentor {
            Some(program) => program.clone(),
            None => sibling("stentor")?,
        };
        let name = None;
        Ok(vec![Build { name, program }])
    }
}

/// A build of the gateway.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Build {
    /// `None` if there is only one.
    pub(crate) name: Option<String>,
    pub(crate) program: PathBuf,
}

fn build(text: &str) -> std::result::Result<Build, String> {
    match text.split_once('=') {
        Some((name, program)) if !name.is_empty() && !program.is_empty() => Ok(Build {
            name: Some(name.to_owned()),
            program: program.into(),
        }),
        _ => Err("expected NAME=PROGRAM, such as old=/tmp/stentor".into()),
    }
}

fn setting(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if key.contains('.') => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected section.key=value, such as feed.shards=1".into()),
    }
}

/// The major version of the RabbitMQ that `scripts/rabbitmq.sh` has laid out, if its folder is the
/// one that is taken.
pub(crate) fn rabbitmq_version() -> Option<u32> {
    let bin = std::env::var_os("TESTKIT_RABBITMQ_BIN")?;
    let file = Path::new(&bin).parent()?.join("version");
    let version = std::fs::read_to_string(file).ok()?;
    let major = version.split('.').next()?.parse().ok()?;
    (major > 3).then_some(major)
}

/// The path of this program.
///
/// # Errors
/// The system does not tell.
pub(crate) fn this_program() -> Result<PathBuf> {
    std::env::current_exe().context("the path of this program")
}

/// A program that was built along with this one.
///
/// # Errors
/// The system does not tell where this one is.
pub(crate) fn sibling(name: &str) -> Result<PathBuf> {
    let this = this_program()?;
    Ok(this.parent().unwrap_or(Path::new("")).join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_has_a_section() {
        assert_eq!(
            setting("feed.shards=1"),
            Ok(("feed.shards".into(), "1".into()))
        );
        assert!(setting("shards=1").is_err());
        assert!(setting("feed.shards").is_err());
    }

    #[test]
    fn a_build_has_a_name_and_a_program() {
        let old = build("old=/tmp/a=b").unwrap();
        assert_eq!(old.name.as_deref(), Some("old"));
        assert_eq!(old.program, PathBuf::from("/tmp/a=b"));
        for wrong in ["/tmp/stentor", "=/tmp/stentor", "old="] {
            assert!(build(wrong).is_err(), "{wrong}");
        }
    }
}
