"""Registry: names in TOML files, on the command line and in metadata, resolved to classes when first used."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from minari_obd.errors import MinariObdError, NotFoundError, did_you_mean

__all__ = ["DENSITIES", "OBJECTIVES", "STUDENTS", "TEACHERS", "Registry"]


@dataclass(frozen=True)
class Registry:
    """A set of named components; other packages add to it by entry points."""

    kind: str
    """What is registered, in the singular, for error messages."""
    group: str
    """The entry-point group that other packages use."""
    builtin: Mapping[str, str] = field(repr=False)
    """Name to ``"module:attribute"``; a module is imported only when its name is asked for."""

    def names(self) -> list[str]:
        """Return every known name, the package's own first."""
        added = [entry.name for entry in entry_points(group=self.group) if entry.name not in self.builtin]
        return [*self.builtin, *sorted(added)]

    def check(self, name: str) -> str:
        """Return ``name`` if it is known.

        Raises:
            NotFoundError: with the nearest known name.
        """
        if name not in self.builtin and name not in self.names():
            raise NotFoundError(f"There is no {self.kind} '{name}'; {did_you_mean(name, self.names())}")
        return name

    def package(self, name: str) -> str | None:
        """Return the package that brings ``name``, with its version; None for this one and for unknown names."""
        if name in self.builtin:
            return None
        found = next((entry for entry in entry_points(group=self.group) if entry.name == name), None)
        return None if found is None or found.dist is None else f"{found.dist.name} {found.dist.version}"

    def get(self, name: str) -> Any:
        """Import and return the component called ``name``.

        Raises:
            NotFoundError: there is none.
            MinariObdError: another package's cannot be imported.
        """
        if name in self.builtin:  # without a look at what is installed, which takes milliseconds
            module, attribute = self.builtin[name].split(":")
            return getattr(import_module(module), attribute)
        self.check(name)
        entry = next(entry for entry in entry_points(group=self.group) if entry.name == name)
        try:
            return entry.load()
        except Exception as error:  # somebody else's code
            raise MinariObdError(
                f"The {self.kind} '{name}' is brought by {self.package(name) or 'another package'} as '{entry.value}', "
                f"which cannot be imported ({type(error).__name__}: {error}); mend or reinstall that package."
            ) from error


OBJECTIVES = Registry(
    "method",
    "minari_obd.objectives",
    {
        "random": "minari_obd.targets.selection:RandomPairs",
        "kmeans": "minari_obd.targets.selection:KMeansPairs",
        "dbc": "minari_obd.targets.methods:DataBehaviouralCloning",
        "pbc": "minari_obd.targets.methods:PolicyBehaviouralCloning",
        "av_pbc": "minari_obd.targets.methods:ActionValuePolicyBehaviouralCloning",
        "sdw": "minari_obd.targets.methods:StateDensityWeighting",
        "opw": "minari_obd.targets.on_policy:OnPolicyWeighting",
        "vgd": "minari_obd.targets.value_gap:ValueGapDistillation",
    },
)


TEACHERS = Registry(
    "teacher algorithm",
    "minari_obd.teachers",
    {
        "bc": "minari_obd.teachers.algorithms:BC",
        "td3_bc": "minari_obd.teachers.algorithms:TD3_BC",
        "iql": "minari_obd.teachers.algorithms:IQL",
        "cql": "minari_obd.teachers.algorithms:CQL",
        "calql": "minari_obd.teachers.algorithms:CAL_QL",
        "rebrac": "minari_obd.teachers.algorithms:REBRAC",
        "mobile": "minari_obd.teachers.algorithms:MOBILE",
        "discrete_cql": "minari_obd.teachers.algorithms:DISCRETE_CQL",
        "discrete_bcq": "minari_obd.teachers.algorithms:DISCRETE_BCQ",
    },
)


DENSITIES = Registry(
    "density estimator",
    "minari_obd.densities",
    {
        "knn": "minari_obd.densities.neighbours:KNearestNeighbours",
        "maf": "minari_obd.densities.flow:MaskedAutoregressiveFlow",
        "gmm": "minari_obd.densities.mixture:GaussianMixture",
    },
)


STUDENTS = Registry(
    "student network",
    "minari_obd.students",
    {
        "mlp": "minari_obd.students.networks:MLP",
        "residual": "minari_obd.students.networks:ResidualMLP",
        "kernel": "minari_obd.students.kernel:KernelStudent",
        "softmax_kernel": "minari_obd.students.kernel:SoftmaxKernelStudent",
        "softmax_mlp": "minari_obd.students.networks:SoftmaxMLP",
        "softmax_residual": "minari_obd.students.networks:SoftmaxResidualMLP",
    },
)
