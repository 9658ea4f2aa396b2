"""The model card of a trained flow: the README.md beside its weights, as model hubs read and show it.

A block of YAML that a hub indexes (the layout of Hugging Face's model cards, which others read as well), then a page
for people. Its bytes follow from spec, data and result: no times, so that the same run writes the same card.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from symadj.service.contract.result import JobResult
from symadj.service.contract.spec import JobSpec
from symadj.service.contract.spec.flow import CnfFlow, PluginField

__all__ = ["CARD", "model_card"]

CARD = "README.md"

_SHOWN = 50  # columns
_LONGEST_SPEC = 20_000  # characters

# Of the result: the metric's type, what it is, and where its standard error stands.
_METRICS: tuple[tuple[str, str, str, str | None], ...] = (
    (
        "test_nll_original_units",
        "nll",
        "Negative log-likelihood of the test rows in the data's own units, nats a row",
        "test_nll_original_units_stderr",
    ),
    (
        "test_nll",
        "nll_transformed",
        "Negative log-likelihood of the test rows after the transforms, nats a row",
        "test_nll_stderr",
    ),
    ("test_bits_per_dim", "bits_per_dim", "Bits per dimension of the test rows", "test_bits_per_dim_stderr"),
)
_ACCURACY = "Accuracy of boosted trees that tell samples from held-out rows; 0.5 is chance"


def model_card(
    spec: JobSpec,
    result: JobResult,
    rows: Mapping[str, int],
    columns: Sequence[str],
    context_columns: Sequence[str],
) -> bytes:
    """Return the card.

    Args:
        spec: of the job.
        result: as it is known at the end; without an evaluation the card has no metrics.
        rows: of each part of the data: training, validation, test.
        columns, context_columns: their names, which may be any text.
    """
    metrics = list(_metrics(result))
    return "\n".join(
        [
            f"---\n{_yaml(_front_matter(spec, metrics))}---",
            f"\n# {spec.name}\n",
            _about(columns, context_columns),
            _USE.format(needs=_needs(spec)),
            "## Data\n",
            _block(_data(spec, rows, columns, context_columns)),
            "## Result\n",
            *_result(result, metrics),
            "## Spec\n",
            _spec(spec),
        ]
    ).encode()


_USE = """## Use

```python
import symadj_core  # needs {needs}

flow = symadj_core.load(".")  # the folder of this file, or a .zip of it
flow.log_prob(rows)  # rows in the units and columns of the data; of a conditional flow: context=...
flow.sample((1000,))
```

`weights.safetensors` has the weights, `config.json` all that is needed to use them (columns, transforms, spec), and
`test_rows.npy`, where the run was tested, the numbers of the rows that it was tested on.
"""


def _needs(spec: JobSpec) -> str:
    """Return the packages that load the flow."""
    if isinstance(spec.flow, CnfFlow) and isinstance(spec.flow.field, PluginField):
        return f"torch, numpy, safetensors and, for its field, {spec.flow.field.package or spec.flow.field.name}"
    return "torch, numpy and safetensors"


def _front_matter(spec: JobSpec, metrics: list[tuple[str, str, float, float | None]]) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": "symadj",
        "tags": ["symadj", "pytorch", "density-estimation", "normalizing-flow", "continuous-normalizing-flow"],
    }
    if metrics:
        result = {
            "task": {"type": "density-estimation", "name": "Density estimation"},
            "dataset": {"type": spec.data.kind, "name": _data_name(spec), "split": "test"},
            "metrics": [{"type": kind, "name": name, "value": value} for kind, name, value, _ in metrics],
        }
        front["model-index"] = [{"name": spec.name, "results": [result]}]
    return front


def _metrics(result: JobResult) -> Iterable[tuple[str, str, float, float | None]]:
    """Type, name, value and standard error of what was measured and is a number."""
    for field, kind, name, error in _METRICS:
        value = getattr(result, field)
        if value is not None and math.isfinite(value):
            yield kind, name, value, None if error is None else getattr(result, error)
    compared = result.two_sample
    if compared is not None and math.isfinite(compared.accuracy):
        yield "two_sample_accuracy", _ACCURACY, compared.accuracy, compared.accuracy_stderr


def _data_name(spec: JobSpec) -> str:
    return str(getattr(spec.data, "name", None) or getattr(spec.data, "path", spec.data.kind))


def _about(columns: Sequence[str], context_columns: Sequence[str]) -> str:
    given = f" given {_counted(len(context_columns))} of context" if context_columns else ""
    return (
        f"A continuous normalizing flow of {_counted(len(columns))}{given}, trained by symadj: a density to evaluate "
        "and to sample from.\n"
    )


def _counted(columns: int) -> str:
    return f"{columns} column" if columns == 1 else f"{columns} columns"


def _data(
    spec: JobSpec, rows: Mapping[str, int], columns: Sequence[str], context_columns: Sequence[str]
) -> dict[str, Any]:
    said: dict[str, Any] = {"kind": spec.data.kind, "name": _data_name(spec), "rows": dict(rows)}
    if (seed := getattr(spec.data, "split_seed", None)) is not None:
        said["split_seed"] = seed
    for what, names in (("columns", columns), ("context_columns", context_columns)):
        if names:
            said[what] = [str(name) for name in names[:_SHOWN]]
        if len(names) > _SHOWN:
            said[f"{what}_not_shown"] = len(names) - _SHOWN
    return said


def _result(result: JobResult, metrics: list[tuple[str, str, float, float | None]]) -> Iterable[str]:
    if metrics:
        yield "| metric | value | standard error |\n| --- | --- | --- |"
        for _, name, value, error in metrics:
            yield f"| {name} | {value:.6g} | {'' if error is None else f'{error:.2g}'} |"
        if result.test_rows is not None:
            yield f"\nOver {result.test_rows} test rows."
    else:
        yield "The run was not evaluated."
    if result.validation_nll is not None:
        yield f"\nValidation: {result.validation_nll:.6g} nats a row after the transforms."
    yield f"\n{result.parameters} parameters, {result.steps} steps, weights of step {result.weights_of_step}.\n"


def _spec(spec: JobSpec) -> str:
    block = _block(spec.stored())
    return block if len(block) <= _LONGEST_SPEC else "It is long: `config.json` has it.\n"


def _block(value: Any) -> str:
    return f"```yaml\n{_yaml(value)}```\n"


def _yaml(value: Any) -> str:
    """YAML with a line for each value, so that no line of a text looks like the end of the block."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=math.inf))
