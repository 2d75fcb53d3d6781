"""A hundred samples: drawn alike, judged by counts that can be done by hand."""

import pytest
import torch

from posttrain.foundations import modern_architecture_samples as samples
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.tokenization import char_tokenizer
from posttrain.foundations.transformer_experiment import longest_copy

LETTERS = char_tokenizer("abc de\n")


def tiny_model():
    torch.manual_seed(0)
    return GPT(GPTConfig(V=LETTERS.vocab_size, T=32, C=16, L=2, H=2, H_kv=1)).eval()


def test_the_seed_decides_the_texts():
    drawn = [samples.draw(tiny_model(), LETTERS, 3, 20, seed=s) for s in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 3 and drawn[0][0] != drawn[0][1]
    with pytest.raises(ValueError, match="32"):
        samples.draw(tiny_model(), LETTERS, 1, 32)


def test_a_window_hides_what_lies_behind_it_in_every_layer():
    model, tokens = tiny_model(), torch.arange(12)[None] % LETTERS.vocab_size
    near, other = samples.windowed(model, 4), tokens.clone()
    other[0, 0] = 5
    with torch.no_grad():
        torch.testing.assert_close(near(tokens)[:, :4], model(tokens)[:, :4])
        moved = (near(tokens) - near(other)).abs().amax(-1)[0] > 0
        assert (model(tokens) - model(other)).abs().amax(-1)[0].gt(0).all()
    assert moved.tolist() == [True] * 7 + [False] * 5  # two layers reach 3 back each


def test_judged_by_hand():
    source = "the cat sat on the mat and the dog sat on the cat"
    texts = ["x the cat sat or zat the cat y", "x the dog zog zig zag the cat y"]
    found = samples.judge(texts, source, part=15)
    # Without the first and last word of each piece, which may be cut: the cat sat,
    # the dog zog; zat the cat, zag the.
    assert found["real"] == [5 / 6, 3 / 5]
    assert found["distinct"] == 10 / 12  # "the cat" three times
    assert found["different"] == 2 and found["copied"] == "the cat sat o"
    assert samples.judge(["a b c"] * 3, source, part=5)["different"] == 1


@pytest.mark.parametrize(
    ("texts", "source"),
    [
        (["xxthe catyy", "hat's"], "in the cat's hat"),
        (["zz"], "abc"),
        (["abc"], "abc"),
        (["", "b"], "abc"),
    ],
)
def test_longest_copy_agrees_with_the_search_by_end(texts, source):
    found = samples.longest_copied(texts, source)
    assert found in source and any(found in text for text in texts)
    assert len(found) == max(longest_copy(text, source) for text in texts)


def test_pieces_are_evenly_spaced():
    assert samples.pieces("abcdefghij", 3, 2) == ["ab", "de", "gh"]
    with pytest.raises(ValueError, match="need 12, the text has 10"):
        samples.pieces("abcdefghij", 3, 4)
