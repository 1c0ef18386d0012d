//! Names of values, as on the command line.

use clap::ValueEnum;

/// A value with a name on the command line.
pub(crate) trait Named: ValueEnum {
    /// As on the command line, and in the names of files.
    fn name(&self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl<T: ValueEnum> Named for T {}
