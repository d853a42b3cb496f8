import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vidapt.engine.state import join_state, split_state

plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
trees = st.recursive(
    plain,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(trees)
def test_plain_trees_survive_json(tree):
    split, tensors = split_state(tree)
    assert tensors == {}
    assert join_state(json.loads(json.dumps(split)), {}) == tree


def test_tensors_keep_their_place_and_type():
    state = {"a": [torch.arange(3), (torch.tensor(True), 2)], 7: {"b": torch.zeros(0)}}
    split, tensors = split_state(state)
    joined = join_state(json.loads(json.dumps(split)), tensors)
    assert list(joined) == ["a", 7]
    assert torch.equal(joined["a"][0], torch.arange(3))
    assert isinstance(joined["a"][1], tuple)
    assert joined["a"][1][0].dtype == torch.bool
    assert joined[7]["b"].shape == (0,)


@pytest.mark.parametrize("value", [{"a": [1, object()]}, {"a": [1, {1, 2}]}])
def test_other_values_are_refused_with_their_place(value):
    with pytest.raises(TypeError, match=r"state\.a\.1 is a"):
        split_state(value)


def test_other_keys_are_refused():
    with pytest.raises(TypeError, match=r"state has the key \(1, 2\)"):
        split_state({(1, 2): 3})
