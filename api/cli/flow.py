"""Samples and densities of a trained flow, in pieces that the server takes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn

from symadj.api.cli.documents import RowSettings, csv_fields
from symadj.api.cli.shared import JobId, client_command, console, progress_bars
from symadj.api.cli.tables import Source, media_type_of, open_source, writing
from symadj.api.client import ApiProblemError, Client
from symadj.service.contract.flow_question import MediaType, Operation

app = typer.Typer()

_Rows = Annotated[
    int,
    typer.Option("--batch-rows", min=1, help="Rows of one request; halved where they are more than the server takes."),
]
_BATCH_ROWS = 1000


@client_command(app)
def logprob(
    client: Client,
    job: JobId,
    data: Annotated[
        Path, typer.Argument(help="Rows in the data's units, their contexts beside them: .csv, .npy, .parquet.")
    ],
    out: Annotated[Path | None, typer.Argument(help="Where to put the log-densities; default: printed as csv.")] = None,
    settings: RowSettings = None,
    batch_rows: _Rows = _BATCH_ROWS,
) -> None:
    """Compute the log-density of each row of a file, in nats per unit of the data."""
    source = open_source(data, csv_fields(settings))
    wanted = MediaType.CSV if out is None else media_type_of(out)
    answers = _scores(client, job, source, wanted, batch_rows)
    with progress_bars(MofNCompleteColumn()) as bars:
        task = bars.add_task("log_prob", total=source.rows)
        if out is None:
            for at, (rows, table) in enumerate(answers):
                text = table.decode()
                sys.stdout.write(text.partition("\n")[2] if at else text)
                bars.advance(task, rows)
            return
        with writing(out, source.rows) as add:
            for rows, table in answers:
                add(table)
                bars.advance(task, rows)
    console.print(str(out), soft_wrap=True)


def _scores(client: Client, job: str, source: Source, wanted: MediaType, size: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number of rows and their scores, piece by piece."""
    for whole in source.pieces(size):
        waiting = [whole]
        while waiting:
            piece = waiting.pop()
            if len(piece) > size:
                waiting += [piece[size:], piece[:size]]
                continue
            try:
                table = client.flow(
                    job,
                    Operation.LOG_PROB,
                    source.encode(piece),
                    sent=source.media_type,
                    wanted=wanted,
                    csv=source.csv,
                )
            except ApiProblemError as problem:
                if not _is_too_much(problem) or len(piece) == 1:
                    raise
                size = -(-len(piece) // 2)
                waiting.append(piece)
                continue
            yield len(piece), table


@client_command(app)
def sample(
    client: Client,
    job: JobId,
    out: Annotated[Path, typer.Argument(help="Where to put the samples: .csv, .npy or .parquet.")],
    n: Annotated[int, typer.Option("-n", min=1, help="Samples; of each context, if the flow takes one.")] = 1000,
    context: Annotated[
        Path | None, typer.Option(help="Contexts, a row each, for a flow that takes one: .csv, .npy or .parquet.")
    ] = None,
    settings: RowSettings = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed and --batch-rows give the same samples.")
    ] = None,
    batch_rows: _Rows = _BATCH_ROWS,
) -> None:
    """Draw samples of a trained flow, in the units of the data."""
    wanted = media_type_of(out)
    source = None if context is None else open_source(context, csv_fields(settings))
    total = n * (1 if source is None else source.rows)
    with progress_bars(MofNCompleteColumn()) as bars, writing(out, total) as add:
        task = bars.add_task("samples", total=total)
        for rows, table in _samples(client, job, source, wanted, n, seed, batch_rows):
            add(table)
            bars.advance(task, rows)
    console.print(str(out), soft_wrap=True)


def _samples(
    client: Client, job: str, source: Source | None, wanted: MediaType, n: int, seed: int | None, size: int
) -> Iterator[tuple[int, bytes]]:
    """Yield the number of samples and the samples, piece by piece, those of the first context first."""
    number = 0
    for contexts in [None] if source is None else source.pieces(max(1, size // n)):
        # Contexts with the samples that each still needs.
        waiting: list[tuple[Any, int]] = [(contexts, n)]
        while waiting:
            some, draws = waiting.pop()
            held = 1 if some is None else len(some)
            if held * draws > size and held > 1:
                first = max(1, size // draws)
                waiting += [(some[first:], draws), (some[:first], draws)]
                continue
            if draws > size:
                waiting += [(some, draws - size), (some, size)]
                continue
            try:
                table = client.flow(
                    job,
                    Operation.SAMPLE,
                    b"" if source is None else source.encode(some),
                    sent=None if source is None else source.media_type,
                    wanted=wanted,
                    csv=None if source is None else source.csv,
                    n=draws,
                    seed=_seed_of(seed, number),
                )
            except ApiProblemError as problem:
                # How long it takes is another time another: with a seed, it must not decide on the pieces.
                if not _is_too_much(problem, always=seed is not None) or held * draws == 1:
                    raise
                size = -(-held * draws // 2)
                waiting.append((some, draws))
                continue
            number += 1
            yield held * draws, table


def _seed_of(seed: int | None, piece: int) -> int | None:
    """Return the seed of a piece; that of the first is the one that was given."""
    if seed is None or piece == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {piece}".encode()).digest()[:8]) >> 1


def _is_too_much(problem: ApiProblemError, *, always: bool = False) -> bool:
    """Return whether fewer rows may be answered, where the same ones are not: ``always``, or perhaps only now."""
    too_long = problem.status == 504 or (problem.status == 503 and problem.retry_after is None)
    return problem.status == 413 or (too_long and not always)
