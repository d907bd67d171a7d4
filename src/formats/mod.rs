//! Formats of viewing histories that can be imported.
//!
//! A format turns bytes that came from outside into plays with checked ids and times, and says of each row that it cannot
//! take why not. It knows nothing of a cluster: what becomes of the plays is the importer's matter.
//!
//! Contract of every format:
//!
//! - It reads from any `BufRead` in bounded memory; the length of a line, the number of rows and the size of a file are
//!   bounded.
//! - No input makes it panic: a row that is not understood is *refused* by its line number and a reason that says what is
//!   accepted, and the next row goes on. Only what makes the whole file unreadable (it is an archive, it has no such
//!   columns, it is too large) is an error of the file.
//! - It is deterministic: the same bytes give the same plays, so that a second import of a file adds nothing.
//!
//! Caveat: a format without title ids takes the title's text for its id ([`text_id`]), so that two titles which are written
//! alike are one.

mod lines;
pub mod netflix;

use xxhash_rust::xxh3::xxh3_64;

/// The bytes that the end of a shortened id takes: a tilde and 16 hexadecimal digits.
const SHORTENED_BYTES: usize = 17;

/// Makes an id of a human text, for formats that have no ids.
///
/// Every run of white space (tabs, line feeds and non-breaking spaces too) becomes one space, and the ends are trimmed, so
/// that one title written by two programs is one title. What is then longer than `bytes_max` is cut at a character's border
/// and ends in `~` and 16 hexadecimal digits of the xxh3 (64 bits, seed 0) of the whole text: long titles that begin alike
/// stay apart. `bytes_max` is at least 64. The result can be empty or hold control characters; the id's own check tells.
pub fn text_id(text: &str, bytes_max: usize) -> String {
    debug_assert!(bytes_max >= 64, "room for the digits and some text");
    let mut id = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !id.is_empty() {
            id.push(' ');
        }
        id.push_str(word);
    }
    if id.len() > bytes_max {
        let digest = xxh3_64(id.as_bytes());
        id.truncate(id.floor_char_boundary(bytes_max.saturating_sub(SHORTENED_BYTES)));
        id.push_str(&format!("~{digest:016x}"));
    }
    id
}

#[cfg(test)]
mod tests {
    use super::text_id;

    #[test]
    fn white_space_of_every_kind_becomes_one_space() {
        assert_eq!(
            text_id(" iZombie:\u{a0}All's\tWell\u{202f}\u{a0}That \r\n Ends ", 512),
            "iZombie: All's Well That Ends"
        );
        assert_eq!(text_id("\u{a0} \t", 512), "");
    }

    #[test]
    fn long_titles_that_begin_alike_stay_apart() {
        let one = text_id(&format!("{}1", "é".repeat(400)), 512);
        let two = text_id(&format!("{}2", "é".repeat(400)), 512);
        assert_ne!(one, two);
        assert!(one.len() <= 512 && one.len() > 490, "{}", one.len());
        assert_eq!(text_id(&"x".repeat(512), 512), "x".repeat(512));
    }
}
