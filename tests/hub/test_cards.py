"""The project's cards: complete, honest, the same as upstream's pins; the index made from them."""

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hub_models import tiny

import lightning_har as har
from lightning_har.errors import ConfigError
from lightning_har.hub.convert import converter
from lightning_har.hub.index import index, load_cards, summary
from lightning_har.nets.size import count_parameters
from lightning_har.weights.card import STATUSES, Card, Protocol, Result, Upstream, read_card, render

ZOO = Path(__file__).resolve().parents[2] / "zoo"
UPSTREAM = ZOO.parents[1] / "shared" / "UPSTREAM.json"
CARDS = load_cards(ZOO / "cards")
ASKED_FOR = {
    "i3d-inceptionv1-kinetics400-rgb", "i3d-inceptionv1-kinetics400-flow", "i3d-inceptionv1-kinetics600-rgb",
    "i3d-resnet50-kinetics400", "tsn-resnet50-kinetics400", "bn-inception-imagenet", "s3d-kinetics400",
    "mobilenetv2-quantized-imagenet", "mobilenetv2-gru-ucf101", "mobilenetv2-gru-ucf101-int8", "quickstart",
}  # fmt: skip


def test_every_checkpoint_has_its_card():
    assert set(CARDS) >= ASKED_FOR


def test_the_index_is_what_the_cards_say():
    assert (ZOO / "index.json").read_text() == index(CARDS), (
        "python -m lightning_har.hub.index zoo/cards zoo/index.json"
    )


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_is_complete_and_invents_nothing(card):
    assert card.status in STATUSES
    for text in (card.summary, card.intended_use, card.limitations, card.privacy):
        assert text
    assert "surveillance" in card.privacy
    assert card.license
    assert card.converter or card.recipe
    if card.converter:
        converter(card.converter)
    for file in card.upstream:
        assert file.pinned or not file.url, "an address without a digest"
        if file.url:
            assert file.url.startswith("https://")
            assert card.commit is None or card.commit in file.url
    if card.converter == "int8":
        assert card.base_model in CARDS
    for digest in filter(None, card.sha256.values()):
        assert re.fullmatch("[0-9a-f]{64}", digest)
    if card.status == "convertible":
        assert not any(card.sha256.values())
    if card.status == "published":
        assert card.revision
        assert all(card.sha256.values())
    else:
        assert card.revision is None
    for result in card.results:
        assert result.published, "a measured number needs a protocol"


@pytest.mark.shared
@pytest.mark.skipif(not UPSTREAM.is_file(), reason="needs ../shared/UPSTREAM.json")
def test_pins_are_upstreams():
    for name, told in json.loads(UPSTREAM.read_text()).items():
        if name.startswith("_"):
            continue
        card = CARDS[name]
        if "files" in told:
            assert {f.path: f.git_blob_sha1 for f in card.upstream} == {
                path: pin["git_blob_sha1"] for path, pin in told["files"].items()
            }
            assert card.commit == told["commit"]
            assert all(f.url == f"https://raw.githubusercontent.com/{told['repo']}/{told['commit']}/{f.path}"
                       for f in card.upstream)  # fmt: skip
        else:
            assert [(f.url, f.sha256_prefix) for f in card.upstream] == [(told["url"], told["sha256_prefix"])]
        assert sorted(r.value for r in card.results) == sorted(told.get("published", {}).values())
        if told["license"].startswith("not stated"):
            assert not card.republish
        else:
            assert card.license == told["license"]


def study_e():
    return har.CNNRNNModule(
        101, "mobilenetv2_quant", "gru", hidden=1280, reset="before", head_width=512, pretrained=False
    )


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("i3d-inceptionv1-kinetics400-rgb", lambda: har.I3DModule(400, pretrained=False)),
        ("i3d-inceptionv1-kinetics600-rgb", lambda: har.I3DModule(600, pretrained=False)),
        ("i3d-inceptionv1-kinetics400-flow", lambda: har.I3DModule(400, modality="flow", pretrained=False)),
        ("bn-inception-imagenet", lambda: har.TSNModule(1000, "bn_inception", pretrained=False)),
        ("s3d-kinetics400", lambda: har.S3DModule(400)),
        ("tsn-resnet50-kinetics400", lambda: har.TSNModule(400, "resnet50", pretrained=False)),
        (
            "quickstart",
            lambda: har.CNNRNNModule(
                12, "mobilenetv2_050", "gru", cut_after="blocks.4", hidden=128, batch_norm=False, pretrained=False
            ),
        ),
        (
            "mobilenetv2-quantized-imagenet",
            lambda: har.CNNRNNModule(1001, "mobilenetv2_quant", "avg", pretrained=False),
        ),
        pytest.param("mobilenetv2-gru-ucf101", study_e, marks=pytest.mark.slow),
        pytest.param("mobilenetv2-gru-ucf101-int8", study_e, marks=pytest.mark.slow),
    ],
)
def test_counted_parameters(name, build):
    assert CARDS[name].parameters == count_parameters(build().net)[0]


def test_readme_is_rendered_from_the_record_and_read_back(tmp_path):
    card = Card(
        name="x-1",
        summary="A sentence.",
        license="BSD-3-Clause",
        datasets=("ucf101",),
        base_model="org/base",
        upstream=(Upstream("a.pth", "https://example.org/a.pth", sha256_prefix="abcd1234"),),
        results=(
            Result("UCF101", "top-1", 75.5, "test, fold 1"),
            Result("K", "top-1", 70.0, "val", True, "https://e.org"),
        ),
        protocol=Protocol("UCF101", "test", "f" * 64, 10, "ten", 3, "abc", "a CPU", "1 parameter"),
        intended_use="This.",
        sha256={"model.safetensors": "0" * 64, "config.json": None},
        unverified=True,
    )
    (tmp_path / "README.md").write_text(render(card, address="org/x-1"), encoding="utf-8")
    assert read_card(tmp_path / "README.md") == card
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "bsd-3-clause"
    assert (head["library_name"], head["pipeline_tag"]) == ("lightning-har", "video-classification")
    assert (head["datasets"], head["base_model"]) == (["ucf101"], "org/base")
    ours, theirs = (r["metrics"][0] for r in head["model-index"][0]["results"])
    assert (ours["value"], ours["name"]) == (75.5, "top-1 (measured)")
    assert "not measured here" in theirs["name"]
    for told in (
        "Unverified",
        "surveillance",
        "weak pin",
        "file list sha256: ffff",
        "a CPU",
        "not known yet",
        "org/x-1",
    ):
        assert told in text


def test_a_card_without_weights_or_numbers_says_so():
    text = render(CARDS["quickstart"])
    assert "**No weights yet.**" in text
    assert "Nothing was measured here yet." in text
    measured = (Result("SyntheticActionsDataModule", "top-1", 80.0, "test"),)
    text = render(replace(CARDS["quickstart"], status="built", results=measured))
    assert "No weights yet" not in text
    assert "Nothing was measured" not in text


def test_the_hubs_own_parser_accepts_it(tmp_path):
    from huggingface_hub import ModelCard

    path = tiny().save_pretrained(tmp_path / "m", card=CARDS["tsn-resnet50-kinetics400"])
    data = ModelCard.load(path / "README.md").data
    assert data.library_name == "lightning-har"
    assert data.eval_results[0].metric_value == 74.12


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nstatus: finished\n", "status is 'finished'"),
        ("name: x\ncolour: red\n", "unknown keys: colour"),
        ("name: ../x\n", "cannot be called"),
        ("name: x\nupstream: [3]\n", "mapping is expected"),
        ("name: x\nparameters: many\n", r"parameters is 'many'; expected int \| None"),
        ("name: x\ntask: flying\n", "task is 'flying'; expected one of actions, features, images"),
        ("name: x\ntags: rgb\n", r"tags is 'rgb'; expected tuple\[str, \.\.\.\]"),
        ("name: x\nsha256: {config.json: 3}\n", "sha256 is"),
        ("name: x\ncommit: 2026-11-21\n", "commit is datetime"),
        ("name: x\ncommit: 2026-13-45\n", "not YAML: month"),
        ("name: x\nresults: [{dataset: a, metric: b, value: .nan, split: c}]\n", "results: value is nan"),
        ("name: x\ngolden: &g {a: *g}\n", "aliases"),
        ("- " * 100_000, "nest"),
        ("[" * 100_000, "nest"),
        ("- 1\n", "not a card"),
        ("a: [", "not YAML"),
    ],
)
def test_a_bad_card_is_named(tmp_path, text, told):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told) as refused:
        load_cards(tmp_path)
    assert "x.yaml" in str(refused.value)


def places(values, path=()):
    """Where in nested dicts and lists a value stands, the whole included."""
    yield path
    if isinstance(values, dict | list):
        for key, value in values.items() if isinstance(values, dict) else enumerate(values):
            yield from places(value, (*path, key))


@pytest.mark.parametrize("wrong", [None, True, 3.5, "abc", [[]], [{}], {1: "x"}], ids=repr)
def test_whatever_stands_in_a_card_it_is_read_or_refused_by_name(tmp_path, wrong):
    """What is read can be rendered, read back, and told as JSON."""
    whole = CARDS["mobilenetv2-quantized-imagenet"].to_dict() | {"name": "x", "protocol": {"data": "d", "views": 1}}
    path = tmp_path / "x.yaml"
    for *above, last in filter(None, places(whole)):
        values = copy.deepcopy(whole)
        target = values
        for key in above:
            target = target[key]
        target[last] = wrong
        path.write_text(yaml.safe_dump(values))
        try:
            card = read_card(path)
        except ConfigError as error:
            assert "x.yaml" in str(error)  # noqa: PT017
            continue
        (tmp_path / "README.md").write_text(render(card), encoding="utf-8")
        assert read_card(tmp_path / "README.md") == card
        json.dumps([card.to_dict(), summary(card)], allow_nan=False)
