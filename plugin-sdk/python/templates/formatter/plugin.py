"""A formatter: a row's question and answer become a conversation."""

from trainer_plugin import (ASSISTANT, SYSTEM, USER, Conversation, Formatter, Message, Reject, Row,
                            Skip, any_json)


class Plugin(Formatter):
    name = "my-plugin"
    version = "0.1.0"
    summary = "Questions and answers as conversations."
    reads = [any_json("question", optional=True), any_json("answer", optional=True)]
    options = {"system": {"type": "string", "description": "a system prompt before every question"}}

    def __init__(self, options, seed):
        self.system = options.get("system", "")

    def format(self, row: Row):
        question, answer = row["question"], row["answer"]
        for field, value in (("question", question), ("answer", answer)):
            if value is None:
                return Reject(f"field `{field}` is missing")
            if not isinstance(value, str):
                return Reject(f"field `{field}` is not a string")
        if not answer.strip():
            return Skip("empty answer")
        messages = [Message(SYSTEM, self.system)] if self.system else []
        messages += [Message(USER, question), Message(ASSISTANT, answer)]
        return Conversation(messages)
