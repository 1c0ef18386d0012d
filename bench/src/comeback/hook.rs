//! A hook that allows everything after a while, and counts what it is asked.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use anyhow::Result;
use auth_hook::{BatchAnswer, encode_batch_answers, parse_batch};
use clap::Args;
use memchr::memmem;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::{LocalSet, spawn_local},
    time::sleep,
};

use crate::hook::LISTENING;

/// How long it takes.
#[derive(Args, Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Service {
    /// How long the hook takes for a call, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.0)]
    pub(crate) hook_ms: f64,
    /// It takes as long for each question of a batch, one after the other, instead of once
    #[arg(long)]
    pub(crate) hook_each: bool,
}

/// Calls, and the questions in them, since it began.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Asked {
    pub(crate) calls: u64,
    /// By the name of their call.
    pub(crate) questions: BTreeMap<String, u64>,
}

/// `GET` of it answers [`Asked`].
pub(super) const COUNTS: &str = "/counts";

/// Serves until standard input ends.
///
/// # Errors
/// It cannot listen.
pub(crate) async fn run(service: Service) -> Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{LISTENING}{}", listener.local_addr()?);
    let asked = Rc::<RefCell<Asked>>::default();
    let serving = LocalSet::new();
    serving.spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // An error ends one connection.
            let served = serve(stream, service, Rc::clone(&asked));
            spawn_local(async move { served.await.ok() });
        }
    });
    // Neither the bytes nor the kind of end matter.
    let mut rest = Vec::new();
    let end = async { tokio::io::stdin().read_to_end(&mut rest).await };
    let _ = serving.run_until(end).await;
    Ok(())
}

async fn serve(mut stream: TcpStream, service: Service, asked: Rc<RefCell<Asked>>) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        let Some((head, whole)) = request(&bytes) else {
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let rest = bytes.split_off(whole);
        let (head, body) = bytes.split_at(head);
        let target = target(head).to_owned();
        let answer = if target == COUNTS {
            serde_json::to_string(&*asked.borrow())?
        } else {
            answer(&target, body, service, &asked).await
        };
        let length = answer.len();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}");
        stream.write_all(answer.as_bytes()).await?;
        bytes = rest;
    }
}

async fn answer(target: &str, body: &[u8], service: Service, asked: &Rc<RefCell<Asked>>) -> String {
    let call = target.rsplit('/').next().unwrap_or_default();
    let batch = (call == "batch").then(|| parse_batch(body).unwrap_or_default());
    let mut takes = service.hook_ms;
    {
        let mut asked = asked.borrow_mut();
        asked.calls += 1;
        let mut count = |call: &str| *asked.questions.entry(call.to_owned()).or_default() += 1;
        match &batch {
            None => count(call),
            Some(questions) => {
                let calls = questions.iter().flatten().map(|question| question.call);
                calls.for_each(|call| count(call.name()));
                if service.hook_each {
                    takes *= questions.len() as f64;
                }
            }
        }
    }
    if takes > 0.0 {
        sleep(Duration::from_secs_f64(takes / 1e3)).await;
    }
    match batch {
        None => "allow".into(),
        Some(questions) => {
            let allowed = std::iter::repeat_with(|| BatchAnswer::from("allow".to_owned()));
            encode_batch_answers(allowed.take(questions.len()))
        }
    }
}

/// Where the head of the first request ends, and where all of it does.
fn request(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.split("content-length:").nth(1).unwrap_or("0");
    let length = length.lines().next().unwrap_or_default().trim();
    let whole = head + length.parse::<usize>().unwrap_or_default();
    (bytes.len() >= whole).then_some((head, whole))
}

/// The path of a request, without its query.
fn target(head: &[u8]) -> &str {
    let line = head.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = std::str::from_utf8(line).unwrap_or_default();
    let target = line.split(' ').nth(1).unwrap_or_default();
    target.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_once_it_is_complete() {
        let get = b"GET /auth/user?a=b HTTP/1.1\r\nHost: x\r\n\r\nGET";
        assert_eq!(request(get), Some((get.len() - 3, get.len() - 3)));
        assert_eq!(target(get), "/auth/user");
        let post = b"POST /auth/batch HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(request(post), Some((post.len() - 2, post.len())));
        assert_eq!(request(&post[..post.len() - 1]), None);
    }
}
