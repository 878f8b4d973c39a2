//! What does this CBOR say? Of RFC 8949 only what authenticators write (CTAP 2.1, section 8): whole lengths in their shortest form, no
//! tags, no floats, names that are numbers or texts and are there once. Everything is borrowed, so a length that lies costs nothing.

use model::limits::{CBOR_DEPTH_MAX, CBOR_ITEMS_MAX};

/// One item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item<'a> {
    /// A number, also a negative one.
    Number(i64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// A list.
    List(Vec<Item<'a>>),
    /// Names and what they mean, in the order in which they are written.
    Map(Vec<(Item<'a>, Item<'a>)>),
    /// Yes, no, or nothing.
    Simple(Option<bool>),
}

impl<'a> Item<'a> {
    /// What a map says under a number.
    pub fn at(&self, number: i64) -> Option<&Self> {
        self.find(&Item::Number(number))
    }
    /// What a map says under a text.
    pub fn named(&self, name: &'a str) -> Option<&Self> {
        self.find(&Item::Text(name))
    }
    fn find(&self, name: &Item<'_>) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        pairs.iter().find(|(held, _)| held == name).map(|(_, value)| value)
    }
    /// How many names a map has.
    pub fn names(&self) -> usize {
        if let Self::Map(pairs) = self { pairs.len() } else { 0 }
    }
    /// The number.
    pub const fn number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
    /// The bytes.
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
    /// The text.
    pub const fn text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }
}

/// The item with which these bytes begin, and what follows it.
pub fn first(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let mut reader = Reader { rest: bytes, items: 0 };
    let item = reader.item(0)?;
    Some((item, reader.rest))
}

/// The one item that these bytes are.
pub fn only(bytes: &[u8]) -> Option<Item<'_>> {
    first(bytes).filter(|(_, rest)| rest.is_empty()).map(|(item, _)| item)
}

struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// A head's major type and argument (RFC 8949, section 3): not longer than it has to be.
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = *self.take(1)?.first()?;
        let (major, short) = (first >> 5, first & 31);
        let extra = match short {
            0..=23 => return Some((major, u64::from(short))),
            24..=27 => 1_usize << (short - 24),
            _ => return None,
        };
        let argument = self.take(extra)?.iter().fold(0_u64, |all, byte| (all << 8) | u64::from(*byte));
        let least = if extra == 1 { 24 } else { 1_u64 << (extra * 4) };
        (argument >= least).then_some((major, argument))
    }

    fn item(&mut self, depth: usize) -> Option<Item<'a>> {
        self.items += 1;
        if self.items > CBOR_ITEMS_MAX {
            return None;
        }
        let (major, argument) = self.head()?;
        let count = || usize::try_from(argument).ok();
        match major {
            0 => i64::try_from(argument).ok().map(Item::Number),
            1 => i64::try_from(argument).ok().map(|number| Item::Number(-1 - number)),
            2 => self.take(count()?).map(Item::Bytes),
            3 => std::str::from_utf8(self.take(count()?)?).ok().map(Item::Text),
            4 | 5 if depth >= CBOR_DEPTH_MAX => None,
            4 => {
                let mut list = Vec::new();
                for _ in 0..count()? {
                    list.push(self.item(depth + 1)?);
                }
                Some(Item::List(list))
            }
            5 => {
                let mut pairs: Vec<(Item<'a>, Item<'a>)> = Vec::new();
                for _ in 0..count()? {
                    let name = self.item(depth + 1)?;
                    let fits = matches!(name, Item::Number(_) | Item::Text(_));
                    if !fits || pairs.iter().any(|(held, _)| *held == name) {
                        return None;
                    }
                    let value = self.item(depth + 1)?;
                    pairs.push((name, value));
                }
                Some(Item::Map(pairs))
            }
            7 => match argument {
                20 | 21 => Some(Item::Simple(Some(argument == 21))),
                22 => Some(Item::Simple(None)),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rfc_8949_shows_is_read_as_it_says() {
        // Appendix A.
        for (bytes, item) in [
            (&[0x00][..], Item::Number(0)),
            (&[0x17], Item::Number(23)),
            (&[0x18, 0x18], Item::Number(24)),
            (&[0x19, 0x03, 0xe8], Item::Number(1_000)),
            (&[0x1b, 0, 0, 0, 0xe8, 0xd4, 0xa5, 0x10, 0], Item::Number(1_000_000_000_000)),
            (&[0x20], Item::Number(-1)),
            (&[0x39, 0x03, 0xe7], Item::Number(-1_000)),
            (&[0xf4], Item::Simple(Some(false))),
            (&[0xf5], Item::Simple(Some(true))),
            (&[0xf6], Item::Simple(None)),
            (&[0x44, 1, 2, 3, 4], Item::Bytes(&[1, 2, 3, 4])),
            (&[0x62, 0xc3, 0xbc, 0], Item::Text("ü")),
            (&[0x82, 1, 0x80], Item::List(vec![Item::Number(1), Item::List(vec![])])),
            (&[0xa1, 0x61, 0x61, 1], Item::Map(vec![(Item::Text("a"), Item::Number(1))])),
        ] {
            let bytes = if item == Item::Text("ü") { &bytes[..3] } else { bytes };
            assert_eq!(only(bytes), Some(item), "{bytes:x?}");
            assert_eq!(only(&bytes[..bytes.len() - 1]), None, "cut");
            assert_eq!(only(&[bytes, &[0]].concat()), None, "trailing");
            assert_eq!(first(&[bytes, &[0]].concat()).unwrap().1, &[0]);
        }
    }

    #[test]
    fn what_authenticators_do_not_write_is_not_read() {
        for (bytes, why) in [
            (&[0x18, 0x17][..], "longer than it has to be"),
            (&[0x19, 0, 0xff], "longer than it has to be"),
            (&[0x1a, 0, 0, 0xff, 0xff], "longer than it has to be"),
            (&[0x1b, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "longer than it has to be"),
            (&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "too large"),
            (&[0x3b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "too large"),
            (&[0x5f, 0x41, 1, 0xff], "without a length"),
            (&[0x9f, 0xff], "without a length"),
            (&[0xbf, 0xff], "without a length"),
            (&[0xc0, 0x60], "a tag"),
            (&[0xf9, 0, 0], "a float"),
            (&[0xf7], "undefined"),
            (&[0xf8, 0x20], "a simple value"),
            (&[0x61, 0xff], "no UTF-8"),
            (&[0xa2, 1, 1, 1, 2], "twice"),
            (&[0xa1, 0xf5, 1], "a name that is neither number nor text"),
            (&[0x5b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "a length that lies"),
            (&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], "a length that lies"),
            (&[], "nothing"),
        ] {
            assert_eq!(first(bytes), None, "{why}");
        }
    }

    #[test]
    fn so_deep_and_so_many() {
        let deep = |levels: usize| [vec![0x81; levels], vec![0]].concat();
        assert!(only(&deep(CBOR_DEPTH_MAX)).is_some() && only(&deep(CBOR_DEPTH_MAX + 1)).is_none());
        let wide = |items: u8| [vec![0x98, items], vec![0; usize::from(items)]].concat();
        let most = u8::try_from(CBOR_ITEMS_MAX).unwrap() - 1;
        assert!(only(&wide(most)).is_some() && only(&wide(most + 1)).is_none());
    }
}
