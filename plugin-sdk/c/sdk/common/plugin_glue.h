// Shared by the sources of the SDK. Not for plugin authors.
#ifndef TRAINER_PLUGIN_GLUE_H
#define TRAINER_PLUGIN_GLUE_H

#include "plugin.h"

void plugin_dup(trainer_string_t *out, plugin_text_t text);
// Room for one more in a list of `len`.
void *plugin_grow(void *list, size_t len, size_t size);
void plugin_describe(trainer_plugin_types_info_t *out);
bool plugin_configured(trainer_string_t *options, uint64_t seed, trainer_plugin_types_reads_t *out,
                       trainer_plugin_types_error_t *fault);
bool plugin_json_decode(plugin_text_t json, plugin_text_t *value);

#endif
