"""Teachers that another package trains in its own way, named by an entry point."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from minari_obd.errors import SettingError
from minari_obd.sources.data import OfflineData
from minari_obd.teachers.protocol import Teacher

__all__ = ["PluginTraining"]


@dataclass(frozen=True)
class PluginTraining:
    """A training that is still to be done by another package's function. Its teachers are not cached."""

    name: str
    """Of the entry point."""
    function: Callable[..., Any]
    """Called as ``function(data, steps=None or a number, seed=..., **options)``; returns a teacher."""
    data: OfflineData
    steps: int | None
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise SettingError(
                f"The teacher '{self.name}' is a {type(self.function).__name__}; its entry point must name an "
                "Algorithm, or a function that trains on an OfflineData and returns a teacher."
            )

    def train(self) -> Teacher:
        """Call the function.

        Raises:
            SettingError: what it returns is no teacher.
        """
        teacher = self.function(self.data, steps=self.steps, seed=self.seed, **self.options)
        if not isinstance(teacher, Teacher):
            raise SettingError(
                f"The teacher '{self.name}' returned a {type(teacher).__name__}; a teacher has methods act and value."
            )
        return teacher
