"""One way to look up a preset, and one message for a name that is none."""

import pytest

from posttrain.presets import preset_named


def test_a_preset_is_found_by_name():
    assert preset_named({"ci": 1, "cpu": 2}, "cpu") == 2


def test_an_unknown_name_is_told_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown preset 'gpu'; known .*: ci, cpu"):
        preset_named({"ci": 1, "cpu": 2}, "gpu")
