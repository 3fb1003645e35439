"""Weights files: what torch writes is read without it, and nothing else gets in."""

from __future__ import annotations

import io
import struct
import sys
import zipfile

import numpy as np
import pytest

from pyimgano.backbones._state_dict import read_state_dict
from pyimgano.exceptions import MissingExtraError, WeightsError

# --- files put together by hand: no torch needed -------------------------------------------


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def sequence(values) -> bytes:
    return b"(" + b"".join(number(one) for one in values) + b"t"


def tensor(
    key="0", n=6, offset=0, shape=(2, 3), strides=(3, 1), storage="FloatStorage", module="torch"
) -> bytes:
    """Pickle of a tensor as torch writes it."""
    kept = b"(" + text("storage") + f"c{module}\n{storage}\n".encode() + text(key)
    kept += text("cpu") + number(n) + b"tQ"
    what = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return what + kept + number(offset) + sequence(shape) + sequence(strides) + b"\x89NtR"


def write(path, tensors: dict[str, bytes], storages: dict[str, bytes], **records: bytes):
    content = b"".join(text(name) + value for name, value in tensors.items())
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + content + b"u.")
        for key, values in storages.items():
            archive.writestr(f"archive/data/{key}", values)
        for key, values in records.items():
            archive.writestr(f"archive/{key}", values)
    return path


SIX = np.arange(6, dtype="<f4").tobytes()


def test_a_file_is_read_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = write(
        tmp_path / "net.pth",
        {"a": tensor(), "turned": tensor(shape=(3, 2), strides=(1, 3)),
         "part": tensor(offset=4, shape=(2,), strides=(1,)),
         "one": tensor(offset=5, shape=(), strides=())},
        {"0": SIX},
        byteorder=b"little",
    )  # fmt: skip
    state = read_state_dict(path)
    assert list(state) == ["a", "turned", "part", "one"]
    np.testing.assert_array_equal(state["a"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(state["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(state["part"], [4, 5])
    assert state["one"] == 5
    assert state["a"].dtype == np.float32 and not state["a"].flags.writeable


@pytest.mark.parametrize(
    "claim",
    [
        {"shape": (3, 3)},
        {"offset": 1},
        {"offset": -1},
        {"shape": (2, -3)},
        {"strides": (3, -1)},
        {"strides": (3,)},
        {"strides": (10**6, 1)},
        {"shape": (10**9, 10**9), "strides": (0, 0)},
        {"n": 7},
        {"key": "1"},
        {"storage": "DoubleStorage"},
    ],
    ids=str,
)
def test_no_tensor_reaches_beyond_its_storage(tmp_path, claim):
    path = write(tmp_path / "net.pth", {"a": tensor(**claim)}, {"0": SIX})
    with pytest.raises(WeightsError, match=r"net\.pth cannot be read as network weights"):
        read_state_dict(path)


def test_a_tensor_is_no_storage_of_another(tmp_path):
    inner = tensor(shape=(10**6,), strides=(0,))
    outer = b"ctorch._utils\n_rebuild_tensor_v2\n(" + inner + number(0) + sequence((10**6,))
    outer += sequence((1,)) + b"\x89NtR"
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + number(3) + b"\x89NtR"
    for pickled in (outer, parameter):
        path = write(tmp_path / "net.pth", {"a": pickled}, {"0": SIX})
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(path)


@pytest.mark.parametrize(
    "target",
    [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n", tensor()],
)
def test_attributes_are_set_of_nothing_but_dicts(tmp_path, monkeypatch, target):
    monkeypatch.setitem(sys.modules, "torch", None)
    state = b"N}" + text("__defaults__") + b"(" + number(7) + b"ts\x86b"  # (None, {name: value})
    path = write(tmp_path / "net.pth", {"a": target + state}, {"0": SIX})
    with pytest.raises(MissingExtraError):
        read_state_dict(path)


def test_compressed_members_are_left_to_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    path = tmp_path / "net.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}(" + text("a") + tensor() + b"u.")
        archive.writestr("archive/data/0", SIX)
    with pytest.raises(MissingExtraError):
        read_state_dict(path)


@pytest.mark.parametrize(
    "stranger",
    [
        b"cbuiltins\nprint\n(" + text("this code must not run") + b"tR",
        tensor(module="os", storage="system"),
        tensor(storage="QInt8Storage"),
        b"cnumpy\nndarray\n)R",
    ],
)
def test_other_objects_are_left_to_torch_which_refuses_code(
    tmp_path, monkeypatch, capsys, stranger
):
    path = write(tmp_path / "net.pth", {"a": stranger}, {"0": SIX})
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"reading net\.pth, no plain file of tensors"):
        read_state_dict(path)
    assert capsys.readouterr().out == ""


def test_another_order_of_bytes_is_left_to_torch(tmp_path, monkeypatch):
    path = write(tmp_path / "net.pth", {"a": tensor()}, {"0": SIX}, byteorder=b"big")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError):
        read_state_dict(path)


@pytest.mark.parametrize("kept", [3, 30, 200])
def test_a_file_cut_short_is_damaged(tmp_path, monkeypatch, kept):
    path = write(tmp_path / "net.pth", {"a": tensor()}, {"0": SIX})
    path.write_bytes(path.read_bytes()[:kept])
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(WeightsError, match=r"net\.pth cannot be read"):
        read_state_dict(path)


def test_a_changed_byte_is_noticed(tmp_path):
    path = write(tmp_path / "net.pth", {"a": tensor()}, {"0": SIX})
    content = bytearray(path.read_bytes())
    content[content.index(SIX) + 5] ^= 1  # the archive has a checksum
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(path)


def test_an_archive_of_something_else(tmp_path):
    np.savez(tmp_path / "file.npz", a=np.zeros(3))
    with pytest.raises(WeightsError, match="cannot be read"):
        read_state_dict(tmp_path / "file.npz")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        read_state_dict(tmp_path)


# --- files that torch writes ---------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="reads what torch.save writes")


def saved(torch, content, path, **options):
    torch.save(content, path, **options)
    return path


def test_every_kind_of_tensor(torch, tmp_path, monkeypatch):
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {
        "plain": base,
        "transposed": base.permute(2, 0, 1),
        "sliced": base[1, :, ::2],
        "expanded": torch.ones(1).expand(5),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3),
        "parameter": torch.nn.Parameter(torch.tensor([1.5, 2.5])),
        **{str(kind): torch.ones(2).to(kind) for kind in (
            torch.float64, torch.float16, torch.int32, torch.int16, torch.int8, torch.uint8,
            torch.bool,
        )},
    }  # fmt: skip
    path = saved(torch, state, tmp_path / "state.pth")
    expected = {name: value.detach().numpy() for name, value in state.items()}
    monkeypatch.setattr(torch, "load", None)  # not needed
    found = read_state_dict(path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_a_modules_own_state_plain_and_wrapped(torch, tmp_path):
    module = torch.nn.BatchNorm1d(3)
    for content in (module.state_dict(), {"epoch": 3, "state_dict": module.state_dict()}):
        found = read_state_dict(saved(torch, content, tmp_path / "state.pth"))
        assert list(found) == list(module.state_dict())
        np.testing.assert_array_equal(found["running_var"], np.ones(3))


def test_bfloat16_becomes_float32(torch, tmp_path):
    values = torch.tensor([1.0, 2.5, -3.0])
    path = saved(torch, {"a": values.bfloat16()}, tmp_path / "state.pth")
    found = read_state_dict(path)["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values)


def test_the_format_before_2020(torch, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", None)  # not needed
    base = torch.arange(24.0).reshape(2, 3, 4)
    state = {"a": torch.arange(3.0), "t": base.permute(2, 0, 1), "s": base[1, :, ::2]}
    state |= {"same": base, "n": torch.tensor(3), "half": torch.ones(2).half()}
    path = saved(
        torch, state, tmp_path / "state.pth", _use_new_zipfile_serialization=False
    )  # fmt: skip
    found = read_state_dict(path)
    assert list(found) == list(state)
    for name, value in state.items():
        assert found[name].dtype == value.numpy().dtype
        np.testing.assert_array_equal(found[name], value)
    wrapped = {"state_dict": state}
    saved(torch, wrapped, path, _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_state_dict(path)["a"], [0, 1, 2])
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 200, len(whole) // 2):
        path.write_bytes(whole[:kept])
        with pytest.raises(WeightsError, match="cannot be read"):
            read_state_dict(path)


class _Evil:
    def __reduce__(self):
        return print, ("this code must not run",)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, not a state dict"),
        ({}, "holds a dict, not a state dict"),
        ({"epoch": 3}, "'epoch' is no tensor"),
        (_Evil(), "could run code"),
    ],
)
def test_other_content_is_refused(torch, tmp_path, capsys, content, message, zipped):
    path = tmp_path / "file.pth"
    saved(torch, content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=message):
        read_state_dict(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kept", [0, 1, 50, 500])
def test_damaged_file(torch, tmp_path, kept):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(100)}, buffer)
    (tmp_path / "file.pth").write_bytes(buffer.getvalue()[:kept])
    with pytest.raises(WeightsError, match=r"file\.pth"):
        read_state_dict(tmp_path / "file.pth")
