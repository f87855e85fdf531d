//! What ChatGLM's tokenizers do around their SentencePiece models: tokens for runs of spaces, tabs and
//! line ends in the first generation, and the special tokens that mark a context and its answer.

use std::path::Path;

use serde_json::Value;

use super::special::SpecialTokens;
use super::{Added, Conversion, replace};

/// Name of the first generation's model.
pub const FILE: &str = "ice_text.model";

/// Longest run of spaces with a token of its own.
const BLANKS: usize = 80;

/// Which of ChatGLM's tokenizers a model belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// ChatGLM-6B.
    First,
    /// ChatGLM2-6B and ChatGLM3-6B.
    Later,
}

impl Generation {
    /// By the name of the file and the class that the folder names.
    pub fn of(path: &Path, special: &SpecialTokens) -> Option<Self> {
        let first = path.file_name().is_some_and(|name| name == FILE);
        match (first, special.class()) {
            (true, _) => Some(Generation::First),
            (false, "ChatGLMTokenizer") => Some(Generation::Later),
            _ => None,
        }
    }

    /// Pieces before the model's own: the first files of ChatGLM-6B have ids for images.
    pub fn image_pieces(self, special: &SpecialTokens) -> impl Iterator<Item = String> {
        let count = match self {
            Generation::First => special.number("num_image_tokens").unwrap_or(0).min(1 << 16),
            Generation::Later => 0,
        };
        (0..count).map(|i| format!("<image_{i}>"))
    }

    /// Adds the special tokens, and the frame of an encoded text.
    pub fn complete(self, made: &mut Conversion, pieces: usize, special: &SpecialTokens) {
        match self {
            Generation::First => {
                let id = |token: &str| {
                    made.model["vocab"].as_array()?.iter().position(|p| p[0] == *token)
                };
                let names = ["[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>"];
                let found: Vec<Added> = names
                    .iter()
                    .filter_map(|name| Some(Added::new(id(name)? as u64, *name, true)))
                    .collect();
                made.added.retain(|a| !names.contains(&a.content.as_str()));
                made.added.extend(found);
                made.frame = (vec![], vec!["[gMASK]".into(), "<sop>".into()]);
                for (key, token) in
                    [("bos_token", "<sop>"), ("eos_token", "<eop>"), ("mask_token", "[MASK]")]
                {
                    made.config.insert(key.into(), token.into());
                }
            }
            Generation::Later => {
                let names = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"];
                let missing = names.iter().filter(|n| !special.names(n));
                let first = pieces as u64;
                let ids = names.iter().zip(first..).collect::<Vec<_>>();
                let id = |name: &str| ids.iter().find(|(n, _)| **n == name).map(|(_, id)| *id);
                let own: Vec<Added> =
                    missing.filter_map(|n| Some(Added::new(id(n)?, *n, true))).collect();
                made.added.extend(own);
                made.frame = (vec!["[gMASK]".into(), "sop".into()], vec![]);
            }
        }
    }
}

/// Steps of a normaliser: line ends, tabs and runs of spaces become their tokens, longest first.
pub fn whitespace_to_tokens() -> Vec<Value> {
    let blanks = (2..=BLANKS).rev().map(|n| replace(&" ".repeat(n), &format!("<|blank_{n}|>")));
    [replace("\n", "<n>"), replace("\t", "<|tab|>")].into_iter().chain(blanks).collect()
}

/// Steps of a decoder: the way back.
pub fn tokens_to_whitespace() -> Vec<Value> {
    let blanks = (2..=BLANKS).map(|n| replace(&format!("<|blank_{n}|>"), &" ".repeat(n)));
    [replace("<n>", "\n"), replace("<|tab|>", "\t")].into_iter().chain(blanks).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_run_of_spaces_comes_first() {
        let steps = whitespace_to_tokens();
        assert_eq!(steps.len(), 81);
        assert_eq!(steps[2]["content"], "<|blank_80|>");
        assert_eq!(tokens_to_whitespace().len(), 81);
    }
}
