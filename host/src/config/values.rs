//! Values with their origin, and typed access that collects faults.

use std::collections::BTreeMap;

use super::table::{ACCEPTED, Kind, Setting, find, unknown};

/// A text and where it was written: `--flag`, or `file.yaml: key`.
#[derive(Clone, Debug, PartialEq)]
pub struct Given {
    /// The value as typed.
    pub text: String,
    /// Where.
    pub origin: String,
}

/// Everything given for one command. Flags win over a file.
pub struct Values {
    table: &'static [Setting],
    given: BTreeMap<&'static str, Vec<Given>>,
    /// All that was wrong so far.
    pub faults: Vec<String>,
}

impl Values {
    /// Nothing given yet.
    pub fn new(table: &'static [Setting]) -> Self {
        Self { table, given: BTreeMap::new(), faults: Vec::new() }
    }

    /// Takes what one source (the flags, or a file) gives; a later source wins over an earlier one.
    pub fn take(&mut self, entries: Vec<(String, Given)>) {
        let mut fresh: BTreeMap<&'static str, Vec<Given>> = BTreeMap::new();
        for (name, given) in entries {
            if ACCEPTED.contains(&name.as_str()) {
                continue;
            }
            let Some(setting) = find(self.table, &name) else {
                // Booleans that switch an unsupported thing off ask for nothing.
                let off = ["False", "false", "no", "0", ""].contains(&given.text.as_str());
                let known = super::table::UNSUPPORTED.iter().any(|(n, _)| *n == name);
                if !(known && off) {
                    self.faults.push(unknown(self.table, &name, &given.origin));
                }
                continue;
            };
            fresh.entry(setting.name).or_default().push(given);
        }
        for (name, given) in fresh {
            let list = find(self.table, name).is_some_and(|s| s.kind == Kind::List);
            if given.len() > 1 && !list {
                let origin = &given[0].origin;
                self.faults.push(format!("{origin}: `{name}` is given {} times", given.len()));
            }
            self.given.insert(name, given);
        }
    }

    /// Whether the command has such a setting.
    pub fn is_known(&self, name: &str) -> bool {
        find(self.table, name).is_some()
    }

    /// Whether the user gave a value.
    pub fn is_given(&self, name: &str) -> bool {
        !self.list_of(name).is_empty()
    }

    /// Gives a value that comes with a further source: `None` when nothing else was given, or the
    /// same; else what was, in words.
    pub fn agree(&mut self, name: &str, text: &str, origin: &str) -> Option<String> {
        let setting = find(self.table, name)?;
        if let Some(given) = self.list_of(name).last() {
            let number = |t: &str| t.parse::<f64>().ok();
            let same = given.text.eq_ignore_ascii_case(text)
                || number(text).is_some_and(|n| number(&given.text) == Some(n));
            let theirs = crate::error::excerpt(&given.text);
            return (!same).then(|| format!("`{}` is {theirs}", given.origin));
        }
        let given = Given { text: text.to_string(), origin: origin.to_string() };
        self.given.insert(setting.name, vec![given]);
        None
    }

    /// What was given under a setting's name or one of its aliases.
    fn list_of(&self, name: &str) -> &[Given] {
        let name = find(self.table, name).map_or(name, |s| s.name);
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    fn value(&self, name: &str) -> Given {
        if let Some(given) = self.list_of(name).last() {
            return given.clone();
        }
        let default = find(self.table, name).map_or("", |s| s.default);
        Given { text: default.to_string(), origin: "default".into() }
    }

    fn fault(&mut self, name: &str, given: &Given, expected: &str) {
        let text = crate::error::excerpt(&given.text);
        self.faults.push(format!("{}: `{name}` is `{text}`, expected {expected}", given.origin));
    }

    /// A text; `None` when empty.
    pub fn text(&mut self, name: &str) -> Option<String> {
        Some(self.value(name).text).filter(|t| !t.is_empty())
    }

    /// All texts of a list.
    pub fn list(&self, name: &str) -> Vec<String> {
        self.list_of(name).iter().map(|g| g.text.clone()).collect()
    }

    /// True or False; `None` when empty.
    pub fn optional_bool(&mut self, name: &str) -> Option<bool> {
        let given = self.value(name);
        match given.text.to_ascii_lowercase().as_str() {
            "" => None,
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" => Some(false),
            _ => {
                self.fault(name, &given, "True or False");
                None
            }
        }
    }

    /// True or False.
    pub fn bool(&mut self, name: &str) -> bool {
        self.optional_bool(name).unwrap_or(false)
    }

    /// A whole number within its range; `None` when empty.
    pub fn optional_int(&mut self, name: &str) -> Option<i64> {
        let given = self.value(name);
        if given.text.is_empty() {
            return None;
        }
        let least = match find(self.table, name).map(|s| s.kind) {
            Some(Kind::Int(least)) => least,
            _ => i64::MIN,
        };
        match given.text.parse::<i64>() {
            Ok(n) if n >= least && n <= 1 << 48 => Some(n),
            _ => {
                self.fault(name, &given, &format!("a whole number from {least} on"));
                None
            }
        }
    }

    /// A whole number within its range.
    pub fn int(&mut self, name: &str) -> i64 {
        self.optional_int(name).unwrap_or(1)
    }

    /// A count.
    pub fn size(&mut self, name: &str) -> usize {
        usize::try_from(self.int(name)).unwrap_or(1)
    }

    /// A count, `None` for -1 or nothing.
    pub fn limit(&mut self, name: &str) -> Option<usize> {
        self.optional_int(name).and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0)
    }

    /// A number within its range.
    pub fn float(&mut self, name: &str) -> f64 {
        let given = self.value(name);
        let (low, high) = match find(self.table, name).map(|s| s.kind) {
            Some(Kind::Float(low, high)) => (low, high),
            _ => (f64::MIN, f64::MAX),
        };
        match given.text.parse::<f64>() {
            Ok(x) if x >= low && x <= high => x,
            _ => {
                let range = match (low, high) {
                    (l, h) if l == f64::MIN_POSITIVE && h == f64::MAX => "a number above 0".into(),
                    (l, h) if l == f64::MIN_POSITIVE => format!("a number above 0, at most {h}"),
                    (l, h) if h == f64::MAX => format!("a number from {l} on"),
                    (l, h) => format!("a number from {l} to {h}"),
                };
                self.fault(name, &given, &range);
                1.0
            }
        }
    }

    /// One of the setting's choices.
    pub fn choice(&mut self, name: &str) -> String {
        let given = self.value(name);
        let choices = match find(self.table, name).map(|s| s.kind) {
            Some(Kind::Choice(choices)) => choices,
            _ => &[],
        };
        if !choices.contains(&given.text.as_str()) {
            self.fault(name, &given, &format!("one of {}", choices.join(", ")));
        }
        given.text
    }
}
