//! What a student is taught on: a prompt, and an answer to it where the data have one.

use crate::data::{Conversation, Example, Message, Provenance};
use crate::stage::dataset::{Item, Rendering, ToRender};
use crate::stage::pairs::with_answer;
use crate::text::{Encoded, IGNORE_INDEX, TokenizedExample};

/// See the module.
#[derive(Clone, Debug)]
pub struct Lesson {
    /// Tokens of the prompt, ending with what invites the assistant to speak.
    pub prompt: Vec<u32>,
    /// The prompt with the data's answer, which alone is labelled.
    pub answered: Option<TokenizedExample>,
    /// The row it came from.
    pub provenance: Provenance,
}

impl Lesson {
    /// The prompt with an answer, which alone is labelled.
    pub fn answered_by(&self, answer: &[u32]) -> TokenizedExample {
        let mut input_ids = self.prompt.clone();
        let mut labels = vec![IGNORE_INDEX; input_ids.len()];
        input_ids.extend(answer);
        labels.extend(answer.iter().map(|&id| id as i32));
        let provenance = self.provenance.clone();
        TokenizedExample { input_ids, labels, loss_weights: None, provenance }
    }

    /// A sequence of ids and labels made elsewhere: the prompt is what comes before the last
    /// labelled run.
    fn of_tokens(answered: TokenizedExample) -> Option<Self> {
        let labels = &answered.labels;
        let last = labels.iter().rposition(|&l| l != IGNORE_INDEX)?;
        let before = labels[..last].iter().rposition(|&l| l == IGNORE_INDEX);
        let start = before.map_or(0, |i| i + 1);
        (start > 0).then(|| Self {
            prompt: answered.input_ids[..start].to_vec(),
            provenance: answered.provenance.clone(),
            answered: Some(answered),
        })
    }
}

/// The prompts of an example, each with its answer, if there is one: every turn of the assistant
/// is an answer to what comes before it. What a prompt names as right (its reference) is often a
/// part of an answer only, and is not learnt.
fn parts(example: &Example) -> Vec<(Conversation, Option<Message>)> {
    match example {
        Example::Conversation(Conversation { messages, tools }) => {
            let before = |end: usize| Conversation {
                messages: messages[..end].to_vec(),
                tools: tools.clone(),
            };
            let answers: Vec<_> = (1..messages.len())
                .filter(|&i| messages[i].role == "assistant")
                .map(|i| (before(i), Some(messages[i].clone())))
                .collect();
            let asks = messages.last().is_some_and(|m| m.role == "user" || m.role == "tool");
            if answers.is_empty() && asks {
                return vec![(before(messages.len()), None)];
            }
            answers
        }
        Example::Prompt { prompt, .. } => vec![(prompt.clone(), None)],
        _ => Vec::new(),
    }
}

impl Item for Lesson {
    fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    fn conversations(example: &Example) -> Result<Vec<ToRender>, String> {
        match example {
            Example::Tokens { .. } => return Ok(Vec::new()),
            Example::Text(_) | Example::Preference { .. } => {
                return Err(
                    "is no prompt and no conversation; use a formatter that makes them, such \
                            as sharegpt or prompt"
                        .into(),
                );
            }
            Example::Conversation(_) | Example::Prompt { .. } => {}
        }
        let mut wanted = Vec::new();
        for (prompt, answer) in parts(example) {
            if let Some(answer) = answer {
                wanted.push((with_answer(&prompt, &[answer]), Rendering::Whole));
            }
            wanted.push((prompt, Rendering::ToContinue));
        }
        if wanted.is_empty() {
            return Err("has no turn to answer".into());
        }
        Ok(wanted)
    }

    fn collect(examples: &[Example], sequences: Vec<Encoded>) -> Result<Vec<Self>, &'static str> {
        let mut lessons = Vec::with_capacity(sequences.len());
        let mut sequences = sequences.into_iter();
        let mut next = || sequences.next().ok_or("an example without a sequence");
        for example in examples {
            if matches!(example, Example::Tokens { .. }) {
                let lesson = Self::of_tokens(next()?.example);
                lessons.push(lesson.ok_or("no labelled token behind an unlabelled one")?);
                continue;
            }
            for (_, answer) in parts(example) {
                let mut answered = None;
                if answer.is_some() {
                    let whole = next()?.example;
                    if whole.num_trained() == 0 {
                        return Err(
                            "no token of an answer within max_source_length + max_completion_length",
                        );
                    }
                    answered = Some(whole);
                }
                let prompt = next()?;
                if prompt.truncated_tokens > 0 {
                    return Err("a prompt longer than max_source_length");
                }
                if prompt.example.input_ids.is_empty() {
                    return Err("a prompt without a token");
                }
                let TokenizedExample { input_ids, provenance, .. } = prompt.example;
                lessons.push(Self { prompt: input_ids, answered, provenance });
            }
        }
        Ok(lessons)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn sequence(labels: &[i32]) -> TokenizedExample {
        let provenance = Provenance { file: "x".into(), row: 1 };
        let input_ids = (0..labels.len() as u32).collect();
        TokenizedExample { input_ids, labels: labels.to_vec(), loss_weights: None, provenance }
    }

    #[test]
    fn the_last_labelled_run_is_the_answer() {
        let lesson = Lesson::of_tokens(sequence(&[-100, 1, -100, -100, 4, 5])).unwrap();
        assert_eq!(lesson.prompt, [0, 1, 2, 3]);
        let again = lesson.answered_by(&[4, 5]);
        assert_eq!(again.input_ids, lesson.answered.unwrap().input_ids);
        assert_eq!(again.labels, [-100, -100, -100, -100, 4, 5]);
        assert!(Lesson::of_tokens(sequence(&[0, 1, 2])).is_none());
        assert!(Lesson::of_tokens(sequence(&[-100, -100])).is_none());
    }

    #[test]
    fn every_turn_of_the_assistant_is_a_lesson() {
        let turn = |role: &str, text: &str| Message::new(role, text);
        let of = |messages: Vec<Message>| {
            Lesson::conversations(&Example::Conversation(Conversation { messages, tools: None }))
        };
        let wanted = of(vec![
            turn("user", "a"),
            turn("assistant", "b"),
            turn("user", "c"),
            turn("assistant", "d"),
        ])
        .unwrap();
        let shape: Vec<_> = wanted.iter().map(|(c, way)| (c.messages.len(), *way)).collect();
        let (whole, open) = (Rendering::Whole, Rendering::ToContinue);
        assert_eq!(shape, [(2, whole), (1, open), (4, whole), (3, open)]);
        // Each learns its own answer only.
        assert_eq!(wanted[2].0.messages[1].weight, Some(0.0));
        assert_eq!(wanted[2].0.messages[3].weight, None);
        assert_eq!(of(vec![turn("user", "a")]).unwrap().len(), 1);
        assert!(of(vec![turn("assistant", "a")]).is_err());
    }
}
