// Plugins of trainer in C: what an author writes and what they may call. The generated bindings
// (`trainer.h`) are below it; everything in them can be used too.
#ifndef TRAINER_PLUGIN_H
#define TRAINER_PLUGIN_H

#include "trainer.h"

#ifdef __cplusplus
extern "C" {
#endif

// A piece of text in UTF-8, not ended by a zero. What the host hands over lives until the call
// ends.
typedef struct { const char *ptr; size_t len; } plugin_text_t;

plugin_text_t plugin_text_of(const char *zero_ended);
bool plugin_text_equal(plugin_text_t a, plugin_text_t b);
// Where `what` stands first or last in `text`; -1: nowhere.
ptrdiff_t plugin_text_find(plugin_text_t text, const char *what);
ptrdiff_t plugin_text_find_last(plugin_text_t text, const char *what);
// Whether there is nothing but white space (of ASCII).
bool plugin_text_is_blank(plugin_text_t text);

// A line for the run's log; `level` is one of TRAINER_PLUGIN_HOST_LEVEL_….
void plugin_log(uint8_t level, const char *message);

// ---- What every plugin defines ----

typedef struct {
  const char *name;            // lower-case letters, digits and dashes
  const char *version;         // semantic
  const char *summary;         // one sentence
  const char *options_schema;  // JSON Schema of the options, or ""
} plugin_about_t;
extern const plugin_about_t plugin_about;

// The columns that are read; the last has no name. Templates read none.
typedef struct { const char *name; uint8_t kind; bool optional; } plugin_column_t;
extern const plugin_column_t plugin_columns[];

// Called once, before anything else, with the text of a JSON object that fits the schema. Answers
// NULL, or why the options can't be used, naming the option.
const char *plugin_configure(plugin_text_t options, uint64_t seed);

// An option of `plugin_configure`; false where it was not given. Text is decoded; it lives for ever.
bool plugin_option_number(plugin_text_t options, const char *name, double *value);
bool plugin_option_bool(plugin_text_t options, const char *name, bool *value);
bool plugin_option_text(plugin_text_t options, const char *name, plugin_text_t *value);

#ifdef TRAINER_PLUGIN_TYPES_VALUES_UTF8  // formatters and rewards read rows
typedef struct { const trainer_plugin_types_batch_t *batch; uint32_t index; } plugin_row_t;

// A value of the row; false where there is none, no such column, or one of another kind.
bool plugin_row_text(const plugin_row_t *row, const char *column, plugin_text_t *value);
bool plugin_row_int(const plugin_row_t *row, const char *column, int64_t *value);
bool plugin_row_float(const plugin_row_t *row, const char *column, double *value);
bool plugin_row_bool(const plugin_row_t *row, const char *column, bool *value);
// The JSON text of a column of kind JSON; a `null` is no value.
bool plugin_row_json(const plugin_row_t *row, const char *column, plugin_text_t *value);
// The text of a JSON string; false where it is other JSON. It lives until the call ends.
bool plugin_json_text(plugin_text_t json, plugin_text_t *value);
#endif

#ifdef PLUGIN_REWARD
#define PLUGIN_PARTS_MAX 16
typedef struct {
  bool has_value;  // false: no opinion on the row
  double value;
  size_t num_parts;
  struct { const char *name; double value; } parts[PLUGIN_PARTS_MAX];
} plugin_score_t;

// The author's: the score of one row.
plugin_score_t plugin_score(const plugin_row_t *row);
#endif

#ifdef PLUGIN_FORMATTER
typedef exports_trainer_plugin_formatting_outcome_t plugin_outcome_t;
typedef trainer_plugin_chat_conversation_t plugin_conversation_t;

// The author's: the outcome of one row, by the functions below. Doing nothing skips the row.
void plugin_format(const plugin_row_t *row, plugin_outcome_t *out);

void plugin_skip(plugin_outcome_t *out, const char *reason);
// `reason` may hold one %s, which `field` takes.
void plugin_reject(plugin_outcome_t *out, const char *reason, const char *field);
void plugin_note(plugin_outcome_t *out, const char *note);
void plugin_keep_text(plugin_outcome_t *out, plugin_text_t text);
// A new, empty conversation; fill it before the next is made.
plugin_conversation_t *plugin_keep_conversation(plugin_outcome_t *out);
// Adds a turn; `role` is one of TRAINER_PLUGIN_CHAT_ROLE_….
void plugin_say(plugin_conversation_t *conversation, uint8_t role, plugin_text_t text);
#endif

#ifdef PLUGIN_TEMPLATE
typedef trainer_plugin_chat_conversation_t plugin_conversation_t;
typedef trainer_plugin_chat_message_t plugin_message_t;
typedef exports_trainer_plugin_templating_render_options_t plugin_render_options_t;
typedef exports_trainer_plugin_templating_result_list_segment_string_t plugin_rendering_t;

// The author's: the segments of one conversation, and the text at which generation stops.
void plugin_render(const plugin_conversation_t *conversation,
                   const plugin_render_options_t *options, plugin_rendering_t *out);
plugin_text_t plugin_stop_string(const plugin_render_options_t *options);

#define PLUGIN_NO_ROLE 255
// Adds a segment; an empty text adds nothing.
void plugin_segment(plugin_rendering_t *out, uint8_t role, float weight, plugin_text_t text);
// Why this conversation has no rendering.
void plugin_refuse(plugin_rendering_t *out, const char *reason);
plugin_text_t plugin_content(const plugin_message_t *message);
float plugin_loss_weight(const plugin_message_t *message);
// The tokenizer's last token, or `fallback` where it has none.
plugin_text_t plugin_eos_or(const plugin_render_options_t *options, const char *fallback);
#endif

#ifdef __cplusplus
}
#endif
#endif
