"""The generated worlds of a seed: every seed trains and is scored on streets of its own."""

from __future__ import annotations

from vidapt.config import Recipe, StreetWorldData

WORLDS = ("source", "target", "validation", "evaluation")


def seeded(recipe: Recipe, seed: int, first_world: int = 0) -> Recipe:
    """Give a recipe its training seed, and generated worlds of its own: seeds 10·seed to 10·seed + 3.

    Args:
        recipe: The recipe; data that are not generated stay what they are.
        seed: The seed.
        first_world: Added to the seeds of the worlds; those from 100 up are for choosing hyper-parameters.
    """
    first = first_world + 10 * seed
    changes: dict[str, object] = {"training": recipe.training.model_copy(update={"seed": seed})}
    for number, name in enumerate(WORLDS):
        data = getattr(recipe, name)
        if isinstance(data, StreetWorldData):
            changes[name] = data.model_copy(update={"seed": first + number})
    if isinstance(recipe.upper_bound, StreetWorldData):
        changes["upper_bound"] = recipe.upper_bound.model_copy(update={"seed": first + WORLDS.index("target")})
    return recipe.model_copy(update=changes)
