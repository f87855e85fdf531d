//! Segments → ids and labels. The text is tokenized once, as a whole; spans are laid over the
//! tokens by character offset, so that a boundary never changes a token.

use super::tokenizer::{TextTokenizer, WithOffsets};
use super::{IGNORE_INDEX, Segment, TextError, TokenizedExample};
use crate::data::Provenance;

/// What became of an example.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// The sequence; may hold no trained token, which the caller has to judge.
    pub example: TokenizedExample,
    /// Tokens cut off at the end.
    pub truncated_tokens: usize,
}

/// How texts become sequences.
#[derive(Clone, Copy)]
pub struct Encoder<'a> {
    /// The tokenizer.
    pub tokenizer: &'a TextTokenizer,
    /// Most tokens of a sequence; the end is cut off.
    pub max_length: usize,
    /// Train every token, also those of the prompt.
    pub train_on_inputs: bool,
}

impl Encoder<'_> {
    /// A rendered conversation. The template wrote all special tokens; none is added. A token is
    /// trained when all of its characters (white space at its border aside) lie in trained
    /// segments; its weight is the least of theirs.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn segments(
        &self,
        segments: &[Segment],
        provenance: Provenance,
    ) -> Result<Encoded, TextError> {
        let text: String = segments.iter().map(|s| s.text.as_str()).collect();
        let tokens = self.tokenizer.encode(&text, false)?;
        let weights = if self.train_on_inputs {
            vec![1.0; tokens.ids.len()]
        } else {
            token_weights(segments, &tokens)
        };
        Ok(self.finish(tokens.ids, weights, provenance))
    }

    /// A plain text, all of it trained: the tokenizer's own special tokens around it, and the
    /// end-of-text token behind it when that is not there already.
    ///
    /// # Errors
    /// [`TextError::Encode`].
    pub fn text(&self, text: &str, provenance: Provenance) -> Result<Encoded, TextError> {
        let mut ids = self.tokenizer.encode(text, true)?.ids;
        if let Some((_, eos)) = self.tokenizer.eos()
            && ids.last() != Some(&eos)
        {
            ids.push(eos);
        }
        let weights = vec![1.0; ids.len()];
        Ok(self.finish(ids, weights, provenance))
    }

    /// Ids and labels made elsewhere.
    pub fn tokens(
        &self,
        mut input_ids: Vec<u32>,
        mut labels: Vec<i32>,
        provenance: Provenance,
    ) -> Encoded {
        let truncated_tokens = input_ids.len().saturating_sub(self.max_length);
        input_ids.truncate(self.max_length);
        labels.truncate(self.max_length);
        let example = TokenizedExample { input_ids, labels, loss_weights: None, provenance };
        Encoded { example, truncated_tokens }
    }

    fn finish(&self, mut ids: Vec<u32>, mut weights: Vec<f32>, provenance: Provenance) -> Encoded {
        let truncated_tokens = ids.len().saturating_sub(self.max_length);
        ids.truncate(self.max_length);
        weights.truncate(self.max_length);
        let labels = ids
            .iter()
            .zip(&weights)
            .map(|(&id, &w)| if w > 0.0 { id as i32 } else { IGNORE_INDEX })
            .collect();
        let uneven = weights.iter().any(|&w| w != 0.0 && w != 1.0);
        let loss_weights = uneven.then_some(weights);
        let example = TokenizedExample { input_ids: ids, labels, loss_weights, provenance };
        Encoded { example, truncated_tokens }
    }
}

/// The least weight of the characters of each token; 0 for tokens without characters. White space
/// at a border does not count where the token has anything else: tokenizers join the space before
/// a word to the word.
fn token_weights(segments: &[Segment], tokens: &WithOffsets) -> Vec<f32> {
    // Weight of each character, and whether it is white space.
    let characters: Vec<(f32, bool)> = segments
        .iter()
        .flat_map(|s| s.text.chars().map(|c| (s.weight, c.is_whitespace())))
        .collect();
    let least = |of: &mut dyn Iterator<Item = f32>| of.reduce(f32::min);
    tokens
        .offsets
        .iter()
        .map(|&(start, end)| {
            let end = end.min(characters.len());
            let own = &characters[start.min(end)..end];
            least(&mut own.iter().filter(|(_, space)| !space).map(|(w, _)| *w))
                .or_else(|| least(&mut own.iter().map(|(w, _)| *w)))
                .unwrap_or(0.0)
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn segment(text: &str, weight: f32) -> Segment {
        Segment { text: text.into(), role: String::new(), weight }
    }

    #[test]
    fn a_token_across_a_border_is_trained_only_when_all_of_it_is() {
        let segments = [segment("ab", 0.0), segment("cdé", 1.0), segment("f", 0.0)];
        let tokens = WithOffsets {
            ids: vec![0, 1, 2, 3, 4, 5, 6],
            offsets: vec![(0, 1), (1, 3), (2, 3), (3, 5), (4, 6), (4, 4), (5, 6)],
        };
        let weights = token_weights(&segments, &tokens);
        assert_eq!(weights, [0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn spans_hold_for_real_tokenizers() {
        let Some(base) = crate::test_data("stories260K/hf") else { return };
        let tokenizer = TextTokenizer::load(&base, [None; 3]).unwrap();
        let encoder = Encoder { tokenizer: &tokenizer, max_length: 4096, train_on_inputs: false };
        let pieces = ["Once upon a time, ", "there was a 木の鳥 🐦", " that", " could sing.", "\n"];
        let segments: Vec<Segment> =
            pieces.iter().enumerate().map(|(i, t)| segment(t, (i % 2) as f32)).collect();
        let provenance = Provenance { file: "x".into(), row: 1 };
        let encoded = encoder.segments(&segments, provenance).unwrap().example;
        let trained: Vec<u32> = encoded
            .input_ids
            .iter()
            .zip(&encoded.labels)
            .filter(|(_, l)| **l != IGNORE_INDEX)
            .map(|(id, _)| *id)
            .collect();
        let text = tokenizer.decode(&trained, false).unwrap();
        assert!(text.contains("there was a 木の鳥 🐦"), "{text}");
        assert!(text.contains("could sing.") && !text.contains("Once") && !text.contains("that"));
        for (&id, &label) in encoded.input_ids.iter().zip(&encoded.labels) {
            assert!(label == IGNORE_INDEX || label == id as i32);
        }
    }

    #[test]
    fn cut_tokens_are_counted() {
        let Some(base) = crate::test_data("stories260K/hf") else { return };
        let tokenizer = TextTokenizer::load(&base, [None; 3]).unwrap();
        let whole = Encoder { tokenizer: &tokenizer, max_length: 1000, train_on_inputs: false };
        let cut = Encoder { max_length: 5, ..whole };
        let provenance = || Provenance { file: "x".into(), row: 1 };
        let (a, b) = (
            whole.text("Once upon a time there was", provenance()).unwrap(),
            cut.text("Once upon a time there was", provenance()).unwrap(),
        );
        assert_eq!(a.truncated_tokens, 0);
        assert_eq!(a.example.input_ids.len(), 5 + b.truncated_tokens);
        assert_eq!(a.example.input_ids[..5], b.example.input_ids[..]);
        assert_eq!(a.example.input_ids.last(), Some(&tokenizer.eos().unwrap().1));
        assert_eq!(a.example.input_ids[0], tokenizer.bos().unwrap().1);
    }
}
