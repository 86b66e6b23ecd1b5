"""The same act without its effect: what `--dry-run` and questions are made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quotactl.ledger.engine import Engine, Reading, Writing
    from quotactl.ledger.loaded import Asked


class _Undone(Exception):
    """Rolls the transaction back; never seen outside."""


class Rehearsal:
    """An engine whose transactions are all rolled back.

    An act on it checks, refuses and answers exactly as on the engine itself, since
    it is the same code, and leaves nothing behind. The ids in its answer are not given out.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def reading(self) -> AbstractContextManager[Reading]:
        return self._engine.reading()

    def glancing(self, asked: Asked) -> AbstractContextManager[Reading]:
        return self._engine.glancing(asked)

    def stands(self, *_: object) -> None:
        """Nothing: it is looked up."""

    def count(self, *_: object) -> None:
        """Nothing, as it is to be undone."""

    def expects_denial(self, asked: Asked) -> bool:
        return self._engine.expects_denial(asked)

    def learn(self, asked: Asked, *, denied: bool) -> None:
        """Nothing is decided here."""

    @contextmanager
    def writing(self, asked: Asked | None = None, *, durable: bool = True) -> Iterator[Writing]:
        try:
            with self._engine.writing(asked, durable=durable) as book:
                yield book
                raise _Undone
        except _Undone:
            pass

    def close(self) -> None:
        """Nothing of its own to let go of."""
