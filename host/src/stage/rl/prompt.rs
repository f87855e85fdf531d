//! What the policy is asked: a prompt, and what a reward needs to judge the answer.

use crate::data::{Conversation, Example, Message, Provenance};
use crate::stage::dataset::{Item, Rendering, ToRender};
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

/// The turns up to the last user's or tool's, and those behind it; none where there is no such
/// turn.
fn split(conversation: &Conversation) -> Option<(Conversation, &[Message])> {
    let messages = &conversation.messages;
    let asked = messages.iter().rposition(|m| m.role == "user" || m.role == "tool")?;
    let prompt =
        Conversation { messages: messages[..=asked].to_vec(), tools: conversation.tools.clone() };
    Some((prompt, &messages[asked + 1..]))
}

impl Prompt {
    /// The prompt of an example, without tokens; none where the example is of another kind.
    pub fn unread(example: &Example, provenance: Provenance) -> Option<Self> {
        let (conversation, reference, columns) = match example {
            Example::Prompt { prompt, reference, columns } => {
                (prompt.clone(), reference.clone(), columns.clone())
            }
            Example::Conversation(conversation) => {
                let (prompt, answer) = split(conversation)?;
                let answer = answer.first().filter(|m| m.role == "assistant");
                let answer = answer.map(|m| m.content.clone()).filter(|text| !text.is_empty());
                (prompt, answer, None)
            }
            _ => return None,
        };
        Some(Self { ids: Vec::new(), conversation, reference, columns, provenance })
    }
}

impl Item for Prompt {
    fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    fn conversations(example: &Example) -> Result<Vec<ToRender>, String> {
        match example {
            Example::Prompt { prompt, .. } => Ok(vec![(prompt.clone(), Rendering::ToContinue)]),
            Example::Conversation(conversation) => match split(conversation) {
                Some((prompt, _)) => Ok(vec![(prompt, Rendering::ToContinue)]),
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
            if sequence.example.input_ids.is_empty() {
                return Err("a prompt without a token");
            }
            let (ids, at) = (sequence.example.input_ids, sequence.example.provenance);
            let prompt = Self::unread(example, at).ok_or("no prompt")?;
            prompts.push(Self { ids, ..prompt });
        }
        Ok(prompts)
    }
}
