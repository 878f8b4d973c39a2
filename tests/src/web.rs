//! How do the lab's own web server and browser speak? HTTP/1.1, one request a connection, in the clear or in TLS.

use anyhow::{Context as _, bail, ensure};
use std::io::{BufRead as _, BufReader, Read, Write};

/// Bytes of a head's line, and of a body.
const LINE_MAX: u64 = 32 << 10;
const BODY_MAX: u64 = 1 << 20;
const HEADERS_MAX: usize = 64;

/// A request or an answer.
#[derive(Debug, Default)]
pub struct Message {
    /// The first line's three words.
    pub first: [String; 3],
    /// Headers, names in small letters.
    pub headers: Vec<(String, String)>,
    /// What stands behind them.
    pub body: Vec<u8>,
}

impl Message {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(held, _)| held == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Reads one.
pub fn read(stream: impl Read) -> anyhow::Result<Message> {
    let mut stream = BufReader::new(stream);
    let mut message = Message { first: words(&line(&mut stream)?)?, ..Message::default() };
    loop {
        let line = line(&mut stream)?;
        let Some((name, value)) = line.split_once(':') else { break };
        message.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        ensure!(message.headers.len() <= HEADERS_MAX, "too many headers");
    }
    let length: u64 = message.header("content-length").map_or(Ok(0), str::parse)?;
    ensure!(length <= BODY_MAX, "a body of {length} bytes");
    stream.take(length).read_to_end(&mut message.body)?;
    Ok(message)
}

fn line(stream: &mut impl std::io::BufRead) -> anyhow::Result<String> {
    let mut line = Vec::new();
    stream.take(LINE_MAX).read_until(b'\n', &mut line)?;
    ensure!(line.ends_with(b"\n"), "a line without an end");
    Ok(String::from_utf8(line)?.trim_end().to_owned())
}

fn words(line: &str) -> anyhow::Result<[String; 3]> {
    let mut words = line.splitn(3, ' ').map(str::to_owned);
    let (Some(first), Some(second)) = (words.next(), words.next()) else { bail!("not HTTP: {line}") };
    Ok([first, second, words.next().unwrap_or_default()])
}

/// Writes one: `first` is its first line.
pub fn write(mut stream: impl Write, first: &str, headers: &[(&str, &str)], body: &[u8]) -> anyhow::Result<()> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{first}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    stream.write_all(&[head.as_bytes(), body].concat()).context("nobody reads")?;
    Ok(stream.flush()?)
}
