//! Child processes that end with their owner, and whose output is kept.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{eventually, keeper};

/// Lines that a child wrote, from its start.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// All lines so far.
    #[must_use]
    pub fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// All lines so far, as one text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lock().join("\n")
    }

    /// The lines after the first `count`.
    #[must_use]
    pub fn since(&self, count: usize) -> Vec<String> {
        self.lock().get(count..).unwrap_or_default().to_vec()
    }

    /// The first line for which `find` answers something, and that answer.
    pub fn find<T>(&self, find: impl FnMut(&String) -> Option<T>) -> Option<T> {
        self.lock().iter().find_map(find)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what `source` says, on a thread that ends with it.
    fn keep(&self, source: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                lines.lock().push(line);
            }
        })
    }
}

/// A child process, the first of a process group of its own. It needs no runtime: any test's
/// runtime can come and go while it lives. Dropped, its whole group is killed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Mutex<Child>,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the child. Its output is kept; its input is empty unless `command` says otherwise.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn start(name: &str, command: &mut Command, input: Stdio) -> std::io::Result<Self> {
        let mut child = command
            .process_group(0)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        keeper::kill(child.id());
        let (stdout, stderr) = (Lines::default(), Lines::default());
        let readers = [
            child.stdout.take().map(|source| stdout.keep(source)),
            child.stderr.take().map(|source| stderr.keep(source)),
        ];
        Ok(Self {
            name: name.to_owned(),
            stdin: child.stdin.take(),
            child: Mutex::new(child),
            stdout,
            stderr,
            readers: readers.into_iter().flatten().collect(),
        })
    }

    /// Its process id, which is the number of its process group as well.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.lock().id()
    }

    /// The lines of its standard output.
    #[must_use]
    pub const fn stdout(&self) -> &Lines {
        &self.stdout
    }

    /// The lines of its standard error.
    #[must_use]
    pub const fn stderr(&self) -> &Lines {
        &self.stderr
    }

    /// Writes a line to its standard input.
    ///
    /// # Panics
    /// The input is no pipe, or the child closed it.
    pub fn write_line(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("stdin is a pipe");
        if let Err(error) = writeln!(stdin, "{line}") {
            panic!("{} reads no more: {error}\n{}", self.name, self.output());
        }
    }

    /// How it ended, if it did.
    ///
    /// # Panics
    /// The system does not know the child.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut child = self.lock();
        let status = child.try_wait().expect("it is our child");
        if status.is_some() {
            keeper::forget(child.id());
        }
        status
    }

    /// Waits for its end, and until all that it wrote was read.
    ///
    /// # Panics
    /// It does not end within `deadline`.
    pub async fn wait(&self, deadline: Duration) -> ExitStatus {
        let name = &self.name;
        eventually(deadline, format!("{name} ends"), async || {
            self.exit_status().filter(|_| self.is_read())
        })
        .await
    }

    /// True if all its output was read: it ended, and so did all processes that share its output.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.readers.iter().all(JoinHandle::is_finished)
    }

    /// Sends it a signal, by name (`TERM`, `KILL`, `STOP`, …), if it still runs.
    ///
    /// # Panics
    /// There is no `kill` program.
    pub fn signal(&self, signal: &str) {
        if self.exit_status().is_none() {
            send_signal(signal, &self.id().to_string());
        }
    }

    /// All that it wrote, for the message of a failed test.
    #[must_use]
    pub fn output(&self) -> String {
        let (out, err) = (self.stdout.text(), self.stderr.text());
        format!("--- {}: stdout\n{out}\n--- stderr\n{err}", self.name)
    }

    fn lock(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let group = self.id();
        if self.exit_status().is_none() {
            send_signal("KILL", &format!("-{group}"));
            // A killed child ends at once; not to wait would leave a zombie.
            let _ = self.lock().wait();
            keeper::forget(group);
        }
    }
}

fn send_signal(signal: &str, target: &str) {
    Command::new("kill")
        .args(["-s", signal, "--", target])
        .stderr(Stdio::null())
        .status()
        .expect("there is a kill program");
}
