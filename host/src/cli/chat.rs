//! `trainer chat`: a conversation on the terminal.

use std::io::BufRead;

use super::{generate, screen};
use crate::data::{Conversation, Message};
use crate::error::Result;

/// Runs the command: lines of standard input are the user's turns; `/reset` starts anew, `/exit`
/// or the end of input ends.
pub fn run(args: &[String]) -> Result<()> {
    let example = "trainer chat --model MODEL --adapter OUT";
    let about = "Talk with a model; /reset starts anew, /exit ends";
    let Some(values) = generate::parse("chat", about, example, args)? else { return Ok(()) };
    let session = generate::open(values)?;
    let fresh = || -> Vec<Message> {
        session.system.iter().map(|s| Message::new("system", s.as_str())).collect()
    };
    let mut messages = fresh();
    let mut turn = 0;
    screen::piece("> ");
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        match line.trim() {
            "" => {}
            "/exit" | "/quit" => break,
            "/reset" => {
                messages = fresh();
                screen::line("(a new conversation)");
            }
            text => {
                messages.push(Message::new("user", text));
                let conversation = Conversation { messages: messages.clone(), tools: None };
                let prompt = session.speaker.render(&conversation)?;
                let answer = session.speaker.answer(
                    &prompt,
                    false,
                    &session.options,
                    &session.stop,
                    turn,
                    |piece| screen::piece(&screen::printable(piece)),
                )?;
                screen::line("");
                messages.push(Message::new("assistant", answer.text));
                turn += 1;
            }
        }
        screen::piece("> ");
    }
    screen::line("");
    Ok(())
}
