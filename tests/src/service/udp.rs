//! Sends every datagram back, and streams numbered datagrams to whoever asks.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time;

/// Datagrams a second, at most.
const RATE_MAX: u64 = 20_000;
/// Datagrams of one stream, at most.
const COUNT_MAX: u64 = 10_000_000;
/// Streams at once, at most; a further request gets its own words back.
const STREAMS_MAX: usize = 64;

/// Serves until the socket fails.
pub async fn serve(socket: UdpSocket) -> io::Result<()> {
    let socket = Arc::new(socket);
    let mut streams = tokio::task::JoinSet::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An ICMP error for an earlier datagram: somebody else's trouble.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        while streams.try_join_next().is_some() {}
        let words = buffer.get(..length).unwrap_or_default();
        match parse_request(words) {
            Some((rate, count)) if streams.len() < STREAMS_MAX => {
                streams.spawn(stream(socket.clone(), from, rate, count));
            }
            _ => {
                let _lost = socket.send_to(words, from).await;
            }
        }
    }
}

/// `stream PER_SECOND COUNT`
fn parse_request(words: &[u8]) -> Option<(u64, u64)> {
    let mut words = std::str::from_utf8(words).ok()?.split_whitespace();
    if words.next()? != "stream" {
        return None;
    }
    let (rate, count) = (words.next()?.parse::<u64>().ok()?, words.next()?.parse::<u64>().ok()?);
    Some((rate.clamp(1, RATE_MAX), count.min(COUNT_MAX)))
}

async fn stream(socket: Arc<UdpSocket>, to: SocketAddr, rate: u64, count: u64) {
    let mut beat = time::interval(Duration::from_nanos(1_000_000_000 / rate));
    for number in 0..count {
        beat.tick().await;
        let _lost = socket.send_to(number.to_string().as_bytes(), to).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_request_starts_a_stream() {
        assert_eq!(parse_request(b"stream 10 20\n"), Some((10, 20)));
        assert_eq!(parse_request(b"stream 0 20"), Some((1, 20)));
        assert_eq!(parse_request(b"stream 99999999 99999999999"), Some((RATE_MAX, COUNT_MAX)));
        for other in [&b"stream"[..], b"stream 10", b"hello 10 20", b"\xff"] {
            assert_eq!(parse_request(other), None);
        }
    }
}
