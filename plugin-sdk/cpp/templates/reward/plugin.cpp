// A reward: 1 where the final answer of a completion is that of the reference.
#define PLUGIN_REWARD
#include "sdk/plugin.hpp"

#include <string>

extern "C" const plugin_about_t plugin_about = {
    "my-plugin",
    "0.1.0",
    "1 where the final answer is that of the reference, else 0.",
    R"({"type": "object", "additionalProperties": false, "properties": {
      "unmarked": {"type": "number", "default": 1, "minimum": 0, "maximum": 1,
        "description": "score of a right answer that no #### marks"}}})",
};

extern "C" const plugin_column_t plugin_columns[] = {
    {"completion", TRAINER_PLUGIN_TYPES_KIND_UTF8, false},
    {"reference", TRAINER_PLUGIN_TYPES_KIND_UTF8, true},
    {nullptr, 0, false},
};

static double unmarked = 1.0;

const char *plugin_configure(plugin_text_t options, uint64_t) {
  unmarked = trainer::Options(options).number("unmarked", 1.0);
  return nullptr;
}

static bool digit(std::string_view text, size_t at) {
  return at < text.size() && text[at] >= '0' && text[at] <= '9';
}

// The end of the number that begins at the digit `at`.
static size_t number_end(std::string_view text, size_t at) {
  for (;;) {
    while (digit(text, at)) at++;
    bool group = at < text.size() && text[at] == ',' && digit(text, at + 1) &&
                 digit(text, at + 2) && digit(text, at + 3) && !digit(text, at + 4);
    if (!group) break;
    at += 4;
  }
  if (at < text.size() && text[at] == '.' && digit(text, at + 1))
    for (at++; digit(text, at);) at++;
  return at;
}

// Without separators and zeros that say nothing.
static std::string canonical(std::string_view number) {
  bool negative = number.front() == '-';
  std::string whole, fraction, *side = &whole;
  for (char c : number.substr(negative)) {
    if (c == '.') side = &fraction;
    else if (c != ',') side->push_back(c);
  }
  whole.erase(0, std::min(whole.find_first_not_of('0'), whole.size() - 1));
  fraction.erase(fraction.find_last_not_of('0') + 1);
  if (!fraction.empty()) whole += "." + fraction;
  return negative && whole != "0" ? "-" + whole : whole;
}

// The first number after the last ####, else the last number; in canonical form.
static std::optional<std::string> answer(std::string_view said) {
  size_t marker = said.rfind("####");
  bool marked = marker != std::string_view::npos;
  if (marked) said.remove_prefix(marker + 4);
  std::optional<std::string_view> number;
  for (size_t at = 0; at < said.size();) {
    if (!digit(said, at)) {
      at++;
      continue;
    }
    size_t begin = at;
    at = number_end(said, at);
    if (begin > 0 && said[begin - 1] == '-' && !(begin > 1 && digit(said, begin - 2))) begin--;
    number = said.substr(begin, at - begin);
    if (marked) break;
  }
  if (!number) return std::nullopt;
  return canonical(*number);
}

plugin_score_t plugin_score(const plugin_row_t *raw) {
  trainer::Row row(raw);
  auto wanted = answer(row.text("reference").value_or(""));
  if (!wanted) return trainer::no_score();
  auto completion = row.text("completion").value_or("");
  bool marked = completion.find("####") != std::string_view::npos;
  bool right = answer(completion) == wanted;
  double value = right ? (marked ? 1.0 : unmarked) : 0.0;
  return trainer::score(value, {{"marked", marked ? 1.0 : 0.0}});
}
