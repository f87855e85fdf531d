//! Looking into rows: the texts in a value, a value by its path, and what tells two values apart.

use serde_json::Value;
use sha2::{Digest, Sha256};

/// Calls `take` with every string in a value, in order; keys are none of them.
pub fn texts<'a>(value: &'a Value, take: &mut dyn FnMut(&'a str)) {
    match value {
        Value::String(text) => take(text),
        Value::Array(values) => values.iter().for_each(|v| texts(v, take)),
        Value::Object(fields) => fields.values().for_each(|v| texts(v, take)),
        _ => {}
    }
}

/// The value at a path such as `prompt` or `messages.0.content`; `None` where there is none or it
/// is null. A negative number counts from a list's end. A field whose own name has dots is found by
/// its whole name.
pub fn at<'a>(row: &'a serde_json::Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = row.get(path) {
        return Some(value).filter(|v| !v.is_null());
    }
    let mut parts = path.split('.');
    let mut value = row.get(parts.next()?)?;
    for part in parts {
        value = match value {
            Value::Array(values) => {
                let index: i64 = part.parse().ok()?;
                let far = usize::try_from(index.unsigned_abs()).ok()?;
                values.get(if index < 0 { values.len().checked_sub(far)? } else { far })?
            }
            Value::Object(fields) => fields.get(part)?,
            _ => return None,
        };
    }
    Some(value).filter(|v| !v.is_null())
}

/// 128 bits that equal values share and others do not: the first of the sha256 of the value with
/// its fields sorted by name. Fields that are null are as good as absent ones.
pub fn fingerprint<'a>(values: impl IntoIterator<Item = Option<&'a Value>>) -> u128 {
    let mut bytes = Vec::new();
    for value in values {
        write(value.unwrap_or(&Value::Null), &mut bytes);
    }
    let digest = Sha256::digest(&bytes);
    digest.iter().take(16).fold(0, |sum, byte| sum << 8 | u128::from(*byte))
}

fn write(value: &Value, out: &mut Vec<u8>) {
    let sized = |kind: u8, text: &str, out: &mut Vec<u8>| {
        out.push(kind);
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    match value {
        Value::Null => out.push(b'0'),
        Value::Bool(value) => out.push(if *value { b't' } else { b'f' }),
        Value::Number(number) => sized(b'#', &number.to_string(), out),
        Value::String(text) => sized(b's', text, out),
        Value::Array(values) => {
            out.push(b'[');
            values.iter().for_each(|v| write(v, out));
            out.push(b']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, v)| !v.is_null()).collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push(b'{');
            for (name, value) in fields {
                sized(b'k', name, out);
                write(value, out);
            }
            out.push(b'}');
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_found_by_path() {
        let row = json!({"a.b": 1, "m": [{"c": "x"}, {"c": "y"}], "n": null});
        let row = row.as_object().unwrap();
        assert_eq!(at(row, "a.b"), Some(&json!(1)));
        assert_eq!(at(row, "m.0.c"), Some(&json!("x")));
        assert_eq!(at(row, "m.-1.c"), Some(&json!("y")));
        for none in ["n", "m.2.c", "m.-3.c", "m.x", "m.0.c.d", "q", ""] {
            assert_eq!(at(row, none), None, "{none}");
        }
    }

    #[test]
    fn fingerprints_tell_values_apart_and_nothing_else() {
        let of = |value: Value| fingerprint([Some(&value)]);
        assert_eq!(of(json!({"a": 1, "b": "x"})), of(json!({"b": "x", "c": null, "a": 1})));
        let all = [
            json!({"a": "1"}),
            json!({"a": 1}),
            json!({"a": [1]}),
            json!({"a": ["x", "y"]}),
            json!({"a": ["xy"]}),
            json!({"a": ["y", "x"]}),
            json!({"b": "1"}),
            json!({"a": {}}),
            json!({"a": true}),
            json!({}),
        ];
        let mut seen: Vec<u128> = all.into_iter().map(of).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 10);
    }
}
