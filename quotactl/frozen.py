"""Frozen values that cost a run next to nothing: dataclasses for whoever asks.

`dataclasses.dataclass` writes and compiles source for every class, and imports `inspect`
for it: a third of what a short run took. Here the methods are shared. The first to ask a
class for its fields (`dataclasses.fields`, `replace`, `asdict`, `is_dataclass`) makes it
the dataclass that it is declared to be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast, dataclass_transform

if TYPE_CHECKING:
    from dataclasses import Field

Class = TypeVar("Class", bound=type)
Value = TypeVar("Value")


@dataclass_transform(frozen_default=True)
def frozen(cls: Class) -> Class:
    """Make a class frozen, with the fields that it annotates: like `dataclass(frozen=True)`.

    Fields come in the order of their annotations; a class attribute is the default.
    Equal are values of one class with equal fields, and they hash alike.
    """
    inherited: tuple[str, ...] = getattr(cls, "__match_args__", ())
    annotated = cls.__dict__.get("__annotations__", {})  # noqa: RUF063 - that imports inspect
    own = tuple(name for name in annotated if name not in inherited)
    names = inherited + own
    added: dict[str, Any] = {
        "__match_args__": names,
        "_names": frozenset(names),
        "_defaults": {name: getattr(cls, name) for name in names if hasattr(cls, name)},
        "__dataclass_fields__": _Fields(),
        "__init__": _init,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__eq__": _eq,
        "__hash__": _hash,
        "__repr__": _repr,
    }
    for name in ("__init__", "__repr__"):
        if name in cls.__dict__:
            added.pop(name, None)
    for name, attribute in added.items():
        setattr(cls, name, attribute)
    return cls


def changed(one: Value, **fields: Any) -> Value:
    """The same value with other fields, as `dataclasses.replace` makes it."""
    cls: Any = type(one)
    return cast(
        "Value", cls(**dict(zip(cls.__match_args__, _fields_of(one), strict=True)) | fields)
    )


def made(cls: type[Value], fields: dict[str, Any]) -> Value:
    """A value of these fields, which are all of its, in a dictionary that is nobody else's:
    unchecked, for what decisions make."""
    one = cls.__new__(cls)
    object.__setattr__(one, "__dict__", fields)
    return one


class _Fields:
    """Stands for the fields of a class until somebody asks for them."""

    def __get__(self, instance: object, cls: type) -> dict[str, Field[Any]]:
        from dataclasses import dataclass

        dataclass(init=False, repr=False, eq=False)(cls)
        cls.__dataclass_params__.frozen = True  # type: ignore[attr-defined]
        fields: dict[str, Field[Any]] = cls.__dict__["__dataclass_fields__"]
        return fields


def _init(self: Any, *args: Any, **given: Any) -> None:
    cls = type(self)
    if args:
        names = cls.__match_args__
        if len(args) > len(names) or not given.keys().isdisjoint(names[: len(args)]):
            raise TypeError(f"{cls.__name__} takes ({', '.join(names)}), each once")
        given.update(zip(names, args, strict=False))
    if given.keys() != cls._names:
        given = cls._defaults | given
        if given.keys() != cls._names:
            wrong = ", ".join(sorted(given.keys() ^ cls._names))
            raise TypeError(f"{cls.__name__} takes ({', '.join(cls.__match_args__)}), not: {wrong}")
    self.__dict__.update(given)


def _refuse(self: object, name: str, *_value: object) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(f"cannot change field {name!r} of a {type(self).__name__}")


def _eq(self: object, other: object) -> Any:
    if type(other) is not type(self):
        return NotImplemented
    return _fields_of(self) == _fields_of(other)


def _hash(self: Any) -> int:
    return hash(_fields_of(self))


def _fields_of(one: Any) -> tuple[Any, ...]:
    # Not all of __dict__: what was worked out once is kept there too.
    return tuple([one.__dict__[name] for name in one.__match_args__])


def _repr(self: Any) -> str:
    fields = ", ".join(f"{name}={self.__dict__[name]!r}" for name in self.__match_args__)
    return f"{type(self).__qualname__}({fields})"
