"""Shards, streams, packing, loading, and the experiment."""

import json
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from posttrain.foundations import data_pipeline_experiment as X
from posttrain.foundations import data_pipeline_loading as loading
from posttrain.foundations import data_pipeline_memorising as R
from posttrain.foundations import data_pipeline_packing as K
from posttrain.foundations.batches import Windows
from posttrain.foundations.data_pipeline_shards import (
    ShardError,
    Shards,
    token_dtype,
    write_shards,
)
from posttrain.foundations.data_pipeline_stream import (
    shuffle_buffer,
    shuffled_documents,
    stream,
)
from posttrain.foundations.language_model import IGNORE, next_token_loss
from posttrain.foundations.modern_architecture import GPT, GPTConfig
from posttrain.foundations.tokenization import char_tokenizer
from posttrain.foundations.training_run import Recipe, Text, make_model, make_trainer

TOKENIZER = char_tokenizer("abcdefgh")  # END is 8
DOCUMENTS = [[i % 8] * (1 + i % 5) for i in range(23)]
FLAT = [token for ids in DOCUMENTS for token in [*ids, 8]]


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "shards", DOCUMENTS, TOKENIZER, shard_tokens=20)
    return tmp_path / "shards"


# -------------------------------------------------------------------------- shards


def test_shards_are_one_array(folder):
    shards = Shards.open(folder, TOKENIZER, verify=True)
    assert len(shards.maps) > 3 and len(shards) == len(FLAT)
    assert all(isinstance(m, np.memmap) for m in shards.maps)
    flat, random = np.array(FLAT), np.random.default_rng(0)
    assert shards[:].tolist() == FLAT and shards.dtype == np.uint16
    for cut in (slice(3, 40), slice(-7, None), slice(50, 3), slice(2, 60, 7)):
        assert shards[cut].tolist() == flat[cut].tolist()
    places = random.integers(-len(flat), len(flat), size=(5, 9))
    assert (shards[places] == flat[places]).all() and shards[places].shape == (5, 9)
    assert shards[19] == flat[19] and shards[-1] == flat[-1]
    for wrong in (len(flat), -len(flat) - 1, np.array([0, 999])):
        with pytest.raises(IndexError, match="is outside of"):
            shards[wrong]
    with pytest.raises(IndexError, match="float"):
        shards[np.array([0.5])]


def test_documents_are_whole_and_in_one_shard(folder):
    shards = Shards.open(folder)
    assert shards.documents == len(DOCUMENTS)
    for i, ids in enumerate(DOCUMENTS):
        assert shards.document(i).tolist() == [*ids, 8]
    parts = [shards.shard_documents(s) for s in range(len(shards.maps))]
    assert [i for part in parts for i in part] == list(range(len(DOCUMENTS)))
    assert all(
        shards.starts[p[0]] == b for p, b in zip(parts, shards.bounds, strict=False)
    )
    with pytest.raises(IndexError, match="document 23"):
        shards.document(23)


def test_windows_take_shards_like_an_array(folder):
    shards, flat = Shards.open(folder), np.array(FLAT)
    for step in range(3):
        for a, b in zip(
            Windows(shards, 4, 9)(step), Windows(flat, 4, 9)(step), strict=True
        ):
            assert torch.equal(a, b)


def test_a_change_to_a_copy_does_not_reach_the_file(folder):
    shards = Shards.open(folder)
    shards[:][:] = 0
    shards[0:3][:] = 0
    assert shards[:].tolist() == FLAT


def test_small_and_large_vocabularies():
    assert (
        token_dtype(2**16) == np.dtype("<u2") and token_dtype(2**16 + 1).itemsize == 4
    )


def test_the_tokenizer_comes_with_the_shards(folder):
    assert Shards.open(folder).tokenizer.to_dict() == TOKENIZER.to_dict()
    with pytest.raises(ShardError, match="written with another tokenizer"):
        Shards.open(folder, char_tokenizer("abc"))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda f: (f / "shard-00001.bin").unlink(), "shard-00001.bin is missing"),
        (lambda f: (f / "shard-00001.bin").write_bytes(b"ab"), "has 2 bytes, its"),
        (lambda f: (f / "starts.bin").write_bytes(b""), "starts.bin has 0 bytes"),
        (lambda f: (f / "manifest.json").unlink(), "is not there; is"),
        (lambda f: (f / "manifest.json").write_text("{"), "is damaged"),
        (lambda f: (f / "manifest.json").write_text("[]"), "is damaged"),
        (lambda f: (f / "manifest.json").write_text("{}"), "format and version"),
    ],
)
def test_damage_is_named(folder, spoil, said):
    spoil(folder)
    with pytest.raises(ShardError, match=said):
        Shards.open(folder)


def test_a_flipped_bit_is_found_by_its_checksum(folder):
    path = folder / "shard-00000.bin"
    content = bytearray(path.read_bytes())
    content[4] ^= 1
    path.write_bytes(content)
    Shards.open(folder)  # the size is right
    with pytest.raises(ShardError, match=r"shard-00000.bin has sha256"):
        Shards.open(folder, verify=True)


def test_a_manifest_that_counts_otherwise_is_refused(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "documents": 9}))
    with pytest.raises(ShardError, match="23 documents, its manifest says"):
        Shards.open(folder)


def test_written_whole_or_not_at_all(tmp_path):
    def breaks():
        yield [1, 2]
        raise RuntimeError("the source went away")

    with pytest.raises(RuntimeError):
        write_shards(tmp_path / "s", breaks(), TOKENIZER, 1)
    with pytest.raises(ShardError, match="document 1 has ids 9 ... 9|ids 8 ... 11"):
        write_shards(tmp_path / "s", [[1], [11]], TOKENIZER, 10)
    with pytest.raises(ShardError, match="no document"):
        write_shards(tmp_path / "s", [], TOKENIZER, 10)
    with pytest.raises(ShardError, match="shard_tokens=0"):
        write_shards(tmp_path / "s", [[1]], TOKENIZER, 0)
    assert list(tmp_path.iterdir()) == []
    write_shards(tmp_path / "s", [[1]], TOKENIZER, 10)
    with pytest.raises(ShardError, match="is there already"):
        write_shards(tmp_path / "s", [[1]], TOKENIZER, 10)


# --------------------------------------------------------------------------- stream


def test_an_epoch_has_every_document_once_in_an_order_of_its_own(folder):
    shards = Shards.open(folder)
    orders = [shuffled_documents(shards, 0, epoch).tolist() for epoch in range(3)]
    assert all(sorted(o) == list(range(23)) for o in orders)
    assert orders[0] != orders[1] != orders[2]
    assert orders[0] == shuffled_documents(shards, 0, 0).tolist()
    inside = [{i for i in shards.shard_documents(s)} for s in range(len(shards.maps))]
    changes = sum(
        next(k for k, p in enumerate(inside) if a in p)
        != next(k for k, p in enumerate(inside) if b in p)
        for a, b in zip(orders[0], orders[0][1:], strict=False)
    )
    assert changes == len(shards.maps) - 1  # one shard after the other


def test_a_stream_can_be_repeated_and_gone_on_with(folder):
    shards = Shards.open(folder)
    whole = [ids.tolist() for ids in stream(shards, 1, 0, buffer=6)]
    assert sorted(whole) == sorted([*ids, 8] for ids in DOCUMENTS)
    assert whole == [ids.tolist() for ids in stream(shards, 1, 0, buffer=6)]
    assert whole[9:] == [i.tolist() for i in stream(shards, 1, 0, buffer=6, start=9)]
    assert whole != [ids.tolist() for ids in stream(shards, 1, 1, buffer=6)]


def test_the_buffer_is_bounded():
    read = []

    def source():
        for i in range(50):
            read.append(i)
            yield i

    order = []
    for item in shuffle_buffer(source(), 8, np.random.default_rng(0)):
        order.append(item)
        assert len(read) - len(order) <= 8
    assert sorted(order) == list(range(50)) != order
    assert all(item <= place + 8 for place, item in enumerate(order))
    assert list(shuffle_buffer("abc", 1, np.random.default_rng(0))) == list("abc")
    with pytest.raises(ValueError, match="size=0"):
        list(shuffle_buffer("abc", 0, np.random.default_rng(0)))


# -------------------------------------------------------------------------- packing


LENGTHS = [3, 9, 1, 6, 12, 4, 4, 2, 20, 5]


@pytest.mark.parametrize("plan", [K.pad_each, K.concatenate, K.best_fit])
def test_every_plan_holds_every_token_once(plan):
    rows = plan(LENGTHS, 8)
    held = [
        (p.document, t) for row in rows for p in row for t in range(p.start, p.stop)
    ]
    assert sorted(held) == [(d, t) for d, n in enumerate(LENGTHS) for t in range(n)]
    assert all(sum(p.stop - p.start for p in row) <= 8 for row in rows)


def test_best_fit_cuts_nothing_that_fits_and_takes_the_tightest_room():
    rows = K.best_fit(LENGTHS, 8)
    assert K.waste(rows, LENGTHS, 8).cut == 0
    assert K.waste(K.concatenate(LENGTHS, 8), LENGTHS, 8).cut > 0
    documents = [[p.document for p in row] for row in K.best_fit([8, 6, 3, 1], 10)]
    assert documents == [[0], [1, 2, 3]]  # first fit would put the last one with 0


def test_best_fit_is_as_good_as_trying_all():
    """The fewest rows for small sets, by enumeration of all assignments."""
    random = np.random.default_rng(0)
    for _ in range(15):
        lengths = random.integers(1, 9, size=6).tolist()
        fewest = min(
            len(set(choice))
            for choice in np.ndindex(*(range(1, 7)))
            if all(
                sum(n for n, c in zip(lengths, choice, strict=True) if c == row) <= 8
                for row in set(choice)
            )
        )
        assert len(K.best_fit(lengths, 8)) <= math.ceil(11 * fewest / 9 + 6 / 9)


def test_waste_by_hand():
    found = K.waste(K.pad_each([2, 5], 4), [2, 5], 4)
    assert found == K.Waste(padding=1 - 7 / 12, cut=0.0, rows=3)
    assert K.waste(K.concatenate([2, 4], 4), [2, 4], 4).cut == 0.5
    with pytest.raises(ValueError, match="T=0"):
        K.best_fit([1], 0)


def test_targets_stay_in_their_document_across_rows():
    documents = [[1, 2, 3, 4, 5], [6, 7]]
    rows = K.pack(documents, 4, K.concatenate([5, 2], 4), pad=9)
    assert rows.tokens.tolist() == [[1, 2, 3, 4], [5, 6, 7, 9]]
    assert rows.targets.tolist() == [[2, 3, 4, 5], [IGNORE, 7, IGNORE, IGNORE]]
    assert rows.documents.tolist() == [[0] * 4, [0, 1, 1, K.PADDING]]
    assert rows.positions.tolist() == [[0, 1, 2, 3], [0, 0, 1, 0]]


def test_packed_logits_equal_separate_ones():
    """The promise of the mask: a document in a row is what it would be alone."""
    torch.manual_seed(0)
    model = GPT(GPTConfig(V=50, T=24, C=32, L=2, H=4, H_kv=2)).eval()
    random = np.random.default_rng(0)
    documents = [random.integers(0, 50, n).tolist() for n in (9, 5, 13, 7, 3)]
    lengths = list(map(len, documents))
    rows = K.pack(documents, 24, K.best_fit(lengths, 24))
    batch = rows.batch(range(len(rows.tokens)))
    with torch.no_grad():
        packed = model(batch.tokens, mask=batch.mask, positions=batch.positions)
        leaky = model(batch.tokens)
        for i, ids in enumerate(documents):
            alone = model(torch.tensor([ids]))[0]
            here = torch.from_numpy(rows.documents == i)
            torch.testing.assert_close(packed[here], alone, rtol=1e-4, atol=1e-5)
        loss = next_token_loss(packed, batch.targets, "sum")
        each = [
            next_token_loss(model(t[:, :-1]), t[:, 1:], "sum")
            for t in (torch.tensor([ids]) for ids in documents)
        ]
    torch.testing.assert_close(loss, sum(each), rtol=1e-5, atol=1e-4)
    assert (leaky - packed).abs().max() > 0.01  # without the mask it is another


# -------------------------------------------------------------------------- loading


def test_prefetch_gives_the_same_batches_in_order():
    windows = Windows(np.arange(500), 2, 8)
    ahead = list(loading.prefetch(windows, 6))
    assert len(ahead) == 6
    for step, batch in enumerate(ahead):
        assert all(torch.equal(a, b) for a, b in zip(batch, windows(step), strict=True))


def test_prefetch_works_while_the_caller_does():
    def slow(step):
        time.sleep(0.02)
        return step

    plain = loading.busy(slow, 10, 0.02, ahead=False)
    ahead = loading.busy(slow, 10, 0.02, ahead=True)
    assert ahead < 0.85 * plain


def test_prefetch_hands_on_errors_and_ends_its_thread():
    def breaks(step):
        if step == 2:
            raise OSError("no disk")
        return step

    before, got = threading.active_count(), []
    with pytest.raises(OSError, match="no disk"):
        for item in loading.prefetch(breaks, 9):
            got.append(item)
    assert got == [0, 1]
    for _ in loading.prefetch(lambda step: step, 1000):
        break
    assert threading.active_count() == before


def test_tokenising_anew_gives_windows_of_documents():
    windows = loading.RetokenisedWindows(["abc", "de"], TOKENIZER, B=3, T=7, seed=1)
    inputs, targets = windows(4)
    assert inputs.shape == targets.shape == (3, 7)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    text = TOKENIZER.decode(inputs[0].tolist(), skip_special=True)
    assert set(text) <= set("abcde")
    assert all(torch.equal(a, b) for a, b in zip(windows(4), windows(4), strict=True))


def test_a_map_costs_no_memory_of_its_own(tmp_path):
    path = tmp_path / "tokens.bin"
    np.zeros(20 * 2**20, dtype="<u2").tofile(path)  # 40 MB: never from the heap
    read = loading.memory_of(path, mapped=False)
    if math.isnan(read["own"]):
        pytest.skip("/proc is not there")
    mapped = loading.memory_of(path, mapped=True)
    assert read["own"] > 30 and mapped["own"] < 4


# ------------------------------------------------------------------------ memorising


def test_plant_puts_each_passage_in_so_often():
    paragraphs = [str(i) for i in range(30)]
    planted = R.plant(paragraphs, ["x", "y"], 4, seed=0)
    assert [p for p in planted if p not in "xy"] == paragraphs
    assert (planted.count("x"), planted.count("y")) == (4, 4)
    assert planted != R.plant(paragraphs, ["x", "y"], 4, seed=1)


def test_passages_are_in_no_other_part():
    text = "\n\n".join(f"paragraph {i} " + "abc " * 20 for i in range(120))
    setup = R.Setup(characters=3000, passages=4, length=40)
    parts = R.cut_parts(text, setup, seed=0)
    assert len(set(parts.repeated + parts.unseen)) == 8
    for passage in parts.repeated + parts.unseen:
        assert len(passage) == 40 and passage in text
        assert passage not in parts.val and passage not in "\n\n".join(parts.train)
    with pytest.raises(ValueError, match="needed are 400"):
        R.cut_parts(text, replace(setup, passages=100), 0)


def test_matching_stops_at_the_first_mistake():
    assert R.matching([1, 2, 9, 4], [1, 2, 3, 4]) == 2
    assert R.matching([1, 2], [1, 2, 3]) == 2 and R.matching([], [1]) == 0


# ------------------------------------------------------------------------ experiment


TINY = X.Preset(
    documents=40,
    copies=4,
    junk=2,
    vocab=300,
    rows=(64,),
    packed=8000,
    seconds=0.01,
    megabytes=(1,),
    times=(1, 3),
    repeated=R.Setup(
        Recipe(depth=1, context=16, T=16, B=2, steps=2, warmup=1), 20_000, 2, 16, 4
    ),
)


@pytest.fixture(scope="module")
def tiny_run():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(X.PRESETS, "tiny", TINY)
        patch.setattr(X, "python_source", lambda n, seed: ['"""A docstring."""\n'])
        return X.run("tiny", 0)


def test_result_holds_what_the_chapter_shows(tiny_run):
    assert json.loads(json.dumps(tiny_run)) == tiny_run
    rows = tiny_run["dedup"]["rows"]
    assert rows[0]["similarity"] == 1 and rows[0]["found"]["14 x 9"] == 1
    assert rows[-1]["similarity"] < 0.5
    assert tiny_run["filters"]["keys"]["any"] == 1
    assert tiny_run["packing"]["speeches"]["rows"][0]["best_fit"]["cut"] == 0
    assert [r["times"] for r in tiny_run["repeated"]] == [1, 3]
    flow = tiny_run["pipeline"]
    dropped = sum(flow["dropped"].values())
    assert flow["documents_in"] == flow["documents_out"] + dropped
    assert flow["tokens_out"] > 0 and 7 <= flow["shards"] <= 10


def test_unknown_presets_name_the_known_ones():
    with pytest.raises(ValueError, match="'big'; known presets: ci, cpu, t4, h200"):
        X.run("big", 0)


def test_the_large_preset_steps_under_fake_tensors():
    assert X.PRESETS["h200"] == X.PRESETS["t4"]
    recipe = replace(X.PRESETS["t4"].repeated.recipe, optimizer="adamw")
    tokens = np.zeros(5000, dtype=np.uint16)
    with FakeTensorMode():
        model = make_model(recipe, 70)
        trainer = make_trainer(recipe, model, Text(TOKENIZER, tokens, tokens, {}))
        shape = (recipe.B, recipe.T)
        batch = (
            torch.zeros(shape, dtype=torch.long),
            torch.zeros(shape, dtype=torch.long),
        )
        loss = trainer.loss(model, batch)
        loss.backward()
    assert all(p.grad.shape == p.shape for p in model.parameters())
