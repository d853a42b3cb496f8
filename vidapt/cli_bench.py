"""The commands below ``vidapt bench``: parse, call a job; everything heavy is imported inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from vidapt.errors import UserError

bench = typer.Typer(help="Measure how fast things are on this machine.", no_args_is_help=True)


@bench.command("kernels")
def bench_kernels(
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every number here too.")] = None,
    chart: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a chart of the ratios, a PNG.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions; on the CPU smaller problems too.")] = False,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(help="cuda, the default; cpu measures the PyTorch references on scaled-down problems."),
    ] = None,
    only: Annotated[
        str, typer.Option(metavar="ID,...", help="Rows, such as P2,T1, or families, such as K1; kernels with --tune.")
    ] = "",
    tune: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Instead, find the best tiles for this GPU and write them.")
    ] = None,
) -> None:
    """Check the kernels against float64, then time them against PyTorch eager, chunked and compiled."""
    names = [name.strip() for name in only.split(",") if name.strip()]
    command = " ".join(["vidapt", *sys.argv[1:]])
    if tune is not None:
        given = [name for name, value in (("--json", json), ("--chart", chart), ("--quick", quick or None)) if value]
        if given:
            raise UserError(f"--tune writes tiles and no results; drop {', '.join(given)}")
        from vidapt.jobs.bench import tune_kernels

        tune_kernels(out=tune, device=device, only=names, command=command)
        return
    from vidapt.jobs.bench import bench_kernels as run

    run(device=device, quick=quick, only=names, json=json, chart=chart, command=command)


@bench.command("pipeline")
def bench_pipeline(
    stage: Annotated[
        str,
        typer.Option(
            metavar="STAGE",
            help="metrics (scoring frames), cache (reading them), adaptation (training).",
        ),
    ],
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write every number here too.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions.")] = False,
) -> None:
    """Check one stage of the work around the network, time it on one thread and say which targets are met."""
    from vidapt.jobs.bench_pipeline import bench_pipeline as run

    run(stage, quick=quick, json=json, command=" ".join(["vidapt", *sys.argv[1:]]))


@bench.command("gpu")
def bench_gpu(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the results; the same one continues.")],
    minutes: Annotated[float, typer.Option(metavar="N", help="Time for all of it.")] = 30.0,
    device: Annotated[
        Literal["cpu", "cuda"] | None,
        typer.Option(help="cuda, the default; cpu runs all of it in miniature, to see that it works."),
    ] = None,
    only: Annotated[
        str,
        typer.Option(
            metavar="NAME,...", help="Sections: correctness, kernels, tiles, tuned, training, inference, compare."
        ),
    ] = "",
) -> None:
    """Measure all that needs a GPU, in order of worth: kernels, tiles, training, segmentation, methods; resumable."""
    from vidapt.jobs.bench_gpu import bench_gpu as run

    names = [name.strip() for name in only.split(",") if name.strip()]
    run(out, minutes=minutes, device=device, only=names, command=" ".join(["vidapt", *sys.argv[1:]]))
