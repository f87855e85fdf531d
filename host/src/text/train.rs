//! Training a byte-level BPE tokenizer and writing it as a Hugging Face folder with a ChatML
//! template.

use std::path::Path;

use serde_json::json;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper};
use tokenizers::{PreTokenizerWrapper, TokenizerBuilder};

use super::TextError;
use crate::fs;

/// Ends a text, and pads.
pub const END_OF_TEXT: &str = "<|endoftext|>";
/// Begins a turn.
pub const TURN_START: &str = "<|im_start|>";
/// Ends a turn.
pub const TURN_END: &str = "<|im_end|>";

/// Tokens that end a turn in well-known templates: generation stops at those a tokenizer has.
pub const TURN_ENDS: [&str; 4] = [TURN_END, "<|eot_id|>", "<|end|>", "<end_of_turn>"];

/// ChatML (OpenAI's chat markup), as Jinja.
const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + \
message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}\
{{ '<|im_start|>assistant\\n' }}{% endif %}\n";

/// Trains on `texts` and writes `tokenizer.json`, `tokenizer_config.json`,
/// `special_tokens_map.json` and `chat_template.jinja` into `dir`. Deterministic.
///
/// # Errors
/// When the vocabulary can't be made or a file can't be written.
pub fn train_bpe<'a>(
    texts: impl Iterator<Item = &'a str> + Send,
    vocab_size: usize,
    dir: &Path,
) -> Result<(), TextError> {
    let fault = |reason: String| TextError::Tokenizer { path: dir.join("tokenizer.json"), reason };
    let special: Vec<AddedToken> =
        [END_OF_TEXT, TURN_START, TURN_END].map(|t| AddedToken::from(t, true)).to_vec();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build();
    let byte_level = ByteLevel::new(false, true, true);
    let mut tokenizer = TokenizerBuilder::<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >::new()
    .with_model(BPE::default())
    .with_normalizer(None)
    .with_pre_tokenizer(Some(byte_level.into()))
    .with_post_processor(None)
    .with_decoder(Some(byte_level.into()))
    .build()
    .map_err(|e| fault(e.to_string()))?;
    tokenizer.train(&mut trainer, texts).map_err(|e| fault(e.to_string()))?;
    let text = tokenizer.to_string(true).map_err(|e| fault(e.to_string()))?;
    fs::write_atomic(&dir.join("tokenizer.json"), text.as_bytes())?;
    let special = json!({
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "additional_special_tokens": [TURN_START, TURN_END],
    });
    let config = json!({
        "add_bos_token": false,
        "add_prefix_space": false,
        "chat_template": CHATML,
        "clean_up_tokenization_spaces": false,
        "eos_token": END_OF_TEXT,
        "model_max_length": 1_000_000,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": END_OF_TEXT,
    });
    for (name, value) in [("special_tokens_map.json", special), ("tokenizer_config.json", config)] {
        let text = format!("{value:#}\n");
        fs::write_atomic(&dir.join(name), text.as_bytes())?;
    }
    fs::write_atomic(&dir.join("chat_template.jinja"), CHATML.as_bytes())?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::text::TextTokenizer;

    #[test]
    fn a_trained_tokenizer_loses_nothing_and_is_the_same_twice() {
        let text = "Die Sonne scheint. 太陽が出る。 🌞\n\tif (x < 3) { return 'é'; }\n".repeat(20);
        let train = || {
            let dir = tempfile::tempdir().unwrap();
            train_bpe(text.lines(), 400, dir.path()).unwrap();
            (std::fs::read(dir.path().join("tokenizer.json")).unwrap(), dir)
        };
        let (a, dir) = train();
        assert_eq!(a, train().0);
        let tokenizer = TextTokenizer::load(dir.path(), [None; 3]).unwrap();
        for sample in [text.as_str(), " unseen: ß ← 🐦", TURN_START] {
            let ids = tokenizer.encode(sample, false).unwrap().ids;
            assert_eq!(tokenizer.decode(&ids, false).unwrap(), sample);
        }
        assert_eq!(tokenizer.encode(TURN_END, false).unwrap().ids.len(), 1);
        assert_eq!(tokenizer.eos().unwrap().0, END_OF_TEXT);
        let ids = tokenizer.encode("太陽 🌞 é", false).unwrap().ids;
        let mut stream = tokenizer.stream(true);
        let streamed: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(streamed, "太陽 🌞 é");
    }
}
