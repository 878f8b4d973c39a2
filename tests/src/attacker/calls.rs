//! What comes back to calls that none of our programs would make? Raw messages to any call, as whoever is at one of the
//! controller's or the client's doors: an enrolled node, or somebody at a local socket.

use super::http2::request;
use super::{hex_bytes, hex_text};
use crate::attacker::storm::node_target;
use anyhow::{Context as _, bail};
use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client::SendRequest;
use node::channel::Target;
use proto::join::JoinFile;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

/// How long a connection may take to be there.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// How long one answer may take: a refused log-in hashes a password, a revoke waits for gateways.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long more of a stream is waited for, once something of it came.
const MORE_MAX: Duration = Duration::from_millis(300);
/// Bytes of answers that are printed.
const PRINTED_MAX: usize = 1 << 20;
/// The head of a gRPC message: not compressed, and its length.
const HEAD_LEN: usize = 5;

/// At whose door.
pub enum Door {
    /// The controller's control port, with an enrolled node's identity.
    Control(Target),
    /// The enrolment port, as a machine that has knocked.
    Enrolment(Box<JoinFile>),
    /// A local socket.
    Socket(PathBuf),
}

impl Door {
    /// Of an identity, through the tunnel of the program that runs with it; `identity` may be another machine's.
    pub fn control(state: &Path, device: &str, identity: Option<&Path>) -> anyhow::Result<Self> {
        let mut target = node_target(state)?;
        device.clone_into(&mut target.device);
        if let Some(other) = identity {
            target.tls = node_target(other)?.tls;
        }
        Ok(Self::Control(target))
    }
}

/// What came back.
struct Answer {
    /// The gRPC code; -1: none came while a stream stayed open.
    code: i32,
    message: String,
    /// The first message of the answer.
    bytes: Vec<u8>,
}

struct Connection {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn open(door: &Door, knocked: &mut Option<Target>) -> anyhow::Result<Connection> {
    async fn over<T>(stream: T) -> anyhow::Result<Connection>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(8 << 20).initial_connection_window_size(16 << 20).max_header_list_size(1 << 20);
        let (sender, connection) = builder.handshake(stream).await?;
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Connection { sender, driver })
    }
    match door {
        Door::Control(target) => over(target.connect().await?).await,
        Door::Enrolment(join) => {
            if knocked.is_none() {
                *knocked = super::crowd::assemble(join, 1).await?.pop();
            }
            over(knocked.as_ref().context("no peer")?.connect().await?).await
        }
        Door::Socket(path) => over(UnixStream::connect(path).await?).await,
    }
}

/// Reads calls from a file, `PATH HEX[,HEX...]` a line, makes one after the other and prints `CODE MESSAGE ANSWER`, the last two in
/// hexadecimal, for each.
pub fn make(door: &Door, from: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(from)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut connection, mut knocked) = (None, None);
        for line in text.lines() {
            let (path, messages) = line.split_once(' ').unwrap_or((line, ""));
            let messages: Option<Vec<_>> = messages.split(',').map(hex_bytes).collect();
            let answer =
                call(door, (&mut connection, &mut knocked), path, &messages.context("no hexadecimal")?).await?;
            let bytes = answer.bytes.get(..PRINTED_MAX).unwrap_or(&answer.bytes);
            writeln!(io::stdout(), "{} {} {}", answer.code, hex_text(answer.message.as_bytes()), hex_text(bytes))?;
        }
        Ok(())
    })
}

/// Tries a second connection where the first was ended meanwhile: a node has few, and the oldest makes room.
async fn call(
    door: &Door,
    (held, knocked): (&mut Option<Connection>, &mut Option<Target>),
    path: &str,
    messages: &[Vec<u8>],
) -> anyhow::Result<Answer> {
    let mut said = None;
    for _ in 0..3 {
        if held.is_none() {
            // Whoever meets silence has no connection, and says so.
            *held = Some(tokio::time::timeout(OPEN_MAX, open(door, knocked)).await??);
        }
        let Some(connection) = held.as_mut() else { break };
        match tokio::time::timeout(ANSWER_MAX, ask(connection.sender.clone(), path, messages)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => said = Some(error),
            Err(_) => bail!("{path}: no answer within {ANSWER_MAX:?}"),
        }
        *held = None;
    }
    Err(said.unwrap_or_else(|| anyhow::anyhow!("no connection")).context(path.to_owned()))
}

async fn ask(sender: SendRequest<Bytes>, path: &str, messages: &[Vec<u8>]) -> anyhow::Result<Answer> {
    let mut sender = sender.ready().await?;
    let (answer, mut body) = sender.send_request(request(path)?, false)?;
    let mut all = BytesMut::new();
    for message in messages {
        all.put_u8(0);
        all.put_u32(u32::try_from(message.len())?);
        all.extend_from_slice(message);
    }
    // A refused call may be over before all of it was sent. A stream is left open: its other end shows what it does with it.
    let _sent = body.send_data(all.freeze(), messages.len() < 2);
    let answer = answer.await?;
    if let Some(answer) = status(answer.headers()) {
        return Ok(answer);
    }
    let (mut body_in, mut bytes) = (answer.into_body(), Vec::new());
    loop {
        let wait = if bytes.is_empty() { ANSWER_MAX } else { MORE_MAX };
        match tokio::time::timeout(wait, body_in.data()).await {
            Ok(Some(data)) => {
                let data = data?;
                body_in.flow_control().release_capacity(data.len())?;
                bytes.extend_from_slice(&data);
            }
            Ok(None) => break,
            // A stream that stays open, with something in it.
            Err(_) if !bytes.is_empty() => {
                return Ok(Answer { code: -1, message: String::new(), bytes: first(&bytes) });
            }
            Err(_) => bail!("nothing came"),
        }
    }
    let trailers = body_in.trailers().await?.unwrap_or_default();
    let answer = status(&trailers).context("an answer without a status")?;
    Ok(Answer { bytes: first(&bytes), ..answer })
}

/// The first message of an answer.
fn first(bytes: &[u8]) -> Vec<u8> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD_LEN>() else { return Vec::new() };
    let [_, length @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    rest.get(..length).unwrap_or(rest).to_vec()
}

fn status(headers: &http::HeaderMap) -> Option<Answer> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers.get("grpc-message").map(|text| text.as_bytes().to_vec()).unwrap_or_default();
    Some(Answer { code, message: unescape(&message), bytes: Vec::new() })
}

/// The message as it was meant: `%XX` is a byte.
fn unescape(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let byte =
            after.get(..2).filter(|_| *first == b'%').and_then(|pair| hex_bytes(std::str::from_utf8(pair).ok()?));
        match byte {
            Some(byte) => {
                out.extend(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
