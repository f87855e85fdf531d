//! Makes turns alternate. Every change is a note.

use trainer_plugin::{Message, Role};

/// The system prompt and the other turns: a user's turn first, an assistant's turn last, turns of
/// one side joined (tool answers may follow each other). `None` when no user turn is answered.
pub fn repair(
    turns: Vec<Message>,
    notes: &mut Vec<String>,
) -> Option<(Option<String>, Vec<Message>)> {
    let mut system: Option<String> = None;
    let mut rest: Vec<Message> = Vec::with_capacity(turns.len());
    for turn in turns {
        match turn.role {
            Role::System if turn.content.trim().is_empty() => {
                notes.push("empty system turn dropped".into());
            }
            Role::System => {
                if system.replace(turn.content).is_some() {
                    notes.push("several system turns, the last one used".into());
                }
            }
            Role::Assistant | Role::Tool if rest.is_empty() => notes.push(format!(
                "leading {} turn dropped",
                if turn.role == Role::Tool { "tool" } else { "assistant" }
            )),
            _ => match rest.last_mut() {
                Some(last) if joins(last, &turn) => {
                    notes.push(format!(
                        "consecutive {} turns joined",
                        if turn.role == Role::User { "user" } else { "assistant" }
                    ));
                    join(last, turn);
                }
                _ => rest.push(turn),
            },
        }
    }
    while rest.last().is_some_and(|last| last.role != Role::Assistant) {
        rest.pop();
        notes.push("trailing turn without an answer dropped".into());
    }
    (!rest.is_empty()).then_some((system, rest))
}

/// Two turns of a side become one, unless that would lose a weight or put text before the tool
/// calls that it followed.
fn joins(last: &Message, next: &Message) -> bool {
    let keeps_order = last.tool_calls.is_empty() || next.content.is_empty();
    last.role == next.role && last.role != Role::Tool && last.weight == next.weight && keeps_order
}

fn join(last: &mut Message, next: Message) {
    if !last.content.is_empty() && !next.content.is_empty() {
        last.content.push('\n');
    }
    last.content.push_str(&next.content);
    last.tool_calls.extend(next.tool_calls);
}
