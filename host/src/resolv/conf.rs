//! What does a resolv.conf say? Servers, search list, options; the rest is for people.
#![allow(unsafe_code)]

use model::limits::RESOLV_CONF_ENTRIES_MAX;
use std::ffi::CString;
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The first line of ours, by which it is known again.
pub const MARKER: &str = "# Made by Umbra; the original comes back when it stops.";
/// The port of every server (RFC 1035, section 4.2).
const PORT: u16 = 53;

/// A resolv.conf.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conf {
    /// The servers, in order; a link-local one has its interface as scope.
    pub servers: Vec<SocketAddr>,
    /// Domains that are tried behind short names.
    pub search: Vec<String>,
    /// Options, as they stand there.
    pub options: Vec<String>,
}

impl Conf {
    /// Reads one as glibc does: the last `search` or `domain` counts, unknown lines do not.
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let Some(keyword) = words.next() else { continue };
            match keyword {
                "nameserver" => conf.servers.extend(words.next().and_then(server)),
                "search" | "domain" => conf.search = words.take(RESOLV_CONF_ENTRIES_MAX).map(str::to_owned).collect(),
                "options" => conf.options.extend(words.take(RESOLV_CONF_ENTRIES_MAX).map(str::to_owned)),
                _ => {}
            }
        }
        conf.servers.truncate(RESOLV_CONF_ENTRIES_MAX);
        conf.options.truncate(RESOLV_CONF_ENTRIES_MAX);
        conf
    }

    /// Writes it, with the marker in front.
    pub fn to_text(&self) -> String {
        let mut text = format!("{MARKER}\n");
        for server in &self.servers {
            // A String takes every write.
            let _ = match server {
                SocketAddr::V6(v6) if v6.scope_id() != 0 => writeln!(text, "nameserver {}%{}", v6.ip(), v6.scope_id()),
                other => writeln!(text, "nameserver {}", other.ip()),
            };
        }
        for (keyword, words) in [("search", &self.search), ("options", &self.options)] {
            if !words.is_empty() {
                let _ = writeln!(text, "{keyword} {}", words.join(" "));
            }
        }
        text
    }
}

fn server(text: &str) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(address, PORT));
    }
    let (address, scope) = text.split_once('%')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = scope.parse().ok().or_else(|| interface_index(scope))?;
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

fn interface_index(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: `name` is a zero-terminated string that outlives the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => None,
        index => Some(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_glibc_reads() {
        let text = "# comment\n; another\nnameserver 192.0.2.1\n  nameserver 2001:db8::1 \nnameserver fe80::1%1\n\
                    nameserver fe80::1%lo\nnameserver nonsense\ndomain old.example\nsearch a.example b.example\n\
                    options ndots:2 edns0\noptions trust-ad\nsortlist 1.2.3.4\nsearch\n";
        let conf = Conf::parse(&text.replace("search\n", ""));
        let servers: Vec<String> = conf.servers.iter().map(SocketAddr::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%1]:53", "[fe80::1%1]:53"]);
        assert_eq!(conf.search, ["a.example", "b.example"]);
        assert_eq!(conf.options, ["ndots:2", "edns0", "trust-ad"]);
    }

    #[test]
    fn is_read_as_it_was_written() {
        let text = "nameserver fe80::1%7\nnameserver 192.0.2.1\nsearch a.example\noptions ndots:2\n";
        let conf = Conf::parse(text);
        assert_eq!(conf.to_text(), format!("{MARKER}\n{text}"));
        assert_eq!(Conf::parse(&conf.to_text()), conf);
    }

    #[test]
    fn a_hostile_file_stays_within_bounds() {
        let text = "nameserver 192.0.2.1\noptions a b c\n".repeat(5_000) + "search " + &"x ".repeat(5_000);
        let conf = Conf::parse(&text);
        assert_eq!(
            (conf.servers.len(), conf.search.len(), conf.options.len()),
            (RESOLV_CONF_ENTRIES_MAX, RESOLV_CONF_ENTRIES_MAX, RESOLV_CONF_ENTRIES_MAX)
        );
    }
}
