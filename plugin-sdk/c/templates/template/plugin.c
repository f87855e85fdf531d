// A template: `User: …` and `Assistant: …`, a line each.
#define PLUGIN_TEMPLATE
#include "sdk/plugin.h"

#include <stdlib.h>
#include <string.h>

const plugin_about_t plugin_about = {
    .name = "my-plugin",
    .version = "0.1.0",
    .summary = "User and Assistant, a line each.",
    .options_schema = "",
};

const char *plugin_configure(plugin_text_t options, uint64_t seed) {
  (void)options, (void)seed;
  return NULL;
}

static void frame(plugin_rendering_t *out, const char *text) {
  plugin_segment(out, PLUGIN_NO_ROLE, 0.0f, plugin_text_of(text));
}

// A segment has one text: the space, the content and the end are put together.
static void answer(plugin_rendering_t *out, const plugin_message_t *message, plugin_text_t end) {
  plugin_text_t content = plugin_content(message);
  char *text = malloc(1 + content.len + end.len);
  text[0] = ' ';
  memcpy(text + 1, content.ptr, content.len);
  memcpy(text + 1 + content.len, end.ptr, end.len);
  plugin_segment(out, message->role, plugin_loss_weight(message),
                 (plugin_text_t){text, 1 + content.len + end.len});
  free(text);
}

void plugin_render(const plugin_conversation_t *conversation,
                   const plugin_render_options_t *options, plugin_rendering_t *out) {
  if (conversation->messages.len == 0) {
    plugin_refuse(out, "the conversation has no turns");
    return;
  }
  plugin_text_t bos = {(const char *)options->bos.ptr, options->bos.len};
  plugin_segment(out, PLUGIN_NO_ROLE, 0.0f, bos);
  for (size_t i = 0; i < conversation->messages.len; i++) {
    const plugin_message_t *message = &conversation->messages.ptr[i];
    switch (message->role) {
      case TRAINER_PLUGIN_CHAT_ROLE_TOOL:
        plugin_refuse(out, "this template has no turns of tools");
        return;
      case TRAINER_PLUGIN_CHAT_ROLE_ASSISTANT: {
        // What ends the answer is trained with it, or the model never learns to stop.
        bool open = options->continue_final_message && i + 1 == conversation->messages.len;
        frame(out, "Assistant:");
        answer(out, message, open ? plugin_text_of("") : plugin_stop_string(options));
        if (open) return;
        break;
      }
      default:
        frame(out, message->role == TRAINER_PLUGIN_CHAT_ROLE_USER ? "User: " : "System: ");
        plugin_segment(out, message->role, plugin_loss_weight(message), plugin_content(message));
    }
    frame(out, "\n");
  }
  if (options->add_generation_prompt) frame(out, "Assistant:");
}

plugin_text_t plugin_stop_string(const plugin_render_options_t *options) {
  return plugin_eos_or(options, "</s>");
}
