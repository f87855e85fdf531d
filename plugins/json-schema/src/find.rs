//! Where the JSON of a completion stands.

/// Where to look.
#[derive(Clone, Copy, Default, serde::Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Find {
    /// The first of the following that the text has: answer, fence, whole.
    #[default]
    Auto,
    /// All of it.
    Whole,
    /// The last block between lines of three backticks.
    Fence,
    /// Within the last `<answer>…</answer>`.
    Answer,
}

/// The JSON text of a completion, not yet read.
pub fn find(text: &str, how: Find) -> Option<&str> {
    let found = match how {
        Find::Whole => Some(text),
        Find::Fence => fence(text),
        Find::Answer => answer(text),
        Find::Auto => {
            let inner = answer(text).unwrap_or(text);
            fence(inner).or(Some(inner))
        }
    };
    found.map(str::trim)
}

fn answer(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once("<answer>")?;
    Some(rest.split_once("</answer>").map_or(rest, |(inner, _)| inner))
}

/// The last closed block; what stands behind the opening backticks is the language.
fn fence(text: &str) -> Option<&str> {
    let (before, _) = text.rsplit_once("```")?;
    let (_, block) = before.rsplit_once("```")?;
    Some(block.split_once('\n').map_or(block, |(_, body)| body))
}
