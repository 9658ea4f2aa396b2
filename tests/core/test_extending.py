"""The examples of docs/extending.md run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_examples_of_the_page_run_one_after_the_other() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(examples) == 5
    names: dict[str, object] = {"__name__": "extending"}
    for number, example in enumerate(examples):
        exec(compile(example, f"extending.md, example {number}", "exec", dont_inherit=True), names)
