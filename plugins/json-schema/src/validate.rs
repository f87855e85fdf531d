//! Whether a value fits a schema.

use serde_json::{Map, Value};

use crate::schema::{Schema, resolve};

/// References and schemas within each other; a value that needs more does not fit.
const DEPTH_MAX: usize = 200;

impl Schema {
    /// Whether `value` fits.
    pub fn fits(&self, value: &Value) -> bool {
        self.check(&self.root, value, 0)
    }

    fn check(&self, schema: &Value, value: &Value, depth: usize) -> bool {
        let map = match schema {
            Value::Bool(fits) => return *fits,
            Value::Object(map) if depth <= DEPTH_MAX => map,
            _ => return false,
        };
        let inner = |schema: &Value, value: &Value| self.check(schema, value, depth + 1);
        if let Some(target) = map.get("$ref").and_then(Value::as_str)
            && !resolve(&self.root, target).is_some_and(|schema| inner(schema, value))
        {
            return false;
        }
        let list = |key: &str| map.get(key).and_then(Value::as_array);
        let of_type = match map.get("type") {
            None => true,
            Some(Value::Array(names)) => names.iter().any(|name| is(value, name)),
            Some(name) => is(value, name),
        };
        of_type
            && list("enum").is_none_or(|choices| choices.iter().any(|c| same(c, value)))
            && map.get("const").is_none_or(|wanted| same(wanted, value))
            && list("allOf").is_none_or(|all| all.iter().all(|s| inner(s, value)))
            && list("anyOf").is_none_or(|any| any.iter().any(|s| inner(s, value)))
            && list("oneOf").is_none_or(|one| one.iter().filter(|s| inner(s, value)).count() == 1)
            && map.get("not").is_none_or(|not| !inner(not, value))
            && match map.get("if") {
                Some(condition) => {
                    let branch = if inner(condition, value) { "then" } else { "else" };
                    map.get(branch).is_none_or(|schema| inner(schema, value))
                }
                None => true,
            }
            && match value {
                Value::Number(number) => number.as_f64().is_some_and(|n| number_fits(map, n)),
                Value::String(text) => self.string_fits(map, text),
                Value::Array(items) => self.array_fits(map, items, depth),
                Value::Object(object) => self.object_fits(map, object, depth),
                Value::Null | Value::Bool(_) => true,
            }
    }

    fn matches(&self, pattern: &str, text: &str) -> bool {
        self.patterns.get(pattern).is_some_and(|regex| regex.is_match(text))
    }

    fn string_fits(&self, map: &Map<String, Value>, text: &str) -> bool {
        let pattern = map.get("pattern").and_then(Value::as_str);
        within(map, "minLength", "maxLength", || text.chars().count())
            && pattern.is_none_or(|pattern| self.matches(pattern, text))
    }

    fn array_fits(&self, map: &Map<String, Value>, items: &[Value], depth: usize) -> bool {
        let inner = |schema: &Value, value: &Value| self.check(schema, value, depth + 1);
        let first = map.get("prefixItems").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let contains = map.get("contains").is_none_or(|schema| {
            let found = items.iter().filter(|item| inner(schema, item)).count() as u64;
            let most = count(map, "maxContains").unwrap_or(u64::MAX);
            (count(map, "minContains").unwrap_or(1)..=most).contains(&found)
        });
        let unique = map.get("uniqueItems") != Some(&Value::Bool(true))
            || items.iter().enumerate().all(|(at, a)| !items[..at].iter().any(|b| same(a, b)));
        contains
            && unique
            && within(map, "minItems", "maxItems", || items.len())
            && items.iter().zip(first).all(|(item, schema)| inner(schema, item))
            && map
                .get("items")
                .is_none_or(|schema| items.iter().skip(first.len()).all(|item| inner(schema, item)))
    }

    fn object_fits(
        &self,
        map: &Map<String, Value>,
        object: &Map<String, Value>,
        depth: usize,
    ) -> bool {
        let inner = |schema: &Value, value: &Value| self.check(schema, value, depth + 1);
        let named = |key: &str| map.get(key).and_then(Value::as_object);
        let has_all = |names: &Value| {
            names
                .as_array()
                .into_iter()
                .flatten()
                .all(|name| name.as_str().is_some_and(|name| object.contains_key(name)))
        };
        let (properties, by_pattern) = (named("properties"), named("patternProperties"));
        let property_fits = |(name, value): (&String, &Value)| {
            let own = properties.and_then(|p| p.get(name));
            let mut patterns = by_pattern.into_iter().flatten();
            let mut known = own.is_some();
            let fits = own.is_none_or(|schema| inner(schema, value))
                && patterns.all(|(pattern, schema)| {
                    let applies = self.matches(pattern, name);
                    known |= applies;
                    !applies || inner(schema, value)
                });
            let other = map.get("additionalProperties").filter(|_| !known);
            fits && other.is_none_or(|schema| inner(schema, value))
        };
        map.get("required").is_none_or(has_all)
            && within(map, "minProperties", "maxProperties", || object.len())
            && object.iter().all(property_fits)
            && map.get("propertyNames").is_none_or(|schema| {
                object.keys().all(|name| inner(schema, &Value::from(name.as_str())))
            })
            && named("dependentRequired").is_none_or(|rules| {
                rules.iter().all(|(name, needs)| !object.contains_key(name) || has_all(needs))
            })
            && named("dependentSchemas").is_none_or(|rules| {
                let whole = Value::Object(object.clone());
                rules.iter().all(|(name, s)| !object.contains_key(name) || inner(s, &whole))
            })
    }
}

fn count(map: &Map<String, Value>, key: &str) -> Option<u64> {
    map.get(key).and_then(Value::as_u64)
}

fn within(map: &Map<String, Value>, least: &str, most: &str, size: impl FnOnce() -> usize) -> bool {
    match (count(map, least), count(map, most)) {
        (None, None) => true,
        (least, most) => (least.unwrap_or(0)..=most.unwrap_or(u64::MAX)).contains(&(size() as u64)),
    }
}

fn number_fits(map: &Map<String, Value>, n: f64) -> bool {
    let bound = |key: &str| map.get(key).and_then(Value::as_f64);
    bound("minimum").is_none_or(|b| n >= b)
        && bound("maximum").is_none_or(|b| n <= b)
        && bound("exclusiveMinimum").is_none_or(|b| n > b)
        && bound("exclusiveMaximum").is_none_or(|b| n < b)
        && bound("multipleOf").is_none_or(|step| is_multiple(n, step))
}

/// `0.3` is a multiple of `0.1`, though not in binary: a quotient next to a whole number counts.
fn is_multiple(n: f64, step: f64) -> bool {
    let quotient = n / step;
    (quotient - quotient.round()).abs() <= 1e-9 * quotient.abs().max(1.0)
}

fn is(value: &Value, name: &Value) -> bool {
    match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("number") => value.is_number(),
        // 1.0 is an integer.
        Some("integer") => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        _ => false,
    }
}

/// Equality of JSON: numbers by value, objects without regard to order.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a.to_string() == b.to_string() || a.as_f64() == b.as_f64()
        }
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}
