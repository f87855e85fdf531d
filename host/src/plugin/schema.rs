//! The part of JSON Schema that options are described with: types, `enum` and `const`, ranges,
//! lengths, `pattern`, lists, nested objects, `anyOf`, `oneOf`, `allOf`, `not` and `$ref` within
//! the schema. Keywords beyond it are left to the plugin, which has the last word in `configure`.
//!
//! The schema comes from a plugin and is not trusted either: the work on it is bounded.

use std::collections::HashSet;

use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::columns::kind_name;
use super::error::shown;

/// Rules looked at for one set of options.
const STEPS_MAX: usize = 100_000;
/// What compiling a `pattern` counts as.
const PATTERN_STEPS: usize = 100;
/// Depth of rules within rules.
const DEPTH_MAX: usize = 64;
/// Faults listed.
const FAULTS_MAX: usize = 50;
/// Size of one compiled `pattern`, bytes.
const PATTERN_BYTES_MAX: usize = 256 << 10;

/// What is wrong with `value` under `schema`, every fault in words that name the place in it.
/// `closed`: at the top an unknown name is a fault unless the schema allows others.
pub(super) fn faults(schema: &Value, value: &Value, closed: bool) -> Vec<String> {
    let mut check = Check { root: schema, faults: Vec::new(), steps: 0, endless: false };
    check.value(schema, value, "", 0, closed);
    if check.endless {
        check.faults.push("the plugin's own schema has no end".into());
    }
    let more = check.faults.len().saturating_sub(FAULTS_MAX);
    check.faults.truncate(FAULTS_MAX);
    if more > 0 {
        check.faults.push(format!("and {more} more"));
    }
    check.faults
}

/// The rule that a local `$ref` leads to.
fn resolve<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    root.pointer(reference.strip_prefix('#')?)
}

/// A `pattern`, found anywhere in the text as JSON Schema has it; `None` when it is not one that
/// this engine knows.
fn pattern(text: &str) -> Option<Regex> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build().ok()
}

struct Check<'s> {
    root: &'s Value,
    faults: Vec<String>,
    steps: usize,
    endless: bool,
}

impl<'s> Check<'s> {
    /// Faults of `value` under `rule` alone, not entered.
    fn apart(&mut self, rule: &'s Value, value: &Value, place: &str, depth: usize) -> Vec<String> {
        let before = std::mem::take(&mut self.faults);
        self.value(rule, value, place, depth + 1, false);
        std::mem::replace(&mut self.faults, before)
    }

    fn value(&mut self, rule: &'s Value, value: &Value, place: &str, depth: usize, closed: bool) {
        self.steps += 1;
        if self.steps > STEPS_MAX || depth > DEPTH_MAX {
            self.endless = true;
            return;
        }
        let rule = match rule {
            Value::Object(rule) => rule,
            Value::Bool(false) => return self.faults.push(format!("{} is not allowed", at(place))),
            _ => return,
        };
        if let Some(target) =
            rule.get("$ref").and_then(Value::as_str).and_then(|to| resolve(self.root, to))
        {
            self.value(target, value, place, depth + 1, closed);
        }
        if let Some(fault) = wrong_type(rule, value, place) {
            return self.faults.push(fault);
        }
        self.faults.extend(not_listed(rule, value, place));
        let patterns = rule.get("patternProperties").and_then(Value::as_object).map_or(0, Map::len);
        self.steps += PATTERN_STEPS * (patterns + usize::from(rule.contains_key("pattern")));
        match value {
            Value::Number(_) => self.faults.extend(out_of_range(rule, value, place)),
            Value::String(text) => self.faults.extend(wrong_text(rule, text, place)),
            Value::Array(items) => self.list(rule, items, place, depth),
            Value::Object(fields) => self.object(rule, fields, place, depth, closed),
            _ => {}
        }
        self.combined(rule, value, place, depth);
    }

    fn list(&mut self, rule: &'s Map<String, Value>, items: &[Value], place: &str, depth: usize) {
        let count = |key: &str| rule.get(key).and_then(Value::as_u64);
        let got = items.len() as u64;
        if let Some(least) = count("minItems").filter(|least| got < *least) {
            self.faults.push(format!("{} has {got} items, it needs {least}", at(place)));
        }
        if let Some(most) = count("maxItems").filter(|most| got > *most) {
            self.faults.push(format!("{} has {got} items, more than {most}", at(place)));
        }
        if rule.get("uniqueItems") == Some(&Value::Bool(true)) {
            let mut seen = HashSet::new();
            if let Some(twice) = items.iter().find(|item| !seen.insert(item.to_string())) {
                self.faults.push(format!("{} has {} twice", at(place), text_of(twice)));
            }
        }
        // Older drafts put the rules of the first items into a list under `items`.
        let first = rule.get("prefixItems").or_else(|| rule.get("items").filter(|i| i.is_array()));
        let first = first.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let rest = rule.get("items").filter(|items| !items.is_array());
        for (i, item) in items.iter().enumerate() {
            if let Some(rule) = first.get(i).or(rest) {
                self.value(rule, item, &format!("{place}[{i}]"), depth + 1, false);
            }
        }
    }

    fn object(
        &mut self,
        rule: &'s Map<String, Value>,
        fields: &Map<String, Value>,
        place: &str,
        depth: usize,
        closed: bool,
    ) {
        let properties = rule.get("properties").and_then(Value::as_object);
        let patterns: Vec<(Regex, &Value)> = rule
            .get("patternProperties")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(text, rule)| Some((pattern(text)?, rule)))
            .collect();
        let others = rule.get("additionalProperties");
        // Names may also be known to the parts of a rule that is put together.
        let elsewhere = ["$ref", "allOf", "anyOf", "oneOf", "patternProperties"]
            .iter()
            .any(|key| rule.contains_key(*key));
        for (name, value) in fields {
            let inner = if place.is_empty() { shown(name) } else { format!("{place}.{name}") };
            let known = properties.and_then(|p| p.get(name));
            let mut matched = known.is_some();
            if let Some(rule) = known {
                self.value(rule, value, &inner, depth + 1, false);
            }
            for (regex, rule) in &patterns {
                if regex.is_match(name) {
                    matched = true;
                    self.value(rule, value, &inner, depth + 1, false);
                }
            }
            match others {
                _ if matched => {}
                Some(Value::Bool(false)) => self.faults.push(unknown(name, &inner, properties)),
                Some(rule) => self.value(rule, value, &inner, depth + 1, false),
                None if closed && !elsewhere => self.faults.push(unknown(name, &inner, properties)),
                None => {}
            }
        }
        let required = rule.get("required").and_then(Value::as_array).into_iter().flatten();
        for name in required.filter_map(Value::as_str).filter(|name| !fields.contains_key(*name)) {
            let inner = if place.is_empty() { shown(name) } else { format!("{place}.{name}") };
            self.faults.push(format!("{} is required", at(&inner)));
        }
        let count = |key: &str| rule.get(key).and_then(Value::as_u64);
        let got = fields.len() as u64;
        if let Some(least) = count("minProperties").filter(|least| got < *least) {
            self.faults.push(format!("{} has {got} entries, it needs {least}", at(place)));
        }
        if let Some(most) = count("maxProperties").filter(|most| got > *most) {
            self.faults.push(format!("{} has {got} entries, more than {most}", at(place)));
        }
    }

    fn combined(&mut self, rule: &'s Map<String, Value>, value: &Value, place: &str, depth: usize) {
        let list = |key: &str| rule.get(key).and_then(Value::as_array);
        for part in list("allOf").into_iter().flatten() {
            self.value(part, value, place, depth + 1, false);
        }
        for key in ["anyOf", "oneOf"] {
            let Some(forms) = list(key) else { continue };
            let found: Vec<Vec<String>> =
                forms.iter().map(|form| self.apart(form, value, place, depth)).collect();
            let fits = found.iter().filter(|faults| faults.is_empty()).count();
            if fits == 0 && !forms.is_empty() {
                self.faults.push(no_form(self.root, forms, &found, value, place));
            } else if key == "oneOf" && fits > 1 {
                let place = at(place);
                self.faults.push(format!("{place} fits {fits} of the forms it may have, not one"));
            }
        }
        if let Some(form) = rule.get("not")
            && self.apart(form, value, place, depth).is_empty()
        {
            self.faults.push(format!("{} is {}, which is not allowed", at(place), text_of(value)));
        }
    }
}

/// The place in the options, for messages.
fn at(place: &str) -> String {
    if place.is_empty() { "the whole".into() } else { format!("`{}`", shown(place)) }
}

fn text_of(value: &Value) -> String {
    shown(&value.to_string())
}

/// The names of a rule's `type`.
fn types_of(rule: &Map<String, Value>) -> Vec<&str> {
    match rule.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

fn wrong_type(rule: &Map<String, Value>, value: &Value, place: &str) -> Option<String> {
    let types = types_of(rule);
    if types.is_empty() || types.iter().any(|ty| is_of(value, ty)) {
        return None;
    }
    let types = types.join(" or ");
    Some(format!("{} is {}, not {}", at(place), kind_name(value), shown(&types)))
}

fn is_of(value: &Value, ty: &str) -> bool {
    match ty {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "number" => value.is_number(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|x| x.fract() == 0.0)
        }
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
}

fn not_listed(rule: &Map<String, Value>, value: &Value, place: &str) -> Option<String> {
    let allowed = match (rule.get("enum"), rule.get("const")) {
        (Some(Value::Array(allowed)), _) => allowed.as_slice(),
        (_, Some(only)) => std::slice::from_ref(only),
        _ => return None,
    };
    if allowed.iter().any(|a| same(a, value)) {
        return None;
    }
    let names: Vec<String> = allowed.iter().map(Value::to_string).collect();
    let near =
        value.as_str().and_then(|text| nearest(text, allowed.iter().filter_map(Value::as_str)));
    let near = near.map(|near| format!(", did you mean \"{}\"?", shown(near))).unwrap_or_default();
    let names = shown(&names.join(", "));
    Some(format!("{} is {}, not one of {names}{near}", at(place), text_of(value)))
}

/// Equal as JSON Schema has it: 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn out_of_range(rule: &Map<String, Value>, value: &Value, place: &str) -> Vec<String> {
    let Some(got) = value.as_f64() else { return Vec::new() };
    let number = |key: &str| rule.get(key).and_then(Value::as_f64);
    // In older drafts the two exclusive ones are true or false.
    let strict = |key: &str| rule.get(key) == Some(&Value::Bool(true));
    let mut faults = Vec::new();
    let mut fault = |text: String| faults.push(format!("{} is {value}, {text}", at(place)));
    match number("minimum") {
        Some(least) if got < least => fault(format!("less than {least}")),
        Some(least) if got == least && strict("exclusiveMinimum") => {
            fault(format!("not more than {least}"))
        }
        _ => {}
    }
    match number("maximum") {
        Some(most) if got > most => fault(format!("more than {most}")),
        Some(most) if got == most && strict("exclusiveMaximum") => {
            fault(format!("not less than {most}"))
        }
        _ => {}
    }
    if let Some(least) = number("exclusiveMinimum").filter(|least| got <= *least) {
        fault(format!("not more than {least}"));
    }
    if let Some(most) = number("exclusiveMaximum").filter(|most| got >= *most) {
        fault(format!("not less than {most}"));
    }
    if let Some(of) = number("multipleOf").filter(|of| *of > 0.0) {
        let times = got / of;
        if (times - times.round()).abs() > 1e-9 * times.abs().max(1.0) {
            fault(format!("no multiple of {of}"));
        }
    }
    faults
}

fn wrong_text(rule: &Map<String, Value>, text: &str, place: &str) -> Vec<String> {
    let count = |key: &str| rule.get(key).and_then(Value::as_u64);
    let got = text.chars().count() as u64;
    let mut faults = Vec::new();
    if let Some(least) = count("minLength").filter(|least| got < *least) {
        faults.push(format!("{} has {got} characters, it needs {least}", at(place)));
    }
    if let Some(most) = count("maxLength").filter(|most| got > *most) {
        faults.push(format!("{} has {got} characters, more than {most}", at(place)));
    }
    if let Some(wanted) = rule.get("pattern").and_then(Value::as_str)
        && pattern(wanted).is_some_and(|regex| !regex.is_match(text))
    {
        let (text, wanted) = (shown(text), shown(wanted));
        faults.push(format!("{} is \"{text}\", which does not match {wanted}", at(place)));
    }
    faults
}

/// What to say of a value that fits none of several forms.
fn no_form(
    root: &Value,
    forms: &[Value],
    found: &[Vec<String>],
    value: &Value,
    place: &str,
) -> String {
    let rule_of = |form: &Value| -> Option<Map<String, Value>> {
        let target = form.get("$ref").and_then(Value::as_str).and_then(|to| resolve(root, to));
        target.unwrap_or(form).as_object().cloned()
    };
    let mut types: Vec<String> = Vec::new();
    let mut of_type = Vec::new();
    for (form, faults) in forms.iter().zip(found) {
        let rule = rule_of(form).unwrap_or_default();
        match wrong_type(&rule, value, place) {
            Some(_) => types.extend(types_of(&rule).into_iter().map(str::to_string)),
            None => of_type.push(faults),
        }
    }
    // The form that is meant is the one of the value's own type, with the fewest faults.
    match of_type.into_iter().min_by_key(|faults| faults.len()) {
        Some(faults) => faults.join(", "),
        None => {
            types.dedup();
            format!("{} is {}, not {}", at(place), kind_name(value), shown(&types.join(" or ")))
        }
    }
}

fn unknown(name: &str, place: &str, properties: Option<&Map<String, Value>>) -> String {
    let keys = || properties.into_iter().flat_map(Map::keys).map(String::as_str);
    let known: Vec<String> = keys().map(|k| format!("`{}`", shown(k))).collect();
    match nearest(name, keys()) {
        Some(known) => format!("{} is unknown, did you mean `{}`?", at(place), shown(known)),
        None if known.is_empty() => format!("{} is unknown, it takes none", at(place)),
        None => format!("{} is unknown, it takes {}", at(place), known.join(", ")),
    }
}

fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (strsim::damerau_levenshtein(known, name), known))
        .filter(|(distance, known)| *distance <= 3 && *distance < known.chars().count())
        .min()
        .map(|(_, known)| known)
}

/// What an author should mend in a schema: references to nothing, types and patterns that do not
/// exist, defaults that the schema itself refuses, required names without a rule.
pub(super) fn lint(schema: &Value) -> Vec<String> {
    let mut found = Vec::new();
    if !schema.is_object() {
        return vec![format!("the schema is {}, not an object", kind_name(schema))];
    }
    lint_rule(schema, schema, "", 0, &mut found);
    found.truncate(FAULTS_MAX);
    found
}

fn lint_rule(root: &Value, rule: &Value, place: &str, depth: usize, found: &mut Vec<String>) {
    let Value::Object(fields) = rule else { return };
    if depth > DEPTH_MAX || found.len() > FAULTS_MAX {
        return;
    }
    let known = ["string", "boolean", "number", "integer", "array", "object", "null"];
    for ty in types_of(fields).into_iter().filter(|ty| !known.contains(ty)) {
        found.push(format!("{}: there is no type \"{}\"", at(place), shown(ty)));
    }
    if let Some(to) = fields.get("$ref").and_then(Value::as_str)
        && resolve(root, to).is_none()
    {
        found.push(format!("{}: `$ref` \"{}\" leads nowhere", at(place), shown(to)));
    }
    if let Some(text) = fields.get("pattern").and_then(Value::as_str)
        && pattern(text).is_none()
    {
        found.push(format!("{}: the pattern {} is not understood", at(place), shown(text)));
    }
    if let Some(default) = fields.get("default") {
        let mut check = Check { root, faults: Vec::new(), steps: 0, endless: false };
        check.value(rule, default, "default", depth, false);
        let inner = check.faults.into_iter().take(3);
        found.extend(inner.map(|fault| format!("{}: its default: {fault}", at(place))));
    }
    let properties = fields.get("properties").and_then(Value::as_object);
    if let (Some(required), Some(properties)) =
        (fields.get("required").and_then(Value::as_array), properties)
    {
        for name in required.iter().filter_map(Value::as_str) {
            if !properties.contains_key(name) {
                found.push(format!("{}: required `{}` has no rule", at(place), shown(name)));
            }
        }
    }
    let under = |key: &str| fields.get(key).and_then(Value::as_object).into_iter().flatten();
    for (name, rule) in under("properties").chain(under("$defs")).chain(under("definitions")) {
        let inner = if place.is_empty() { name.clone() } else { format!("{place}.{name}") };
        lint_rule(root, rule, &inner, depth + 1, found);
    }
    for key in ["items", "additionalProperties", "not"] {
        if let Some(rule) = fields.get(key) {
            lint_rule(root, rule, &format!("{place}[]"), depth + 1, found);
        }
    }
    for key in ["anyOf", "oneOf", "allOf", "prefixItems"] {
        for rule in fields.get(key).and_then(Value::as_array).into_iter().flatten() {
            lint_rule(root, rule, place, depth + 1, found);
        }
    }
}

/// An option in one line each, for people: name, what it may be, default, description.
pub(super) fn describe(schema: &Value) -> Vec<OptionRow> {
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let properties = schema.get("properties").and_then(Value::as_object);
    properties
        .into_iter()
        .flatten()
        .map(|(name, rule)| OptionRow {
            name: shown(name),
            takes: takes(schema, rule, 0),
            default: rule.get("default").map(text_of),
            required: required.contains(&name.as_str()),
            about: rule.get("description").and_then(Value::as_str).map(shown).unwrap_or_default(),
        })
        .collect()
}

/// An option of a plugin, as its schema describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionRow {
    /// Its name.
    pub name: String,
    /// What it may be, in words.
    pub takes: String,
    /// JSON text of its default.
    pub default: Option<String>,
    /// Whether it must be given.
    pub required: bool,
    /// Its description.
    pub about: String,
}

fn takes(root: &Value, rule: &Value, depth: usize) -> String {
    let Value::Object(fields) = rule else { return "anything".into() };
    if depth > 3 {
        return "…".into();
    }
    if let Some(target) =
        fields.get("$ref").and_then(Value::as_str).and_then(|to| resolve(root, to))
    {
        return takes(root, target, depth + 1);
    }
    if let Some(allowed) = fields.get("enum").and_then(Value::as_array) {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        return shown(&allowed.join(" | "));
    }
    if let Some(only) = fields.get("const") {
        return text_of(only);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(forms) = fields.get(key).and_then(Value::as_array) {
            let forms: Vec<String> = forms.iter().map(|f| takes(root, f, depth + 1)).collect();
            return forms.join(" | ");
        }
    }
    let types = types_of(fields);
    let mut text = match types.as_slice() {
        ["array"] => match fields.get("items") {
            Some(items) => format!("list of {}", takes(root, items, depth + 1)),
            None => "list".into(),
        },
        [] => "anything".into(),
        types => shown(&types.join(" | ")),
    };
    let number = |key: &str| fields.get(key).filter(|v| v.is_number());
    let range = (
        number("minimum")
            .map(|v| format!("{v}"))
            .or_else(|| number("exclusiveMinimum").map(|v| format!("more than {v}"))),
        number("maximum")
            .map(|v| format!("{v}"))
            .or_else(|| number("exclusiveMaximum").map(|v| format!("less than {v}"))),
    );
    match range {
        (Some(from), Some(to)) => text.push_str(&format!(", {from} to {to}")),
        (Some(from), None) => text.push_str(&format!(", from {from}")),
        (None, Some(to)) => text.push_str(&format!(", up to {to}")),
        (None, None) => {}
    }
    if let Some(pattern) = fields.get("pattern").and_then(Value::as_str) {
        text.push_str(&format!(", matching {}", shown(pattern)));
    }
    text
}

#[cfg(test)]
#[path = "schema/tests.rs"]
mod tests;
