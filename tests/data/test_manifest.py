import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_har.data.counts import count_frames
from lightning_har.data.decode import open_video
from lightning_har.data.manifest import Manifest, Record, check_manifests, sort_names
from lightning_har.data.splits import split_by_group
from lightning_har.errors import DataError


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_path_and_label_are_enough(tmp_path):
    manifest = Manifest.from_csv(write(tmp_path / "a.csv", "path,label\nx/b.mp4,walk\nx/a.mp4,jump\n"))
    assert manifest.class_names == ("jump", "walk")
    assert manifest.num_classes == 2
    assert [(r.id, r.path, r.label) for r in manifest] == [("x/b", "x/b.mp4", 1), ("x/a", "x/a.mp4", 0)]
    assert manifest.file(manifest[0]) == tmp_path / "x/b.mp4"


def test_spreadsheets_are_read(tmp_path):
    text = "path, label,note\r\n a b.mp4 , walk ,x\r\n\r\nc.mp4,jump,y\r\n"
    manifest = Manifest.from_csv(write(tmp_path / "a.csv", text, "utf-8-sig"))
    assert [(r.path, r.label) for r in manifest] == [("a b.mp4", 1), ("c.mp4", 0)]


def test_all_columns_survive_a_round_trip(tmp_path):
    records = (
        Record("one", "a.mp4", 3, 9, 0, "train", "g1", 100, 29.97),
        Record("two", "a.mp4", None, None, 1, "test", None, None, None),
    )
    manifest = Manifest(records, ("jump", "walk"), tmp_path)
    manifest.to_csv(tmp_path / "m.csv")
    again = Manifest.from_csv(tmp_path / "m.csv", class_names=("jump", "walk"))
    assert again == manifest
    assert again.sha256() == manifest.sha256()


def test_heads(tmp_path):
    path = write(tmp_path / "a.csv", "path,verb,noun\na.mp4,cut,egg\nb.mp4,wash,egg\n")
    manifest = Manifest.from_csv(path, heads=("verb", "noun"))
    assert manifest.num_classes == {"verb": 2, "noun": 1}
    assert manifest[1].label == {"verb": 1, "noun": 0}
    manifest.to_csv(tmp_path / "b.csv")
    assert Manifest.from_csv(tmp_path / "b.csv", heads=("verb", "noun")) == manifest
    given_names = {"verb": ("wash", "cut"), "noun": ("pan", "egg")}
    other = Manifest.from_csv(path, heads=("verb", "noun"), class_names=given_names)
    assert other[0].label == {"verb": 1, "noun": 1}
    with pytest.raises(DataError, match=r"class_names must be a list per head \('verb', 'noun'\)"):
        Manifest.from_csv(path, heads=("verb", "noun"), class_names={"verb": ("wash", "cut"), "other": ("egg",)})


def test_stretches_of_one_file_have_their_own_ids(tmp_path):
    manifest = Manifest.from_csv(write(tmp_path / "a.csv", "path,label,start,stop\na.mp4,x,0,5\na.mp4,x,5,\n"))
    assert [r.id for r in manifest] == ["a:0-5", "a:5-"]


def test_files_that_differ_by_suffix_have_their_own_ids(tmp_path):
    manifest = Manifest.from_csv(write(tmp_path / "a.csv", "path,label\na.mp4,x\na.avi,x\nb.avi,x\n"))
    assert [r.id for r in manifest] == ["a.mp4", "a.avi", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,klass\na,b\n", "no column label; its columns are path, klass"),
        ("", "no column path, label"),
        ("path,label\n", "no rows"),
        ("path,label\na,\n", "line 2: a has no label"),
        ("path,label\na,x\na,x\n", "1 ids occur more than once: a"),
        ("path,label\n../a,x\n", "leaves the root"),
        ("path,label\nb/../../a,x\n", "leaves the root"),
        ("path,label\n/etc/passwd,x\n", r"leaves the root .*put files below it \(of a CSV, its own folder\)"),
        ("path,label,start,stop\na,x,5,5\n", "empty stretch"),
        ("path,label,start\na,x,-1\n", "empty stretch"),
        ("path,label,num_frames\na,x,many\n", "num_frames is 'many', not a number"),
        ("path,label,num_frames\na,x,0\n", "num_frames is 0"),
    ],
)
def test_bad_tables_are_named(text, message, tmp_path):
    with pytest.raises(DataError, match=message) as caught:
        Manifest.from_csv(write(tmp_path / "bad.csv", text))
    assert "bad.csv" in str(caught.value)


def test_the_first_offenders_and_their_count(tmp_path):
    rows = "".join(f"{i}.mp4,c{i}\n" for i in range(10))
    path = write(tmp_path / "a.csv", "path,label\n" + rows)
    with pytest.raises(DataError) as caught:
        Manifest.from_csv(path, class_names=("c0", "c1"))
    message = str(caught.value)
    assert "8 of 10 rows" in message
    assert "line 4: unknown label 'c2'" in message
    assert "c4" in message
    assert "c5" not in message


def test_missing_and_binary_tables(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Manifest.from_csv(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"path,label\n\xff\xfe\x00\n")
    with pytest.raises(DataError, match="not a CSV"):
        Manifest.from_csv(tmp_path / "b.csv")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda s: ("path,label,start\n" + s).encode()))
def test_any_bytes_give_a_manifest_inside_its_root_or_a_data_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "a.csv"
    path.write_bytes(data)
    manifest = attempt(lambda: Manifest.from_csv(path))
    if manifest is not None:
        assert len(manifest)
        for record in manifest:
            assert not record.path.startswith(("/", "../"))
            assert record.path != ".."


def attempt(action):
    try:
        return action()
    except DataError:
        return None


def test_labels_that_are_numbers_sort_as_numbers(tmp_path):
    assert sort_names(["10", "9", "1"]) == ("1", "9", "10")
    assert sort_names(["10", "9", "x"]) == ("10", "9", "x")
    path = write(tmp_path / "a.csv", "path,label\na,1\nb,0\n")
    assert [r.label for r in Manifest.from_csv(path, class_names=("jump", "walk"))] == [1, 0]


def manifest_of(root, *paths, split="train", **fields):
    return Manifest(tuple(Record(p, p, label=0, split=split, **fields) for p in paths), ("x",), root)


def test_digest_knows_contents_not_places(tmp_path):
    a, b = manifest_of(tmp_path, "a", "b"), manifest_of(tmp_path / "other", "b", "a")
    assert a.sha256() == b.sha256()
    assert a.sha256() != manifest_of(tmp_path, "a", "c").sha256()
    assert a.sha256() != manifest_of(tmp_path, "a", "b", start=1).sha256()


def test_checks_before_training(tmp_path):
    for name in "abcd":
        (tmp_path / name).write_bytes(b"x")
    check_manifests({"train": manifest_of(tmp_path, "a", "b"), "test": manifest_of(tmp_path, "c")})
    with pytest.raises(DataError, match=r"4 files of the test split.*p; q; r; \.\.\.\. .* in a CSV start"):
        check_manifests({"test": manifest_of(tmp_path, "a", "p", "q", "r", "s")})
    with pytest.raises(DataError, match=r"2 files or groups are in two splits: file a in train and test"):
        check_manifests({"train": manifest_of(tmp_path, "a", "b"), "test": manifest_of(tmp_path, "a", "b", "c")})
    train, val = (manifest_of(tmp_path, name, group="g") for name in "ab")
    with pytest.raises(DataError, match="group g in train and val"):
        check_manifests({"train": train, "val": val})
    with pytest.raises(DataError, match=r"val split .* has no videos"):
        check_manifests({"train": manifest_of(tmp_path, "a"), "val": manifest_of(tmp_path)})
    other = Manifest((Record("b", "b", label=0),), ("y",), tmp_path)
    with pytest.raises(DataError, match="different class names"):
        check_manifests({"train": manifest_of(tmp_path, "a"), "val": other})


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=2, max_size=60),
    st.floats(0.05, 0.6),
    st.integers(0, 1000),
)
def test_groups_are_never_separated(rows, fraction, seed):
    records = [Record(str(i), f"{i}.mp4", label=c, group=f"g{g}") for i, (g, c) in enumerate(rows)]
    if len({r.group for r in records}) < 2:
        with pytest.raises(DataError, match="cannot be split"):
            split_by_group(records, fraction, seed)
        return
    rest, taken = split_by_group(records, fraction, seed)
    assert rest
    assert taken
    assert not {r.group for r in rest} & {r.group for r in taken}
    assert sorted(r.id for r in rest + taken) == sorted(r.id for r in records)
    groups = {c: {g for g, d in rows if d == c} for _, c in rows}
    if all(len(g) > 1 for g in groups.values()):
        assert {r.label for r in rest} == set(groups), "training knows every class"
    assert (rest, taken) == split_by_group(records, fraction, seed)


def test_splits_are_stratified():
    records = [
        Record(f"{c}-{g}-{i}", f"{c}-{g}-{i}", label=c, group=f"{c}-{g}")
        for c, groups in enumerate((30, 12, 3))
        for g in range(groups)
        for i in range(4)
    ]
    for seed in range(5):
        rest, taken = split_by_group(records, 0.2, seed)
        shares = np.bincount([r.label for r in taken]) / np.bincount([r.label for r in records])
        assert np.abs(shares - 0.2).max() < 0.14
        assert {r.label for r in rest} == {0, 1, 2}


def test_many_classes_and_groups_are_not_tried_each_with_each(monkeypatch):
    looks = []
    plain = np.all
    monkeypatch.setattr(np, "all", lambda *args, **options: looks.append(1) or plain(*args, **options))
    records = [Record(str(i), f"{i}.mp4", label=i % 400, group=f"g{i}") for i in range(4000)]
    _, taken = split_by_group(records, 0.1)
    assert 0 < len(looks) < 10 * 4000, "some looks at a group; each class at each would be 1.6 million"
    assert np.bincount([r.label for r in taken]).tolist() == [1] * 400
    tracemalloc.start()
    split_by_group(records, 0.1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 4000 * 4  # a table of groups and classes


def test_a_split_that_was_drawn_stays_the_same():
    records = [Record(str(i), f"{i}.mp4", label=i * i % 23, group=f"g{i // 4}") for i in range(80)]
    taken = {r.group for r in split_by_group(records, 0.3, seed=5)[1]}
    assert taken == {"g1", "g8", "g9", "g12", "g15", "g17"}


def test_frames_are_counted_once(tmp_path, make_video, monkeypatch):
    make_video(tmp_path / "a.mp4", 7)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    opened = []

    def opener(record, threads):
        opened.append(record.path)
        return open_video(tmp_path / record.path, "pyav", threads)

    manifest = manifest_of(tmp_path, "a.mp4", "b.mp4")
    assert [r.num_frames for r in count_frames(manifest, opener)] == [7, None]
    assert [r.fps for r in count_frames(manifest, opener)] == [25, None]
    assert opened.count("a.mp4") == 1
    make_video(tmp_path / "a.mp4", 9)
    assert count_frames(manifest, opener)[0].num_frames == 9
    assert [p.name for p in tmp_path.iterdir() if "csv" in p.name] == []


def test_files_to_predict(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"x")
    name = str(tmp_path / "a.mp4")
    assert [r.id for r in Manifest.from_files([name, name])] == [name, f"{name}#2"]
    with pytest.raises(DataError, match="empty"):
        Manifest.from_files([])
    with pytest.raises(DataError, match="nowhere"):
        Manifest.from_files([tmp_path / "nowhere"])


def test_classes_in_another_order(tmp_path):
    manifest = manifest_of(tmp_path, "a.mp4", "b.mp4")
    records = [replace(r, label=k) for k, r in enumerate(manifest)]
    one = replace(manifest, records=tuple(records), class_names=("clap", "wave"))
    other = one.with_class_order(("wave", "clap"))
    assert [r.label for r in other] == [1, 0]
    assert [other.label_names(r) for r in other] == [one.label_names(r) for r in one]
    assert other.sha256() == one.sha256()
    heads = replace(
        one,
        records=tuple(replace(r, label={"verb": r.label, "noun": 0}) for r in one),
        class_names={"verb": ("open", "shut"), "noun": ("door",)},
    )
    moved = heads.with_class_order({"verb": ("shut", "open"), "noun": ("door",)})
    assert [r.label for r in moved] == [{"verb": 1, "noun": 0}, {"verb": 0, "noun": 0}]
    for names in (("wave", "jump"), ("wave",), {"verb": ("clap", "wave")}):
        with pytest.raises(DataError, match="same classes"):
            one.with_class_order(names)
