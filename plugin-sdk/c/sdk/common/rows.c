// Reading rows. Not for plugin authors.
#include "plugin_glue.h"

#include <stdlib.h>
#include <string.h>

static const trainer_plugin_types_column_t *column(const plugin_row_t *row, const char *name,
                                                   uint8_t kind) {
  plugin_text_t wanted = plugin_text_of(name);
  for (size_t i = 0; i < row->batch->columns.len; i++) {
    const trainer_plugin_types_column_t *c = &row->batch->columns.ptr[i];
    if (!plugin_text_equal((plugin_text_t){(const char *)c->name.ptr, c->name.len}, wanted)) continue;
    if (c->values.tag != kind) return NULL;
    // The rows without a value are ascending.
    size_t low = 0, high = c->nulls.len;
    while (low < high) {
      size_t middle = low + (high - low) / 2;
      if (c->nulls.ptr[middle] < row->index) low = middle + 1;
      else high = middle;
    }
    bool null = low < c->nulls.len && c->nulls.ptr[low] == row->index;
    return null ? NULL : c;
  }
  return NULL;
}

static plugin_text_t text_of(const trainer_string_t *s) {
  return (plugin_text_t){(const char *)s->ptr, s->len};
}

bool plugin_row_text(const plugin_row_t *row, const char *name, plugin_text_t *value) {
  const trainer_plugin_types_column_t *c = column(row, name, TRAINER_PLUGIN_TYPES_KIND_UTF8);
  if (c != NULL) *value = text_of(&c->values.val.utf8.ptr[row->index]);
  return c != NULL;
}

bool plugin_row_int(const plugin_row_t *row, const char *name, int64_t *value) {
  const trainer_plugin_types_column_t *c = column(row, name, TRAINER_PLUGIN_TYPES_KIND_INT64);
  if (c != NULL) *value = c->values.val.int64.ptr[row->index];
  return c != NULL;
}

bool plugin_row_float(const plugin_row_t *row, const char *name, double *value) {
  const trainer_plugin_types_column_t *c = column(row, name, TRAINER_PLUGIN_TYPES_KIND_FLOAT64);
  if (c != NULL) *value = c->values.val.float64.ptr[row->index];
  return c != NULL;
}

bool plugin_row_bool(const plugin_row_t *row, const char *name, bool *value) {
  const trainer_plugin_types_column_t *c = column(row, name, TRAINER_PLUGIN_TYPES_KIND_BOOLEAN);
  if (c != NULL) *value = c->values.val.boolean.ptr[row->index];
  return c != NULL;
}

bool plugin_row_json(const plugin_row_t *row, const char *name, plugin_text_t *value) {
  const trainer_plugin_types_column_t *c = column(row, name, TRAINER_PLUGIN_TYPES_KIND_JSON);
  if (c == NULL) return false;
  plugin_text_t text = text_of(&c->values.val.json.ptr[row->index]);
  if (plugin_text_equal(text, plugin_text_of("null"))) return false;
  *value = text;
  return true;
}

// Decoded texts of this call.
static char **decoded;
static size_t num_decoded;

bool plugin_json_text(plugin_text_t json, plugin_text_t *value) {
  if (!plugin_json_decode(json, value)) return false;
  decoded = plugin_grow(decoded, num_decoded, sizeof *decoded);
  decoded[num_decoded++] = (char *)value->ptr;
  return true;
}

void plugin_free_decoded(void) {
  for (size_t i = 0; i < num_decoded; i++) free(decoded[i]);
  free(decoded);
  decoded = NULL;
  num_decoded = 0;
}
