"""A template: `User: …` and `Assistant: …`, a line each."""

from trainer_plugin import (ASSISTANT, TOOL, CannotRender, Conversation, RenderOptions, Segment,
                            Template)


class Plugin(Template):
    name = "my-plugin"
    version = "0.1.0"
    summary = "User and Assistant, a line each."

    def render(self, conversation: Conversation, options: RenderOptions):
        if not conversation.messages:
            raise CannotRender("the conversation has no turns")
        out = [Segment(options.bos)] if options.bos else []
        for message in conversation.messages:
            last = message is conversation.messages[-1]
            if message.role == TOOL:
                raise CannotRender("this template has no turns of tools")
            if message.role == ASSISTANT:
                # What ends the answer is trained with it, or the model never learns to stop.
                open_end = last and options.continue_final_message
                said = f" {message.content}" + ("" if open_end else end(options))
                out += [Segment("Assistant:"), Segment(said, ASSISTANT, message.loss_weight())]
                if open_end:
                    return out
            else:
                out.append(Segment(f"{message.role.capitalize()}: "))
                out.append(Segment(message.content, message.role, message.loss_weight()))
            out.append(Segment("\n"))
        if options.add_generation_prompt:
            out.append(Segment("Assistant:"))
        return out

    def stop_strings(self, options: RenderOptions):
        return [end(options)]


def end(options: RenderOptions) -> str:
    return options.eos or "</s>"
