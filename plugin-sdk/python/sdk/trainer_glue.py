"""Between `trainer_plugin` and the generated bindings. Not for plugin authors."""

import json

import plugin
import trainer_plugin as sdk
from componentize_py_types import Err
from wit_world.imports import host, types

sdk._log = lambda level, message: host.log(host.Level[level], str(message))

VALUES = {"UTF8": types.Values_Utf8, "INT64": types.Values_Int64, "FLOAT64": types.Values_Float64,
          "BOOLEAN": types.Values_Boolean, "BINARY": types.Values_Binary, "JSON": types.Values_Json}


def clean(text):
    """The text with halves of surrogate pairs, which are no characters, replaced."""
    if text is None or text.isascii():
        return text
    try:
        # UTF-8 is built in; other codecs would have to be loaded from files.
        text.encode()
        return text
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def own_class(kind):
    """The one plugin of `plugin.py`."""
    found = [c for c in vars(plugin).values()
             if isinstance(c, type) and issubclass(c, kind) and c.__module__ == plugin.__name__]
    if len(found) != 1:
        raise SystemExit(f"plugin.py has {len(found)} subclasses of {kind.__name__}; it needs one")
    return found[0]


def reads(of):
    needs = [types.Need(c.name, types.Kind[c.kind], c.optional) for c in of.reads]
    return types.Reads(needs, of.whole_rows)


class Exported:
    """`describe` and `configure` of a plugin of one kind."""

    cls = None
    instance = None

    @classmethod
    def of(cls, kind):
        cls.cls = own_class(kind)
        return cls

    def describe(self):
        own = type(self).cls
        schema = {"type": "object", "additionalProperties": False, "properties": own.options}
        if own.required:
            schema["required"] = own.required
        return types.Info(own.name, own.version, own.summary, reads(own),
                          json.dumps(schema) if own.options else "", own.deterministic)

    def configure(self, options, seed):
        own = type(self)
        try:
            own.instance = own.cls(json.loads(options), seed)
        except sdk.InvalidOptions as fault:
            raise Err(types.Error_InvalidOptions(str(fault)))
        return reads(own.instance)


def rows(batch):
    columns = {c.name: (isinstance(c.values, types.Values_Json), c.values.value, set(c.nulls))
               for c in batch.columns}
    for index in range(batch.rows):
        yield sdk.Row(columns, index, batch.whole_rows[index] if batch.whole_rows else None)
