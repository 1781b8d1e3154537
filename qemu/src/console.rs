//! One console: its text, as clean lines that a script can search, and what is typed into it.

use regex::bytes::Regex;

use crate::input::Input;

/// The name of the hypervisor's own console.
pub const HYPERVISOR: &str = "mobivmm";

/// A console: what it has printed so far, free of terminal control, and its input.
#[derive(Debug)]
pub(crate) struct Console {
    name: String,
    text: Vec<u8>,
    line_start: usize,
    cleaner: Cleaner,
    /// The end of the last match: a script never looks back behind it.
    cursor: usize,
    pub input: Input,
}

impl Console {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            text: Vec::new(),
            line_start: 0,
            cleaner: Cleaner::Text,
            cursor: 0,
            input: Input::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one byte; returns the line that it completes.
    pub fn push(&mut self, byte: u8) -> Option<String> {
        if !self.cleaner.keeps(byte) {
            return None;
        }
        if byte != b'\n' {
            self.text.push(byte);
            return None;
        }
        let line = self.partial_line();
        self.text.push(b'\n');
        self.line_start = self.text.len();
        Some(line)
    }

    /// Adds to the line that has just ended.
    pub fn amend(&mut self, addition: &str) {
        self.text.pop();
        self.text.extend_from_slice(addition.as_bytes());
        self.text.push(b'\n');
        self.line_start = self.text.len();
    }

    /// The last line, as long as it has no end.
    pub fn partial_line(&self) -> String {
        String::from_utf8_lossy(&self.text[self.line_start..]).into_owned()
    }

    /// Everything printed so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    /// Looks for `regex` behind the previous match, line by line, and if it is there moves behind it.
    ///
    /// The unfinished last line counts too, since a prompt has no end of line; but there `$` does not match, since
    /// the next byte may well be another one of the same word. `searched` is the caller's note of what need not be
    /// searched again for the same `regex`, 0 at first.
    pub fn find(&mut self, regex: &Regex, searched: &mut usize) -> bool {
        // 0xFF is no part of any UTF-8 text, so neither `.` nor a class takes it, and `$` does not hold before it.
        self.text.push(0xFF);
        let found = regex.find_at(&self.text, self.cursor.max(*searched)).map(|m| m.end());
        self.text.pop();
        match found {
            Some(end) => self.cursor = end.min(self.text.len()),
            None => *searched = self.line_start,
        }
        found.is_some()
    }
}

/// Recognises what a terminal would not show: control characters and escape sequences (ECMA-48, 5th edition,
/// sections 5.3 to 5.6).
#[derive(Clone, Copy, Debug)]
enum Cleaner {
    Text,
    /// After ESC.
    Escape,
    /// In a control sequence, ESC [ …
    Control,
    /// In a control string, such as a window title, ESC ] … BEL or ESC \
    String,
}

impl Cleaner {
    /// Whether `byte` is text. Tabs and line ends are; an end of line also ends any broken sequence.
    fn keeps(&mut self, byte: u8) -> bool {
        let (next, keep) = match (*self, byte) {
            (_, b'\n') => (Self::Text, true),
            (_, 0x1B) => (Self::Escape, false),
            (Self::Text, b'\t') => (Self::Text, true),
            (Self::Text, byte) => (Self::Text, !byte.is_ascii_control()),
            (Self::Escape, b'[') => (Self::Control, false),
            (Self::Escape, b']' | b'P' | b'X' | b'^' | b'_') => (Self::String, false),
            // Intermediate bytes, as in the choice of a character set.
            (Self::Escape, 0x20..=0x2F) => (Self::Escape, false),
            (Self::Escape, _) => (Self::Text, false),
            (Self::Control, 0x40..=0x7E) => (Self::Text, false),
            (Self::Control, _) => (Self::Control, false),
            (Self::String, 0x07) => (Self::Text, false),
            (Self::String, _) => (Self::String, false),
        };
        *self = next;
        keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use regex::bytes::RegexBuilder;

    fn console(text: &str) -> Console {
        let mut console = Console::new("vm");
        feed(&mut console, text.as_bytes());
        console
    }

    fn feed(console: &mut Console, bytes: &[u8]) -> Vec<String> {
        bytes.iter().filter_map(|&byte| console.push(byte)).collect()
    }

    fn finds(console: &mut Console, regex: &str) -> bool {
        let regex = RegexBuilder::new(regex).multi_line(true).build().unwrap();
        console.find(&regex, &mut 0)
    }

    #[test]
    fn a_prompt_matches_without_its_end_of_line() {
        assert!(finds(&mut console("boot\n~ # "), "~ #"));
        assert!(finds(&mut console("boot\n~ # "), "~ #.*"));
    }

    #[test]
    fn an_end_of_line_matches_only_once_the_line_has_ended() {
        let mut c = console("2");
        assert!(!finds(&mut c, "^2$"));
        feed(&mut c, b"\r");
        assert!(!finds(&mut c, "^2$"));
        feed(&mut c, b"\n");
        assert!(finds(&mut c, "^2$"));
        assert!(!finds(&mut console("2"), r"2\z"));
        assert!(!finds(&mut console("2"), "^2.$"));
        assert!(!finds(&mut console("2"), "2[^a]"));
    }

    #[test]
    fn the_search_goes_on_behind_the_previous_match() {
        let mut c = console("a b\na c\n");
        assert!(finds(&mut c, "a"));
        assert!(!finds(&mut c, "^a b"), "looked back");
        assert!(finds(&mut c, "^a"));
        assert!(!finds(&mut c, "a"));
        assert!(!finds(&mut c, "^c"), "a line does not start behind a match");
        assert!(finds(&mut c, "c$"));
    }

    #[test]
    fn terminal_control_is_no_text() {
        let mut c = Console::new("vm");
        let lines =
            feed(&mut c, b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07a\tb\x1b(B\x1b[6n\0\n\x1b]0;t\x1b\\x\n");
        assert_eq!(lines, ["red", "a\tb", "x"]);
        assert_eq!(feed(&mut c, b"\x1b]never ended\nnext\n"), ["", "next"]);
    }

    proptest! {
        #[test]
        fn how_the_bytes_arrive_does_not_matter(text in "[ab\n]{0,60}", cuts in prop::collection::vec(0..60usize, 0..6)) {
            // Searched at every cut with the note kept, as a script does, against one search at the end.
            let regex = RegexBuilder::new("^ab*a$").multi_line(true).build().unwrap();
            let mut stepwise = Console::new("vm");
            let (mut searched, mut found) = (0, false);
            for (n, &byte) in text.as_bytes().iter().enumerate() {
                stepwise.push(byte);
                if cuts.contains(&n) && !found {
                    found = stepwise.find(&regex, &mut searched);
                }
            }
            found = found || stepwise.find(&regex, &mut searched);
            prop_assert_eq!(found, console(&text).find(&regex, &mut 0));
        }
    }
}
