//! Examples as the model will see them: for a terminal, and as JSON.

use console::Style;
use serde_json::{Value, json};

use super::{IGNORE_INDEX, TextError, TextTokenizer, TokenizedExample};

/// A run of tokens that are all trained, or all masked.
struct Run {
    text: String,
    train: bool,
    ids: Vec<u32>,
}

fn runs(tokenizer: &TextTokenizer, example: &TokenizedExample) -> Result<Vec<Run>, TextError> {
    let mut runs: Vec<Run> = Vec::new();
    let mut stream = tokenizer.stream(false);
    for (&id, &label) in example.input_ids.iter().zip(&example.labels) {
        let (text, train) = (stream.push(id)?, label != IGNORE_INDEX);
        match runs.last_mut() {
            Some(run) if run.train == train => {
                run.text.push_str(&text);
                run.ids.push(id);
            }
            _ => runs.push(Run { text, train, ids: vec![id] }),
        }
    }
    Ok(runs)
}

/// Control characters but line ends and tabs are shown escaped: a terminal must not obey them.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escape = c.is_control() && c != '\n' && c != '\t';
            if escape { c.escape_default().collect() } else { vec![c] }
        })
        .collect()
}

/// One example for a terminal: trained text green, masked text dim; without colours, trained text
/// between `⟦` and `⟧`. With `show_ids` the ids follow.
///
/// # Errors
/// When the tokenizer can't decode.
pub fn terminal(
    tokenizer: &TextTokenizer,
    example: &TokenizedExample,
    show_ids: bool,
    colours: bool,
) -> Result<String, TextError> {
    let trained = example.labels.iter().filter(|&&l| l != IGNORE_INDEX).count();
    let mut out =
        format!("{}: {} tokens, {trained} trained\n", example.provenance, example.input_ids.len());
    for run in runs(tokenizer, example)? {
        let text = shown(&run.text);
        let text = match (run.train, colours) {
            (true, true) => Style::new().green().force_styling(true).apply_to(text).to_string(),
            (false, true) => Style::new().dim().force_styling(true).apply_to(text).to_string(),
            (true, false) => format!("⟦{text}⟧"),
            (false, false) => text,
        };
        out.push_str(&text);
    }
    out.push('\n');
    if show_ids {
        let ids: Vec<String> = example
            .input_ids
            .iter()
            .zip(&example.labels)
            .map(|(id, l)| if *l == IGNORE_INDEX { format!("({id})") } else { id.to_string() })
            .collect();
        out.push_str(&format!("ids (masked in brackets): {}\n", ids.join(" ")));
    }
    Ok(out)
}

/// One example as JSON: `text`, `segments` (`start` and `end` in characters of the text, `train`),
/// `input_ids`, `labels`, and where the row came from.
///
/// # Errors
/// When the tokenizer can't decode.
pub fn as_json(tokenizer: &TextTokenizer, example: &TokenizedExample) -> Result<Value, TextError> {
    let mut text = String::new();
    let mut segments = Vec::new();
    let mut at = 0;
    for run in runs(tokenizer, example)? {
        let end = at + run.text.chars().count();
        segments.push(json!({
            "start": at, "end": end, "train": run.train, "num_tokens": run.ids.len(),
        }));
        text.push_str(&run.text);
        at = end;
    }
    Ok(json!({
        "file": &*example.provenance.file,
        "row": example.provenance.row,
        "text": text,
        "segments": segments,
        "input_ids": example.input_ids,
        "labels": example.labels,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::data::Provenance;

    #[test]
    fn segments_cover_the_text_and_control_characters_are_escaped() {
        let Some(base) = crate::test_data("stories260K/hf") else { return };
        let tokenizer = TextTokenizer::load(&base, [None; 3]).unwrap();
        let input_ids = tokenizer.encode("Lily saw a \u{1b}[31mbird", false).unwrap().ids;
        let labels = input_ids
            .iter()
            .enumerate()
            .map(|(i, &id)| if i < 3 { IGNORE_INDEX } else { id as i32 })
            .collect();
        let provenance = Provenance { file: "a.jsonl".into(), row: 3 };
        let example = TokenizedExample { input_ids, labels, loss_weights: None, provenance };
        let value = as_json(&tokenizer, &example).unwrap();
        let segments = value["segments"].as_array().unwrap();
        assert_eq!(segments.len(), 2);
        assert_eq!(segments[0]["end"], segments[1]["start"]);
        let length = value["text"].as_str().unwrap().chars().count();
        assert_eq!(segments[1]["end"], length);
        let text = terminal(&tokenizer, &example, true, false).unwrap();
        assert!(text.contains("a.jsonl:3") && !text.contains('\u{1b}') && text.contains('⟧'));
    }
}
