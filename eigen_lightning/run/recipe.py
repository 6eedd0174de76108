"""Objects that remember what they were made with, so that a run folder can say how to make them again."""

import inspect
from collections.abc import Mapping
from typing import Any


class Remembering:
    """Keeps the arguments of each object of a class and of those derived from it.

    Attributes:
        arguments: by name, those that were given.
    """

    arguments: dict[str, Any]

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Note the arguments."""
        made = super().__new__(cls)
        # Partly: copying makes an object without any.
        bound = inspect.signature(cls.__init__).bind_partial(made, *args, **kwargs).arguments
        made.arguments = dict(list(bound.items())[1:])
        return made

    def recipe(self) -> dict[str, Any]:
        """Class and arguments as a configuration has them.

        Returns:
            ``class_path``, ``init_args`` and ``missing``, the names of arguments that JSON cannot hold, such as a
            module.
        """
        init_args = {name: value for name, value in self.arguments.items() if is_plain(value)}
        return {
            "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
            "init_args": init_args,
            "missing": [name for name in self.arguments if name not in init_args],
        }


def is_plain(value: Any) -> bool:
    """Whether JSON and YAML can hold a value."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)
