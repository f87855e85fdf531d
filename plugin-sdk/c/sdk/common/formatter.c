// The component's exports: a formatter. Not for plugin authors.
#define PLUGIN_FORMATTER
#include "plugin_glue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void plugin_free_decoded(void);

void exports_trainer_plugin_formatting_describe(exports_trainer_plugin_formatting_info_t *out) {
  plugin_describe(out);
}

bool exports_trainer_plugin_formatting_configure(trainer_string_t *options, uint64_t seed,
                                                 exports_trainer_plugin_formatting_reads_t *out,
                                                 exports_trainer_plugin_formatting_error_t *fault) {
  return plugin_configured(options, seed, out, fault);
}

bool exports_trainer_plugin_formatting_format(exports_trainer_plugin_formatting_batch_t *batch,
                                              exports_trainer_plugin_formatting_list_outcome_t *out,
                                              exports_trainer_plugin_formatting_error_t *fault) {
  (void)fault;
  out->len = batch->rows;
  // All zero: an outcome that keeps no example, which is a skip.
  out->ptr = calloc(batch->rows == 0 ? 1 : batch->rows, sizeof *out->ptr);
  if (out->ptr == NULL) abort();
  for (uint32_t index = 0; index < batch->rows; index++) {
    plugin_row_t row = {batch, index};
    plugin_format(&row, &out->ptr[index]);
  }
  plugin_free_decoded();
  trainer_plugin_types_batch_free(batch);
  return true;
}

static void verdict(plugin_outcome_t *out, uint8_t tag, plugin_text_t reason) {
  exports_trainer_plugin_formatting_verdict_free(&out->verdict);
  memset(&out->verdict, 0, sizeof out->verdict);
  out->verdict.tag = tag;
  plugin_dup(&out->verdict.val.skip, reason);
}

void plugin_skip(plugin_outcome_t *out, const char *reason) {
  verdict(out, EXPORTS_TRAINER_PLUGIN_FORMATTING_VERDICT_SKIP, plugin_text_of(reason));
}

void plugin_reject(plugin_outcome_t *out, const char *reason, const char *field) {
  size_t room = strlen(reason) + strlen(field) + 1;
  char *text = malloc(room);
  if (text == NULL) abort();
  const char *gap = strstr(reason, "%s");
  size_t before = gap == NULL ? strlen(reason) : (size_t)(gap - reason);
  memcpy(text, reason, before);
  text[before] = 0;
  if (gap != NULL) {
    strcat(text, field);
    strcat(text, gap + 2);
  }
  verdict(out, EXPORTS_TRAINER_PLUGIN_FORMATTING_VERDICT_REJECT, plugin_text_of(text));
  free(text);
}

void plugin_note(plugin_outcome_t *out, const char *note) {
  out->notes.ptr = plugin_grow(out->notes.ptr, out->notes.len, sizeof *out->notes.ptr);
  plugin_dup(&out->notes.ptr[out->notes.len++], plugin_text_of(note));
}

static exports_trainer_plugin_formatting_example_t *keep(plugin_outcome_t *out, uint8_t tag) {
  exports_trainer_plugin_formatting_list_example_t *list = &out->verdict.val.keep;
  list->ptr = plugin_grow(list->ptr, list->len, sizeof *list->ptr);
  exports_trainer_plugin_formatting_example_t *example = &list->ptr[list->len++];
  memset(example, 0, sizeof *example);
  example->tag = tag;
  return example;
}

void plugin_keep_text(plugin_outcome_t *out, plugin_text_t text) {
  plugin_dup(&keep(out, EXPORTS_TRAINER_PLUGIN_FORMATTING_EXAMPLE_TEXT)->val.text, text);
}

plugin_conversation_t *plugin_keep_conversation(plugin_outcome_t *out) {
  return &keep(out, EXPORTS_TRAINER_PLUGIN_FORMATTING_EXAMPLE_CONVERSATION)->val.conversation;
}

void plugin_say(plugin_conversation_t *c, uint8_t role, plugin_text_t text) {
  c->messages.ptr = plugin_grow(c->messages.ptr, c->messages.len, sizeof *c->messages.ptr);
  trainer_plugin_chat_message_t *message = &c->messages.ptr[c->messages.len++];
  memset(message, 0, sizeof *message);
  message->role = role;
  plugin_dup(&message->content, text);
}
