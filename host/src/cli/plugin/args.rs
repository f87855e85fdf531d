//! The arguments of the plugin commands: one or no name, flags with and without a value.

use std::collections::BTreeMap;

use crate::config::ConfigError;

/// Arguments taken apart.
pub(super) struct Args {
    usage: &'static str,
    names: Vec<String>,
    values: BTreeMap<String, String>,
    flags: Vec<String>,
}

impl Args {
    /// Takes `args` apart: `values` are flags that want a value (`--name VALUE`, `--name=VALUE`),
    /// `flags` want none.
    ///
    /// # Errors
    /// An unknown flag, or one without its value.
    pub fn new(
        args: &[String],
        usage: &'static str,
        values: &[&str],
        flags: &[&str],
    ) -> Result<Self, ConfigError> {
        let mut out = Self { usage, names: Vec::new(), values: BTreeMap::new(), flags: Vec::new() };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix("--") else {
                out.names.push(arg.clone());
                continue;
            };
            let (name, given) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_string())),
                None => (flag, None),
            };
            let name = name.replace('-', "_");
            if flags.contains(&name.as_str()) && given.is_none() {
                out.flags.push(name);
            } else if values.contains(&name.as_str()) {
                let value = given.or_else(|| args.next().cloned());
                let value = value.ok_or_else(|| out.wrong(&format!("--{name} wants a value")))?;
                out.values.insert(name, value);
            } else {
                return Err(out.wrong(&format!("`{}` is unknown", crate::error::excerpt(arg))));
            }
        }
        Ok(out)
    }

    fn wrong(&self, what: &str) -> ConfigError {
        ConfigError::one(format!("{what}; usage: {}", self.usage))
    }

    /// The one name that is given.
    ///
    /// # Errors
    /// None or several.
    pub fn one(&mut self) -> Result<String, ConfigError> {
        match self.names.as_slice() {
            [one] => Ok(one.clone()),
            [] => Err(self.wrong("a file, a name or a folder is missing")),
            [..] => Err(self.wrong("give one plugin at a time")),
        }
    }

    /// The value of a flag.
    pub fn value(&self, name: &str) -> Option<String> {
        self.values.get(name).cloned()
    }

    /// Whether a flag without a value is given.
    pub fn flag(&self, name: &str) -> bool {
        self.flags.iter().any(|f| f == name)
    }

    /// The value of a flag as a number from 0 up.
    ///
    /// # Errors
    /// A value that is no such number.
    pub fn number(&self, name: &str, default: u64) -> Result<u64, ConfigError> {
        let Some(text) = self.values.get(name) else { return Ok(default) };
        text.replace('_', "").parse().map_err(|_| {
            self.wrong(&format!("--{name} is `{}`, not a number", crate::error::excerpt(text)))
        })
    }

    /// The value of a flag as the text of a JSON object, empty when it is not given.
    ///
    /// # Errors
    /// A value that is none.
    pub fn json_object(&self, name: &str) -> Result<String, ConfigError> {
        let Some(text) = self.values.get(name) else { return Ok(String::new()) };
        match serde_json::from_str(text) {
            Ok(serde_json::Value::Object(_)) => Ok(text.clone()),
            _ => Err(self.wrong(&format!("--{name} must be the text of a JSON object"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(args: &[&str]) -> Result<Args, ConfigError> {
        let args: Vec<String> = args.iter().map(|a| a.to_string()).collect();
        Args::new(&args, "trainer x NAME", &["rows", "options"], &["json"])
    }

    #[test]
    fn names_values_and_flags_in_any_order() {
        let mut args = of(&["--rows", "1_000", "a.wasm", "--json", "--options={\"a\":1}"]).unwrap();
        assert_eq!(args.one().unwrap(), "a.wasm");
        assert_eq!(args.number("rows", 7).unwrap(), 1_000);
        assert!(args.flag("json"));
        assert_eq!(args.json_object("options").unwrap(), "{\"a\":1}");
        assert_eq!(of(&[]).unwrap().number("rows", 7).unwrap(), 7);
    }

    #[test]
    fn faults_name_the_usage() {
        let text = |args: &[&str]| of(args).err().unwrap().to_string();
        assert!(text(&["--bogus"]).contains("`--bogus` is unknown; usage: trainer x NAME"));
        assert!(text(&["--rows"]).contains("wants a value"));
        assert!(of(&["a", "b"]).unwrap().one().is_err());
        assert!(of(&["--rows", "x"]).unwrap().number("rows", 1).is_err());
        assert!(of(&["--options", "[]"]).unwrap().json_object("options").is_err());
    }
}
