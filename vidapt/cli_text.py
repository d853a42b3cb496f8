"""The commands below ``vidapt text``: parse, call a job; everything heavy is imported inside them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

text = typer.Typer(no_args_is_help=True)


@text.callback()
def group() -> None:
    """Text embeddings of class names, which a method can align features with."""


@text.command()
def build(
    labels: Annotated[str, typer.Option(metavar="NAME", help="Label space, such as cityscapes, or a classes.yaml.")],
    model: Annotated[
        str,
        typer.Option(metavar="NAME", help="CLIP model of open_clip; OpenAI's weights need one ending in -quickgelu."),
    ],
    pretrained: Annotated[
        str, typer.Option(metavar="FILE|TAG", help="Weights file, or a tag such as openai, which is downloaded.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Table to write, .safetensors.")],
    prompts: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="imagenet, simple, single, name, or a YAML list of templates.")
    ] = "imagenet",
    normalise: Annotated[
        bool, typer.Option("--normalise/--no-normalise", help="Bring every embedding to length 1.")
    ] = False,
    projected: Annotated[
        bool, typer.Option("--projected/--not-projected", help="Embeddings after CLIP's text projection.")
    ] = False,
    synonyms: Annotated[
        bool, typer.Option("--synonyms/--no-synonyms", help="Average over the synonyms of a class too.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: a GPU if there is one.")] = None,
) -> None:
    """Compute the text embeddings of a label space once; the defaults are those of LIDAPS."""
    from vidapt.jobs.text_build import TextOptions, run_text_build

    options = TextOptions(normalise=normalise, projected=projected, synonyms=synonyms)
    run_text_build(labels, model, pretrained, out=out, prompts=prompts, options=options, device=device)
