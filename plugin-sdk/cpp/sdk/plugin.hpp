// Plugins of trainer in C++: the C interface of `plugin.h` with the types of C++.
#ifndef TRAINER_PLUGIN_HPP
#define TRAINER_PLUGIN_HPP

#include "plugin.h"

#include <initializer_list>
#include <optional>
#include <string_view>
#include <utility>

namespace trainer {

inline std::string_view view(plugin_text_t text) { return {text.ptr, text.len}; }
inline plugin_text_t raw(std::string_view text) { return {text.data(), text.size()}; }

// The options of `plugin_configure`.
class Options {
 public:
  explicit Options(plugin_text_t text) : text_(text) {}
  double number(const char *name, double otherwise) const {
    plugin_option_number(text_, name, &otherwise);
    return otherwise;
  }
  bool flag(const char *name, bool otherwise) const {
    plugin_option_bool(text_, name, &otherwise);
    return otherwise;
  }
  std::string_view text(const char *name, std::string_view otherwise) const {
    plugin_text_t found;
    return plugin_option_text(text_, name, &found) ? view(found) : otherwise;
  }

 private:
  plugin_text_t text_;
};

#ifdef TRAINER_PLUGIN_TYPES_VALUES_UTF8
// One row; nothing where there is no value, no such column, or one of another kind.
class Row {
 public:
  explicit Row(const plugin_row_t *row) : row_(row) {}
  std::optional<std::string_view> text(const char *column) const {
    plugin_text_t value;
    if (!plugin_row_text(row_, column, &value)) return std::nullopt;
    return view(value);
  }
  std::optional<std::string_view> json(const char *column) const {
    plugin_text_t value;
    if (!plugin_row_json(row_, column, &value)) return std::nullopt;
    return view(value);
  }
  std::optional<int64_t> integer(const char *column) const {
    int64_t value;
    if (!plugin_row_int(row_, column, &value)) return std::nullopt;
    return value;
  }
  std::optional<double> number(const char *column) const {
    double value;
    if (!plugin_row_float(row_, column, &value)) return std::nullopt;
    return value;
  }

 private:
  const plugin_row_t *row_;
};
#endif

#ifdef PLUGIN_REWARD
// A score with named shares for the log (at most PLUGIN_PARTS_MAX).
inline plugin_score_t score(double value,
                            std::initializer_list<std::pair<const char *, double>> parts = {}) {
  plugin_score_t out{};
  out.has_value = true;
  out.value = value;
  for (const auto &part : parts) {
    if (out.num_parts == PLUGIN_PARTS_MAX) break;
    out.parts[out.num_parts].name = part.first;
    out.parts[out.num_parts++].value = part.second;
  }
  return out;
}
// No opinion on the row.
inline plugin_score_t no_score() { return plugin_score_t{}; }
#endif

}  // namespace trainer
#endif
