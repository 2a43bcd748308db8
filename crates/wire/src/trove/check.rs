//! Reading bodies: everything that is wrong is collected, and told in the words of Trove's JSON schemas.
//!
//! A place is written as Trove writes it, `instance['volume']['size']`; values are shown as Python shows them, cut short
//! so that an answer is never as long as the question.

use serde_json::{Map, Value};

use crate::trove::fault::Fault;

/// How much of a value an answer repeats, in characters.
const SHOWN: usize = 100;
/// How many problems an answer lists.
const LISTED: usize = 20;

/// The pattern of Trove's names.
pub const NAME_PATTERN: &str = "^.*[0-9a-zA-Z]+.*$";

/// What is wrong with a body, so far.
#[derive(Debug, Default)]
pub struct Check {
    problems: Vec<String>,
}

impl Check {
    /// Adds a problem.
    pub fn add(&mut self, place: &str, problem: &str) {
        self.problems.push(format!("{place} {problem}"));
    }

    /// The fault that names all problems, if there is one.
    pub fn finish(self) -> Result<(), Fault> {
        if self.problems.is_empty() {
            return Ok(());
        }
        let more = self.problems.len().saturating_sub(LISTED);
        let mut text = self.problems.into_iter().take(LISTED).collect::<Vec<_>>().join("; ");
        if more > 0 {
            text = format!("{text}; and {more} more");
        }
        Err(Fault::bad_request(format!("Validation error: {text}")))
    }

    /// The object at `place`.
    pub fn object<'v>(&mut self, place: &str, value: &'v Value) -> Option<&'v Map<String, Value>> {
        let object = value.as_object();
        if object.is_none() {
            self.wrong_type(place, value, "object");
        }
        object
    }

    /// The list at `place`, of at most `most` members.
    pub fn list<'v>(&mut self, place: &str, value: &'v Value, most: usize) -> Option<&'v [Value]> {
        let Some(list) = value.as_array() else {
            self.wrong_type(place, value, "array");
            return None;
        };
        if list.len() > most {
            self.add(place, &format!("{} is too long", show(value)));
        }
        Some(list)
    }

    /// That no key but these is in the object at `place`.
    pub fn only(&mut self, place: &str, object: &Map<String, Value>, known: &[&str]) {
        let unknown: Vec<_> = object.keys().filter(|key| !known.contains(&key.as_str())).take(LISTED).collect();
        if unknown.is_empty() {
            return;
        }
        let verb = if unknown.len() == 1 { "was" } else { "were" };
        let keys = unknown.iter().map(|key| show_text(key)).collect::<Vec<_>>().join(", ");
        self.add(place, &format!("Additional properties are not allowed ({keys} {verb} unexpected)"));
    }

    /// The value of a key that must be there.
    pub fn required<'v>(&mut self, place: &str, object: &'v Map<String, Value>, key: &str) -> Option<&'v Value> {
        let value = object.get(key);
        if value.is_none() {
            self.add(place, &format!("{} is a required property", show_text(key)));
        }
        value
    }

    /// The text at `place`, at least one character and at most `most`, none of them a control character.
    pub fn text(&mut self, place: &str, value: &Value, most: usize) -> Option<String> {
        let Some(text) = value.as_str() else {
            self.wrong_type(place, value, "string");
            return None;
        };
        if text.is_empty() {
            self.add(place, "'' should be non-empty");
        }
        if text.chars().nth(most).is_some() {
            self.add(place, &format!("{} is too long", show(value)));
        }
        if text.chars().any(char::is_control) {
            self.add(place, &format!("{} has control characters", show(value)));
        }
        Some(text.to_owned())
    }

    /// The name at `place`: a text with something in it that can be read.
    pub fn name(&mut self, place: &str, value: &Value) -> Option<String> {
        let name = self.text(place, value, 255)?;
        if !name.bytes().any(|b| b.is_ascii_alphanumeric()) {
            self.add(place, &format!("{} does not match '{NAME_PATTERN}'", show(value)));
        }
        Some(name)
    }

    /// The size at `place`: a whole number from 1, or a text of digits. More than `u32` holds is its largest value.
    pub fn size(&mut self, place: &str, value: &Value) -> Option<u32> {
        const ONE_OF: &str = "is not valid under any of the given schemas";
        let shown = show(value);
        if let Value::String(text) = value {
            if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && text.bytes().any(|b| b != b'0') {
                return Some(text.parse().unwrap_or(u32::MAX));
            }
            let pattern = "^0*[1-9]+[0-9]*$";
            let why = format!("{shown} {ONE_OF}; {shown} is not of type 'integer'; {shown} does not match '{pattern}'");
            self.add(place, &why);
            return None;
        }
        let whole = value.is_u64() || value.is_i64();
        match value.as_u64() {
            Some(size) if size > 0 => return Some(u32::try_from(size).unwrap_or(u32::MAX)),
            _ if whole => self.add(
                place,
                &format!("{shown} {ONE_OF}; {shown} is less than the minimum of 1; {shown} is not of type 'string'"),
            ),
            _ => self.add(
                place,
                &format!("{shown} {ONE_OF}; {shown} is not of type 'integer'; {shown} is not of type 'string'"),
            ),
        }
        None
    }

    /// The truth value at `place`.
    pub fn truth(&mut self, place: &str, value: &Value) -> Option<bool> {
        let truth = value.as_bool();
        if truth.is_none() {
            self.wrong_type(place, value, "boolean");
        }
        truth
    }

    /// That what stands at `place` is of another type than it must be.
    pub fn wrong_type(&mut self, place: &str, value: &Value, wanted: &str) {
        self.add(place, &format!("{} is not of type '{wanted}'", show(value)));
    }
}

/// The value of the body's one top-level key. Trove answers 500 where it is missing; we say what is.
pub fn inside<'v>(body: &'v Value, key: &str) -> Result<&'v Value, Fault> {
    let Some(object) = body.as_object() else {
        return Err(Fault::bad_request(format!("Validation error: {} is not of type 'object'", show(body))));
    };
    object
        .get(key)
        .ok_or_else(|| Fault::bad_request(format!("Validation error: {} is a required property", show_text(key))))
}

/// A text cut short, for messages that repeat what a client sent.
pub fn clip(text: &str) -> String {
    let mut shown: String = text.chars().filter(|c| !c.is_control()).take(SHOWN).collect();
    if text.chars().nth(SHOWN).is_some() {
        shown.push_str("...");
    }
    shown
}

/// A value as Python's `repr` shows it, cut short.
pub fn show(value: &Value) -> String {
    let mut out = String::new();
    show_into(value, &mut out);
    if out.chars().nth(SHOWN).is_some() {
        out = out.chars().take(SHOWN).collect();
        out.push_str("...");
    }
    out
}

/// A text as Python's `repr` shows it, cut short.
pub fn show_text(text: &str) -> String {
    let mut out = String::new();
    show_text_into(text, &mut out);
    out
}

fn show_into(value: &Value, out: &mut String) {
    // Once there is enough to be cut short, the rest need not be looked at.
    if out.len() > 4 * SHOWN {
        return;
    }
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) => show_text_into(text, out),
        Value::Array(list) => {
            out.push('[');
            for (i, member) in list.iter().take(SHOWN).enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                show_into(member, out);
            }
            out.push(']');
        }
        Value::Object(object) => {
            out.push('{');
            for (i, (key, member)) in object.iter().take(SHOWN).enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                show_text_into(key, out);
                out.push_str(": ");
                show_into(member, out);
            }
            out.push('}');
        }
    }
}

fn show_text_into(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars().take(SHOWN) {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&control(c)),
            c => out.push(c),
        }
    }
    if text.chars().nth(SHOWN).is_some() {
        out.push_str("...");
    }
    out.push(quote);
}

fn control(c: char) -> String {
    format!("\\x{:02x}", u32::from(c))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Check, inside, show};

    #[test]
    fn values_are_shown_as_python_shows_them_and_cut_short() {
        let check = |value: Value, shown: &str| assert_eq!(show(&value), shown);
        check(json!(null), "None");
        check(json!([true, false, 1, -2.5]), "[True, False, 1, -2.5]");
        check(json!({"a": "b"}), "{'a': 'b'}");
        check(json!("it's"), "\"it's\"");
        check(json!("'\"\n\u{1}"), r#"'\'"\n\x01'"#);
        assert!(show(&json!("x".repeat(10_000))).len() < 120);
        assert!(show(&json!(vec![vec!["y".repeat(1000); 1000]; 100])).len() < 120);
    }

    #[test]
    fn sizes_are_refused_in_the_words_of_the_schema() {
        let check = |value: Value, expected: Option<u32>, message: &str| {
            let mut check = Check::default();
            assert_eq!(check.size("x", &value), expected, "{value}");
            let told = check.finish().err().map(|f| f.message().to_owned()).unwrap_or_default();
            assert_eq!(told, message);
        };
        check(json!(5), Some(5), "");
        check(json!("007"), Some(7), "");
        check(json!(u64::MAX), Some(u32::MAX), "");
        check(json!("99999999999999999999999"), Some(u32::MAX), "");
        check(
            json!(0),
            None,
            "Validation error: x 0 is not valid under any of the given schemas; 0 is less than the minimum of 1; \
             0 is not of type 'string'",
        );
        check(
            json!("abc"),
            None,
            "Validation error: x 'abc' is not valid under any of the given schemas; 'abc' is not of type 'integer'; \
             'abc' does not match '^0*[1-9]+[0-9]*$'",
        );
        check(
            json!(1.5),
            None,
            "Validation error: x 1.5 is not valid under any of the given schemas; 1.5 is not of type 'integer'; \
             1.5 is not of type 'string'",
        );
    }

    #[test]
    fn a_body_without_its_key_is_told_so() {
        let told = |body: Value| inside(&body, "instance").err().map(|f| f.message().to_owned());
        assert_eq!(told(json!({"instance": 1})), None);
        assert_eq!(told(json!({})).as_deref(), Some("Validation error: 'instance' is a required property"));
        assert_eq!(told(json!([])).as_deref(), Some("Validation error: [] is not of type 'object'"));
    }
}
