"""The component's exports: a template. Not for plugin authors."""

import trainer_plugin as sdk
from componentize_py_types import Err, Ok
from trainer_glue import Exported, clean
from wit_world.exports import templating as t
from wit_world.imports import chat


# A member's name and an enumeration's lookup are slow, and every turn needs both.
NAMES = {role.value: role.name.lower() for role in chat.Role}
ROLES = {role.name.lower(): role for role in chat.Role}


def message(m):
    calls = [sdk.ToolCall(c.name, c.arguments, c.id) for c in m.tool_calls] if m.tool_calls else []
    return sdk.Message(NAMES[m.role._value_], m.content, calls, m.tool_call_id, m.name, m.weight)


def conversation(c):
    return sdk.Conversation([message(m) for m in c.messages], c.tools)


def render_options(o):
    return sdk.RenderOptions(o.add_generation_prompt, o.continue_final_message, o.bos, o.eos)


def segment(s):
    return t.Segment(clean(s.text), None if s.role is None else ROLES[s.role], s.weight)


class Templating(Exported.of(sdk.Template)):
    def render(self, conversations, options):
        return [self.one(c, render_options(options)) for c in conversations]

    def one(self, c, options):
        try:
            return Ok([segment(s) for s in type(self).instance.render(conversation(c), options)])
        except sdk.CannotRender as reason:
            return Err(str(reason))

    def stop_strings(self, options):
        return type(self).instance.stop_strings(render_options(options))
