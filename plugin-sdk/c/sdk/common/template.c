// The component's exports: a template. Not for plugin authors.
#define PLUGIN_TEMPLATE
#include "plugin_glue.h"

#include <stdlib.h>
#include <string.h>

const plugin_column_t plugin_columns[] = {{NULL, 0, false}};

void exports_trainer_plugin_templating_describe(exports_trainer_plugin_templating_info_t *out) {
  plugin_describe(out);
}

bool exports_trainer_plugin_templating_configure(trainer_string_t *options, uint64_t seed,
                                                 exports_trainer_plugin_templating_reads_t *out,
                                                 exports_trainer_plugin_templating_error_t *fault) {
  return plugin_configured(options, seed, out, fault);
}

bool exports_trainer_plugin_templating_render(
    exports_trainer_plugin_templating_list_conversation_t *conversations,
    exports_trainer_plugin_templating_render_options_t *options,
    exports_trainer_plugin_templating_list_result_list_segment_string_t *out,
    exports_trainer_plugin_templating_error_t *fault) {
  (void)fault;
  out->len = conversations->len;
  out->ptr = calloc(conversations->len == 0 ? 1 : conversations->len, sizeof *out->ptr);
  if (out->ptr == NULL) abort();
  for (size_t i = 0; i < conversations->len; i++)
    plugin_render(&conversations->ptr[i], options, &out->ptr[i]);
  exports_trainer_plugin_templating_list_conversation_free(conversations);
  exports_trainer_plugin_templating_render_options_free(options);
  return true;
}

bool exports_trainer_plugin_templating_stop_strings(
    exports_trainer_plugin_templating_render_options_t *options, trainer_list_string_t *out,
    exports_trainer_plugin_templating_error_t *fault) {
  (void)fault;
  out->ptr = plugin_grow(NULL, 0, sizeof *out->ptr);
  out->len = 1;
  plugin_dup(&out->ptr[0], plugin_stop_string(options));
  exports_trainer_plugin_templating_render_options_free(options);
  return true;
}

void plugin_segment(plugin_rendering_t *out, uint8_t role, float weight, plugin_text_t text) {
  if (out->is_err || text.len == 0) return;
  exports_trainer_plugin_templating_list_segment_t *list = &out->val.ok;
  list->ptr = plugin_grow(list->ptr, list->len, sizeof *list->ptr);
  exports_trainer_plugin_templating_segment_t *segment = &list->ptr[list->len++];
  memset(segment, 0, sizeof *segment);
  plugin_dup(&segment->text, text);
  segment->role.is_some = role != PLUGIN_NO_ROLE;
  segment->role.val = role;
  segment->weight = weight;
}

void plugin_refuse(plugin_rendering_t *out, const char *reason) {
  exports_trainer_plugin_templating_result_list_segment_string_free(out);
  memset(out, 0, sizeof *out);
  out->is_err = true;
  plugin_dup(&out->val.err, plugin_text_of(reason));
}

plugin_text_t plugin_content(const plugin_message_t *message) {
  return (plugin_text_t){(const char *)message->content.ptr, message->content.len};
}

float plugin_loss_weight(const plugin_message_t *message) {
  if (message->weight.is_some) return message->weight.val;
  return message->role == TRAINER_PLUGIN_CHAT_ROLE_ASSISTANT ? 1.0f : 0.0f;
}

plugin_text_t plugin_eos_or(const plugin_render_options_t *options, const char *fallback) {
  if (options->eos.len == 0) return plugin_text_of(fallback);
  return (plugin_text_t){(const char *)options->eos.ptr, options->eos.len};
}
