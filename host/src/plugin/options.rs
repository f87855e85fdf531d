//! Options are checked against the plugin's own JSON Schema, so that a typing mistake is found
//! before any row is read; the plugin has the last word in `configure`.

use serde_json::{Map, Value};

use super::columns::kind_name;
use super::schema;

/// Checks the text of options.
///
/// # Errors
/// Every fault, in words.
pub(super) fn check(schema: &str, options: &str) -> Result<(), Vec<String>> {
    let options = match serde_json::from_str(options) {
        Ok(Value::Object(options)) => Value::Object(options),
        Ok(other) => {
            return Err(vec![format!("they are {}, not an object", kind_name(&other))]);
        }
        Err(e) => return Err(vec![format!("they are not JSON: {e}")]),
    };
    let schema = match schema.trim() {
        "" => Value::Object(Map::new()),
        text => match serde_json::from_str(text) {
            Ok(Value::Object(schema)) => Value::Object(schema),
            _ => return Err(vec!["the plugin's own schema is not a JSON object".into()]),
        },
    };
    let faults = schema::faults(&schema, &options, true);
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type":"object","properties":{"column":{"type":"string","minLength":1},
        "n":{"type":"integer","minimum":1},"mode":{"enum":["a","b"]}},"required":["n"]}"#;

    fn faults(options: &str) -> Vec<String> {
        check(SCHEMA, options).err().unwrap_or_default()
    }

    #[test]
    fn sound_options_pass() {
        assert_eq!(faults(r#"{"column":"x","n":3,"mode":"b"}"#), Vec::<String>::new());
        assert!(check("", "{}").is_ok());
    }

    #[test]
    fn all_faults_are_found_at_once() {
        let found = faults(r#"{"colum":"x","n":0,"mode":"c"}"#).join("\n");
        assert!(found.contains("`colum` is unknown, did you mean `column`?"), "{found}");
        assert!(found.contains("`n` is 0, less than 1"), "{found}");
        assert!(found.contains("`mode` is \"c\", not one of"), "{found}");
        assert!(faults(r#"{"column":5,"n":1}"#)[0].contains("is a number, not string"));
        assert!(faults("{}")[0].contains("`n` is required"));
        assert!(faults(r#"{"n":1,"column":""}"#)[0].contains("needs 1"));
        assert!(faults("[]")[0].contains("a list, not an object"));
        assert!(check("", r#"{"a":1}"#).err().unwrap_or_default()[0].contains("takes none"));
    }
}
