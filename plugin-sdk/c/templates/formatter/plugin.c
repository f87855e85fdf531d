// A formatter: a row's question and answer become a conversation.
#define PLUGIN_FORMATTER
#include "sdk/plugin.h"

const plugin_about_t plugin_about = {
    .name = "my-plugin",
    .version = "0.1.0",
    .summary = "Questions and answers as conversations.",
    .options_schema =
        "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {"
        "\"system\": {\"type\": \"string\","
        "\"description\": \"a system prompt before every question\"}}}",
};

const plugin_column_t plugin_columns[] = {
    {"question", TRAINER_PLUGIN_TYPES_KIND_JSON, true},
    {"answer", TRAINER_PLUGIN_TYPES_KIND_JSON, true},
    {NULL, 0, false},
};

static plugin_text_t system_prompt = {"", 0};

const char *plugin_configure(plugin_text_t options, uint64_t seed) {
  (void)seed;
  plugin_option_text(options, "system", &system_prompt);
  return NULL;
}

static bool text(const plugin_row_t *row, const char *field, plugin_text_t *value,
                 plugin_outcome_t *out) {
  plugin_text_t json;
  if (!plugin_row_json(row, field, &json)) {
    plugin_reject(out, "field `%s` is missing", field);
    return false;
  }
  if (!plugin_json_text(json, value)) {
    plugin_reject(out, "field `%s` is not a string", field);
    return false;
  }
  return true;
}

void plugin_format(const plugin_row_t *row, plugin_outcome_t *out) {
  plugin_text_t question, answer;
  if (!text(row, "question", &question, out) || !text(row, "answer", &answer, out)) return;
  if (plugin_text_is_blank(answer)) {
    plugin_skip(out, "empty answer");
    return;
  }
  plugin_conversation_t *conversation = plugin_keep_conversation(out);
  if (system_prompt.len > 0)
    plugin_say(conversation, TRAINER_PLUGIN_CHAT_ROLE_SYSTEM, system_prompt);
  plugin_say(conversation, TRAINER_PLUGIN_CHAT_ROLE_USER, question);
  plugin_say(conversation, TRAINER_PLUGIN_CHAT_ROLE_ASSISTANT, answer);
}
