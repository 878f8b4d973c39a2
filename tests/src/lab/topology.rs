//! Which hosts are there, and which addresses do they have?

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The link towards the outside network, in every host that has one.
pub const OUTSIDE_LINK: &str = "outside";
/// The link towards the services, in every host that has one.
pub const INSIDE_LINK: &str = "inside";
/// Where a name server of the outside network would answer (host `stranger`).
pub const OUTSIDE_NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 53));
/// Where the name server of the inside network answers (host `service`).
pub const INSIDE_NAME_SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 20, 0, 10));

/// The further laptops' names, in their order. The first one's addresses end with [`FURTHER_ENDING`].
const FURTHER: [&str; 30] = [
    "laptop3", "laptop4", "laptop5", "laptop6", "laptop7", "laptop8", "laptop9", "laptop10", "laptop11", "laptop12",
    "laptop13", "laptop14", "laptop15", "laptop16", "laptop17", "laptop18", "laptop19", "laptop20", "laptop21",
    "laptop22", "laptop23", "laptop24", "laptop25", "laptop26", "laptop27", "laptop28", "laptop29", "laptop30",
    "laptop31", "laptop32",
];
const FURTHER_ENDING: u8 = 103;

/// Which further laptop, counted from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Number(u8);

/// A host of the lab.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Name {
    /// Where the controller runs.
    Controller,
    /// The first gateway of the site.
    Gateway,
    /// The second gateway of the site.
    Gateway2,
    /// Where the protected services run.
    Service,
    /// The first user's machine.
    Laptop,
    /// The second user's machine.
    Laptop2,
    /// Somebody on the outside network who never joined.
    Stranger,
    /// Somebody on the inside network who never joined.
    Neighbour,
    /// The machine of one more user: only in worlds that ask for such, see [`Name::further`].
    Further(Number),
}

impl Name {
    /// The hosts that every world has.
    pub const ALL: [Self; 8] = [
        Self::Controller,
        Self::Gateway,
        Self::Gateway2,
        Self::Service,
        Self::Laptop,
        Self::Laptop2,
        Self::Stranger,
        Self::Neighbour,
    ];

    /// As it is written on the command line; also the host's own name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Further(Number(number)) => FURTHER.get(usize::from(number)).copied().unwrap_or_default(),
            Self::Controller => "controller",
            Self::Gateway => "gateway",
            Self::Gateway2 => "gateway2",
            Self::Service => "service",
            Self::Laptop => "laptop",
            Self::Laptop2 => "laptop2",
            Self::Stranger => "stranger",
            Self::Neighbour => "neighbour",
        }
    }

    /// The first `count` further laptops; there are 30 at most.
    pub fn further(count: usize) -> Vec<Self> {
        (0..).take(FURTHER.len().min(count)).map(|number| Self::Further(Number(number))).collect()
    }

    /// Its place among the hosts of a world.
    pub(super) fn place(self) -> usize {
        match self {
            Self::Further(Number(number)) => Self::ALL.len() + usize::from(number),
            name => Self::ALL.iter().position(|other| *other == name).unwrap_or_default(),
        }
    }

    /// The last parts of its addresses on the outside network.
    fn outside_endings(self) -> Vec<u8> {
        match self {
            Self::Controller => vec![10],
            Self::Gateway => vec![20],
            Self::Gateway2 => vec![21],
            Self::Laptop => vec![101],
            Self::Laptop2 => vec![102],
            Self::Further(Number(number)) => vec![FURTHER_ENDING + number],
            Self::Stranger => vec![66, 53],
            Self::Service | Self::Neighbour => Vec::new(),
        }
    }

    /// The last parts of its addresses on the inside network.
    const fn inside_endings(self) -> &'static [u8] {
        match self {
            Self::Gateway => &[2],
            Self::Gateway2 => &[3],
            Self::Service => &[10, 11, 12],
            Self::Neighbour => &[66],
            Self::Controller | Self::Laptop | Self::Laptop2 | Self::Stranger | Self::Further(_) => &[],
        }
    }

    /// Its addresses on the outside network: IPv4 and IPv6 in turn, the main ones first. May be empty.
    pub fn outside(self) -> Vec<IpAddr> {
        pairs(&self.outside_endings(), outside_v4, outside_v6)
    }

    /// Its addresses on the inside network: IPv4 and IPv6 in turn, the main ones first. May be empty.
    pub fn inside(self) -> Vec<IpAddr> {
        pairs(self.inside_endings(), inside_v4, inside_v6)
    }

    /// Each network that it is on: the link's name and the addresses there.
    pub fn links(self) -> Vec<(&'static str, Vec<IpAddr>)> {
        let all = [(OUTSIDE_LINK, self.outside()), (INSIDE_LINK, self.inside())];
        all.into_iter().filter(|(_, addresses)| !addresses.is_empty()).collect()
    }

    /// Whom it asks for names, as its resolv.conf says.
    pub const fn name_server(self) -> IpAddr {
        match self {
            Self::Gateway | Self::Gateway2 | Self::Service | Self::Neighbour => INSIDE_NAME_SERVER,
            Self::Controller | Self::Laptop | Self::Laptop2 | Self::Stranger | Self::Further(_) => OUTSIDE_NAME_SERVER,
        }
    }
}

fn pairs(endings: &[u8], v4: fn(u8) -> Ipv4Addr, v6: fn(u8) -> Ipv6Addr) -> Vec<IpAddr> {
    endings.iter().flat_map(|ending| [IpAddr::V4(v4(*ending)), IpAddr::V6(v6(*ending))]).collect()
}

fn outside_v4(ending: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, ending)
}

fn outside_v6(ending: u8) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, same_look(ending))
}

fn inside_v4(ending: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 20, 0, ending)
}

fn inside_v6(ending: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, same_look(ending))
}

/// The number whose hexadecimal form reads like the decimal form of `ending`.
fn same_look(ending: u8) -> u16 {
    let ending = u16::from(ending);
    ((ending / 100) << 8) | ((ending / 10 % 10) << 4) | (ending % 10)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::as_str).join(", ");
        let mut all = Self::ALL.into_iter().chain(Self::further(FURTHER.len()));
        let found = all.find(|name| name.as_str() == text);
        found.ok_or_else(|| format!("there is no host {text:?}; the hosts are {known}"))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.as_str().to_owned()
    }
}

impl TryFrom<String> for Name {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_end_alike() {
        let text = |name: Name| name.outside().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(Name::Laptop), ["203.0.113.101", "2001:db8:0:1::101"]);
        assert_eq!(text(Name::Stranger), ["203.0.113.66", "2001:db8:0:1::66", "203.0.113.53", "2001:db8:0:1::53"]);
        assert_eq!(Name::Gateway2.inside()[1].to_string(), "fd20::3");
    }

    #[test]
    fn names_read_back() {
        for name in Name::ALL.into_iter().chain(Name::further(usize::MAX)) {
            assert_eq!(name.as_str().parse::<Name>(), Ok(name));
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("\"{name}\""));
        }
        assert_eq!("laptop3".parse(), Ok(Name::further(1)[0]));
        assert_eq!(Name::further(1)[0].outside()[1].to_string(), "2001:db8:0:1::103");
        assert_eq!(
            Name::further(30).last().map(|name| name.outside()[0].to_string()),
            Some("203.0.113.132".to_owned())
        );
        assert!("gateway3".parse::<Name>().unwrap_err().contains("gateway2"));
    }
}
