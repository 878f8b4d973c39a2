//! Where does a target's name lead right now? The hosts file, then the host's own DNS servers, with the TTL they give.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use model::limits::{DNS_SERVERS_ASKED_MAX, HOSTS_FILE_MAX, TARGET_ADDRESSES_MAX};
use model::net::HostName;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

/// How long an answer of the hosts file is used before the file is read again.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// Bounds for a TTL off the wire: a zero would mean a query for each flow, a long one outlives a change.
const TTL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How long one server may take.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// An answer: addresses in the order given, and how long they may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// None when the name does not exist or has no address of the family.
    pub addresses: Vec<IpAddr>,
    /// How long it holds.
    pub ttl: Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// resolv.conf names no server.
    #[error("no DNS server is configured on this gateway (/etc/resolv.conf)")]
    NoServer,
    /// None answered.
    #[error("no DNS server answered for {0}")]
    Silent(HostName),
    /// The name cannot be asked for.
    #[error("{0} cannot be asked for: {1}")]
    Name(HostName, String),
}

/// The host's view of names.
#[derive(Debug, Clone)]
pub struct Resolver {
    hosts: PathBuf,
    resolv_conf: PathBuf,
}

impl Default for Resolver {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into() }
    }
}

impl Resolver {
    /// Every address of one family.
    pub async fn resolve(&self, name: &HostName, v4: bool) -> Result<Answer, ResolveError> {
        let fixed = in_hosts(&read(&self.hosts).await, name);
        if !fixed.is_empty() {
            let addresses = fixed.into_iter().filter(|a| a.is_ipv4() == v4).take(TARGET_ADDRESSES_MAX).collect();
            return Ok(Answer { addresses, ttl: HOSTS_TTL });
        }
        let servers = servers(&read(&self.resolv_conf).await);
        if servers.is_empty() {
            return Err(ResolveError::NoServer);
        }
        let query = question(name, v4)?;
        for server in servers {
            if let Ok(Some(reply)) = tokio::time::timeout(ANSWER_MAX, ask(server, &query)).await {
                return Ok(answer(&reply, v4));
            }
        }
        Err(ResolveError::Silent(name.clone()))
    }
}

async fn read(path: &Path) -> String {
    // A file that is missing or absurdly large says nothing.
    match tokio::fs::metadata(path).await {
        Ok(meta) if meta.len() <= HOSTS_FILE_MAX => tokio::fs::read_to_string(path).await.unwrap_or_default(),
        _ => String::new(),
    }
}

fn lines(text: &str) -> impl Iterator<Item = std::str::SplitWhitespace<'_>> {
    text.lines().map(|l| l.split(['#', ';']).next().unwrap_or("").split_whitespace())
}

/// The addresses that a hosts file (hosts(5)) has for a name.
pub fn in_hosts(text: &str, name: &HostName) -> Vec<IpAddr> {
    lines(text)
        .filter_map(|mut words| {
            let address = words.next()?.parse().ok()?;
            words.any(|w| w.eq_ignore_ascii_case(name.as_str())).then_some(address)
        })
        .collect()
}

/// The first servers of a resolv.conf.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    lines(text)
        .filter_map(|mut words| (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?)
        .map(|address| SocketAddr::new(address, 53))
        .take(DNS_SERVERS_ASKED_MAX)
        .collect()
}

fn question(name: &HostName, v4: bool) -> Result<Message, ResolveError> {
    let fqdn =
        Name::from_ascii(format!("{}.", name.as_str())).map_err(|e| ResolveError::Name(name.clone(), e.to_string()))?;
    let id = u16::from_be_bytes(host::entropy::random().map_err(|e| ResolveError::Name(name.clone(), e.to_string()))?);
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(fqdn, if v4 { RecordType::A } else { RecordType::AAAA }));
    Ok(message)
}

async fn ask(server: SocketAddr, query: &Message) -> Option<Message> {
    let bytes = query.to_vec().ok()?;
    let local: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    // A fresh, connected socket: a random source port, and answers from that server alone.
    let socket = UdpSocket::bind(local).await.ok()?;
    socket.connect(server).await.ok()?;
    socket.send(&bytes).await.ok()?;
    let mut buffer = vec![0; 4_096];
    loop {
        let length = socket.recv(&mut buffer).await.ok()?;
        let Some(reply) = buffer.get(..length).and_then(|b| matching(b, query)) else { continue };
        return if reply.metadata.truncation { ask_tcp(server, query, &bytes).await } else { Some(reply) };
    }
}

async fn ask_tcp(server: SocketAddr, query: &Message, bytes: &[u8]) -> Option<Message> {
    let mut stream = TcpStream::connect(server).await.ok()?;
    stream.write_all(&u16::try_from(bytes.len()).ok()?.to_be_bytes()).await.ok()?;
    stream.write_all(bytes).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    let mut reply = vec![0; usize::from(length)];
    stream.read_exact(&mut reply).await.ok()?;
    matching(&reply, query)
}

/// Only an answer to this very question counts (RFC 5452 section 9.1).
fn matching(bytes: &[u8], query: &Message) -> Option<Message> {
    let reply = Message::from_vec(bytes).ok()?;
    let same = reply.metadata.id == query.metadata.id
        && reply.metadata.message_type == MessageType::Response
        && reply.queries == query.queries;
    same.then_some(reply)
}

fn answer(reply: &Message, v4: bool) -> Answer {
    if reply.metadata.response_code != ResponseCode::NoError {
        return Answer { addresses: Vec::new(), ttl: HOSTS_TTL };
    }
    let mut ttl = TTL.1;
    let mut addresses = Vec::new();
    for record in &reply.answers {
        ttl = ttl.min(Duration::from_secs(u64::from(record.ttl)));
        match &record.data {
            RData::A(a) if v4 => addresses.push(IpAddr::V4(a.0)),
            RData::AAAA(a) if !v4 => addresses.push(IpAddr::V6(a.0)),
            _ => {}
        }
    }
    addresses.truncate(TARGET_ADDRESSES_MAX);
    Answer { addresses, ttl: ttl.max(TTL.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_as_the_system_reads_them() {
        let hosts = "# comment\n10.20.0.10 web.corp.example web # tail\nfd20::10 WEB.corp.example\nnonsense web\n";
        let name: HostName = "web.corp.example".parse().unwrap();
        assert_eq!(in_hosts(hosts, &name), ["10.20.0.10".parse::<IpAddr>().unwrap(), "fd20::10".parse().unwrap()]);
        let conf = "search corp\nnameserver 10.0.0.1\n nameserver fd00::1 \nnameserver\nnameserver x\n";
        assert_eq!(servers(conf), ["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()]);
    }

    #[tokio::test]
    async fn files_and_answers_are_read_up_to_their_bounds() {
        let name: HostName = "web.corp.example".parse().unwrap();
        let many = (0..=TARGET_ADDRESSES_MAX).map(|n| format!("10.20.0.{n} web.corp.example\n")).collect::<String>();
        let random: [u8; 8] = host::entropy::random().unwrap();
        let folder = std::env::temp_dir().join(format!("umbra-resolve-{:016x}", u64::from_le_bytes(random)));
        std::fs::create_dir(&folder).unwrap();
        let resolver = Resolver { hosts: folder.join("hosts"), resolv_conf: folder.join("none") };
        let resolved = async |text: &str, bytes: u64| {
            let padding = "#".repeat(usize::try_from(bytes).unwrap() - text.len());
            std::fs::write(&resolver.hosts, format!("{text}{padding}")).unwrap();
            resolver.resolve(&name, true).await
        };
        let found = resolved(&many, HOSTS_FILE_MAX).await.unwrap();
        assert_eq!(found.addresses.len(), TARGET_ADDRESSES_MAX, "the first of them");
        assert!(matches!(resolved(&many, HOSTS_FILE_MAX + 1).await, Err(ResolveError::NoServer)), "no hosts file");
        assert!(resolved(&many, 10_000).await.is_ok());
        std::fs::remove_dir_all(&folder).unwrap();

        let conf = (0..=DNS_SERVERS_ASKED_MAX).map(|n| format!("nameserver 10.0.0.{n}\n")).collect::<String>();
        assert_eq!(servers(&conf).len(), DNS_SERVERS_ASKED_MAX);
        let mut reply = question(&name, true).unwrap();
        for n in 0..=TARGET_ADDRESSES_MAX {
            let data = RData::A(
                [10, 20, 0, n as u8]
                    .map(u8::from)
                    .into_iter()
                    .collect::<Vec<_>>()
                    .try_into()
                    .map(|[a, b, c, d]: [u8; 4]| hickory_proto::rr::rdata::A::new(a, b, c, d))
                    .unwrap(),
            );
            reply.add_answer(hickory_proto::rr::Record::from_rdata(
                Name::from_ascii("web.corp.example.").unwrap(),
                60,
                data,
            ));
        }
        assert_eq!(answer(&reply, true).addresses.len(), TARGET_ADDRESSES_MAX);
    }

    #[test]
    fn an_answer_to_another_question_is_none() {
        let name: HostName = "a.example".parse().unwrap();
        let query = question(&name, true).unwrap();
        let other = question(&"b.example".parse().unwrap(), true).unwrap();
        let mut reply = other.clone();
        reply.metadata.message_type = MessageType::Response;
        reply.metadata.id = query.metadata.id;
        assert!(matching(&reply.to_vec().unwrap(), &query).is_none());
        reply.queries = query.queries.clone();
        assert!(matching(&reply.to_vec().unwrap(), &query).is_some());
        assert!(matching(&[0; 3], &query).is_none());
    }
}
