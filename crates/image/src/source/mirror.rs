//! Which Debian mirror this machine uses, read from its own apt sources, so that no host is ever written down here.
//!
//! Another suite than the machine's own is taken from the same mirror, which carries them all; security suites from the
//! mirror of the machine's own security suite.

use std::path::PathBuf;

use fs_err as fs;

use crate::error::{Error, Result};

/// Suites by which a machine may follow Debian, besides its own code name.
const ALIASES: [&str; 5] = ["stable", "oldstable", "testing", "unstable", "sid"];

/// One line or stanza of apt's sources.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Repository {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// As apt has it: paths of keyrings, or a key itself over several lines.
    signed_by: Option<String>,
}

/// The repositories of a machine and its code name.
#[derive(Debug)]
pub(super) struct Mirrors {
    codename: String,
    repositories: Vec<Repository>,
}

/// Reads `/etc/apt` and `/etc/os-release`.
pub(super) fn of_this_machine() -> Result<Mirrors> {
    let codename = fs::read_to_string("/etc/os-release")?
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .unwrap_or("stable")
        .trim_matches('"')
        .to_owned();
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(directory) = fs::read_dir("/etc/apt/sources.list.d") {
        let mut found = Vec::new();
        for entry in directory {
            found.push(entry?.path());
        }
        found.sort();
        files.append(&mut found);
    }
    let mut repositories = Vec::new();
    for file in files.iter().filter(|f| f.is_file()) {
        let text = fs::read_to_string(file)?;
        match file.extension().and_then(|e| e.to_str()) {
            Some("list") => repositories.extend(text.lines().filter_map(parse_line)),
            Some("sources") => repositories.extend(parse_stanzas(&text)),
            _ => {}
        }
    }
    Ok(Mirrors { codename, repositories })
}

impl Mirrors {
    /// The apt source stanza for `suite`. `ended` accepts a release file whose date has passed, nothing else.
    pub(super) fn stanza(&self, suite: &str, ended: bool) -> Result<String> {
        let Some(repository) = self.find(suite) else {
            return Err(Error::NoMirror { suite: suite.to_owned(), needed: self.own(suite) });
        };
        let mut stanza = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\n", repository.uri);
        if let Some(keys) = &repository.signed_by {
            stanza.extend(["Signed-By: ", keys, "\n"]);
        }
        if ended {
            stanza += "Check-Valid-Until: no\n";
        }
        Ok(stanza + "\n")
    }

    fn find(&self, suite: &str) -> Option<&Repository> {
        let own = self.own(suite);
        let suffix = own.strip_prefix(&self.codename).unwrap_or_default();
        let serves = |r: &&Repository| {
            let followed = |s: &String| *s == own || ALIASES.iter().any(|alias| s.strip_suffix(suffix) == Some(alias));
            r.components.iter().any(|c| c == "main") && r.suites.iter().any(followed)
        };
        // Other publishers name their suites after Debian's; Debian's own mirrors end in these directories.
        let directory = if suffix.is_empty() { "debian" } else { "debian-security" };
        let is_debian = |r: &&Repository| r.uri.trim_end_matches('/').rsplit('/').next() == Some(directory);
        let candidates = || self.repositories.iter().filter(serves);
        candidates().find(is_debian).or_else(|| candidates().next())
    }

    /// The machine's own suite that lies on the mirror where `suite` is looked for.
    fn own(&self, suite: &str) -> String {
        if suite.ends_with("-security") { format!("{}-security", self.codename) } else { self.codename.clone() }
    }
}

/// `deb [signed-by=/a/key.gpg arch=amd64] http://mirror/debian bookworm main contrib`
fn parse_line(line: &str) -> Option<Repository> {
    let line = line.split('#').next()?.trim();
    let mut rest = line.strip_prefix("deb")?;
    if !rest.starts_with(char::is_whitespace) {
        return None;
    }
    rest = rest.trim_start();
    let mut signed_by = None;
    if let Some(inner) = rest.strip_prefix('[') {
        let (options, after) = inner.split_once(']')?;
        signed_by =
            options.split_whitespace().find_map(|o| o.strip_prefix("signed-by=")).map(|keys| keys.replace(',', " "));
        rest = after;
    }
    let mut words = rest.split_whitespace().map(str::to_owned);
    Some(Repository { uri: words.next()?, suites: vec![words.next()?], components: words.collect(), signed_by })
}

fn parse_stanzas(text: &str) -> Vec<Repository> {
    let mut repositories = Vec::new();
    let text = text.lines().filter(|line| !line.starts_with('#')).map(str::trim_end).collect::<Vec<_>>().join("\n");
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let mut lines = stanza
                .lines()
                .skip_while(|line| line.split_once(':').is_none_or(|(key, _)| !key.eq_ignore_ascii_case(name)));
            let first = lines.next()?.split_once(':')?.1.trim().to_owned();
            // Continuation lines begin with a space and keep it: a key in place is only valid so.
            Some(lines.take_while(|l| l.starts_with([' ', '\t'])).fold(first, |value, line| value + "\n" + line))
        };
        let words =
            |name| -> Vec<String> { field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect() };
        if field("Enabled").is_some_and(|v| v == "no") || !words("Types").contains(&"deb".to_owned()) {
            continue;
        }
        for uri in words("URIs") {
            repositories.push(Repository {
                uri,
                suites: words("Suites"),
                components: words("Components"),
                signed_by: field("Signed-By"),
            });
        }
    }
    repositories
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sources: &str, lines: &str, suite: &str, expected: &[&str]) {
        let mut repositories: Vec<_> = lines.lines().filter_map(parse_line).collect();
        repositories.extend(parse_stanzas(sources));
        let mirrors = Mirrors { codename: "bookworm".to_owned(), repositories };
        let said = mirrors.stanza(suite, false).unwrap_or_else(|e| e.to_string());
        for part in expected {
            assert!(said.contains(part), "{said:?} lacks {part:?}");
        }
    }

    const STANZAS: &str = "# the mirror\nTypes: deb deb-src\nURIs: http://m.example/debian\n# old\nSuites: bookworm bookworm-updates\n\
        Components: main\nSigned-By: /k/debian.gpg\n\nTypes: deb\nURIs: http://s.example/debian-security\n\
        Suites: bookworm-security\nComponents: main\nSigned-By:\n -----BEGIN\n .\n key\n";

    #[test]
    fn suites_come_from_the_mirror_of_the_machines_own_suite() {
        let trixie = ["URIs: http://m.example/debian\n", "Suites: trixie\n", "Signed-By: /k/debian.gpg\n"];
        check(STANZAS, "", "trixie", &trixie);
        check(STANZAS, "", "bookworm-backports", &["http://m.example/debian\n", "bookworm-backports"]);
        check(
            STANZAS,
            "",
            "sid-security",
            &["http://s.example/debian-security", "Signed-By: \n -----BEGIN\n .\n key\n"],
        );
        let lines = "deb [arch=amd64 signed-by=/k/a.gpg,/k/b.gpg] https://m.example/debian/ bookworm main # ours\n\
            deb-src http://src.example/debian bookworm main";
        check("", lines, "bullseye", &["URIs: https://m.example/debian/\n", "Signed-By: /k/a.gpg /k/b.gpg"]);
    }

    #[test]
    fn repositories_of_other_publishers_are_not_taken_for_the_mirror() {
        let lines = "deb https://other.example/packages bookworm main\ndeb http://m.example/debian bookworm main";
        check("", lines, "sid", &["http://m.example/debian"]);
        let disabled = STANZAS.replace("Types", "Enabled: no\nTypes");
        check(&disabled, "", "sid", &["no apt source", "deb line for bookworm"]);
        check("", lines, "bookworm-security", &["hint: add a deb line for bookworm-security"]);
    }
}
