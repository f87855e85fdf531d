//! Conversation → segments by the model's own chat template.
//!
//! What is trained is found without searching for markers: by the template's own
//! `{% generation %}` blocks, or else by rendering prefixes of the conversation — an assistant's
//! turn is what its rendering adds to the rendering before it with the generation prompt.

use std::path::{Path, PathBuf};

use minijinja::Value;
use minijinja::value::Serde;
use serde_json::json;

use super::jinja::{GENERATION_END, GENERATION_START, JinjaTemplate};
use super::{Segment, TextError, TextTokenizer};
use crate::data::{Conversation, Message};
use crate::{fs, limits};

/// The chat template of a model folder.
pub struct ChatTemplate {
    template: JinjaTemplate,
    path: PathBuf,
    bos: String,
    eos: String,
}

/// The template's text, looked for where transformers looks: `chat_template.jinja`,
/// `tokenizer_config.json` (a string, or a list whose `default` is taken), `chat_template.json`.
fn source(tokenizer: &TextTokenizer) -> Result<Option<String>, TextError> {
    let dir = tokenizer.dir();
    let file = dir.join("chat_template.jinja");
    if file.is_file() {
        let bytes = fs::read_limited(&file, limits::CHAT_TEMPLATE_BYTES_MAX as u64)?;
        return String::from_utf8(bytes)
            .map(Some)
            .map_err(|_| TextError::ChatTemplate { path: file, reason: "it is not UTF-8".into() });
    }
    if let Some(value) = tokenizer.config.get("chat_template") {
        if let Some(text) = value.as_str() {
            return Ok(Some(text.to_string()));
        }
        let named = value.as_array().into_iter().flatten();
        let default = named.filter(|t| t["name"] == "default").find_map(|t| t["template"].as_str());
        if let Some(text) = default {
            return Ok(Some(text.to_string()));
        }
    }
    let file = dir.join("chat_template.json");
    if file.is_file() {
        let bytes = fs::read_limited(&file, limits::CHAT_TEMPLATE_BYTES_MAX as u64)?;
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        return Ok(value["chat_template"].as_str().map(str::to_string));
    }
    Ok(None)
}

impl ChatTemplate {
    /// The text of the template beside `tokenizer`, if there is one.
    ///
    /// # Errors
    /// A file that is not UTF-8.
    pub fn source(tokenizer: &TextTokenizer) -> Result<Option<String>, TextError> {
        source(tokenizer)
    }

    /// The template beside `tokenizer`.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], [`TextError::ChatTemplate`].
    pub fn load(tokenizer: &TextTokenizer) -> Result<Self, TextError> {
        let path = tokenizer.dir().to_path_buf();
        let source = source(tokenizer)?.ok_or_else(|| TextError::NoChatTemplate(path.clone()))?;
        let template = JinjaTemplate::parse(&source)
            .map_err(|reason| TextError::ChatTemplate { path: path.clone(), reason })?;
        let text = |token: Option<(&str, u32)>| token.map_or(String::new(), |(t, _)| t.to_string());
        let (bos, eos) = (text(tokenizer.bos()), text(tokenizer.eos()));
        Ok(Self { template, path, bos, eos })
    }

    /// A template from its text, for tests and tools.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`].
    pub fn from_source(source: &str, bos: &str, eos: &str) -> Result<Self, TextError> {
        let path = Path::new("chat template").to_path_buf();
        let template = JinjaTemplate::parse(source)
            .map_err(|reason| TextError::ChatTemplate { path: path.clone(), reason })?;
        Ok(Self { template, path, bos: bos.into(), eos: eos.into() })
    }

    fn raw(
        &self,
        messages: &[Message],
        tools: Option<&str>,
        generation_prompt: bool,
    ) -> Result<String, TextError> {
        let fault = |reason: String| TextError::ChatTemplate { path: self.path.clone(), reason };
        let messages: Vec<serde_json::Value> = messages.iter().map(hugging_face).collect();
        let tools: Option<serde_json::Value> = tools
            .map(serde_json::from_str)
            .transpose()
            .map_err(|e| fault(format!("the tools are not JSON ({e})")))?;
        let mut context = json!({
            "messages": messages,
            "add_generation_prompt": generation_prompt,
            "bos_token": self.bos,
            "eos_token": self.eos,
        });
        // As in transformers, `tools` is none when there are none.
        context["tools"] = tools.unwrap_or_default();
        self.template.render(Value::from(Serde(&context))).map_err(fault)
    }

    /// The text of a conversation to be continued by the model.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`].
    pub fn prompt(&self, conversation: &Conversation) -> Result<String, TextError> {
        let text = self.raw(&conversation.messages, conversation.tools.as_deref(), true)?;
        Ok(text.replace([GENERATION_START, GENERATION_END], ""))
    }

    /// The text of a whole conversation.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`].
    pub fn text(&self, conversation: &Conversation) -> Result<String, TextError> {
        let text = self.raw(&conversation.messages, conversation.tools.as_deref(), false)?;
        Ok(text.replace([GENERATION_START, GENERATION_END], ""))
    }

    /// The segments of a whole conversation: assistant turns, with the marker that ends them,
    /// carry their weight; everything else is masked.
    ///
    /// # Errors
    /// [`TextError::ChatTemplate`], also when no rendering of a prefix is a prefix of the whole.
    pub fn segments(&self, conversation: &Conversation) -> Result<Vec<Segment>, TextError> {
        let fault = |reason: &str| TextError::ChatTemplate {
            path: self.path.clone(),
            reason: reason.to_string(),
        };
        let messages = &conversation.messages;
        let tools = conversation.tools.as_deref();
        let marked = |c: char| c == GENERATION_START || c == GENERATION_END;
        if messages.iter().any(|m| m.content.contains(marked)) {
            return Err(fault("a message holds a character reserved for marking"));
        }
        let whole = self.raw(messages, tools, false)?;
        let assistants: Vec<usize> =
            (0..messages.len()).filter(|&i| messages[i].role == "assistant").collect();
        let spans = if self.template.has_generation {
            marked_spans(&whole, assistants.len())
                .ok_or_else(|| fault("its generation blocks don't match the assistant's turns"))?
        } else {
            let mut spans = Vec::new();
            for &i in &assistants {
                let before = self.raw(&messages[..i], tools, true)?;
                let upto = self.raw(&messages[..=i], tools, false)?;
                if !upto.starts_with(&before) || !whole.starts_with(&upto) {
                    return Err(fault(
                        "a part of a conversation is rendered otherwise than the whole, so what \
                         the assistant said can't be told",
                    ));
                }
                let end = end_of_turn(&upto, before.len(), &messages[i].content);
                spans.push((before.len(), end));
            }
            spans
        };
        let text: String = whole.chars().filter(|&c| !marked(c)).collect();
        let mut segments = Vec::new();
        let mut at = 0;
        let mut push = |from: usize, to: usize, role: &str, weight: f32| {
            if to > from {
                let text = text[from..to].to_string();
                segments.push(Segment { text, role: role.to_string(), weight });
            }
        };
        for (&i, &(start, end)) in assistants.iter().zip(&spans) {
            push(at, start, "", 0.0);
            push(start, end, "assistant", messages[i].weight.unwrap_or(1.0));
            at = end;
        }
        push(at, text.len(), "", 0.0);
        Ok(segments)
    }
}

/// Ends an assistant's turn after its end marker: white space after a marker belongs to the frame.
fn end_of_turn(upto: &str, start: usize, content: &str) -> usize {
    let turn = &upto[start..];
    let after_content = turn.find(content.trim()).map_or(0, |at| at + content.trim().len());
    let trimmed = turn.trim_end().len();
    if trimmed > after_content { start + trimmed } else { upto.len() }
}

/// Byte ranges between the marks, in the text without marks.
fn marked_spans(whole: &str, expected: usize) -> Option<Vec<(usize, usize)>> {
    let mut spans = Vec::new();
    let (mut at, mut open) = (0, None);
    for c in whole.chars() {
        match (c, open) {
            (GENERATION_START, None) => open = Some(at),
            (GENERATION_END, Some(start)) => {
                spans.push((start, at));
                open = None;
            }
            (GENERATION_START | GENERATION_END, _) => return None,
            _ => at += c.len_utf8(),
        }
    }
    (open.is_none() && spans.len() == expected).then_some(spans)
}

/// A message as transformers' templates expect it.
fn hugging_face(message: &Message) -> serde_json::Value {
    let mut value = json!({"role": message.role, "content": message.content});
    if !message.tool_calls.is_empty() {
        let calls: Vec<serde_json::Value> = message
            .tool_calls
            .iter()
            .map(|call| {
                let arguments = serde_json::from_str::<serde_json::Value>(&call.arguments)
                    .unwrap_or_else(|_| call.arguments.clone().into());
                let mut out = json!({
                    "type": "function",
                    "function": {"name": call.name, "arguments": arguments},
                });
                if let Some(id) = &call.id {
                    out["id"] = json!(id);
                }
                out
            })
            .collect();
        value["tool_calls"] = calls.into();
    }
    if let Some(id) = &message.tool_call_id {
        value["tool_call_id"] = json!(id);
    }
    if let Some(name) = &message.name {
        value["name"] = json!(name);
    }
    value
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
    const INST: &str = "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}";
    const MARKED: &str = "{% for m in messages %}{{ '<' + m.role + '>' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<end>' }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}";
    const FORGETFUL: &str =
        "{% for m in messages %}{{ m.role + ':' + (m.content if loop.last else 'x') }}{% endfor %}";

    fn talk() -> Conversation {
        let turns =
            [("user", "hi"), ("assistant", "hello"), ("user", "bye"), ("assistant", " see you ")];
        let messages = turns.iter().map(|(r, c)| Message::new(*r, *c)).collect();
        Conversation { messages, tools: None }
    }

    fn trained(source: &str) -> (String, Vec<String>) {
        let template = ChatTemplate::from_source(source, "<s>", "</s>").unwrap();
        let segments = template.segments(&talk()).unwrap();
        let text = segments.iter().map(|s| s.text.as_str()).collect();
        let trained = segments.iter().filter(|s| s.weight > 0.0).map(|s| s.text.clone()).collect();
        (text, trained)
    }

    #[test]
    fn assistant_turns_are_found_in_common_templates() {
        let (text, spans) = trained(CHATML);
        assert!(text.starts_with("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello"));
        assert_eq!(spans, ["hello<|im_end|>", " see you <|im_end|>"]);
        let (text, spans) = trained(INST);
        assert_eq!(text, "<s>[INST] hi [/INST] hello</s>[INST] bye [/INST]  see you </s>");
        assert_eq!(spans, [" hello</s>", "  see you </s>"]);
        assert_eq!(trained(MARKED).1, ["hello<end>", " see you <end>"]);
    }

    #[test]
    fn a_template_that_rewrites_earlier_turns_is_refused() {
        let template = ChatTemplate::from_source(FORGETFUL, "", "").unwrap();
        let error = template.segments(&talk()).unwrap_err().to_string();
        assert!(error.contains("otherwise than the whole") && error.contains("chatml"), "{error}");
    }

    #[test]
    fn a_turn_of_weight_zero_is_masked() {
        let mut conversation = talk();
        conversation.messages[1].weight = Some(0.0);
        let template = ChatTemplate::from_source(CHATML, "", "").unwrap();
        let segments = template.segments(&conversation).unwrap();
        let trained: Vec<_> = segments.iter().filter(|s| s.weight > 0.0).collect();
        assert_eq!(trained.len(), 1);
        assert_eq!(trained[0].text, " see you <|im_end|>");
    }
}
