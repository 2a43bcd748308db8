//! The words of a line of a configuration file, in the engine's own quoting.

use std::fmt::Write as _;

/// Adds a word to a line, in quotes where it needs them.
pub(super) fn push_quoted(text: &mut String, word: &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,*%+@=&~".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        text.push_str(word);
        return;
    }
    text.push('"');
    for byte in word.bytes() {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b' '..=b'~' => text.push(char::from(byte)),
            _ => {
                let _ = write!(text, "\\x{byte:02x}");
            }
        }
    }
    text.push('"');
}

/// Words of a line in the engine's own quoting. `None` where quotes are not balanced.
pub(super) fn split_words(line: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut rest = line.as_bytes();
    loop {
        while let [b' ' | b'\t', tail @ ..] = rest {
            rest = tail;
        }
        if rest.is_empty() {
            return Some(words);
        }
        let (word, tail) = match rest {
            [b'"', tail @ ..] => double_quoted(tail)?,
            [b'\'', tail @ ..] => single_quoted(tail)?,
            _ => {
                let end = rest.iter().position(|b| b" \t".contains(b)).unwrap_or(rest.len());
                (rest[..end].to_vec(), &rest[end..])
            }
        };
        // A closing quote must end the word.
        if !matches!(tail, [] | [b' ' | b'\t', ..]) {
            return None;
        }
        words.push(String::from_utf8(word).ok()?);
        rest = tail;
    }
}

fn double_quoted(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        (word.push(match rest {
            [b'"', tail @ ..] => return Some((word, tail)),
            [b'\\', b'x', high, low, tail @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest = tail;
                u8::from_str_radix(std::str::from_utf8(&[*high, *low]).ok()?, 16).ok()?
            }
            [b'\\', escaped, tail @ ..] => {
                rest = tail;
                match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                }
            }
            [byte, tail @ ..] => {
                rest = tail;
                *byte
            }
            [] => return None,
        }));
    }
}

fn single_quoted(mut rest: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut word = Vec::new();
    loop {
        match rest {
            [b'\'', tail @ ..] => return Some((word, tail)),
            [b'\\', b'\'', tail @ ..] => {
                word.push(b'\'');
                rest = tail;
            }
            [byte, tail @ ..] => {
                word.push(*byte);
                rest = tail;
            }
            [] => return None,
        }
    }
}
