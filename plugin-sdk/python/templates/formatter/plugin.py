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
        for field in ("question", "answer"):
            if row[field] is None:
                return Reject(f"field `{field}` is missing")
            if not isinstance(row[field], str):
                return Reject(f"field `{field}` is not a string")
        if not row["answer"].strip():
            return Skip("empty answer")
        messages = [Message(SYSTEM, self.system)] if self.system else []
        messages += [Message(USER, row["question"]), Message(ASSISTANT, row["answer"])]
        return Conversation(messages)
