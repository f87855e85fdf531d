//! Chat templates as transformers runs them: its filters, functions and whitespace rules, in a
//! sandbox with a budget.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value};
use serde::Serialize;

use crate::limits;

/// Where `{% generation %}` and `{% endgeneration %}` stood: characters that no tokenizer and no
/// dataset uses (the caller checks its messages for them).
pub const GENERATION_START: char = '\u{10F8F0}';
/// See [`GENERATION_START`].
pub const GENERATION_END: char = '\u{10F8F1}';

/// A parsed chat template.
pub struct JinjaTemplate {
    env: Environment<'static>,
    /// Whether it marks what the assistant generates.
    pub has_generation: bool,
}

/// JSON as Python's `json.dumps` writes it: a space after commas and colons.
struct PythonFormatter;

impl serde_json::ser::Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        w: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, w: &mut W) -> std::io::Result<()> {
        w.write_all(b": ")
    }
}

fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let _: Option<bool> = kwargs.get("ensure_ascii")?;
    let _: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut bytes = Vec::new();
    match indent {
        None => {
            let mut out = serde_json::Serializer::with_formatter(&mut bytes, PythonFormatter);
            value.serialize(&mut out).map_err(failed)?;
        }
        Some(n) => {
            let spaces = vec![b' '; n.min(16)];
            let formatter = serde_json::ser::PrettyFormatter::with_indent(&spaces);
            let mut out = serde_json::Serializer::with_formatter(&mut bytes, formatter);
            value.serialize(&mut out).map_err(failed)?;
        }
    }
    Ok(Value::from_safe_string(String::from_utf8_lossy(&bytes).into_owned()))
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Puts markers where the generation tags stood, with the tags' effect on whitespace.
fn mark_generation(source: &str) -> (String, bool) {
    let mut out = source.to_string();
    let mut found = false;
    for (name, mark) in [("generation", GENERATION_START), ("endgeneration", GENERATION_END)] {
        let pattern = format!(r"(?m)(?:^[ \t]+)?\{{%(-?)\s*{name}\s*(-?)%\}}\n?");
        let Ok(tag) = regex::Regex::new(&pattern) else { continue };
        found |= tag.is_match(&out);
        out = tag
            .replace_all(&out, |c: &regex::Captures<'_>| {
                format!("{{{{{}'{mark}'{}}}}}", &c[1], &c[2])
            })
            .into_owned();
    }
    (out, found)
}

/// Collects output up to the limit.
struct Bounded(Vec<u8>);

impl std::io::Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + piece.len() > limits::CHAT_TEMPLATE_OUTPUT_BYTES_MAX {
            return Err(std::io::Error::other("its output passes the limit"));
        }
        self.0.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl JinjaTemplate {
    /// Parses `source`.
    ///
    /// # Errors
    /// Why it can't be parsed, with the line.
    pub fn parse(source: &str) -> Result<Self, String> {
        if source.len() > limits::CHAT_TEMPLATE_BYTES_MAX {
            return Err(format!(
                "it has {} bytes, more than {}",
                source.len(),
                limits::CHAT_TEMPLATE_BYTES_MAX
            ));
        }
        let (source, has_generation) = mark_generation(source);
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.map_err(|e| describe(&e))?);
        env.set_fuel(Some(limits::CHAT_TEMPLATE_FUEL));
        env.set_recursion_limit(64);
        env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        env.add_filter("tojson", to_json);
        env.add_function("raise_exception", raise_exception);
        env.add_template_owned("chat", source).map_err(|e| describe(&e))?;
        Ok(Self { env, has_generation })
    }

    /// The text for `context`.
    ///
    /// # Errors
    /// Why it failed, with the line.
    pub fn render(&self, context: Value) -> Result<String, String> {
        let template = self.env.get_template("chat").map_err(|e| describe(&e))?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(context, &mut out).map_err(|e| describe(&e))?;
        String::from_utf8(out.0).map_err(|_| "its output is not UTF-8".to_string())
    }
}

fn describe(error: &Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    let text = crate::error::excerpt(&text);
    match error.line() {
        Some(line) => format!("line {line}: {text}"),
        None => text,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use minijinja::context;

    fn render(source: &str) -> Result<String, String> {
        JinjaTemplate::parse(source)?.render(context! {
            messages => vec![context! { role => "user", content => "a<b & \"c\"" }],
        })
    }

    #[test]
    fn filters_and_methods_are_pythons() {
        let cases = [
            ("{{ messages[0]['content'].strip() }}", "a<b & \"c\""),
            ("{{ messages[0].content | tojson }}", "\"a<b & \\\"c\\\"\""),
            ("{{ {'a': 1, 'b': [1, 2]} | tojson }}", "{\"a\": 1, \"b\": [1, 2]}"),
            ("{% for m in messages %}\n{% if loop.last %}\nx\n{% endif %}\n{% endfor %}\n", "x\n"),
            ("{{ 'abc'.split('b')[-1] }}{{ 'x'.upper() }}", "cX"),
            ("{{ 'yes' if 'tools' is defined else 'no' }}", "yes"),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "1",
            ),
        ];
        for (source, want) in cases {
            assert_eq!(render(source).unwrap(), want, "{source}");
        }
    }

    #[test]
    fn hostile_templates_end_with_an_error() {
        for source in [
            "{% for i in range(10000) %}{% for j in range(10000) %}{% for k in range(10000) %}{{ i }}{% endfor %}{% endfor %}{% endfor %}",
            "{{ range(1000000000) | list | length }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
            "{{ messages[0].nothing.more }}",
            "{% for",
            "{{ raise_exception('roles must alternate') }}",
            "{% include 'x' %}",
            "{{ ''.__class__.__mro__ }}",
        ] {
            let error = render(source).unwrap_err();
            assert!(!error.is_empty(), "{source}");
        }
        assert!(
            render("{{ raise_exception('must alternate') }}").unwrap_err().contains("alternate")
        );
    }

    #[test]
    fn generation_tags_become_marks() {
        let source = "a\n  {% generation %}\nb{% endgeneration %}\nc";
        let template = JinjaTemplate::parse(source).unwrap();
        assert!(template.has_generation);
        let text = template.render(context! {}).unwrap();
        assert_eq!(text, format!("a\n{GENERATION_START}b{GENERATION_END}c"));
    }
}
