"""The component's exports: a template. Not for plugin authors."""

import trainer_plugin as sdk
from componentize_py_types import Err, Ok
from trainer_glue import Exported, clean
from wit_world.exports import templating as t
from wit_world.imports import chat


def conversation(c):
    return sdk.Conversation(
        [sdk.Message(m.role.name.lower(), m.content,
                     [sdk.ToolCall(call.name, call.arguments, call.id) for call in m.tool_calls],
                     m.tool_call_id, m.name, m.weight) for m in c.messages], c.tools)


def render_options(o):
    return sdk.RenderOptions(o.add_generation_prompt, o.continue_final_message, o.bos, o.eos)


def segment(s):
    return t.Segment(clean(s.text), None if s.role is None else chat.Role[s.role.upper()], s.weight)


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
