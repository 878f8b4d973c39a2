//! How is an entry deleted whatever its protocol? The kernel tells its original tuple, and is sent the same bytes back.
//!
//! Nothing of the tuple but its source is read, so that protocols which the library does not know (ICMPv6) go like
//! every other. For IPv6 alone: IPv4 needs one request.

use nlink::netlink::message::NlMsgError;
use nlink::netlink::{AttrIter, Error, MessageBuilder, MessageIter, NetlinkSocket, Protocol};
use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// `NFNL_SUBSYS_CTNETLINK << 8` with `IPCTNL_MSG_CT_GET`, `IPCTNL_MSG_CT_DELETE` (linux/netfilter/nfnetlink*.h).
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;
/// `NLM_F_REQUEST`, `NLM_F_ACK`, `NLM_F_DUMP` (linux/netlink.h).
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// `NLM_F_DUMP_INTR`: what is told is not one moment's table.
const INTERRUPTED: u16 = 0x10;
/// `CTA_TUPLE_ORIG`, inside it `CTA_TUPLE_IP`, inside that `CTA_IP_V6_SRC`; `CTA_ZONE`, `CTA_ID`.
const TUPLE_ORIG: u16 = 1;
const TUPLE_IP: u16 = 1;
const IP_V6_SRC: u16 = 3;
const ZONE: u16 = 18;
const ID: u16 = 12;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// Bytes of `struct nfgenmsg`, in front of every message's attributes.
const FAMILY_LEN: usize = 4;

/// What names an entry to the kernel, in the kernel's bytes. The id tells it from a later one of the same tuple.
struct Named {
    tuple: Vec<u8>,
    zone: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
}

/// Deletes every IPv6 entry whose original source is one of `sources`, in one walk through the table. One that cannot
/// be deleted keeps no other alive; the first refusal is told.
pub async fn delete_by_source(sources: &BTreeSet<Ipv6Addr>) -> nlink::Result<()> {
    if sources.is_empty() {
        return Ok(());
    }
    let socket = NetlinkSocket::new(Protocol::Netfilter)?;
    let mut refused = Ok(());
    for entry in list(&socket, sources).await? {
        refused = refused.and(delete(&socket, &entry).await);
    }
    refused
}

fn request(socket: &NetlinkSocket, kind: u16, flags: u16) -> MessageBuilder {
    let mut message = MessageBuilder::new(kind, REQUEST | flags);
    message.set_seq(socket.next_seq());
    message.append_bytes(&[libc::AF_INET6 as u8, 0, 0, 0]);
    message
}

async fn list(socket: &NetlinkSocket, sources: &BTreeSet<Ipv6Addr>) -> nlink::Result<Vec<Named>> {
    socket.send(&request(socket, GET, DUMP).finish()).await?;
    let mut found = Vec::new();
    loop {
        let datagram = socket.recv_unicast().await?;
        for message in MessageIter::new(&datagram) {
            let (header, body) = message?;
            if header.nlmsg_flags & INTERRUPTED != 0 {
                return Err(Error::invalid_message("the connection tracking table changed while it was read"));
            }
            if header.is_done() {
                // The end carries what went wrong on the way, if anything did.
                return match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
                    Some(code) if code != 0 => Err(Error::from_errno(code)),
                    _ => Ok(found),
                };
            }
            if header.is_error() {
                refusal(body)?;
            }
            found.extend(body.get(FAMILY_LEN..).and_then(|attributes| read(attributes, sources)));
        }
    }
}

/// The entry, if it is one of `sources`.
fn read(attributes: &[u8], sources: &BTreeSet<Ipv6Addr>) -> Option<Named> {
    let find = |attributes, wanted: u16| AttrIter::new(attributes).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
    let tuple = find(attributes, TUPLE_ORIG)?;
    let from: [u8; 16] = find(find(tuple, TUPLE_IP)?, IP_V6_SRC)?.try_into().ok()?;
    let owned = |kind| find(attributes, kind).map(<[u8]>::to_vec);
    sources.contains(&Ipv6Addr::from(from)).then(|| Named { tuple: tuple.to_vec(), zone: owned(ZONE), id: owned(ID) })
}

async fn delete(socket: &NetlinkSocket, entry: &Named) -> nlink::Result<()> {
    let mut message = request(socket, DELETE, ACK);
    message.append_attr(TUPLE_ORIG | NESTED, &entry.tuple);
    for (kind, value) in [(ZONE, &entry.zone), (ID, &entry.id)] {
        if let Some(value) = value {
            message.append_attr(kind, value);
        }
    }
    socket.send(&message.finish()).await?;
    let datagram = socket.recv_unicast().await?;
    for message in MessageIter::new(&datagram) {
        let (header, body) = message?;
        if header.is_error() {
            return match refusal(body) {
                // It ended by itself meanwhile.
                Err(error) if error.is_not_found() => Ok(()),
                other => other,
            };
        }
    }
    Err(Error::invalid_message("the kernel did not say whether a connection tracking entry was deleted"))
}

/// An acknowledgement is an error of number 0.
fn refusal(body: &[u8]) -> nlink::Result<()> {
    let told = NlMsgError::from_bytes(body)?;
    if told.is_ack() { Ok(()) } else { Err(Error::from_errno(told.error)) }
}
