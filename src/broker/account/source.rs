//! Files and commands that give a password or a token. Whatever goes wrong is told without it.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    task::spawn_blocking,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::{causes::unreadable, units::show_size};

/// Of a file or an output, in bytes.
const MAX_SECRET: usize = 64 * 1024;
/// Of a program's complaints, in bytes: the first.
const MAX_COMPLAINT: usize = 500;
/// How long a disk may take.
const DISK: Duration = Duration::from_secs(10);
/// How long a command may take.
const COMMAND: Duration = Duration::from_secs(30);

/// Bytes that hold a secret.
pub(in crate::broker) type Bytes = Zeroizing<Vec<u8>>;

/// Reads a file. Blocks for as long as the disk does.
pub(super) fn read_file(path: &Path) -> Result<Bytes, String> {
    let wrong = |fault: &dyn std::fmt::Display| format!("{}: {fault}", path.display());
    let metadata = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    // To open a pipe would wait for whoever writes to it.
    if !metadata.is_file() {
        return Err(wrong(&"is no file"));
    }
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut bytes = Bytes::default();
    let most = MAX_SECRET.saturating_add(1);
    file.take(u64::try_from(most).unwrap_or(u64::MAX))
        .read_to_end(&mut bytes)
        .map_err(|error| wrong(&error))?;
    if bytes.len() > MAX_SECRET {
        return Err(wrong(&format!("has more than {}", show_size(MAX_SECRET))));
    }
    Ok(bytes)
}

/// Reads a file, without blocking the caller.
pub(in crate::broker) async fn file(path: &Path) -> Result<Bytes, String> {
    let path = PathBuf::from(path);
    let shown = path.display().to_string();
    match timeout(DISK, spawn_blocking(move || read_file(&path))).await {
        Ok(Ok(read)) => read,
        Ok(Err(_)) => Err(format!("{shown}: the program ends")),
        Err(_) => Err(format!("{shown}: was not read within {DISK:?}")),
    }
}

/// The password in a file: all of it but the end of its line.
pub(in crate::broker) fn password(bytes: &[u8]) -> Result<Zeroizing<String>, String> {
    let text = str::from_utf8(bytes).map_err(|_| "is no text (UTF-8)".to_owned())?;
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err("is empty, where a password is wanted".to_owned());
    }
    if text.contains('\0') {
        return Err("has a zero byte, which no password has".to_owned());
    }
    Ok(Zeroizing::new(text.to_owned()))
}

/// Runs a command, and takes what it prints.
pub(in crate::broker) async fn command(command: &[String]) -> Result<Bytes, String> {
    command_within(command, COMMAND).await
}

async fn command_within(command: &[String], most: Duration) -> Result<Bytes, String> {
    let Some((program, arguments)) = command.split_first() else {
        return Err("names no program".to_owned());
    };
    // Its arguments may hold secrets.
    let wrong = |fault: String| format!("{program}: {fault}");
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = started.map_err(|error| wrong(error.to_string()))?;
    let group = Group::of(child.id());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let running = async {
        let said = async { tokio::join!(beginning(stdout, MAX_SECRET), beginning(stderr, 4096)) };
        let ((output, complaint), status) = tokio::join!(said, child.wait());
        (output, complaint, status)
    };
    let Ok((output, complaint, status)) = timeout(most, running).await else {
        return Err(wrong(format!("did not end within {most:?}")));
    };
    group.spare();
    let status = status.map_err(|error| wrong(error.to_string()))?;
    let complaint = complaint_without_secrets(&complaint, &output);
    if !status.success() {
        let complaint = match complaint.is_empty() {
            true => "it wrote nothing to its standard error".to_owned(),
            false => complaint,
        };
        return Err(wrong(format!("failed ({status}): {complaint}")));
    }
    if output.len() > MAX_SECRET {
        return Err(wrong(format!(
            "printed more than {}",
            show_size(MAX_SECRET)
        )));
    }
    Ok(output)
}

/// The beginning of what a program says, and at most a byte more. The rest is thrown away.
async fn beginning(stream: Option<impl AsyncRead + Unpin>, most: usize) -> Bytes {
    let mut bytes = Bytes::default();
    let Some(stream) = stream else {
        return bytes;
    };
    let most = u64::try_from(most.saturating_add(1)).unwrap_or(u64::MAX);
    let mut stream = stream.take(most);
    // What was read before an error counts; the program's own end tells the rest.
    let _ = stream.read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut stream.into_inner(), &mut tokio::io::sink()).await;
    bytes
}

/// A program's complaints in one line, without what it printed, and without what looks like a
/// token.
fn complaint_without_secrets(complaint: &[u8], output: &[u8]) -> String {
    const HIDDEN: &str = "***";
    let mut text = String::from_utf8_lossy(complaint).into_owned();
    let output = String::from_utf8_lossy(output);
    for secret in output.split_whitespace().filter(|word| word.len() >= 4) {
        text = text.replace(secret, HIDDEN);
    }
    let words = text.split(|sign: char| sign.is_whitespace() || sign.is_control());
    let words = words.filter(|word| !word.is_empty());
    // `{"` in Base64, with which each JWT begins.
    let words = words.map(|word| if word.contains("eyJ") { HIDDEN } else { word });
    let mut line = words.collect::<Vec<_>>().join(" ");
    line.truncate(line.floor_char_boundary(MAX_COMPLAINT));
    line
}

/// A program and those that it has started. Dropped too early, they are killed.
struct Group(Option<Pid>);

impl Group {
    fn of(id: Option<u32>) -> Self {
        let id = id.and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    /// The program has ended by itself.
    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // If it fails, they have ended.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str) -> Result<String, String> {
        let most = Duration::from_secs(20);
        let words = ["sh", "-c", script].map(str::to_owned);
        let output = command_within(&words, most).await?;
        Ok(String::from_utf8(output.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_command_gives_what_it_prints() {
        assert_eq!(
            shell("echo token; echo well >&2").await,
            Ok("token\n".to_owned())
        );
        let most = shell("head -c 65536 /dev/zero").await;
        assert_eq!(most.unwrap().len(), MAX_SECRET);
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_without_secrets() {
        let script = "echo t0psecret; echo 'no token t0psecret for eyJhbGciOi.eyJzdWIi.x' >&2; \
                      exit 3";
        let fault = shell(script).await.unwrap_err();
        assert_eq!(fault, "sh: failed (exit status: 3): no token *** for ***");
        let fault = shell("exit 1").await.unwrap_err();
        assert!(fault.contains("wrote nothing"), "{fault}");
        let long = shell("yes complaint | head -c 100000 >&2; exit 1").await;
        let fault = long.unwrap_err();
        assert!(fault.len() < 2 * MAX_COMPLAINT, "{}", fault.len());
        let fault = command(&["/no/such/program".to_owned(), "s3cret".to_owned()]).await;
        let fault = fault.unwrap_err();
        assert!(
            fault.starts_with("/no/such/program: No such file"),
            "{fault}"
        );
        assert!(!fault.contains("s3cret"), "{fault}");
        assert!(command(&[]).await.is_err());
    }

    #[tokio::test]
    async fn a_command_has_bounds() {
        let fault = shell("head -c 70000 /dev/zero").await.unwrap_err();
        assert_eq!(fault, "sh: printed more than 64 KiB");
        // With all that it has started, or this would wait for them.
        let words = ["sh", "-c", "sleep 1000 & sleep 1000"].map(str::to_owned);
        let late = command_within(&words, Duration::from_millis(200)).await;
        assert_eq!(late.unwrap_err(), "sh: did not end within 200ms");
    }

    #[test]
    fn a_file_is_read_to_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for (text, is) in [
            ("s3cret", "s3cret"),
            ("s3cret\n", "s3cret"),
            (" s3 cret \r\n", " s3 cret "),
            ("two\nlines\n", "two\nlines"),
        ] {
            fs::write(&path, text).unwrap();
            let bytes = read_file(&path).unwrap();
            assert_eq!(*password(&bytes).unwrap(), is);
        }
        for (bytes, says) in [(&b"\n"[..], "empty"), (b"a\0b", "zero"), (b"\xff", "UTF-8")] {
            assert!(password(bytes).unwrap_err().contains(says));
        }
        fs::write(&path, vec![b'x'; MAX_SECRET + 1]).unwrap();
        assert!(
            read_file(&path)
                .unwrap_err()
                .ends_with("has more than 64 KiB")
        );
        let fault = read_file(folder.path()).unwrap_err();
        assert!(fault.ends_with("is no file"), "{fault}");
    }
}
