//! Calls of templates: conversations in, text segments out.

use rayon::prelude::*;

use super::bindings::templating;
use super::check;
use super::component::World;
use super::error::PluginError;
use super::pool::{Bound, Plugin};
use crate::data::example::{Conversation, Message};
use crate::limits as ceilings;

/// How conversations are rendered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RenderOptions {
    /// End with what invites the assistant to speak.
    pub add_generation_prompt: bool,
    /// Leave the last assistant turn open.
    pub continue_final_message: bool,
    /// Text of the tokenizer's first token, written once at the start; empty for none.
    pub bos: String,
    /// Text of the tokenizer's last token; empty for none.
    pub eos: String,
}

impl RenderOptions {
    fn to_guest(&self) -> templating::RenderOptions {
        templating::RenderOptions {
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
            bos: self.bos.clone(),
            eos: self.eos.clone(),
        }
    }
}

/// A piece of rendered text.
#[derive(Clone, Debug, PartialEq)]
pub struct RenderedSegment {
    /// The text, never empty; segments are concatenated and tokenized once.
    pub text: String,
    /// `system`, `user`, `assistant`, `tool`, or empty for the frame around turns.
    pub role: String,
    /// Weight in the loss; 0: masked.
    pub weight: f32,
}

/// The segments of a conversation, or why it can't be rendered (the row is to be rejected).
pub type Rendering = Result<Vec<RenderedSegment>, String>;

/// Bytes of a conversation that cross.
fn bytes_of(conversation: &Conversation) -> usize {
    let of_message = |m: &Message| {
        let calls: usize = m.tool_calls.iter().map(|c| c.name.len() + c.arguments.len()).sum();
        m.content.len() + calls + 16
    };
    conversation.messages.iter().map(of_message).sum::<usize>()
        + conversation.tools.as_ref().map_or(0, String::len)
}

impl Plugin {
    /// Renders conversations, on all cores; one result per conversation, in order.
    ///
    /// # Errors
    /// [`PluginError::WrongWorld`], [`PluginError::Stopped`], [`PluginError::Failed`] and
    /// [`PluginError::Returned`], with rows counted over `conversations`.
    pub fn render(
        &self,
        conversations: &[Conversation],
        options: &RenderOptions,
    ) -> Result<Vec<Rendering>, PluginError> {
        self.expect(World::Template)?;
        let mut calls = Vec::new();
        let (mut start, mut bytes) = (0, 0);
        for (i, conversation) in conversations.iter().enumerate() {
            let size = bytes_of(conversation);
            let full = i - start == ceilings::PLUGIN_CALL_ROWS
                || bytes + size > ceilings::PLUGIN_BATCH_BYTES;
            if i > start && full {
                calls.push((start..i, bytes));
                (start, bytes) = (i, 0);
            }
            bytes += size;
        }
        if start < conversations.len() {
            calls.push((start..conversations.len(), bytes));
        }
        let done: Vec<_> = calls
            .into_par_iter()
            .map(|(rows, bytes)| {
                let once = |part: std::ops::Range<usize>| {
                    let part = rows.start + part.start..rows.start + part.end;
                    self.render_call(conversations, part, bytes, options)
                };
                self.over_rows(rows.len(), once, Err)
            })
            .collect();
        let mut all = Vec::with_capacity(conversations.len());
        for call in done {
            all.extend(call?);
        }
        Ok(all)
    }

    fn render_call(
        &self,
        conversations: &[Conversation],
        rows: std::ops::Range<usize>,
        bytes: usize,
        options: &RenderOptions,
    ) -> Result<Vec<Rendering>, PluginError> {
        let converted: Vec<_> = conversations[rows.clone()].iter().map(check::to_guest).collect();
        let guests: Vec<_> = converted.iter().filter_map(|c| c.as_ref().ok().cloned()).collect();
        let options = options.to_guest();
        let answer = self.call("render", rows.clone(), rows.len(), bytes, |bound, store| {
            let Bound::Template(t) = bound else { return Ok(Ok(Vec::new())) };
            t.trainer_plugin_templating().call_render(store, &guests, &options)
        })?;
        if answer.len() != guests.len() {
            let what = format!("{} renderings for {} conversations", answer.len(), guests.len());
            return Err(self.returned("render", rows, what));
        }
        let mut answer = answer.into_iter();
        let mut out = Vec::with_capacity(rows.len());
        for (row, conversation) in rows.zip(converted) {
            out.push(match (conversation, answer.len()) {
                (Err(reason), _) => Err(reason),
                (Ok(_), _) => match answer.next() {
                    Some(rendering) => checked(rendering)
                        .map_err(|what| self.returned("render", row..row + 1, what))?,
                    None => Err("no rendering".into()),
                },
            });
        }
        Ok(out)
    }

    /// Texts at which generation stops.
    ///
    /// # Errors
    /// As [`Plugin::render`].
    pub fn stop_strings(&self, options: &RenderOptions) -> Result<Vec<String>, PluginError> {
        self.expect(World::Template)?;
        let options = options.to_guest();
        let stops = self.call("stop-strings", 0..0, 0, 0, |bound, store| {
            let Bound::Template(t) = bound else { return Ok(Ok(Vec::new())) };
            t.trainer_plugin_templating().call_stop_strings(store, &options)
        })?;
        if stops.iter().any(String::is_empty) {
            return Err(self.returned("stop-strings", 0..0, "an empty stop string".into()));
        }
        Ok(stops)
    }
}

/// A template's answer on one conversation; the outer error is a fault of the plugin.
fn checked(rendering: Result<Vec<templating::Segment>, String>) -> Result<Rendering, String> {
    let segments = match rendering {
        Ok(segments) => segments,
        Err(reason) => return Ok(Err(check::words(&reason)?)),
    };
    let mut out = Vec::with_capacity(segments.len());
    for segment in segments {
        let weight = check::weight(segment.weight)?;
        if !segment.text.is_empty() {
            let role = segment.role.map(check::role_name).unwrap_or_default().to_string();
            out.push(RenderedSegment { text: segment.text, role, weight });
        }
    }
    if out.is_empty() {
        return Err("a rendering without text".into());
    }
    Ok(Ok(out))
}
