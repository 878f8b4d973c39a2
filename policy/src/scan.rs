//! Is a policy file small and flat enough to be parsed at all? And where does each policy start?
//!
//! Cedar's parser recurses: a few hundred nested parentheses abort the process, and so can a chain of thousands of
//! operators, which becomes a tree as deep as it is long. This scanner knows only strings, comments, brackets and
//! operators, uses no recursion, and refuses what is too deep, too long or hidden before Cedar sees it.

use model::limits::{
    POLICY_BYTES_MAX, POLICY_DEPTH_MAX, POLICY_EACH_BYTES_MAX, POLICY_OPERATORS_MAX, POLICY_STRING_MAX,
};

use crate::text::{is_hidden, printable};

/// Why a file is not parsed: where (byte) and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) offset: usize,
    pub(crate) reason: String,
}

/// Checks a file against the limits; answers with the byte at which each policy starts.
pub(crate) fn scan(text: &str) -> Result<Vec<usize>, Refusal> {
    if text.len() > POLICY_BYTES_MAX {
        let reason = format!(
            "the file has {} bytes; at most {POLICY_BYTES_MAX} are read: split it into several files",
            text.len()
        );
        return Err(Refusal { offset: 0, reason });
    }
    // What a reviewer does not see may not decide: an editor shows a comment where the parser reads a policy.
    if let Some((offset, c)) = text.char_indices().find(|(_, c)| is_hidden(*c) && !matches!(c, '\t' | '\n' | '\r')) {
        let reason =
            format!("a character that is not shown ({}): write it as \\u{{...}}, or take it out", c.escape_unicode());
        return Err(Refusal { offset, reason });
    }
    let mut scanner =
        Scanner { rest: text.char_indices().peekable(), depth: 0, operators: 0, starts: vec![], start: 0, open: false };
    while let Some((offset, c)) = scanner.rest.next() {
        scanner.token(offset, c)?;
    }
    Ok(scanner.starts)
}

struct Scanner<'a> {
    rest: std::iter::Peekable<std::str::CharIndices<'a>>,
    depth: usize,
    /// Operators of the policy that is being read.
    operators: usize,
    starts: Vec<usize>,
    /// The first byte of the policy that is being read.
    start: usize,
    /// Whether a policy has begun that its semicolon has not ended.
    open: bool,
}

impl Scanner<'_> {
    fn next_is(&mut self, wanted: char) -> bool {
        self.rest.next_if(|(_, c)| *c == wanted).is_some()
    }

    fn token(&mut self, offset: usize, c: char) -> Result<(), Refusal> {
        if c.is_whitespace() {
            return Ok(());
        }
        if c == '/' && self.next_is('/') {
            while self.rest.next_if(|(_, c)| !matches!(c, '\n' | '\r')).is_some() {}
            return Ok(());
        }
        if !self.open {
            self.open = true;
            self.operators = 0;
            self.start = offset;
            self.starts.push(offset);
        }
        if offset.saturating_sub(self.start) >= POLICY_EACH_BYTES_MAX {
            let reason =
                format!("one policy of more than {POLICY_EACH_BYTES_MAX} bytes: use groups and tags instead of lists");
            return Err(Refusal { offset: self.start, reason });
        }
        match c {
            '"' => self.string(offset)?,
            '(' | '[' | '{' => self.enter(offset)?,
            ')' | ']' | '}' => self.depth = self.depth.saturating_sub(1),
            ';' => self.open = self.depth > 0,
            // `::` joins the parts of one name.
            ':' => {
                self.next_is(':');
            }
            '.' | '!' | '+' | '-' | '*' | '/' | '%' | '<' | '>' | '=' | '&' | '|' => self.operator(offset, c)?,
            c if c.is_ascii_alphabetic() || c == '_' => self.word(offset, c)?,
            _ => {}
        }
        Ok(())
    }

    fn string(&mut self, start: usize) -> Result<(), Refusal> {
        while let Some((offset, c)) = self.rest.next() {
            // Both quotation marks are left out.
            if offset.saturating_sub(start + 1) > POLICY_STRING_MAX {
                let reason = format!("a string of more than {POLICY_STRING_MAX} bytes: no name or reason is that long");
                return Err(Refusal { offset: start, reason });
            }
            match c {
                '"' => return Ok(()),
                '\\' => {
                    self.rest.next();
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn enter(&mut self, offset: usize) -> Result<(), Refusal> {
        self.depth += 1;
        if self.depth <= POLICY_DEPTH_MAX {
            return Ok(());
        }
        let reason =
            format!("nested deeper than {POLICY_DEPTH_MAX} brackets: write it flatter, or as several policies");
        Err(Refusal { offset, reason })
    }

    fn operator(&mut self, offset: usize, first: char) -> Result<(), Refusal> {
        // Two-character operators count once. A lone `&` or `|` is Cedar's to refuse.
        match first {
            '&' | '|' => {
                self.next_is(first);
            }
            '<' | '>' | '=' | '!' => {
                self.next_is('=');
            }
            _ => {}
        }
        self.count(offset)
    }

    fn word(&mut self, offset: usize, first: char) -> Result<(), Refusal> {
        let mut word = String::from(first);
        while let Some((_, c)) = self.rest.next_if(|(_, c)| c.is_ascii_alphanumeric() || *c == '_') {
            // The longest word of interest is `unless`; the rest only has to be skipped.
            if word.len() < 8 {
                word.push(c);
            }
        }
        match word.as_str() {
            "if" | "in" | "is" | "has" | "like" | "when" | "unless" => self.count(offset),
            _ => Ok(()),
        }
    }

    fn count(&mut self, offset: usize) -> Result<(), Refusal> {
        self.operators += 1;
        if self.operators <= POLICY_OPERATORS_MAX {
            return Ok(());
        }
        let reason =
            format!("more than {POLICY_OPERATORS_MAX} operators in one policy: use `in [...]`, or several policies");
        Err(Refusal { offset, reason })
    }
}

/// A text and where its lines start, so that a place is found without reading the text again.
pub(crate) struct Source<'a> {
    /// The file's name, printable.
    pub(crate) name: String,
    pub(crate) text: &'a str,
    lines: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(name: &str, text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { name: printable(name), text, lines: std::iter::once(0).chain(ends).collect() }
    }

    /// Line and column of a byte, both from 1; columns count characters.
    pub(crate) fn position(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.text.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let line = self.lines.partition_point(|start| *start <= end);
        let start = self.lines.get(line.saturating_sub(1)).copied().unwrap_or(0);
        (line, self.text.get(start..end).unwrap_or("").chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_in_strings_and_comments_do_not_count() {
        let many = "(".repeat(POLICY_DEPTH_MAX * 2);
        assert!(scan(&format!("// {many}\npermit(principal, action, resource);")).is_ok());
        assert!(scan(&format!("@reason(\"{many} \\\" {many}\") permit(principal, action, resource);")).is_ok());
        let refusal = scan(&format!("// {many}\r{many}")).unwrap_err();
        assert_eq!(refusal.offset, 3 + POLICY_DEPTH_MAX * 2 + 1 + POLICY_DEPTH_MAX);
    }

    #[test]
    fn depth_and_operators_are_refused_exactly_past_their_limit() {
        assert!(scan(&"(".repeat(POLICY_DEPTH_MAX)).is_ok());
        assert!(scan(&"(".repeat(POLICY_DEPTH_MAX + 1)).is_err());
        assert!(scan(&"&&".repeat(POLICY_OPERATORS_MAX)).is_ok());
        assert!(scan(&"&&".repeat(POLICY_OPERATORS_MAX + 1)).is_err());
        // Each policy has its own count.
        assert!(scan(&format!("{0};{0};", "&&".repeat(POLICY_OPERATORS_MAX))).is_ok());
    }

    #[test]
    fn strings_and_policies_are_refused_exactly_past_their_length() {
        let string = |n: usize| scan(&format!("  \"{}\"", "x".repeat(n)));
        assert!(string(POLICY_STRING_MAX).is_ok());
        assert_eq!(string(POLICY_STRING_MAX + 1).unwrap_err().offset, 2);
        // An unfinished one, and one that ends in the middle of a character.
        assert!(scan(&format!("\"{}", "\\é".repeat(POLICY_STRING_MAX))).is_err());
        let policy = |n: usize| scan(&format!(" {};  {};", "x".repeat(n - 1), "y".repeat(9)));
        assert_eq!(policy(POLICY_EACH_BYTES_MAX).unwrap(), [1, POLICY_EACH_BYTES_MAX + 3]);
        assert_eq!(policy(POLICY_EACH_BYTES_MAX + 1).unwrap_err().offset, 1);
        // A comment in front of it does not count, nor does space.
        assert!(scan(&format!("// {}\nx;", "c".repeat(POLICY_EACH_BYTES_MAX))).is_ok());
    }

    #[test]
    fn what_is_not_shown_is_refused_wherever_it_stands() {
        for hidden in ['\0', '\u{1b}', '\u{7f}', '\u{85}', '\u{202e}', '\u{2066}', '\u{200b}', '\u{feff}', '\u{2028}'] {
            for text in [format!("// {hidden}"), format!("@id(\"a{hidden}\")"), format!("é {hidden}")] {
                let refusal = scan(&text).unwrap_err();
                assert_eq!(text[refusal.offset..].chars().next(), Some(hidden), "{text:?}");
                assert!(!refusal.reason.contains(hidden) && refusal.reason.contains("\\u{"), "{refusal:?}");
            }
        }
        assert!(scan("\tpermit(\r\n\"\\u{202e}\");").is_ok());
    }

    #[test]
    fn every_policy_start_is_found() {
        let text = "// one\npermit(a); @id(\"x;y\")\nforbid(b) when { \";\" }; // end";
        assert_eq!(scan(text).unwrap(), vec![7, 18]);
    }

    #[test]
    fn positions_count_lines_and_characters() {
        let position = |text: &str, offset| Source::new("p", text).position(offset);
        assert_eq!(position("ab\ncé\nd", 0), (1, 1));
        assert_eq!(position("ab\ncé\nd", 2), (1, 3));
        assert_eq!(position("ab\ncé\nd", 3), (2, 1));
        assert_eq!(position("ab\ncéf\nd", 6), (2, 3));
        // In the middle of a character, and past the end.
        assert_eq!(position("é", 1), (1, 1));
        assert_eq!(position("a\n", 99), (2, 1));
    }
}
