"""Words completed by a shell: a real bash, which asks the program, which asks the server."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from symadj.api.cli import main
from tests.api.conftest import Run
from tests.command import SYMADJ
from tests.conftest import ApiServer

BASH = shutil.which("bash")
# Bash calls the function that the script declares for `symadj`, with the words and the place of the cursor.
ASK = """
eval "$(symadj completion bash)"
declared=$(complete -p symadj | sed -E 's/.* -F ([^ ]+) .*/\\1/')
COMP_WORDS=(symadj {words}) COMP_CWORD={place}
"$declared" symadj
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(server: ApiServer, *words: str) -> list[str]:
    """What bash offers for the last word."""
    script = ASK.format(words=" ".join(f"'{word}'" for word in words), place=len(words))
    environment = {"SYMADJ_URL": server.url, "PATH": f"{SYMADJ.parent}:/usr/bin:/bin"}
    command = [BASH or "", "--norc", "-c", script]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(BASH is None, reason="there is no bash here")
def test_bash_completes_commands_options_and_the_ids_of_jobs(run: Run) -> None:
    assert completed(run.server, "chec") == ["checkpoint", "checkpoints"]
    assert "--follow" in completed(run.server, "logs", "--fol")
    assert completed(run.server, "show", run.job_id[:-1]) == [run.job_id]


def test_without_a_server_no_job_is_offered_and_nothing_is_told() -> None:
    words = {"_SYMADJ_COMPLETE": "complete_bash", "COMP_WORDS": "symadj show job-", "COMP_CWORD": "2"}
    done = subprocess.run(
        [SYMADJ],
        env=words | {"SYMADJ_URL": "http://127.0.0.1:9", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_script(shell: str) -> None:
    assert "_SYMADJ_COMPLETE" in CliRunner().invoke(main.app, ["completion", shell]).stdout
