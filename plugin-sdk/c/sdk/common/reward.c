// The component's exports: a reward. Not for plugin authors.
#define PLUGIN_REWARD
#include "plugin_glue.h"

#include <stdlib.h>
#include <string.h>

void plugin_free_decoded(void);

void exports_trainer_plugin_rewards_describe(exports_trainer_plugin_rewards_info_t *out) {
  plugin_describe(out);
}

bool exports_trainer_plugin_rewards_configure(trainer_string_t *options, uint64_t seed,
                                              exports_trainer_plugin_rewards_reads_t *out,
                                              exports_trainer_plugin_rewards_error_t *fault) {
  return plugin_configured(options, seed, out, fault);
}

bool exports_trainer_plugin_rewards_score(exports_trainer_plugin_rewards_batch_t *batch,
                                          exports_trainer_plugin_rewards_list_row_score_t *out,
                                          exports_trainer_plugin_rewards_error_t *fault) {
  (void)fault;
  out->len = batch->rows;
  out->ptr = calloc(batch->rows == 0 ? 1 : batch->rows, sizeof *out->ptr);
  if (out->ptr == NULL) abort();
  for (uint32_t index = 0; index < batch->rows; index++) {
    plugin_row_t row = {batch, index};
    plugin_score_t score = plugin_score(&row);
    exports_trainer_plugin_rewards_row_score_t *own = &out->ptr[index];
    own->value.is_some = score.has_value;
    own->value.val = score.value;
    for (size_t i = 0; i < score.num_parts; i++) {
      own->parts.ptr = plugin_grow(own->parts.ptr, i, sizeof *own->parts.ptr);
      plugin_dup(&own->parts.ptr[i].name, plugin_text_of(score.parts[i].name));
      own->parts.ptr[i].value = score.parts[i].value;
      own->parts.len = i + 1;
    }
  }
  plugin_free_decoded();
  trainer_plugin_types_batch_free(batch);
  return true;
}
