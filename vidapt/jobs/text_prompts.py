"""Prompts: the texts around the name of a class whose embeddings are averaged."""

from __future__ import annotations

from pathlib import Path

from vidapt.errors import ConfigError
from vidapt.jobs.text_encoder import open_clip
from vidapt.recipe import parse_yaml

_OF_CLIP = {"imagenet": "OPENAI_IMAGENET_TEMPLATES", "simple": "SIMPLE_IMAGENET_TEMPLATES"}
_OWN = {"single": ("a photo of a {}.",), "name": ("{}",)}
PROMPTS = (*_OF_CLIP, *_OWN)
"""Names that ``read_prompts`` knows."""


def read_prompts(name: str) -> tuple[str, ...]:
    """The templates that ``name`` means, each with one ``{}`` for the name of a class.

    Args:
        name: ``imagenet`` (the 80 of CLIP), ``simple`` (7 of them), ``single`` (a photo of a ...), ``name`` (the bare
            name), or a YAML file with a list of templates.

    Raises:
        ConfigError: If it is none of these, or a template has not exactly one ``{}``.
    """
    if name in _OF_CLIP:
        return tuple(template("{}") for template in getattr(open_clip(), _OF_CLIP[name]))
    if name in _OWN:
        return _OWN[name]
    try:
        text = Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"no prompts {name!r}; use {', '.join(PROMPTS)}, or a YAML file with a list of templates"
        ) from None
    templates = parse_yaml(text, f"prompts {name}")
    if not isinstance(templates, list) or not templates:
        raise ConfigError(f"prompts {name} must be a list of templates such as 'a photo of a {{}}.'")
    for template in templates:
        if not isinstance(template, str) or template.count("{}") != 1:
            raise ConfigError(f"prompts {name}: a template has one {{}} for the name of the class, got {template!r}")
    return tuple(templates)
