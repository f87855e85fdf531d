// What the three kinds of plugins share. Not for plugin authors.
#include "plugin_glue.h"

#include <stdlib.h>
#include <string.h>

plugin_text_t plugin_text_of(const char *zero_ended) {
  return (plugin_text_t){zero_ended, strlen(zero_ended)};
}

bool plugin_text_equal(plugin_text_t a, plugin_text_t b) {
  return a.len == b.len && memcmp(a.ptr, b.ptr, a.len) == 0;
}

ptrdiff_t plugin_text_find(plugin_text_t text, const char *what) {
  size_t len = strlen(what);
  for (size_t at = 0; at + len <= text.len; at++)
    if (memcmp(text.ptr + at, what, len) == 0) return (ptrdiff_t)at;
  return -1;
}

ptrdiff_t plugin_text_find_last(plugin_text_t text, const char *what) {
  size_t len = strlen(what);
  for (size_t at = text.len + 1; at-- > 0;)
    if (at + len <= text.len && memcmp(text.ptr + at, what, len) == 0) return (ptrdiff_t)at;
  return -1;
}

bool plugin_text_is_blank(plugin_text_t text) {
  for (size_t at = 0; at < text.len; at++) {
    char c = text.ptr[at];
    if (c != ' ' && !(c >= '\t' && c <= '\r')) return false;
  }
  return true;
}

void plugin_log(uint8_t level, const char *message) {
  trainer_string_t text;
  trainer_string_set(&text, message);
  trainer_plugin_host_log(level, &text);
}

void plugin_dup(trainer_string_t *out, plugin_text_t text) {
  trainer_string_dup_n(out, text.ptr, text.len);
}

void *plugin_grow(void *list, size_t len, size_t size) {
  // Doubles at every power of two.
  if ((len & (len - 1)) != 0) return list;
  list = realloc(list, (len == 0 ? 1 : 2 * len) * size);
  if (list == NULL) abort();
  return list;
}

static void reads(trainer_plugin_types_reads_t *out) {
  size_t len = 0;
  while (plugin_columns[len].name != NULL) len++;
  out->whole_rows = false;
  out->columns.len = len;
  out->columns.ptr = NULL;
  for (size_t i = 0; i < len; i++) {
    out->columns.ptr = plugin_grow(out->columns.ptr, i, sizeof *out->columns.ptr);
    plugin_dup(&out->columns.ptr[i].name, plugin_text_of(plugin_columns[i].name));
    out->columns.ptr[i].kind = plugin_columns[i].kind;
    out->columns.ptr[i].optional = plugin_columns[i].optional;
  }
}

void plugin_describe(trainer_plugin_types_info_t *out) {
  plugin_dup(&out->name, plugin_text_of(plugin_about.name));
  plugin_dup(&out->version, plugin_text_of(plugin_about.version));
  plugin_dup(&out->summary, plugin_text_of(plugin_about.summary));
  plugin_dup(&out->options_schema, plugin_text_of(plugin_about.options_schema));
  reads(&out->reads);
  out->deterministic = true;
}

bool plugin_configured(trainer_string_t *options, uint64_t seed, trainer_plugin_types_reads_t *out,
                       trainer_plugin_types_error_t *fault) {
  const char *why =
      plugin_configure((plugin_text_t){(const char *)options->ptr, options->len}, seed);
  trainer_string_free(options);
  if (why != NULL) {
    fault->tag = TRAINER_PLUGIN_TYPES_ERROR_INVALID_OPTIONS;
    plugin_dup(&fault->val.invalid_options, plugin_text_of(why));
    return false;
  }
  reads(out);
  return true;
}

// ---- A small reader of JSON that the host has checked ----

static size_t skip_space(plugin_text_t t, size_t at) {
  while (at < t.len && (t.ptr[at] == ' ' || (t.ptr[at] >= '\t' && t.ptr[at] <= '\r'))) at++;
  return at;
}

// The end of the value that begins at `at`.
static size_t skip_value(plugin_text_t t, size_t at) {
  size_t depth = 0;
  bool quoted = false;
  for (; at < t.len; at++) {
    char c = t.ptr[at];
    if (quoted) {
      if (c == '\\') at++;
      else if (c == '"') quoted = false;
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{' || c == '[') {
      depth++;
    } else if (c == '}' || c == ']') {
      if (depth == 0) return at;
      depth--;
    } else if (c == ',' && depth == 0) {
      return at;
    }
  }
  return at;
}

static int hex(char c) {
  return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : 0;
}

static uint32_t unit(plugin_text_t t, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4 && at + i < t.len; i++) value = value << 4 | (uint32_t)hex(t.ptr[at + i]);
  return value;
}

static size_t put_utf8(char *out, uint32_t c) {
  if (c < 0x80) return out[0] = (char)c, 1;
  if (c < 0x800) return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
  if (c < 0x10000) {
    out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63));
    return out[2] = (char)(0x80 | (c & 63)), 3;
  }
  out[0] = (char)(0xf0 | c >> 18), out[1] = (char)(0x80 | (c >> 12 & 63));
  return out[2] = (char)(0x80 | (c >> 6 & 63)), out[3] = (char)(0x80 | (c & 63)), 4;
}

// The text of a JSON string with its quotes, decoded into new memory.
bool plugin_json_decode(plugin_text_t t, plugin_text_t *value) {
  size_t at = skip_space(t, 0);
  if (at >= t.len || t.ptr[at] != '"') return false;
  char *out = malloc(t.len + 1);
  if (out == NULL) abort();
  size_t len = 0;
  for (at++; at < t.len && t.ptr[at] != '"'; at++) {
    char c = t.ptr[at];
    if (c != '\\') {
      out[len++] = c;
      continue;
    }
    c = at + 1 < t.len ? t.ptr[++at] : '\\';
    switch (c) {
      case 'n': out[len++] = '\n'; break;
      case 't': out[len++] = '\t'; break;
      case 'r': out[len++] = '\r'; break;
      case 'b': out[len++] = '\b'; break;
      case 'f': out[len++] = '\f'; break;
      case 'u': {
        uint32_t code = unit(t, at + 1);
        at += 4;
        if (code >= 0xd800 && code < 0xdc00 && at + 6 < t.len && t.ptr[at + 1] == '\\') {
          uint32_t low = unit(t, at + 3);
          if (low >= 0xdc00 && low < 0xe000) {
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
            at += 6;
          }
        }
        // Half of a pair alone is no character.
        if (code >= 0xd800 && code < 0xe000) code = 0xfffd;
        len += put_utf8(out + len, code);
        break;
      }
      default: out[len++] = c;
    }
  }
  *value = (plugin_text_t){out, len};
  return true;
}

// The JSON text of a member of an object.
static bool member(plugin_text_t t, const char *name, plugin_text_t *value) {
  size_t at = skip_space(t, 0);
  if (at >= t.len || t.ptr[at] != '{') return false;
  for (at = skip_space(t, at + 1); at < t.len && t.ptr[at] == '"'; at = skip_space(t, at + 1)) {
    size_t end = at + 1;
    while (end < t.len && t.ptr[end] != '"') end += t.ptr[end] == '\\' ? 2 : 1;
    plugin_text_t key;
    bool found = plugin_json_decode((plugin_text_t){t.ptr + at, end + 1 - at}, &key) &&
                 plugin_text_equal(key, plugin_text_of(name));
    free((void *)key.ptr);
    at = skip_space(t, end + 1);
    if (at >= t.len || t.ptr[at] != ':') return false;
    at = skip_space(t, at + 1);
    end = skip_value(t, at);
    if (found) {
      *value = (plugin_text_t){t.ptr + at, end - at};
      return value->len > 0;
    }
    if (end >= t.len || t.ptr[end] != ',') return false;
    at = end;
  }
  return false;
}

bool plugin_option_number(plugin_text_t options, const char *name, double *value) {
  plugin_text_t text;
  char digits[64];
  if (!member(options, name, &text) || text.len >= sizeof digits) return false;
  memcpy(digits, text.ptr, text.len);
  digits[text.len] = 0;
  char *end;
  double number = strtod(digits, &end);
  if (end == digits) return false;
  *value = number;
  return true;
}

bool plugin_option_bool(plugin_text_t options, const char *name, bool *value) {
  plugin_text_t text;
  if (!member(options, name, &text)) return false;
  if (text.ptr[0] != 't' && text.ptr[0] != 'f') return false;
  *value = text.ptr[0] == 't';
  return true;
}

bool plugin_option_text(plugin_text_t options, const char *name, plugin_text_t *value) {
  plugin_text_t text;
  return member(options, name, &text) && plugin_json_decode(text, value);
}

// The generated bindings name it to be linked with the world's type, which `trainer plugin build`
// puts into the module itself.
void __component_type_object_force_link_trainer(void) {}
