"""The component's exports: a formatter. Not for plugin authors."""

import trainer_plugin as sdk
from trainer_glue import Exported, rows
from wit_world.exports import formatting as f
from wit_world.imports import chat


def message(m):
    calls = [chat.ToolCall(c.name, c.arguments, c.id) for c in m.tool_calls]
    return chat.Message(chat.Role[m.role.upper()], m.content, calls, m.tool_call_id, m.name, m.weight)


def conversation(c):
    return chat.Conversation([message(m) for m in c.messages], c.tools)


def example(e):
    if isinstance(e, str):
        return f.Example_Text(e)
    if isinstance(e, sdk.Conversation):
        return f.Example_Conversation(conversation(e))
    if isinstance(e, sdk.Preference):
        return f.Example_Preference(f.Preference(
            conversation(e.prompt), [message(m) for m in e.chosen],
            [message(m) for m in e.rejected], e.margin))
    if isinstance(e, sdk.Prompt):
        return f.Example_Prompt(f.Prompt(conversation(e.conversation), e.reference, e.columns))
    if isinstance(e, sdk.Tokens):
        return f.Example_Tokens(f.Tokens(e.input_ids, e.labels))
    raise TypeError(f"{type(e).__name__} is no example")


def outcome(o):
    if isinstance(o, sdk.Skip):
        return f.Outcome(f.Verdict_Skip(o.reason), o.notes)
    if isinstance(o, sdk.Reject):
        return f.Outcome(f.Verdict_Reject(o.reason), o.notes)
    if not isinstance(o, sdk.Keep):
        o = sdk.Keep([o])
    return f.Outcome(f.Verdict_Keep([example(e) for e in o.examples]), o.notes)


class Formatting(Exported.of(sdk.Formatter)):
    def format(self, batch):
        return [outcome(type(self).instance.format(row)) for row in rows(batch)]
