import random

import numpy as np
import torch

from vidapt.engine.randomness import generator_state, restore_generators, seed_generators


def draw():
    return random.random(), np.random.rand(), np.random.randn(), random.gauss(0, 1), torch.rand(3).tolist()


def test_restoring_repeats_what_followed():
    seed_generators(4, 0)
    draw()
    state = generator_state()
    expected = draw()
    draw()
    restore_generators(state)
    assert draw() == expected


def test_seeds_and_processes_differ():
    drawn = []
    for seed, rank in [(0, 0), (0, 1), (1, 0), (-1, 0), (0, 0)]:
        seed_generators(seed, rank)
        drawn.append(draw())
    assert drawn[0] == drawn[4]
    assert len({str(values) for values in drawn}) == 4
