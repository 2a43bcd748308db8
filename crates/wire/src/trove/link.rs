//! Links: every resource names itself twice, as Trove does, and a page names the next.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One link of a resource or of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    pub href: String,
    /// `self`, `bookmark` or `next`.
    pub rel: String,
}

/// A link to the next page. Trove writes the keys of this one the other way round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NextLink {
    pub rel: String,
    pub href: String,
}

/// Makes links for one request: they name the host that was asked and the caller's own project.
///
/// They begin with `https://` whatever the request came by, because Trove's do and a client that sits behind a proxy
/// relies on it. No known client follows them; all rebuild the address from the marker.
#[derive(Clone, Copy, Debug)]
pub struct Links<'a> {
    pub host: &'a str,
    pub project: &'a str,
}

impl Links<'_> {
    /// The two links of a resource, such as `instances/<id>`.
    pub fn of(self, collection: &str, id: &str) -> Vec<Link> {
        let Self { host, project } = self;
        // Not `format!`, which does not know the length beforehand: a list has dozens of these.
        let own = ["https://", host, "/v1.0/", project, "/", collection, "/", id].concat();
        let bookmark = ["https://", host, "/", collection, "/", id].concat();
        vec![Link { href: own, rel: "self".to_owned() }, Link { href: bookmark, rel: "bookmark".to_owned() }]
    }

    /// The link to the page after `marker`. What else the query of this page said stays as it was.
    pub fn next(self, path: &str, query: Option<&str>, marker: &str) -> Vec<NextLink> {
        let mut parts: Vec<&str> = Vec::new();
        let next = format!("marker={marker}");
        let mut placed = false;
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            if part == "marker" || part.starts_with("marker=") {
                if !placed {
                    parts.push(&next);
                }
                placed = true;
            } else {
                parts.push(part);
            }
        }
        if !placed {
            parts.push(&next);
        }
        let href = format!("https://{}{path}?{}", self.host, parts.join("&"));
        vec![NextLink { rel: "next".to_owned(), href }]
    }
}

/// A text as one segment of a path or one value of a query, whatever signs are in it.
pub fn encoded(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::{Links, encoded};

    #[test]
    fn a_name_stays_one_segment_of_the_path() {
        assert_eq!(encoded("redis"), "redis");
        assert_eq!(encoded("../x y?é"), "..%2Fx%20y%3F%C3%A9");
    }

    #[test]
    fn the_next_page_keeps_what_the_query_said_and_changes_only_the_marker() {
        let links = Links { host: "h:1", project: "p" };
        let next = |query| links.next("/v1.0/p/instances", query, "b").remove(0).href;
        assert_eq!(next(None), "https://h:1/v1.0/p/instances?marker=b");
        assert_eq!(next(Some("limit=2&marker=a")), "https://h:1/v1.0/p/instances?limit=2&marker=b");
        assert_eq!(next(Some("marker=a&x=1&marker=c")), "https://h:1/v1.0/p/instances?marker=b&x=1");
    }
}
