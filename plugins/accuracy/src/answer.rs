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

/// The last run of characters that make a number: digits with separators, a sign before them.
fn last_number(text: &str) -> Option<&str> {
    let part = |c: char| c.is_ascii_digit() || c == ',' || c == '.';
    let end = text.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = text[..end]
        .rfind(|c: char| !part(c))
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    let start = start + text[start..end].find(|c: char| c.is_ascii_digit()).unwrap_or(0);
    // A minus belongs to the number unless it stands between two.
    let before = &text[..start];
    match before.strip_suffix('-') {
        Some(rest) if !rest.trim_end().ends_with(|c: char| c.is_ascii_digit()) => {
            Some(&text[start - 1..end])
        }
        _ => Some(&text[start..end]),
    }
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

/// The number that a text is: separators, currency, percent, units behind it, fractions and
/// LaTeX's `\frac{a}{b}` understood.
pub fn number(text: &str) -> Option<f64> {
    value_of(text).filter(|value| value.is_finite())
}

fn value_of(text: &str) -> Option<f64> {
    let text = text.trim().trim_matches('$').trim().trim_end_matches(['.', '%']).trim_end();
    let text = text.trim_end_matches("\\").trim();
    if let Some(rest) = text.strip_prefix("\\frac{").or_else(|| text.strip_prefix("\\dfrac{")) {
        let (above, rest) = rest.split_once("}{")?;
        let (below, after) = rest.split_once('}')?;
        return after.trim().is_empty().then(|| Some(plain(above)? / plain(below)?))?;
    }
    if let Some((above, below)) = text.split_once('/') {
        return Some(plain(above)? / plain(below)?);
    }
    // A unit may follow after a space.
    let first = text.split_whitespace().next()?;
    let unit = &text[first.len()..];
    let words = unit.chars().all(|c| c.is_alphabetic() || c.is_whitespace() || "²³/.".contains(c));
    if words { plain(first) } else { plain(text) }
}

fn plain(text: &str) -> Option<f64> {
    let text = text.trim().trim_start_matches(['$', '€', '£', '¥']).trim();
    if text.is_empty() || text.starts_with(',') || text.ends_with(',') {
        return None;
    }
    let digits: String = text.chars().filter(|c| *c != ',' && *c != '_').collect();
    let sound = digits.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c))
        && digits.contains(|c: char| c.is_ascii_digit());
    digits.parse::<f64>().ok().filter(|v| sound && v.is_finite())
}

/// Letters and digits alone, lower-case, one space between words.
fn normal(text: &str) -> String {
    let trimmed = text.trim().trim_end_matches(['.', '。', '!', '！']);
    let words: Vec<String> = trimmed.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ")
}

/// Whether both say the same: as numbers, `tolerance` apart at most (relative to the greater, and
/// absolute below 1), else as texts.
pub fn same(answer: &str, reference: &str, tolerance: f64) -> bool {
    match (number(answer), number(reference)) {
        (Some(a), Some(b)) => (a - b).abs() <= tolerance * a.abs().max(b.abs()).max(1.0),
        _ => normal(answer) == normal(reference),
    }
}
