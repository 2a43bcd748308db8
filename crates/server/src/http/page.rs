//! Which page of a list is wanted.

use axum::extract::FromRequestParts;
use coffer_wire::trove::Fault;
use coffer_wire::trove::check::{clip, show_text};
use http::request::Parts;

use super::Shared;
use super::answer::Refused;
use crate::app::Page;

/// The paging of a request, and its address for the link to the next page.
#[derive(Debug)]
pub(super) struct Paging {
    pub(super) page: Page,
    pub(super) path: String,
    pub(super) query: Option<String>,
}

impl Paging {
    /// The value of another key of the query.
    pub(super) fn value(&self, key: &str) -> Option<String> {
        let query = self.query.as_deref()?;
        pairs(query).find(|(k, _)| k == key).map(|(_, value)| value)
    }
}

impl FromRequestParts<Shared> for Paging {
    type Rejection = Refused;

    async fn from_request_parts(parts: &mut Parts, _: &Shared) -> Result<Self, Refused> {
        let (path, query) = (parts.uri.path().to_owned(), parts.uri.query().map(str::to_owned));
        let mut page = Page::default();
        for (key, value) in pairs(query.as_deref().unwrap_or_default()) {
            match key.as_str() {
                "limit" => page.limit = Some(limit(&value)?),
                "marker" if value.chars().any(char::is_control) => {
                    return Err(Fault::bad_request(format!("Invalid marker {}.", clip(&value))).into());
                }
                "marker" => page.marker = Some(value),
                _ => {}
            }
        }
        Ok(Self { page, path, query })
    }
}

/// Trove answers 500 to a limit that is none, and to 0.
fn limit(text: &str) -> Result<u32, Refused> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // More than can be counted is more than there is.
    let limit = digits.then(|| text.parse().unwrap_or(u32::MAX));
    limit.filter(|limit| *limit > 0).ok_or_else(|| {
        Fault::bad_request(format!("Invalid limit {}: it must be a whole number from 1.", show_text(text))).into()
    })
}

/// The keys and values of a query, in order.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|part| !part.is_empty()).map(|part| {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        (decode(key), decode(value))
    })
}

/// `%41` and `+` as what they stand for. What stands for nothing stays as it is.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
        match (first, byte.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
                continue;
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{decode, limit, pairs};

    #[test]
    fn a_query_is_read_as_browsers_write_it() {
        let check = |text: &str, expected: &str| assert_eq!(decode(text), expected);
        check("a%20b+c", "a b c");
        check("100%", "100%");
        check("%zz%4", "%zz%4");
        check("%c3%a4%ff", "ä\u{fffd}");
        let all: Vec<_> = pairs("a=1&&b&c=x=y").collect();
        let text = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(all, [text("a", "1"), text("b", ""), text("c", "x=y")]);
    }

    #[test]
    fn a_limit_is_a_whole_number_from_1() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(limit(text).ok(), expected, "{text}");
        check("1", Some(1));
        check("99999999999999999999", Some(u32::MAX));
        for bad in ["", "0", "-1", "abc", "1.5", " 1", "+1"] {
            check(bad, None);
        }
    }
}
