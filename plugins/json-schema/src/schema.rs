//! A JSON Schema, checked once: an unknown keyword, a broken pattern or a reference to nowhere is
//! an error of the options, never a silent pass.
//!
//! Source: JSON Schema 2020-12, core and validation. `format`, `content…` and `unevaluated…` are
//! not validated: the first two are annotations there, the last is refused.

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value};

/// Deepest schema; deeper ones are refused.
const DEPTH_MAX: usize = 64;

/// Keywords that say nothing about whether a value fits.
const ANNOTATIONS: &[&str] = &[
    "$anchor",
    "$comment",
    "$id",
    "$schema",
    "$vocabulary",
    "contentEncoding",
    "contentMediaType",
    "contentSchema",
    "default",
    "deprecated",
    "description",
    "examples",
    "format",
    "readOnly",
    "title",
    "writeOnly",
];
/// Keywords whose value is one schema.
const ONE: &[&str] =
    &["additionalProperties", "contains", "else", "if", "items", "not", "propertyNames", "then"];
/// Keywords whose value is a list of schemas.
const LIST: &[&str] = &["allOf", "anyOf", "oneOf", "prefixItems"];
/// Keywords whose value is an object of schemas.
const NAMED: &[&str] =
    &["$defs", "definitions", "dependentSchemas", "patternProperties", "properties"];
/// Keywords whose value is a count.
const COUNTS: &[&str] = &[
    "maxContains",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minContains",
    "minItems",
    "minLength",
    "minProperties",
];
/// Keywords whose value is a number.
const NUMBERS: &[&str] =
    &["exclusiveMaximum", "exclusiveMinimum", "maximum", "minimum", "multipleOf"];
const TYPES: &[&str] = &["array", "boolean", "integer", "null", "number", "object", "string"];

/// A schema whose every part is known to be usable.
pub struct Schema {
    pub(crate) root: Value,
    /// Every pattern of the schema, compiled.
    pub(crate) patterns: BTreeMap<String, Regex>,
}

impl Schema {
    /// Checks `root`.
    ///
    /// # Errors
    /// What is wrong with it and where.
    pub fn new(root: Value) -> Result<Self, String> {
        let mut patterns = BTreeMap::new();
        check(&root, &root, "schema", 0, &mut patterns)?;
        Ok(Self { root, patterns })
    }
}

fn check(
    root: &Value,
    schema: &Value,
    place: &str,
    depth: usize,
    patterns: &mut BTreeMap<String, Regex>,
) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!("`{place}` is nested deeper than {DEPTH_MAX} schemas"));
    }
    let map = match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(map) => map,
        _ => return Err(format!("`{place}` is no schema: an object, true or false")),
    };
    for (key, value) in map {
        let here = format!("{place}.{key}");
        let key = key.as_str();
        if ANNOTATIONS.contains(&key) {
        } else if ONE.contains(&key) {
            check(root, value, &here, depth + 1, patterns)?;
        } else if LIST.contains(&key) {
            let list = value.as_array().filter(|list| !list.is_empty());
            for inner in list.ok_or_else(|| format!("`{here}` is no list of schemas"))? {
                check(root, inner, &here, depth + 1, patterns)?;
            }
        } else if NAMED.contains(&key) {
            for (name, inner) in object(value, &here)? {
                check(root, inner, &format!("{here}.{name}"), depth + 1, patterns)?;
                if key == "patternProperties" {
                    compile(name, &here, patterns)?;
                }
            }
        } else if COUNTS.contains(&key) {
            if value.as_u64().is_none() {
                return Err(format!("`{here}` is no count: a number that is whole, not negative"));
            }
        } else if NUMBERS.contains(&key) {
            let number = value.as_f64().filter(|n| key != "multipleOf" || *n > 0.0);
            number.ok_or_else(|| format!("`{here}` is no number that can be used here"))?;
        } else {
            other(root, key, value, &here, patterns)?;
        }
    }
    Ok(())
}

/// Keywords that have a form of their own.
fn other(
    root: &Value,
    key: &str,
    value: &Value,
    here: &str,
    patterns: &mut BTreeMap<String, Regex>,
) -> Result<(), String> {
    let strings =
        |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let fine = match key {
        "const" => true,
        "enum" => value.is_array(),
        "required" => strings(value),
        "uniqueItems" => value.is_boolean(),
        "dependentRequired" => object(value, here)?.values().all(strings),
        "type" => {
            let known = |v: &Value| v.as_str().is_some_and(|name| TYPES.contains(&name));
            known(value)
                || value.as_array().is_some_and(|list| !list.is_empty() && list.iter().all(known))
        }
        "pattern" => {
            let text = value.as_str().ok_or_else(|| format!("`{here}` is no string"))?;
            return compile(text, here, patterns);
        }
        "$ref" => {
            let text = value.as_str().ok_or_else(|| format!("`{here}` is no string"))?;
            return match resolve(root, text) {
                Some(_) => Ok(()),
                None => Err(format!("`{here}` is `{text}`, which is not in the schema")),
            };
        }
        _ => {
            return Err(format!(
                "`{here}` is not understood; leave it out, or say it with other keywords"
            ));
        }
    };
    if fine { Ok(()) } else { Err(format!("`{here}` has a value that can't be used")) }
}

fn object<'a>(value: &'a Value, here: &str) -> Result<&'a Map<String, Value>, String> {
    value.as_object().ok_or_else(|| format!("`{here}` is no object"))
}

fn compile(text: &str, here: &str, patterns: &mut BTreeMap<String, Regex>) -> Result<(), String> {
    let regex = Regex::new(text)
        .map_err(|e| format!("`{here}`: `{text}` is no regular expression: {e}"))?;
    patterns.insert(text.to_string(), regex);
    Ok(())
}

/// What `#` or `#/a/b` points to.
pub(crate) fn resolve<'a>(root: &'a Value, reference: &str) -> Option<&'a Value> {
    root.pointer(reference.strip_prefix('#')?)
}
