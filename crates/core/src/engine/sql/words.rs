//! The words of a text of SQL that name things without quotes.

/// One word, and what stands around it.
struct Word<'a> {
    text: &'a str,
    /// The sign right before it: `.` and `@` make a name of any word.
    before: Option<u8>,
    /// The next sign that is no space: `(` makes it a function.
    after: Option<u8>,
}

/// Whether the word, given in capitals, names a thing somewhere. Not where it is a keyword that it was before, too: `LIMIT 1 OFFSET 2`,
/// `ROW_NUMBER() OVER`.
pub(super) fn names(sql: &str, word: &str) -> bool {
    let words = words(sql);
    words.iter().enumerate().any(|(at, found)| {
        let limits = at
            .checked_sub(2)
            .and_then(|at| words.get(at))
            .is_some_and(|before| before.text.eq_ignore_ascii_case("LIMIT"));
        found.text.eq_ignore_ascii_case(word)
            && !matches!(found.before, Some(b'.' | b'@'))
            && found.after != Some(b'(')
            && !limits
    })
}

/// Whether a function of this name is called.
pub(super) fn calls(sql: &str, function: &str) -> bool {
    let is_call = |found: &Word<'_>| {
        found.text.eq_ignore_ascii_case(function) && found.after == Some(b'(') && found.before != Some(b'.')
    };
    words(sql).iter().any(is_call)
}

/// Words and numbers outside of quotes and comments. What MySQL and MariaDB read of a comment (`/*! ... */`) is read.
fn words(sql: &str) -> Vec<Word<'_>> {
    let bytes = sql.as_bytes();
    let rest = |at: usize| bytes.get(at..).unwrap_or_default();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$') || !byte.is_ascii();
    let mut words = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at = match byte {
            b'\'' | b'"' | b'`' => after_quote(bytes, at),
            b'#' => line_end(bytes, at),
            b'-' if rest(at).starts_with(b"--") && rest(at + 2).first().is_none_or(u8::is_ascii_whitespace) => {
                line_end(bytes, at)
            }
            b'/' if rest(at).starts_with(b"/*!") => at + 3,
            b'/' if rest(at).starts_with(b"/*M!") => at + 4,
            b'/' if rest(at).starts_with(b"/*") => {
                let end = rest(at + 2).windows(2).position(|pair| pair == b"*/");
                end.map_or(bytes.len(), |end| at + end + 4)
            }
            _ if is_part(byte) => {
                let end = at + rest(at).iter().take_while(|byte| is_part(**byte)).count();
                let before = at.checked_sub(1).and_then(|before| bytes.get(before)).copied();
                let after = rest(end).iter().find(|byte| !byte.is_ascii_whitespace()).copied();
                words.extend(sql.get(at..end).map(|text| Word { text, before, after }));
                end
            }
            _ => at + 1,
        };
    }
    words
}

/// The place after a quoted text that begins here. A quote that is doubled is two texts side by side, which comes to the same.
fn after_quote(bytes: &[u8], from: usize) -> usize {
    let quote = bytes.get(from);
    let mut at = from + 1;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        if *byte == b'\\' && quote != Some(&b'`') {
            at += 1;
        } else if Some(byte) == quote {
            break;
        }
    }
    at
}

fn line_end(bytes: &[u8], from: usize) -> usize {
    bytes.iter().skip(from).position(|byte| *byte == b'\n').map_or(bytes.len(), |end| from + end)
}

#[cfg(test)]
mod tests {
    use super::{calls, names};

    #[test]
    fn a_word_names_a_thing_only_outside_of_quotes_comments_and_its_own_keywords() {
        for (sql, expected) in [
            ("DECLARE offset INT", true),
            ("SELECT Offset FROM t", true),
            ("SELECT a /*! , offset */ FROM t", true),
            ("SELECT 'it''s', offset", true),
            ("SELECT 'a\\'', offset", true),
            ("SELECT 5--offset", true),
            ("SELECT `offset`, 'offset', \"offset\" -- offset\n, 1 # offset\n /* offset */", false),
            ("SELECT t.offset, @offset, my_offset, offset1, größe_offset FROM t", false),
            ("SELECT a FROM t LIMIT 1 OFFSET 2", false),
            ("SELECT a FROM t LIMIT x offset y", false),
            ("SELECT 'never closed offset", false),
            ("", false),
        ] {
            assert_eq!(names(sql, "OFFSET"), expected, "{sql}");
        }
        assert!(!names("SELECT ROW_NUMBER () OVER ()", "ROW_NUMBER"));
        assert!(names("SELECT 1 AS row_number", "ROW_NUMBER"));
    }

    #[test]
    fn a_call_is_a_name_before_a_parenthesis() {
        assert!(calls("RETURN Encode(x, 'y')", "encode"));
        assert!(calls("RETURN encode (x)", "encode"));
        for sql in ["SELECT encode", "SELECT 'encode(x)'", "SELECT shop.encode(x)", "SELECT re_encode(x)"] {
            assert!(!calls(sql, "encode"), "{sql}");
        }
    }
}
