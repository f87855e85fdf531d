// A reward: 1 where the final answer of a completion is that of the reference.
#define PLUGIN_REWARD
#include "sdk/plugin.h"

#include <stdlib.h>

const plugin_about_t plugin_about = {
    .name = "my-plugin",
    .version = "0.1.0",
    .summary = "1 where the final answer is that of the reference, else 0.",
    .options_schema =
        "{\"type\": \"object\", \"additionalProperties\": false, \"properties\": {"
        "\"unmarked\": {\"type\": \"number\", \"default\": 1, \"minimum\": 0, \"maximum\": 1,"
        "\"description\": \"score of a right answer that no #### marks\"}}}",
};

const plugin_column_t plugin_columns[] = {
    {"completion", TRAINER_PLUGIN_TYPES_KIND_UTF8, false},
    {"reference", TRAINER_PLUGIN_TYPES_KIND_UTF8, true},
    {NULL, 0, false},
};

static double unmarked = 1.0;

const char *plugin_configure(plugin_text_t options, uint64_t seed) {
  (void)seed;
  plugin_option_number(options, "unmarked", &unmarked);
  return NULL;
}

static bool digit(plugin_text_t t, size_t at) {
  return at < t.len && t.ptr[at] >= '0' && t.ptr[at] <= '9';
}

// The end of the number that begins at the digit `at`.
static size_t number_end(plugin_text_t t, size_t at) {
  for (;;) {
    while (digit(t, at)) at++;
    bool group = at < t.len && t.ptr[at] == ',' && digit(t, at + 1) && digit(t, at + 2) &&
                 digit(t, at + 3) && !digit(t, at + 4);
    if (!group) break;
    at += 4;
  }
  if (at < t.len && t.ptr[at] == '.' && digit(t, at + 1))
    for (at++; digit(t, at);) at++;
  return at;
}

// The first number after the last ####, else the last number; with its sign.
static bool answer(plugin_text_t said, plugin_text_t *number) {
  ptrdiff_t marker = plugin_text_find_last(said, "####");
  size_t at = marker < 0 ? 0 : (size_t)marker + 4;
  bool found = false;
  while (at < said.len) {
    if (!digit(said, at)) {
      at++;
      continue;
    }
    size_t begin = at;
    at = number_end(said, at);
    size_t from = marker < 0 ? 0 : (size_t)marker + 4;
    bool negative = begin > from && said.ptr[begin - 1] == '-' &&
                    !(begin > from + 1 && digit(said, begin - 2));
    *number = (plugin_text_t){said.ptr + begin - negative, at - begin + negative};
    found = true;
    if (marker >= 0) break;
  }
  return found;
}

// Without separators and zeros that say nothing; `out` has room for the number.
static size_t canonical(plugin_text_t number, char *out) {
  size_t at = 0, len = 0;
  if (number.ptr[0] == '-') out[len++] = '-', at++;
  size_t digits = len;
  bool fraction = false;
  for (; at < number.len; at++) {
    char c = number.ptr[at];
    if (c == ',') continue;
    // A zero at the front goes when a digit follows.
    if (!fraction && len == digits + 1 && out[digits] == '0' && c != '.') len--;
    if (c == '.') fraction = true;
    out[len++] = c;
  }
  if (fraction) {
    while (out[len - 1] == '0') len--;
    if (out[len - 1] == '.') len--;
  }
  bool zero = len == digits + 1 && out[digits] == '0';
  if (zero) out[0] = '0', len = 1;
  return len;
}

plugin_score_t plugin_score(const plugin_row_t *row) {
  plugin_score_t score = {0};
  plugin_text_t completion = {"", 0}, reference = {"", 0}, said, wanted;
  plugin_row_text(row, "completion", &completion);
  plugin_row_text(row, "reference", &reference);
  if (!answer(reference, &wanted)) return score;
  bool marked = plugin_text_find(completion, "####") >= 0, right = false;
  if (answer(completion, &said)) {
    char *room = malloc(said.len + wanted.len);
    plugin_text_t a = {room, canonical(said, room)};
    plugin_text_t b = {room + said.len, canonical(wanted, room + said.len)};
    right = plugin_text_equal(a, b);
    free(room);
  }
  score.has_value = true;
  score.value = right ? (marked ? 1.0 : unmarked) : 0.0;
  score.num_parts = 1;
  score.parts[0].name = "marked";
  score.parts[0].value = marked;
  return score;
}
