//! Pairs of a better and a worse answer, and single answers known to be good or bad: what
//! preference optimisation and reward modelling train on.

use super::dataset::{Item, Rendering, ToRender};
use crate::data::{Conversation, Example, Message, Provenance};
use crate::model::TokenBatch;
use crate::text::{Encoded, IGNORE_INDEX, TokenizedExample};

/// Two answers to one prompt, each with the prompt; only the answers are labelled.
#[derive(Clone, Debug)]
pub struct PreferencePair {
    /// The better one.
    pub chosen: TokenizedExample,
    /// The worse one.
    pub rejected: TokenizedExample,
    /// How much better, where the source says.
    pub margin: Option<f64>,
}

impl PreferencePair {
    /// Tokens of both sequences.
    pub fn tokens(&self) -> usize {
        self.chosen.input_ids.len() + self.rejected.input_ids.len()
    }

    /// Trained tokens of both.
    pub fn num_trained(&self) -> usize {
        self.chosen.num_trained() + self.rejected.num_trained()
    }

    /// The better answers, then the worse ones, end to end.
    pub fn laid_out(pairs: &[&PreferencePair]) -> TokenBatch {
        let chosen = pairs.iter().map(|p| &p.chosen);
        TokenBatch::from_examples(chosen.chain(pairs.iter().map(|p| &p.rejected)))
    }

    /// Names of the sequences of a batch so laid out, of pairs with these indices.
    pub fn names(indices: &[u32]) -> impl Iterator<Item = u64> {
        let sides = indices.iter().map(|&i| 2 * u64::from(i));
        sides.clone().chain(sides.map(|name| name + 1))
    }
}

const TOO_LONG: &str = "longer than max_source_length + max_target_length";
const NO_ANSWER: &str = "an answer without a token";

/// A prompt, of which nothing is trained, and an answer.
pub fn with_answer(prompt: &Conversation, answer: &[Message]) -> Conversation {
    let masked = |m: &Message| Message { weight: Some(0.0), ..m.clone() };
    let mut messages: Vec<Message> = prompt.messages.iter().map(masked).collect();
    messages.extend(answer.iter().cloned());
    Conversation { messages, tools: prompt.tools.clone() }
}

/// The prompt with an answer; only the answer is trained.
fn answered(prompt: &Conversation, answer: &[Message], name: &str) -> Result<ToRender, String> {
    if answer.iter().all(|m| m.role != "assistant") {
        return Err(format!("its {name} answer holds no assistant's turn"));
    }
    Ok((with_answer(prompt, answer), Rendering::Whole))
}

impl Item for PreferencePair {
    fn provenance(&self) -> &Provenance {
        &self.chosen.provenance
    }

    fn conversations(example: &Example) -> Result<Vec<ToRender>, String> {
        let Example::Preference { prompt, chosen, rejected, .. } = example else {
            return Err("is no pair of answers; use a formatter that makes preferences, such as \
                        preference"
                .into());
        };
        if chosen.is_empty() || rejected.is_empty() {
            return Err("is a single answer and no pair; `trainer kto` trains on those".into());
        }
        Ok(vec![answered(prompt, chosen, "chosen")?, answered(prompt, rejected, "rejected")?])
    }

    fn collect(examples: &[Example], sequences: Vec<Encoded>) -> Result<Vec<Self>, &'static str> {
        let mut pairs = Vec::with_capacity(sequences.len() / 2);
        let mut sequences = sequences.into_iter();
        let mut examples = examples.iter();
        while let (Some(chosen), Some(rejected)) = (sequences.next(), sequences.next()) {
            if chosen.truncated_tokens + rejected.truncated_tokens > 0 {
                return Err(TOO_LONG);
            }
            let (chosen, rejected) = (chosen.example, rejected.example);
            if chosen.num_trained() == 0 || rejected.num_trained() == 0 {
                return Err(NO_ANSWER);
            }
            if chosen.input_ids == rejected.input_ids {
                return Err("both answers are the same");
            }
            let margin = match examples.next() {
                Some(Example::Preference { margin, .. }) => *margin,
                _ => None,
            };
            pairs.push(Self { chosen, rejected, margin });
        }
        Ok(pairs)
    }
}

/// A prompt with one answer that is known to be good or bad.
#[derive(Clone, Debug)]
pub struct JudgedAnswer {
    /// Prompt and answer; only the answer is labelled.
    pub example: TokenizedExample,
    /// Whether the answer is good.
    pub good: bool,
}

impl JudgedAnswer {
    /// Where the answer begins.
    fn answer_start(&self) -> usize {
        let labels = &self.example.labels;
        labels.iter().position(|&l| l != IGNORE_INDEX).unwrap_or(labels.len())
    }

    /// This prompt with another row's answer, at most `max_length` tokens.
    pub fn with_answer_of(&self, other: &JudgedAnswer, max_length: usize) -> TokenizedExample {
        let (prompt, answer) = (self.answer_start(), other.answer_start());
        let mut input_ids = self.example.input_ids[..prompt].to_vec();
        let mut labels = self.example.labels[..prompt].to_vec();
        input_ids.extend(&other.example.input_ids[answer..]);
        labels.extend(&other.example.labels[answer..]);
        input_ids.truncate(max_length);
        labels.truncate(max_length);
        let provenance = self.example.provenance.clone();
        TokenizedExample { input_ids, labels, loss_weights: None, provenance }
    }
}

/// The answers of a preference with their judgement: both, or the one that is there.
fn judged(example: &Example) -> Option<Vec<(&Vec<Message>, bool)>> {
    let Example::Preference { chosen, rejected, .. } = example else { return None };
    let sides = [(chosen, true), (rejected, false)];
    Some(sides.into_iter().filter(|(answer, _)| !answer.is_empty()).collect())
}

impl Item for JudgedAnswer {
    fn provenance(&self) -> &Provenance {
        &self.example.provenance
    }

    fn conversations(example: &Example) -> Result<Vec<ToRender>, String> {
        let (Some(answers), Example::Preference { prompt, .. }) = (judged(example), example) else {
            return Err("is no judged answer; use a formatter that makes preferences, such as \
                        preference"
                .into());
        };
        let name = |good| if good { "good" } else { "bad" };
        answers.into_iter().map(|(answer, good)| answered(prompt, answer, name(good))).collect()
    }

    fn collect(examples: &[Example], sequences: Vec<Encoded>) -> Result<Vec<Self>, &'static str> {
        let verdicts = examples.iter().filter_map(judged).flatten().map(|(_, good)| good);
        let mut answers = Vec::with_capacity(sequences.len());
        for (sequence, good) in sequences.into_iter().zip(verdicts) {
            if sequence.truncated_tokens > 0 {
                return Err(TOO_LONG);
            }
            if sequence.example.num_trained() == 0 {
                return Err(NO_ANSWER);
            }
            answers.push(Self { example: sequence.example, good });
        }
        Ok(answers)
    }
}

/// The sequence that a row of `batch` belongs to.
pub fn sequence_of(batch: &TokenBatch, position: u32) -> usize {
    batch.bounds.partition_point(|&bound| bound <= position as usize) - 1
}

/// Sums of the log-probabilities of each sequence's targets, nats.
pub fn sequence_sums(batch: &TokenBatch, logprobs: &[f32]) -> Vec<f64> {
    let mut sums = vec![0.0; batch.bounds.len() - 1];
    for (target, logprob) in batch.targets().iter().zip(logprobs) {
        sums[sequence_of(batch, target.position)] += f64::from(*logprob);
    }
    sums
}
