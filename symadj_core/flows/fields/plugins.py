"""Fields of a user's own: classes that installed packages offer by entry points of the group `symadj.fields`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from symadj_core.errors import PluginError
from symadj_core.flows.fields.base import VectorField

__all__ = ["GROUP", "plugin_field"]

GROUP = "symadj.fields"


def plugin_field(name: str, package: str | None = None) -> type[VectorField]:
    """The class that an installed package offers as the field `name`.

    Args:
        name: of the entry point.
        package: `NAME==VERSION`, the one release that must offer it: another one may compute something else from the
            same weights. None for whichever is installed.

    Raises:
        PluginError: no installed package offers it, or not that release, or several do, or what it names can't be
            imported or is no VectorField.
    """
    found = {_package(point): point for point in entry_points(group=GROUP, name=name)}
    if package is not None and package not in found:
        instead = f"{' and '.join(found)} is installed instead" if found else "no release of it is installed here"
        raise PluginError(f"the field {name!r} is of the package {package}, and {instead}: pip install {package}")
    if package is None and len(found) != 1:
        raise PluginError(_not_one(name, sorted(found)))
    package = package or next(iter(found))
    try:
        kind = found[package].load()
    except Exception as error:  # whatever a package does when it is imported
        raise PluginError(
            f"the field {name!r} of {package} can't be imported: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, VectorField)):
        raise PluginError(f"the field {name!r} of {package} is {kind!r}: not a class derived from VectorField")
    return kind


def _package(point: EntryPoint) -> str:
    return "unknown" if point.dist is None else f"{point.dist.name}=={point.dist.version}"


def _not_one(name: str, packages: list[str]) -> str:
    if packages:
        return f"the field {name!r} is offered by {' and by '.join(packages)}: name one as `package`, or uninstall one"
    there = ", ".join(sorted({point.name for point in entry_points(group=GROUP)})) or "none"
    return f"no installed package offers a field {name!r} (installed: {there}): pip install the package that does"
