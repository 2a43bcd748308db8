//! Statements of SQL in which nothing stands that was not written in this program, or quoted.

use super::config::{identifier, literal};
use crate::account::Account;

/// A statement, or a part of one. Words are of the program itself; whatever comes from outside goes through a method that
/// quotes it as what it is. What it renders means the same in every SQL mode, but for [`Sql::text`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sql(String);

impl Sql {
    /// Begins with these words.
    pub fn new(words: &'static str) -> Self {
        Self(words.to_owned())
    }

    /// Goes on with these words.
    #[must_use]
    pub fn words(mut self, words: &'static str) -> Self {
        self.0 += words;
        self
    }

    /// The name of a database, a character set, a column.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.0 += &identifier(name);
        self
    }

    /// A value, compared byte by byte.
    #[must_use]
    pub fn value(mut self, value: &str) -> Self {
        self.0 += &literal(value.as_bytes());
        self
    }

    /// Values with commas between. Not of none: SQL has no empty list.
    #[must_use]
    pub fn values<'v>(mut self, values: impl IntoIterator<Item = &'v str>) -> Self {
        for (at, value) in values.into_iter().enumerate() {
            self = if at > 0 { self.words(", ") } else { self }.value(value);
        }
        self
    }

    /// A number.
    #[must_use]
    pub fn number(mut self, number: u32) -> Self {
        self.0 += &number.to_string();
        self
    }

    /// An account: both parts as identifiers, which is allowed everywhere and knows no escapes but its own.
    #[must_use]
    pub fn account(self, account: &Account) -> Self {
        self.name(&account.name).words("@").name(&account.host)
    }

    /// A database where a pattern is expected, as in GRANT: exactly this one, whatever `%` and `_` are in its name.
    #[must_use]
    pub fn only(self, database: &str) -> Self {
        self.name(&exactly(database))
    }

    /// A text where a statement takes nothing but a text in quotes. Only in sessions whose SQL mode is
    /// `NO_BACKSLASH_ESCAPES` and not `ANSI_QUOTES`.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.extend(["'", &text.replace('\'', "''"), "'"]);
        self
    }

    /// The statement.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The pattern of databases that only this one matches.
pub fn exactly(database: &str) -> String {
    database.chars().fold(String::new(), |mut pattern, c| {
        if matches!(c, '\\' | '%' | '_') {
            pattern.push('\\');
        }
        pattern.push(c);
        pattern
    })
}

#[cfg(test)]
mod tests {
    use super::Sql;
    use crate::account::Account;

    #[test]
    fn what_comes_from_outside_is_quoted_as_what_it_is() {
        let sql = Sql::new("GRANT ALL ON ").only("a_b%").words(".* TO ").account(&Account::new("it`s", None));
        assert_eq!(sql.as_str(), "GRANT ALL ON `a\\_b\\%`.* TO `it``s`@`%`");
        assert_eq!(Sql::new("").values(["a", "b"]).words(" ").text("it's\\").as_str(), "X'61', X'62' 'it''s\\'");
    }
}
