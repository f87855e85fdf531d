"""Plugins of trainer in Python: formatters, templates and rewards.

A plugin is a module `plugin.py` with one subclass of `Reward`, `Formatter` or `Template`. Nothing here
needs the sandbox, so the same module can be imported and tried by an ordinary Python.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, Optional

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"


class InvalidOptions(Exception):
    """Raise it in `__init__`, naming the option: nothing starts, and the user reads why."""


@dataclass(frozen=True)
class Column:
    """A column that a plugin reads: its name, its kind, and whether a source may do without it."""

    name: str
    kind: str
    optional: bool = False


def text(name: str, optional: bool = False) -> Column:
    """A column of strings."""
    return Column(name, "UTF8", optional)


def integer(name: str, optional: bool = False) -> Column:
    """A column of integers of 64 bits."""
    return Column(name, "INT64", optional)


def number(name: str, optional: bool = False) -> Column:
    """A column of numbers."""
    return Column(name, "FLOAT64", optional)


def boolean(name: str, optional: bool = False) -> Column:
    """A column of true and false."""
    return Column(name, "BOOLEAN", optional)


def binary(name: str, optional: bool = False) -> Column:
    """A column of bytes."""
    return Column(name, "BINARY", optional)


def any_json(name: str, optional: bool = False) -> Column:
    """A column of any values; `row[name]` is the value read from JSON."""
    return Column(name, "JSON", optional)


class Row:
    """One row. `row[name]` is its value, `None` where there is none (or no such column)."""

    __slots__ = ("_columns", "_index", "whole")

    def __init__(self, columns: dict[str, tuple[bool, list, set]], index: int, whole: Optional[str]):
        self._columns, self._index = columns, index
        #: The text of the whole row, a JSON object, where the plugin sets `whole_rows`.
        self.whole = whole

    def __getitem__(self, name: str) -> Any:
        column = self._columns.get(name)
        if column is None or self._index in column[2]:
            return None
        value = column[1][self._index]
        return json.loads(value) if column[0] else value

    def raw(self, name: str) -> Any:
        """The value as it came: of a column of `any_json`, its JSON text."""
        column = self._columns.get(name)
        return None if column is None or self._index in column[2] else column[1][self._index]

    @staticmethod
    def of(values: dict[str, Any]) -> Row:
        """A row of these values, to try a plugin by hand."""
        return Row({name: (False, [value], set() if value is not None else {0})
                    for name, value in values.items()}, 0, None)


class _Plugin:
    #: Lower-case letters, digits and dashes.
    name: ClassVar[str]
    version: ClassVar[str] = "0.1.0"
    #: One sentence.
    summary: ClassVar[str] = ""
    #: JSON Schema of each option: `{"limit": {"type": "integer", "default": 3}}`.
    options: ClassVar[dict[str, dict]] = {}
    #: Options that have to be given.
    required: ClassVar[list[str]] = []
    #: The columns read of a row; an instance may set its own.
    reads: list[Column] = []
    #: Also hand over each row whole, as `row.whole`.
    whole_rows: bool = False
    #: The same input always gives the same output.
    deterministic: ClassVar[bool] = True

    def __init__(self, options: dict[str, Any], seed: int):
        """`options` are what the user gave, checked against the schema."""


@dataclass
class Score:
    """The score of a row: a finite number, or `None` for no opinion; and named shares for the log."""

    value: Optional[float]
    parts: dict[str, float] = field(default_factory=dict)


class Reward(_Plugin):
    """Scores completions."""

    def score(self, row: Row) -> Optional[float] | Score:
        """The score of one row."""
        raise NotImplementedError


@dataclass
class ToolCall:
    """A call of a tool by the assistant; `arguments` is JSON text."""

    name: str
    arguments: str = "{}"
    id: Optional[str] = None


@dataclass
class Message:
    """One turn; `role` is SYSTEM, USER, ASSISTANT or TOOL. `weight` is its weight in the loss
    (`None`: 1 for the assistant, 0 for others)."""

    role: str
    content: str
    tool_calls: list[ToolCall] = field(default_factory=list)
    tool_call_id: Optional[str] = None
    name: Optional[str] = None
    weight: Optional[float] = None

    def loss_weight(self) -> float:
        """Its own weight, else 1 for the assistant and 0 for others."""
        if self.weight is not None:
            return self.weight
        return 1.0 if self.role == ASSISTANT else 0.0


@dataclass
class Conversation:
    """Turns in order; `tools` is JSON text of a list of tool definitions."""

    messages: list[Message]
    tools: Optional[str] = None


@dataclass
class Preference:
    """A better and a worse continuation of one prompt; of a single answer the other side is empty."""

    prompt: Conversation
    chosen: list[Message]
    rejected: list[Message]
    margin: Optional[float] = None


@dataclass
class Prompt:
    """Something to answer, with what a reward needs; `columns` is JSON text of an object."""

    conversation: Conversation
    reference: Optional[str] = None
    columns: Optional[str] = None


@dataclass
class Tokens:
    """A sequence tokenized elsewhere; a label of -100 is not trained."""

    input_ids: list[int]
    labels: list[int]


@dataclass
class Keep:
    """The row's examples: text (a string), `Conversation`, `Preference`, `Prompt` or `Tokens`.
    `notes` are repairs, each in few fixed words; they are counted."""

    examples: list
    notes: list[str] = field(default_factory=list)


@dataclass
class Skip:
    """Sound, but not wanted; the reason in few fixed words."""

    reason: str
    notes: list[str] = field(default_factory=list)


@dataclass
class Reject:
    """Broken; the reason names the field."""

    reason: str
    notes: list[str] = field(default_factory=list)


class Formatter(_Plugin):
    """Turns rows into examples."""

    def format(self, row: Row):
        """`Keep`, `Skip` or `Reject`, or a single example."""
        raise NotImplementedError


@dataclass
class Segment:
    """A piece of text; `role` is `None` for the frame around turns. `weight` 0 is not trained."""

    text: str
    role: Optional[str] = None
    weight: float = 0.0


@dataclass
class RenderOptions:
    """How to render: see `render-options` of the contract."""

    add_generation_prompt: bool = False
    continue_final_message: bool = False
    bos: str = ""
    eos: str = ""


class CannotRender(Exception):
    """Raise it in `render`: the conversation is rejected with this reason."""


class Template(_Plugin):
    """Renders conversations as text."""

    def render(self, conversation: Conversation, options: RenderOptions) -> list[Segment]:
        """The segments of one conversation."""
        raise NotImplementedError

    def stop_strings(self, options: RenderOptions) -> list[str]:
        """Texts at which generation stops."""
        raise NotImplementedError


#: Replaced inside the sandbox by the host's log.
_log = lambda level, message: print(f"{level}: {message}")


def log(message: str, level: str = "INFO") -> None:
    """A line for the run's log."""
    _log(level, message)
