//! The final answer of a text, and whether two answers are the same.

/// Where the final answer stands.
#[derive(Clone, Copy, PartialEq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extract {
    /// The first of the following that the text has, else the last number, else all of it.
    Auto,
    /// Within the last `<answer>…</answer>`.
    Tag,
    /// After the last `####`.
    Hashes,
    /// Within the last `\boxed{…}`.
    Boxed,
    /// The last number.
    LastNumber,
    /// All of it.
    Whole,
}

fn tagged(text: &str) -> Option<&str> {
    let start = text.rfind("<answer>")? + "<answer>".len();
    let rest = &text[start..];
    Some(&rest[..rest.find("</answer>").unwrap_or(rest.len())])
}

fn after_hashes(text: &str) -> Option<&str> {
    let rest = text.rsplit_once("####")?.1.trim_start();
    Some(rest.lines().next().unwrap_or(rest))
}

fn boxed(text: &str) -> Option<&str> {
    let start = text.rfind("\\boxed{")? + "\\boxed{".len();
    let mut depth = 1;
    for (at, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[start..start + at]);
        }
    }
    None
}

/// The last number: digits with thousands separators and a fraction, a sign before them, a second
/// number under a slash, a percent sign behind.
fn last_number(text: &str) -> Option<&str> {
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let mut start = run_start(text, end);
    // `3/4` is one number, `1/2/3` is none.
    if let Some(above) = text[..start].strip_suffix('/')
        && above.ends_with(|c: char| c.is_ascii_digit())
    {
        let first = run_start(text, above.len());
        if !text[..first].ends_with('/') {
            start = first;
        }
    }
    // A minus belongs to the number unless it stands between two.
    let before = text[..start].trim_end_matches(CURRENCY);
    for minus in MINUS {
        if let Some(rest) = before.strip_suffix(minus)
            && !rest.trim_end().ends_with(|c: char| c.is_ascii_digit())
        {
            start = rest.len();
        }
    }
    let behind = &text[end..];
    let percent = ["%", "\\%"].iter().find(|sign| behind.starts_with(**sign));
    Some(&text[start..end + percent.map_or(0, |sign| sign.len())])
}

/// Where the run of digits, points and thousands separators begins that ends at `end`.
fn run_start(text: &str, end: usize) -> usize {
    let part = |c: char| c.is_ascii_digit() || c == ',' || c == '.';
    let start = text[..end]
        .rfind(|c: char| !part(c))
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let run = text[start..end].trim_start_matches(|c: char| !c.is_ascii_digit());
    // Commas that separate no thousands separate numbers.
    let run = if groups(run) { run } else { run.rsplit(',').next().unwrap_or(run) };
    end - run.len()
}

/// Whether the commas of a number, if it has any, stand before groups of three digits.
fn groups(number: &str) -> bool {
    let whole = number.split('.').next().unwrap_or(number);
    let mut parts = whole.split(',');
    let first = parts.next().unwrap_or("");
    let grouped = whole.contains(',');
    let digits = |s: &str| s.chars().all(|c| c.is_ascii_digit());
    !number[whole.len()..].contains(',')
        && (!grouped || ((1..=3).contains(&first.len()) && digits(first)))
        && parts.all(|part| part.len() == 3 && digits(part))
}

/// The final answer of `text`.
pub fn extract(text: &str, how: Extract) -> Option<&str> {
    let found = match how {
        Extract::Auto => tagged(text)
            .or_else(|| after_hashes(text))
            .or_else(|| boxed(text))
            .or_else(|| last_number(text))
            .or(Some(text)),
        Extract::Tag => tagged(text),
        Extract::Hashes => after_hashes(text),
        Extract::Boxed => boxed(text),
        Extract::LastNumber => last_number(text),
        Extract::Whole => Some(text),
    };
    found.map(str::trim)
}

/// The number that a text is: separators, currency, percent, units behind it, fractions, mixed
/// numbers, LaTeX's `\frac{a}{b}` and what stands before an equals sign understood. A percentage
/// is the number before the sign; the second value says that there is one.
pub fn number(text: &str) -> Option<(f64, bool)> {
    let text = plain_text(text);
    let text = text.rsplit('=').next().unwrap_or(&text).trim();
    let (text, percent) = match text.strip_suffix('%') {
        Some(rest) => (rest.trim_end(), true),
        None => (text, false),
    };
    value_of(text).filter(|value| value.is_finite()).map(|value| (value, percent))
}

const CURRENCY: [char; 4] = ['$', '€', '£', '¥'];
const MINUS: [&str; 2] = ["-", "−"];

/// Without LaTeX's spacing and what only decorates.
fn plain_text(text: &str) -> String {
    let mut text = text.trim().trim_matches('$').trim().trim_end_matches('.').replace('−', "-");
    for (from, to) in [
        ("\\left", ""),
        ("\\right", ""),
        ("\\!", ""),
        ("\\,", " "),
        ("\\;", " "),
        ("\\ ", " "),
        ("\\$", "$"),
        ("\\%", "%"),
        ("^\\circ", ""),
        ("^{\\circ}", ""),
        ("\\dfrac", "\\frac"),
        ("\\tfrac", "\\frac"),
        ("\\text{", " {"),
        ("\\mathrm{", " {"),
        ("\\mbox{", " {"),
    ] {
        if text.contains(from) {
            text = text.replace(from, to);
        }
    }
    text.trim().to_string()
}

fn value_of(text: &str) -> Option<f64> {
    if let Some(at) = text.find("\\frac") {
        let (whole, rest) = (text[..at].trim(), &text[at + "\\frac".len()..]);
        let fraction = latex_fraction(rest)?;
        return match whole {
            "" | "+" => Some(fraction),
            "-" => Some(-fraction),
            whole => mixed(plain(whole)?, fraction),
        };
    }
    if let Some((above, below)) = text.split_once('/') {
        let below = plain(below);
        return match above.trim().rsplit_once(' ') {
            Some((whole, above)) => mixed(plain(whole)?, plain(above)? / below?),
            None => below.and_then(|below| Some(plain(above)? / below)),
        }
        .or_else(|| with_unit(text));
    }
    with_unit(text)
}

/// `2 1/3`, of which the whole has the sign.
fn mixed(whole: f64, fraction: f64) -> Option<f64> {
    let proper = (0.0..1.0).contains(&fraction) && whole.fract() == 0.0;
    proper.then(|| if whole.is_sign_negative() { whole - fraction } else { whole + fraction })
}

/// `{a}{b}` or two digits.
fn latex_fraction(text: &str) -> Option<f64> {
    if let Some(inner) = text.strip_prefix('{') {
        let (above, rest) = inner.split_once("}{")?;
        let (below, after) = rest.split_once('}')?;
        return after.trim().is_empty().then(|| Some(plain(above)? / plain(below)?))?;
    }
    let mut digits = text.chars();
    match (digits.next(), digits.next(), digits.next()) {
        (Some(a), Some(b), None) => Some(f64::from(a.to_digit(10)?) / f64::from(b.to_digit(10)?)),
        _ => None,
    }
}

/// A number with or without a unit after a space.
fn with_unit(text: &str) -> Option<f64> {
    let first = text.split_whitespace().next()?;
    let unit = &text[first.len()..];
    let words =
        unit.chars().all(|c| c.is_alphabetic() || c.is_whitespace() || "²³/.{}^".contains(c));
    if words { plain(first) } else { plain(text) }
}

fn plain(text: &str) -> Option<f64> {
    let text = text.trim();
    let (sign, text) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest.trim_start()),
        None => (1.0, text),
    };
    let text = text.trim_start_matches(CURRENCY).trim();
    let bare = text.trim_start_matches(['+', '-']);
    if text.is_empty() || !groups(bare) {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != ',' && *c != '_').collect();
    let sound = digits.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c))
        && digits.contains(|c: char| c.is_ascii_digit());
    digits.parse::<f64>().ok().filter(|v| sound && v.is_finite()).map(|v| sign * v)
}

/// Lower-case, without a final full stop, with one space between words and none beside signs.
fn normal(text: &str) -> String {
    let trimmed = text.trim().trim_end_matches(['.', '。', '!', '！']);
    let mut out = String::new();
    for word in trimmed.split_whitespace().map(str::to_lowercase) {
        let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        if joins(out.chars().next_back()) && joins(word.chars().next()) {
            out.push(' ');
        }
        out.push_str(&word);
    }
    out
}

/// Whether both say the same: as numbers, `tolerance` apart at most (relative to the greater, and
/// absolute below 1), else as texts. Where only one is a percentage, `50%` is 50 and also 0.5.
pub fn same(answer: &str, reference: &str, tolerance: f64) -> bool {
    let near = |a: f64, b: f64| (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0);
    match (number(answer), number(reference)) {
        (Some((a, true)), Some((b, false))) => near(a, b) || near(a / 100.0, b),
        (Some((a, false)), Some((b, true))) => near(a, b) || near(a, b / 100.0),
        (Some((a, _)), Some((b, _))) => near(a, b),
        _ => normal(answer) == normal(reference),
    }
}
