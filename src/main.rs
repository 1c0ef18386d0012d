//! The `stentor` program: arguments -> configuration -> run -> exit code.

mod cli;

use std::{
    env,
    error::Error,
    io::{self, IsTerminal as _, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, ExitCode},
    time::Duration,
};

use clap::{CommandFactory, Parser};
use clap_complete::Shell;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stentor::{
    api, app,
    broker::UrlError,
    causes::with_causes,
    codes::{Code, Kind},
    config::{self, Config, ConfigErrors, Loaded, Source, environment},
    ctl, demo,
    doctor::{self, Doctor},
    migrate, telemetry,
};

use cli::{Cli, Command, ConfigTask, ConfigWhat};

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// lapin parses the headers of a message by recursion, on a thread whose stack's size can be set
/// by this variable alone. Headers fill one AMQP frame at most, 128 KiB, which nested as deep as
/// they can be need some 30 MiB: with the usual 2 MiB, one such message ends the process.
const STACK_VARIABLE: &str = "RUST_MIN_STACK";
/// The address space (not memory) of each thread: 64 MiB.
const STACK: &str = "67108864";

/// How long threads that block may hold up the end.
const LAST_THREADS: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let command = Cli::parse().command;
    if matches!(command, Command::Serve { .. } | Command::Demo { .. }) {
        keep_pages_small();
        deepen_stacks();
    }
    let result = match command {
        Command::Serve { config } => serve(config.as_deref()),
        Command::Config(task) => configure(&task),
        Command::Doctor(task) => examine(&task),
        Command::Ctl(task) => control(task),
        Command::Tail(task) => ask(ctl::tail(&task, is_coloured())),
        Command::Completions { shell } => completions(shell),
        Command::Man { folder } => man(folder.as_deref()),
        Command::Token { name, scopes } => make_token(&name, &scopes),
        Command::Demo {
            listen,
            port,
            broker,
        } => run_demo(listen, port, broker.as_deref()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            let (code, text) = match failure {
                Failure::Run(error) => (1, with_causes(error.as_ref())),
                Failure::Start(code, error) => {
                    let exit = if code.kind() == Kind::Told { 2 } else { 1 };
                    (exit, format!("{code}: {}", with_causes(error.as_ref())))
                }
                Failure::Ctl(code, error) => (code, with_causes(error.as_ref())),
                Failure::Configuration(text) => (2, text),
                Failure::Unsound => return ExitCode::FAILURE,
            };
            // The exit code tells in any case.
            telemetry::last_words(&text);
            ExitCode::from(code)
        }
    }
}

/// The allocator asks for pages of 2 MiB, of which many small pieces fill little: with 50 clients a
/// gateway took 30 MB instead of 5. It is no slower without them.
fn keep_pages_small() {
    // Where the system refuses, memory is all that it costs.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Begins this program anew, in this very process, with deep stacks for its threads.
fn deepen_stacks() {
    if env::var_os(STACK_VARIABLE).is_some() {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let mut again = process::Command::new(program);
        again
            .arg0(env::args_os().next().unwrap_or_default())
            .args(env::args_os().skip(1))
            .env(STACK_VARIABLE, STACK);
        // Comes back only if the system refuses; then stacks are as they are, which is enough
        // for any message but a hostile one.
        let error = again.exec();
        let _ = writeln!(io::stderr(), "could not deepen the stacks: {error}");
    }
}

/// The reason why the program ends, by whose fault it is.
enum Failure {
    /// Something went wrong while running.
    Run(Box<dyn Error>),
    /// The gateway could not start, or not go on, by a fault that has a name.
    Start(Code, Box<dyn Error>),
    /// A gateway that was asked did not do it, or was not there: with the exit code that says so.
    Ctl(u8, Box<dyn Error>),
    /// The configuration is wrong; the text lists all its errors.
    Configuration(String),
    /// What was examined is not in order, and the report has said so.
    Unsound,
}

fn serve(file: Option<&Path>) -> Result<(), Failure> {
    let loaded = load(file)?;
    telemetry::init(&loaded.config.log).map_err(not_set_up)?;
    telemetry::starting();
    raise_file_limit();
    block_on(app::run(loaded, file.map(Path::to_owned)))
}

fn run_demo(listen: demo::Listen, port: Option<u16>, broker: Option<&str>) -> Result<(), Failure> {
    let listen = listen
        .with_port(port)
        .map_err(|text| Failure::Configuration(text.to_owned()))?;
    let broker = broker
        .map(str::parse)
        .transpose()
        .map_err(|error: UrlError| wrong_argument(&format!("--broker: {error}")))?;
    let log = telemetry::Config::default();
    telemetry::init(&log).map_err(not_set_up)?;
    raise_file_limit();
    let program = env::args_os()
        .next()
        .map(|name| name.to_string_lossy().into_owned());
    block_on(demo::run(demo::Options {
        listen,
        broker,
        program: program.unwrap_or_else(|| "stentor".to_owned()),
    }))
}

fn control(task: ctl::Ctl) -> Result<(), Failure> {
    let done = ask(ctl::run(task))?;
    print(&done.text)?;
    match done.in_vain {
        Some(why) => Err(Failure::Run(why.into())),
        None => Ok(()),
    }
}

/// The report goes to standard output; the exit code is 1 if something is wrong.
fn examine(task: &Doctor) -> Result<(), Failure> {
    let source = task.config.as_deref().map(read).transpose()?;
    let name = source.as_ref().map(|source| source.name.clone());
    let file = source.as_ref().map(Source::file);
    let loaded = Config::load_unopened(file, environment()).map_err(wrong)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused)?;
    let name = name.unwrap_or_else(|| "defaults and environment".to_owned());
    let unusable = |error: doctor::Error| wrong_argument(&error.to_string());
    let report = runtime
        .block_on(doctor::examine(task, name, &loaded.config, &loaded.sources))
        .map_err(unusable)?;
    print(&doctor::print(&report, task.json, is_coloured()).map_err(unusable)?)?;
    match report.sound {
        true => Ok(()),
        false => Err(Failure::Unsound),
    }
}

/// Whether standard output takes colours.
fn is_coloured() -> bool {
    // https://no-color.org
    let no_colour = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    io::stdout().is_terminal() && !no_colour
}

/// The token alone goes to standard output, for a file or a variable.
fn make_token(name: &str, scopes: &[api::Scope]) -> Result<(), Failure> {
    let (token, line) = api::generate(scopes);
    // Quoted as TOML does it, for any name.
    let name = toml::Value::from(name);
    let advice = format!(
        "# Give this token to who is to use it; it is not shown again. And in the configuration:\n\
         [api]\ntokens = {{ {name} = \"{line}\" }}\n"
    );
    // Standard error may be closed.
    let _ = write!(io::stderr(), "{advice}");
    print(&format!("{token}\n"))
}

fn configure(task: &ConfigTask) -> Result<(), Failure> {
    match &task.what {
        ConfigWhat {
            check: Some(path), ..
        } => check(path),
        ConfigWhat {
            from_rabbitmq: Some(path),
            ..
        } => from_rabbitmq(path),
        ConfigWhat {
            diff: Some(path), ..
        } => diff(task, path.as_deref()),
        ConfigWhat { .. } => print(config::DEFAULT),
    }
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "stentor", &mut text);
    print(&String::from_utf8_lossy(&text))
}

fn man(folder: Option<&Path>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Run(error.into());
    let Some(folder) = folder else {
        let mut page = Vec::new();
        let main = clap_mangen::Man::new(Cli::command());
        main.render(&mut page).map_err(failed)?;
        return print(&String::from_utf8_lossy(&page));
    };
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)
}

fn diff(task: &ConfigTask, path: Option<&Path>) -> Result<(), Failure> {
    let source = path.map(read).transpose()?;
    let toml = source.map(|source| source.text);
    let compared = ask(ctl::compare(&task.gateway, toml))?;
    print(&compared)
}

/// Asks a running gateway.
fn ask<T>(asking: impl Future<Output = Result<T, ctl::Error>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(refused)?;
    let done = runtime.block_on(asking);
    done.map_err(|error| Failure::Ctl(error.exit_code(), error.into()))
}

fn check(path: &Path) -> Result<(), Failure> {
    let source = read(path)?;
    let sources = Config::load(Some(source.file()), environment());
    let sources = sources.map_err(wrong)?.sources;
    for warning in &sources.warnings {
        // Standard error may be closed.
        let _ = writeln!(io::stderr(), "{}: {warning}", source.name);
    }
    print(&format!("{}: no errors; {sources}\n", source.name))
}

/// The translation goes to standard output, and what the reader has to look at to standard error.
fn from_rabbitmq(path: &Path) -> Result<(), Failure> {
    let source = read(path)?;
    let name = &source.name;
    let migration = migrate::from_rabbitmq(&source.text)
        .map_err(|error| Failure::Configuration(format!("{name}: {error}")))?;
    print(&migration.toml)?;
    let list = |lines: &[String]| {
        let lines = lines.iter().map(|line| format!("{name}:{line}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    if !migration.without.is_empty() {
        // Standard error may be closed; the comments of what was printed say the same.
        let _ = writeln!(io::stderr(), "{}", list(&migration.without));
    }
    if migration.wrong.is_empty() {
        Ok(())
    } else {
        Err(Failure::Configuration(list(&migration.wrong)))
    }
}

fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        // A reader such as `head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(|error| Failure::Run(error.into())),
    }
}

fn load(path: Option<&Path>) -> Result<Loaded, Failure> {
    let source = path.map(read).transpose()?;
    Config::load(source.as_ref().map(Source::file), environment()).map_err(wrong)
}

fn read(path: &Path) -> Result<Source, Failure> {
    Source::read(path).map_err(Failure::Configuration)
}

fn wrong(errors: ConfigErrors) -> Failure {
    Failure::Configuration(errors.to_string())
}

fn wrong_argument(text: &str) -> Failure {
    Failure::Configuration(format!("{}: {text}", Code::WrongArgument))
}

fn not_set_up(error: telemetry::InitError) -> Failure {
    Failure::Start(Code::SetupFailed, error.into())
}

/// The system gives no threads, or no way to wait for sockets.
fn refused(error: io::Error) -> Failure {
    Failure::Start(Code::SystemRefused, app::Error::from(error).into())
}

fn block_on(run: impl Future<Output = Result<(), app::Error>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(refused)?;
    let ended = runtime.block_on(run);
    // A thread may hang at a disk, or at the system's resolver.
    runtime.shutdown_timeout(LAST_THREADS);
    telemetry::flush();
    ended.map_err(|error| Failure::Start(error.code(), error.into()))
}

/// Each client is a file, and the soft limit is 1024 by tradition: takes all that the hard limit
/// allows.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    // What the system refuses stays as it is; the gateway takes fewer clients then.
    let _ = setrlimit(Resource::Nofile, wanted);
}
