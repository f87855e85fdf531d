//! What the policy is asked: a prompt, and what a reward needs to judge the answer.

use crate::data::{Conversation, Example, Provenance};
use crate::stage::dataset::Item;
use crate::text::Encoded;

/// See the module.
#[derive(Clone, Debug)]
pub struct Prompt {
    /// Tokens, ending with what invites the assistant to speak.
    pub ids: Vec<u32>,
    /// The turns.
    pub conversation: Conversation,
    /// The right answer, if the source has one.
    pub reference: Option<String>,
    /// Further columns for the reward, JSON text of an object.
    pub columns: Option<String>,
    /// The row it came from.
    pub provenance: Provenance,
}

/// The turns before the answer, with the answer, if there is one.
fn split(conversation: &Conversation) -> Option<(Conversation, Option<String>)> {
    let messages = &conversation.messages;
    let asked = messages.iter().rposition(|m| m.role == "user" || m.role == "tool")?;
    let answer = messages.get(asked + 1).filter(|m| m.role == "assistant");
    let answer = answer.map(|m| m.content.clone()).filter(|text| !text.is_empty());
    let prompt = Conversation {
        messages: messages[..=asked].to_vec(),
        tools: conversation.tools.clone(),
    };
    Some((prompt, answer))
}

impl Item for Prompt {
    const TO_CONTINUE: bool = true;

    fn conversations(example: &Example) -> Result<Vec<Conversation>, String> {
        match example {
            Example::Prompt { prompt, .. } => Ok(vec![prompt.clone()]),
            Example::Conversation(conversation) => match split(conversation) {
                Some((prompt, _)) => Ok(vec![prompt]),
                None => Err("has no user's turn to answer".into()),
            },
            _ => Err("is no prompt; use a formatter that makes prompts or conversations, such as \
                      prompt or sharegpt"
                .into()),
        }
    }

    fn collect(examples: &[Example], sequences: Vec<Encoded>) -> Result<Vec<Self>, &'static str> {
        let mut prompts = Vec::with_capacity(sequences.len());
        for (example, sequence) in examples.iter().zip(sequences) {
            if sequence.truncated_tokens > 0 {
                return Err("a prompt longer than max_source_length");
            }
            let (conversation, reference, columns) = match example {
                Example::Prompt { prompt, reference, columns } => {
                    (prompt.clone(), reference.clone(), columns.clone())
                }
                Example::Conversation(conversation) => {
                    let (prompt, answer) = split(conversation).ok_or("no user's turn")?;
                    (prompt, answer, None)
                }
                _ => return Err("no prompt"),
            };
            if sequence.example.input_ids.is_empty() {
                return Err("a prompt without a token");
            }
            let (ids, provenance) = (sequence.example.input_ids, sequence.example.provenance);
            prompts.push(Self { ids, conversation, reference, columns, provenance });
        }
        Ok(prompts)
    }
}
