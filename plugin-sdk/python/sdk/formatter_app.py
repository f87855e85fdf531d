"""The component's exports: a formatter. Not for plugin authors."""

import trainer_plugin as sdk
from trainer_glue import Exported, clean, rows
from wit_world.exports import formatting as f
from wit_world.imports import chat


ROLES = {role.name.lower(): role for role in chat.Role}


def message(m):
    calls = [chat.ToolCall(clean(c.name), clean(c.arguments), clean(c.id)) for c in m.tool_calls]
    return chat.Message(ROLES[m.role], clean(m.content), calls, clean(m.tool_call_id),
                        clean(m.name), m.weight)


def conversation(c):
    return chat.Conversation([message(m) for m in c.messages], clean(c.tools))


def example(e):
    if isinstance(e, str):
        return f.Example_Text(clean(e))
    if isinstance(e, sdk.Conversation):
        return f.Example_Conversation(conversation(e))
    if isinstance(e, sdk.Preference):
        return f.Example_Preference(f.Preference(
            conversation(e.prompt), [message(m) for m in e.chosen],
            [message(m) for m in e.rejected], e.margin))
    if isinstance(e, sdk.Prompt):
        return f.Example_Prompt(f.Prompt(
            conversation(e.conversation), clean(e.reference), clean(e.columns)))
    if isinstance(e, sdk.Tokens):
        return f.Example_Tokens(f.Tokens(e.input_ids, e.labels))
    raise TypeError(f"{type(e).__name__} is no example")


def outcome(o):
    notes = [clean(note) for note in getattr(o, "notes", [])]
    if isinstance(o, sdk.Skip):
        return f.Outcome(f.Verdict_Skip(clean(o.reason)), notes)
    if isinstance(o, sdk.Reject):
        return f.Outcome(f.Verdict_Reject(clean(o.reason)), notes)
    examples = o.examples if isinstance(o, sdk.Keep) else [o]
    return f.Outcome(f.Verdict_Keep([example(e) for e in examples]), notes)


class Formatting(Exported.of(sdk.Formatter)):
    def format(self, batch):
        return [outcome(type(self).instance.format(row)) for row in rows(batch)]
