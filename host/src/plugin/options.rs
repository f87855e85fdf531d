//! A light check of options against a plugin's JSON Schema, so that a typing mistake is found
//! before any row is read. Understands `properties`, `required`, `type`, `enum`, `minimum`,
//! `maximum` and `minLength`; the plugin itself has the last word in `configure`.

use serde_json::{Map, Value};

use super::columns::kind_name;
use super::error::shown;

/// The options as an object.
///
/// # Errors
/// Every fault, in words.
pub(super) fn check(schema: &str, options: &str) -> Result<(), Vec<String>> {
    let options = match serde_json::from_str(options) {
        Ok(Value::Object(options)) => options,
        Ok(other) => {
            return Err(vec![format!("they are {}, not an object", kind_name(&other))]);
        }
        Err(e) => return Err(vec![format!("they are not JSON: {e}")]),
    };
    let schema = match schema.trim() {
        "" => Map::new(),
        text => match serde_json::from_str(text) {
            Ok(Value::Object(schema)) => schema,
            _ => return Err(vec!["the plugin's own schema is not a JSON object".into()]),
        },
    };
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let open = schema.get("additionalProperties").is_some_and(|v| *v != Value::Bool(false));
    let mut faults = Vec::new();
    for (name, value) in &options {
        match properties.get(name) {
            Some(rule) => faults.extend(fault(name, value, rule)),
            None if open => {}
            None => faults.push(unknown(name, properties)),
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if let Some(name) = name.as_str()
            && !options.contains_key(name)
        {
            faults.push(format!("`{}` is required", shown(name)));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn unknown(name: &str, properties: &Map<String, Value>) -> String {
    let nearest = properties
        .keys()
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, _)| *distance <= 3)
        .min();
    let known: Vec<String> = properties.keys().map(|k| format!("`{}`", shown(k))).collect();
    match nearest {
        Some((_, known)) => {
            format!("`{}` is unknown, did you mean `{}`?", shown(name), shown(known))
        }
        None if known.is_empty() => format!("`{}` is unknown, it takes none", shown(name)),
        None => format!("`{}` is unknown, it takes {}", shown(name), known.join(", ")),
    }
}

fn fault(name: &str, value: &Value, rule: &Value) -> Option<String> {
    let name = shown(name);
    let types: Vec<&str> = match rule.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    if !types.is_empty() && !types.iter().any(|ty| is_of(value, ty)) {
        return Some(format!("`{name}` is {}, not {}", kind_name(value), types.join(" or ")));
    }
    if let Some(Value::Array(allowed)) = rule.get("enum")
        && !allowed.contains(value)
    {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        return Some(format!(
            "`{name}` is {}, not one of {}",
            shown(&value.to_string()),
            allowed.join(", ")
        ));
    }
    let number = |key: &str| rule.get(key).and_then(Value::as_f64);
    if let Some(got) = value.as_f64() {
        if let Some(least) = number("minimum").filter(|least| got < *least) {
            return Some(format!("`{name}` is {got}, less than {least}"));
        }
        if let Some(most) = number("maximum").filter(|most| got > *most) {
            return Some(format!("`{name}` is {got}, more than {most}"));
        }
    }
    let least = rule.get("minLength").and_then(Value::as_u64)?;
    let got = value.as_str()?.chars().count() as u64;
    (got < least).then(|| format!("`{name}` has {got} characters, it needs {least}"))
}

fn is_of(value: &Value, ty: &str) -> bool {
    match ty {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
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
