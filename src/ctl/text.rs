//! Text from outside, made fit for a terminal.
//!
//! Ids are checked by the cluster, and yet nothing that it says is trusted to be harmless: a terminal obeys control
//! characters, and some characters reorder or hide what stands beside them.

use unicode_width::UnicodeWidthChar as _;

/// What stands for a character that is not shown.
const REPLACED: char = '\u{FFFD}';

/// Whether a terminal may obey it, or show other text differently because of it.
fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{2069}' | '\u{FEFF}')
}

/// An id or another text of one line, without characters that a terminal obeys.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_harmful(c) { REPLACED } else { c }).collect()
}

/// The same, at most `width` columns wide; what is longer is cut and ends in `…`.
pub(super) fn short(text: &str, width: usize) -> String {
    let mut short = String::new();
    let (mut used, mut fits) = (0, 0);
    for c in plain(text).chars() {
        let wide = c.width().unwrap_or(0);
        if used + wide > width {
            short.truncate(fits);
            short.push('…');
            return short;
        }
        short.push(c);
        used += wide;
        // Room for the mark at the end.
        if used < width {
            fits = short.len();
        }
    }
    short
}

/// A text of several lines, of which only line breaks, tabs and colours of our own are left for a terminal to obey.
pub(super) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = colour(rest);
        if colour > 0 {
            clean.push_str(&rest[..colour]);
            rest = &rest[colour..];
            continue;
        }
        clean.push(if !matches!(c, '\n' | '\t') && is_harmful(c) { REPLACED } else { c });
        rest = &rest[c.len_utf8()..];
    }
    clean
}

/// How many bytes of a sequence for a colour a text begins with.
fn colour(text: &str) -> usize {
    let Some(parameters) = text.strip_prefix("\u{1b}[") else { return 0 };
    let length = parameters.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(parameters.len());
    if parameters[length..].starts_with('m') { "\u{1b}[".len() + length + 1 } else { 0 }
}

/// A JSON document whose strings have no character that a terminal obeys; its meaning stays.
pub(super) fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\n' => escaped.push(c),
            // All of them are below 0x10000.
            c if is_harmful(c) => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The words of a text in lines of at most `width` characters; a longer word has a line of its own.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_moves_the_cursor_or_turns_text_round() {
        assert_eq!(plain("a\u{1b}[2Jb\nc\u{9b}d\u{202e}e"), "a\u{FFFD}[2Jb\u{FFFD}c\u{FFFD}d\u{FFFD}e");
        assert_eq!(harmless("\u{1b}[1;32mok\u{1b}[0m\n\u{1b}[2J\u{7}"), "\u{1b}[1;32mok\u{1b}[0m\n\u{FFFD}[2J\u{FFFD}");
        assert_eq!(harmless("\u{1b}"), "\u{FFFD}");
        assert_eq!(harmless("\u{1b}[31"), "\u{FFFD}[31");
        let json = serde_json::to_string("a\u{9b}\u{202e}\u{1b}").unwrap();
        assert_eq!(escaped(&json), "\"a\\u009b\\u202e\\u001b\"");
        assert_eq!(serde_json::from_str::<String>(&escaped(&json)).unwrap(), "a\u{9b}\u{202e}\u{1b}");
    }

    #[test]
    fn long_texts_are_cut_to_columns_not_characters() {
        assert_eq!([short("abcdef", 6), short("abcdef", 5), short("", 3)], ["abcdef", "abcd…", ""]);
        assert_eq!([short("進撃の巨人", 10), short("進撃の巨人", 6)], ["進撃の巨人", "進撃…"]);
    }

    #[test]
    fn words_are_wrapped_and_never_broken() {
        assert_eq!(wrapped("one two  three-and-more", 8), ["one two", "three-and-more"]);
        assert!(wrapped(" ", 8).is_empty());
    }
}
