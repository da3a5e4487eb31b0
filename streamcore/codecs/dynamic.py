"""Which types a job knows, and with them how its values cross shuffles and lie in state.

A `Registry` is built once from the job's own code, and never from data: what arrives can name a class of these, and no
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from streamcore.codecs import kinds, usercode
from streamcore.codecs.columns import ColumnCodec, ModelForm, MsgpackForm, TaggedCodec, TypedCodec
from streamcore.codecs.tagged import Tagged


class Registry:
    """The classes of a job's topics, annotations and State fields, and those that its functions name.

    Made and used by one thread."""

    def __init__(self, types: Iterable[Any] = (), functions: Iterable[Callable[..., Any]] = ()) -> None:
        roots = list(functions)
        found = [*types, *filter(None, map(usercode.owner, roots))]
        for f in usercode.functions(roots):
            found += kinds.hints(f).values()
            found += (value for value in usercode.referenced(f) if kinds.is_record_class(value))
        self.classes: Final = tuple(dict.fromkeys(part for of in found for part in kinds.parts(of)))
        self._typed: dict[Any, TypedCodec | None] = {}
        tagged = Tagged(self._typed_codec)
        self._tagged = TaggedCodec(tagged, self._typed_codec)
        for owner in self.classes:
            tagged.register(owner)

    def codec(self, of: Any, *, trusted: bool = False) -> ColumnCodec:
        """The codec of a type, or of UNKNOWN. `trusted`: the values come as a topic's codec decoded them, so that
        their fields need no second look (0.2 µs a Struct)."""
        if trusted and kinds.is_closed(of):
            return TypedCodec(of, MsgpackForm(of, verify=False), self._tagged)
        return self._typed_codec(of) or self._tagged

    def _typed_codec(self, of: Any) -> TypedCodec | None:
        """None where a part of the type is not known."""
        if of not in self._typed:
            form = (
                ModelForm(of)
                if kinds.is_model(of)
                else MsgpackForm(of, verify=kinds.holds_own_class(of))
                if kinds.is_closed(of)
                else None
            )
            self._typed[of] = None if form is None else TypedCodec(of, form, self._tagged)
        return self._typed[of]
