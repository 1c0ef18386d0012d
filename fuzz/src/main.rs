//! `stentor-fuzz TARGET`: runs one target for a while, and says how far it has come.

use std::{
    fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use stentor_fuzz::{
    Target,
    engine::{self, Progress, Until},
    targets,
};

/// Any bytes for one target; see ./scripts/fuzz.sh.
#[derive(Parser)]
struct Arguments {
    /// The target; without it, they are listed.
    target: Option<String>,
    /// How long it goes on.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Runs with the same seed are the same where nothing is counted.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The folder for inputs that took new ways, and for those that broke something. What it has
    /// is taken up again.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Reads these files once, and no others: a crash, again.
    #[arg(long)]
    file: Vec<PathBuf>,
}

fn main() -> io::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut out = io::stdout();
    let all = targets::all();
    let named = arguments
        .target
        .as_ref()
        .and_then(|name| all.iter().find(|target| target.name == name));
    let Some(target) = named else {
        for target in &all {
            writeln!(out, "{}", target.name)?;
        }
        let is_wrong = arguments.target.is_some();
        return Ok(if is_wrong {
            ExitCode::from(2)
        } else {
            ExitCode::SUCCESS
        });
    };
    for file in &arguments.file {
        (target.run)(&fs::read(file)?);
        writeln!(out, "{}: holds", file.display())?;
    }
    if !arguments.file.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    fuzz(&arguments, target)
}

fn fuzz(arguments: &Arguments, target: &Target) -> io::Result<ExitCode> {
    let (name, seed) = (target.name, arguments.seed);
    let mut out = io::stdout();
    let mut corpus = target.corpus();
    if let Some(folder) = &arguments.folder {
        fs::create_dir_all(folder)?;
        for file in fs::read_dir(folder)? {
            corpus.push(fs::read(file?.path())?);
        }
    }
    writeln!(out, "{name}: seed {seed}, {} inputs", corpus.len())?;
    // One line for each crash is enough, and it comes below.
    std::panic::set_hook(Box::new(|_| {}));
    let mut number = 0_u64;
    let outcome = engine::run(
        target,
        corpus,
        seed,
        Until::Elapsed(Duration::from_secs(arguments.seconds)),
        |progress| tell(name, progress, 0),
        |input| {
            if let Some(folder) = &arguments.folder {
                number += 1;
                // What cannot be kept is found again.
                let _ = fs::write(folder.join(format!("{seed}-{number}")), input);
            }
        },
    );
    match outcome {
        Ok(_) => Ok(ExitCode::SUCCESS),
        Err(crash) => {
            tell(name, &crash.progress, 1);
            let file = format!("{name}.crash");
            fs::write(&file, &crash.input)?;
            writeln!(
                out,
                "{name}: broken by {:?}",
                crash.input.escape_ascii().to_string()
            )?;
            writeln!(out, "{name}: it is in {file}; see it with --file {file}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn tell(name: &str, progress: &Progress, crashes: usize) {
    let Progress {
        executions,
        elapsed,
        corpus,
        edges,
    } = progress;
    let rate = u128::from(*executions) * 1000 / elapsed.as_millis().max(1);
    let seconds = elapsed.as_secs();
    let streams = match targets::streams() {
        0 => String::new(),
        streams => format!(" ({streams} streams decoded)"),
    };
    let _ = writeln!(
        io::stdout(),
        "{name}: {seconds} s, {executions} executions{streams}, {rate}/s, {edges} edges, corpus \
         {corpus}, crashes {crashes}"
    );
}
