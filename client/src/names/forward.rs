//! How are other people's names resolved? By the servers that the machine had before.
//!
//! Each query leaves from a fresh socket of its own with an id of its own, and only an answer to exactly that question
//! from exactly that server counts (RFC 5452, section 9). A message passes as it is, whatever types and options it holds.

use super::wire::{self, Question, Transport};
use model::limits::{DATAGRAM_MAX, DNS_MISMATCH_MAX, DNS_SERVER_WAIT, DNS_SERVERS_MAX};
use model::pool::Pool;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// Why a server was of no use.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The network's or the server's refusal, or no answer in time.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody sends what is no answer to the query.
    #[error("the answers do not belong to the query")]
    Mismatch,
    /// No ids or ports can be chosen.
    #[error(transparent)]
    Entropy(#[from] host::entropy::EntropyError),
}

/// The servers that may be asked: never ourselves, for the circle would not end.
pub fn usable(servers: &[SocketAddr], pool: &Pool) -> Vec<SocketAddr> {
    let foreign = |server: &&SocketAddr| {
        let ip = server.ip().to_canonical();
        !pool.contains(ip) && !ip.is_unspecified() && !ip.is_multicast() && server.port() != 0
    };
    let mut usable: Vec<SocketAddr> = Vec::new();
    for server in servers.iter().filter(foreign) {
        if !usable.contains(server) && usable.len() < DNS_SERVERS_MAX {
            usable.push(*server);
        }
    }
    usable
}

/// Asks one server after the other. `None`: none answered. A server's failure (SERVFAIL, REFUSED, NOTIMP) is the answer
/// only if no other server has a better one.
pub async fn forward(
    servers: &[SocketAddr],
    query: &[u8],
    question: &Question,
    transport: Transport,
) -> Option<Vec<u8>> {
    let id = query.get(..2).and_then(|id| id.try_into().ok()).map(u16::from_be_bytes)?;
    let mut failure = None;
    for server in servers {
        match ask(*server, query, question, transport).await {
            Ok(mut answer) => {
                wire::set_id(&mut answer, id);
                match wire::header(&answer)?.rcode {
                    2 | 4 | 5 => failure = failure.or(Some(answer)),
                    _ => return Some(answer),
                }
            }
            Err(error) => tracing::debug!(%server, %error, "a name server was of no use"),
        }
    }
    failure
}

async fn ask(
    server: SocketAddr,
    query: &[u8],
    question: &Question,
    transport: Transport,
) -> Result<Vec<u8>, ServerError> {
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    if transport == Transport::Udp {
        let answer = timeout(DNS_SERVER_WAIT, ask_udp(server, query, question)).await.map_err(late)??;
        if !wire::header(&answer).is_some_and(|header| header.truncated) {
            return Ok(answer);
        }
        // A server that cuts but does not speak TCP: the asker may try for itself.
        return match timeout(DNS_SERVER_WAIT, ask_tcp(server, query, question)).await {
            Ok(Ok(whole)) => Ok(whole),
            _ => Ok(answer),
        };
    }
    timeout(DNS_SERVER_WAIT, ask_tcp(server, query, question)).await.map_err(late)?
}

/// The query under a fresh id.
fn renamed(query: &[u8]) -> Result<(u16, Vec<u8>), ServerError> {
    let id = u16::from_be_bytes(host::entropy::random()?);
    let mut own = query.to_vec();
    wire::set_id(&mut own, id);
    Ok((id, own))
}

fn belongs(answer: &[u8], id: u16, question: &Question) -> bool {
    wire::header(answer).is_some_and(|header| header.response && header.opcode == 0 && header.id == id)
        && wire::question(answer).is_some_and(|asked| asked == *question)
}

async fn ask_udp(server: SocketAddr, query: &[u8], question: &Question) -> Result<Vec<u8>, ServerError> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // Port 0: the kernel chooses one at random. Connected: the kernel drops what comes from elsewhere.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    let (id, own) = renamed(query)?;
    socket.send(&own).await?;
    let mut answer = vec![0; DATAGRAM_MAX];
    for _ in 0..DNS_MISMATCH_MAX {
        let len = socket.recv(&mut answer).await?;
        if answer.get(..len).is_some_and(|answer| belongs(answer, id, question)) {
            answer.truncate(len);
            return Ok(answer);
        }
    }
    Err(ServerError::Mismatch)
}

async fn ask_tcp(server: SocketAddr, query: &[u8], question: &Question) -> Result<Vec<u8>, ServerError> {
    let mut stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (id, own) = renamed(query)?;
    let len = u16::try_from(own.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    stream.write_all(&[&len.to_be_bytes(), own.as_slice()].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if belongs(&answer, id, question) { Ok(answer) } else { Err(ServerError::Mismatch) }
}
