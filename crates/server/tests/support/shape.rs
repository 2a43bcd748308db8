//! Comparing answers with what the real Trove answers, by shape: keys and types.
//!
//! The fixtures were written by hand from recorded exchanges. A leaf names the types it may have, or the very text; `?`
//! before a key means that it may be absent, `+` that it is Coffer's own and may be absent.

use serde_json::Value;

/// How `value` differs from `shape`; nothing where it does not.
fn differs(place: &str, value: &Value, shape: &Value) -> Vec<String> {
    match (value, shape) {
        (Value::Object(value), Value::Object(shape)) => {
            let mut found = Vec::new();
            let plain = |key: &str| key.trim_start_matches(['?', '+']).to_owned();
            for (key, shape) in shape {
                match value.get(&plain(key)) {
                    Some(value) => found.extend(differs(&format!("{place}.{key}"), value, shape)),
                    None if key.starts_with(['?', '+']) => {}
                    None => found.push(format!("{place}.{key} is missing")),
                }
            }
            let unknown = value.keys().filter(|key| !shape.keys().any(|known| plain(known) == **key));
            found.extend(unknown.map(|key| format!("{place}.{key} is not Trove's")));
            found
        }
        (Value::Array(values), Value::Array(shapes)) => {
            let each = values.iter().enumerate().map(|(i, value)| {
                let of_shapes = shapes.iter().map(|shape| differs(&format!("{place}[{i}]"), value, shape));
                of_shapes.min_by_key(Vec::len).unwrap_or_default()
            });
            each.flatten().collect()
        }
        (value, Value::String(kinds)) => {
            let kind = match value {
                Value::Null => "null",
                Value::Bool(_) => "bool",
                Value::Number(number) if number.is_f64() => "float",
                Value::Number(_) => "int",
                Value::String(text) if is_date(text) => "date",
                Value::String(_) => "text",
                Value::Array(_) => "list",
                Value::Object(_) => "object",
            };
            let fits = kinds.split('|').any(|wanted| wanted == kind || value.as_str() == Some(wanted));
            if fits { Vec::new() } else { vec![format!("{place} is {value} and not {kinds}")] }
        }
        (value, shape) => vec![format!("{place} is {value} and not {shape}")],
    }
}

fn is_date(text: &str) -> bool {
    text.len() == 19 && text.parse::<jiff::civil::DateTime>().is_ok()
}

/// That an answer has the shape of that fixture.
pub fn check(what: &str, value: &Value, fixture: &str) {
    let shapes: Value = serde_json::from_str(include_str!("../golden/shapes.json")).expect("the fixtures");
    let shape = shapes.get(fixture).unwrap_or_else(|| panic!("no fixture {fixture}"));
    let found = differs("", value, shape);
    assert!(found.is_empty(), "{what}: {found:#?}\n{value:#}");
}
