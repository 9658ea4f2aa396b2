"""Sinks: trackers of others that are fed from the store, by a process of their own.

``python -m symadj.service.sinks`` runs it, and ``symadj serve`` starts it where ``SYMADJ_SINKS`` names any. Neither a
training nor the API knows of it: a sink that is away is fed when it is back, from where it was.
"""

from __future__ import annotations

from collections.abc import Callable

from symadj.extras import how_to_install
from symadj.service.settings import SettingsError
from symadj.service.sinks.mlflow import MlflowSink
from symadj.service.sinks.sink import Sink, SinkError
from symadj.service.sinks.tensorboard import TensorboardSink
from symadj.service.sinks.trackio import TrackioSink

__all__ = ["SINKS", "Sink", "SinkError", "open_sinks"]

SINKS: dict[str, Callable[[str], Sink]] = {
    "mlflow": MlflowSink,
    "tensorboard": TensorboardSink,
    "trackio": TrackioSink,
}


def open_sinks(text: str) -> dict[str, Sink]:
    """Return the sinks of a list ``kind:place``, separated by spaces, by what names them there.

    Raises:
        SettingsError: a kind is not known, its library is missing, or it has no such place.
    """
    opened = {}
    for item in text.split():
        kind, _, place = item.partition(":")
        if kind not in SINKS or not place:
            raise SettingsError(
                f"SYMADJ_SINKS: {item!r} is not a sink: write tensorboard:/folder, mlflow:http://host:5000 or "
                f"trackio:http://host:7860, of several with a space between; the kinds are {', '.join(SINKS)}"
            )
        try:
            opened[item] = SINKS[kind](place)
        except ImportError as error:
            raise SettingsError(
                f"SYMADJ_SINKS: {kind} needs the package {error.name}, which is not installed here: "
                f"{how_to_install(kind)} brings it"
            ) from error
        except (SinkError, OSError) as error:
            raise SettingsError(f"SYMADJ_SINKS: {item!r}: {error}") from error
    return opened
