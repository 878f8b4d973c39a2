//! A web server with as much HTTP/1.1 as curl and browsers need.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time;

/// A longer request is no request.
const REQUEST_BYTES_MAX: usize = 8192;
/// How long a visitor may take to say what it wants.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// `/download` without a rate: bytes a second.
const RATE_DEFAULT: u64 = 1_000_000;
const RATE_MAX: u64 = 1_000_000_000;
/// `/download` sends a piece so often.
const BEAT: Duration = Duration::from_millis(10);
static PIECE: [u8; 65_536] = [b'u'; 65_536];

/// Serves until the listener fails.
pub async fn serve(listener: TcpListener, name: String) -> io::Result<()> {
    loop {
        let (mut visitor, _) = listener.accept().await?;
        let name = name.clone();
        tokio::spawn(async move {
            // A visitor who leaves is no failure of the service.
            let _left = answer(&mut visitor, &name).await;
        });
    }
}

async fn answer(visitor: &mut TcpStream, name: &str) -> io::Result<()> {
    let Ok(request) = time::timeout(REQUEST_LIMIT, read_head(visitor)).await? else { return Ok(()) };
    let mut words = request.split_ascii_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if method != "GET" {
        return respond(visitor, "405 Method Not Allowed", "only GET\n").await;
    }
    if path == "/" {
        return respond(visitor, "200 OK", &format!("This is {name}.\n")).await;
    }
    if path == "/download" {
        let rate = query.strip_prefix("rate=").and_then(|rate| rate.parse().ok()).unwrap_or(RATE_DEFAULT);
        return download(visitor, rate.clamp(1, RATE_MAX)).await;
    }
    if let Some(count) = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
        return send_bytes(visitor, count).await;
    }
    respond(visitor, "404 Not Found", "there is /, /download?rate=BYTES_PER_SECOND and /bytes/COUNT\n").await
}

async fn read_head(visitor: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        let count = visitor.read(&mut part).await?;
        head.extend_from_slice(part.get(..count).unwrap_or_default());
        if count == 0 || head.len() > REQUEST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

async fn respond(visitor: &mut TcpStream, status: &str, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n");
    visitor.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await?;
    visitor.shutdown().await
}

async fn send_bytes(visitor: &mut TcpStream, count: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {count}\r\nConnection: close\r\n\r\n");
    visitor.write_all(head.as_bytes()).await?;
    let mut left = count;
    while left > 0 {
        let piece = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE.len());
        visitor.write_all(PIECE.get(..piece).unwrap_or(&PIECE)).await?;
        left -= piece as u64;
    }
    visitor.shutdown().await
}

/// Sends for ever, `rate` bytes a second.
async fn download(visitor: &mut TcpStream, rate: u64) -> io::Result<()> {
    visitor.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await?;
    let mut beat = time::interval(BEAT);
    let started = time::Instant::now();
    let mut sent = 0_u64;
    loop {
        beat.tick().await;
        let elapsed = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let owed = (elapsed.saturating_mul(rate) / 1000).saturating_sub(sent);
        let piece = usize::try_from(owed).unwrap_or(usize::MAX).min(PIECE.len());
        visitor.write_all(PIECE.get(..piece).unwrap_or(&PIECE)).await?;
        sent += piece as u64;
    }
}
