"""Files of PyTorch read without PyTorch: what torch.load reads, and nothing that it would run."""

import io
import pickle
import time
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch_or_skip as torch
from checkpoints import read_file
from hypothesis import given, settings
from hypothesis import strategies as st

from mixvpr_jax.conversion.formats import read_checkpoint
from mixvpr_jax.errors import InputError

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32]
DTYPES += [torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.uint16]
DTYPES += [torch.uint32, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.ckpt"


def bits(array):
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).tolist()


def require_same(read, tensors):
    """Names, shapes and bits."""
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        array, tensor = read[name], tensor.detach().contiguous()
        assert array.shape == tensor.shape
        assert bits(array) == tensor.view(-1).view(torch.uint8).tolist() if tensor.numel() else True
        if tensor.dtype not in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
            assert array.dtype == tensor.numpy().dtype


def views(tensor):
    return {
        "whole": tensor,
        "turned": tensor.T,
        "cut": tensor[1:, ::2],
        "expanded": tensor[:1].expand(3, -1),
        "one": tensor[0, 0],
        "none": tensor[:0],
        "parameter": torch.nn.Parameter(tensor, requires_grad=tensor.is_floating_point()),
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_of_any_type_and_stride(path, dtype, zipped):
    tensors = views(torch.arange(12).reshape(3, 4).to(dtype))
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    require_same(read_file(path), tensors)
    if zipped:  # torch.load does not read the newer types in the older format
        require_same(read_file(path), torch.load(path, weights_only=True))


@pytest.mark.parametrize("zipped", [True, False])
def test_signs_that_lie_beside_a_tensor(path, zipped):
    """PyTorch negates such a tensor, if a complex one was conjugated, when it is read."""
    conjugated = torch.complex(torch.ones(3), torch.ones(3)).conj().imag
    assert conjugated.is_neg()
    torch.save({"conv1.weight": conjugated}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match="signs reversed; save a clone of it"):
        read_checkpoint(path)


def test_older_files_whose_end_was_never_written(path):
    """Before each storage lies its number of elements; zips have checksums."""
    tensors = {f"layer.{i}.weight": torch.ones(5, 3).to(dtype) for i, dtype in enumerate(DTYPES)}
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    require_same(read_file(path), tensors)
    whole = path.read_bytes()
    for zeros in (200, 600):  # a storage takes 128 at most
        path.write_bytes(whole[:-zeros] + bytes(zeros))
        with pytest.raises(InputError, match=r"found a truncated .*\(0 elements where .* expected"):
            read_checkpoint(path)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 4), max_size=4), min_size=1, max_size=4),
    st.booleans(),
    st.integers(2, 5),
)
def test_whatever_is_saved_comes_back(tmp_path_factory, shapes, zipped, protocol):
    path = tmp_path_factory.getbasetemp() / "any.pt"
    tensors = {f"layer.{i}.weight": torch.randn(shape) for i, shape in enumerate(shapes)}
    options = {"_use_new_zipfile_serialization": zipped, "pickle_protocol": protocol}
    torch.save({"state_dict": OrderedDict(tensors), "epoch": 3}, path, **options)
    require_same(read_file(path)["state_dict"], tensors)


def test_what_a_lightning_checkpoint_holds_besides(path):
    state = torch.nn.BatchNorm1d(2).state_dict()
    others = {
        "epoch": 7,
        "lr": 0.5,
        "none": None,
        "flags": [True, False],
        "large": 10**40,
        "milestones": Counter([5, 10]),
        "size": torch.Size([1, 2]),
        "betas": (0.9, 0.999),
        "bytes": b"abc\xff",
        "set": {1, 2},
        "complex": 1 + 2j,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "optimizer_states": [{"state": {0: {"momentum_buffer": torch.ones(3)}}}],
    }
    torch.save({**others, "state_dict": state}, path)
    read = read_file(path)
    require_same(read["state_dict"], state)
    plain = others.keys() - {"device", "dtype", "optimizer_states"}
    assert {name: read[name] for name in plain} == {name: others[name] for name in plain}
    assert (read["device"], read["dtype"]) == ("cpu", np.float16)


def test_only_what_is_asked_for_is_read(path):
    """An optimizer's tensors stay in the file."""
    torch.save({"state_dict": {"a": torch.ones(2)}, "optimizer": {"b": torch.ones(2)}}, path)
    read = read_file(path)
    assert isinstance(read["state_dict"]["a"], np.ndarray)
    assert not isinstance(read["optimizer"]["b"], np.ndarray)


def archive(path, **entries):
    """A small checkpoint, with other entries or others in their place; None leaves one out."""
    stream = io.BytesIO()
    torch.save({"conv1.weight": torch.arange(16.0)}, stream)
    with zipfile.ZipFile(stream) as whole, zipfile.ZipFile(path, "w") as changed:
        names = {info.filename.partition("/")[2]: whole.read(info) for info in whole.infolist()}
        for name, content in (names | entries).items():
            if content is not None:
                changed.writestr(f"archive/{name}", content)
        pickled = names["data.pkl"]
    return pickled


def refused(path, message):
    with pytest.raises(InputError, match=f"model.ckpt: expected .*{message}") as raised:
        read_checkpoint(path)
    assert str(raised.value).isprintable()


def test_a_changed_bit_is_noticed(path):
    torch.save({"conv1.weight": torch.ones(1000)}, path)
    content = bytearray(path.read_bytes())
    content[content.index(b"\x00\x00\x80\x3f" * 100) + 200] ^= 16
    path.write_bytes(content)
    refused(path, "truncated or foreign file .*Bad CRC-32 for file 'model/data/0'")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"data/0": bytes(60)}, "60 bytes of 64"),
        ({"data/0": None}, "no item named 'archive/data/0'"),
        ({"data.pkl": None}, "an archive with 0 data.pkl"),
        ({"data.pkl": b""}, "a pickle that is broken"),
        ({"data.pkl": b"\x80\x02K\x05."}, "a dictionary of tensors, found int"),
        ({"constants.pkl": b"x"}, "a TorchScript archive; save the model's state_dict"),
        ({"archive_format": b"pt2"}, "a torch.export archive; save the model's state_dict"),
        ({"byteorder": b"big"}, "numbers in the order of another machine"),
    ],
)
def test_archives_that_are_none(path, entries, message):
    archive(path, **entries)
    refused(path, message)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_called_so(path):
    """PyTorch compresses the code in it."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), path)
    refused(path, "a TorchScript archive; save the model's state_dict")


def test_archives_that_grow(path):
    """A thousand times smaller outside than inside, or twice the same inside."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as changed:
        changed.writestr("archive/data/0", bytes(10**6))
    refused(path, "an archive that is compressed, as none of PyTorch is")
    with zipfile.ZipFile(path, "w") as changed:
        for _ in range(2):
            with pytest.warns(UserWarning) if _ else torch.no_grad():
                changed.writestr("archive/data/0", b"0")
    refused(path, "an archive that holds more than the file")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"K\x10\x85", b"K\x11\x85", r"a tensor \[17\] in 16 elements"),
        (b"K\x10tq", b"K\x0ftq", "64 bytes of 60"),
        (b"K\x00K\x10\x85", b"K\x01K\x10\x85", r"a tensor \[16\] in 16 elements"),
        (b"K\x10\x85", b"J\xff\xff\xff\xff\x85", "a pickle that is broken"),
        (b"K\x10\x85q\x08K\x01\x85", b"K\x11\x85\x8a\x08" + bytes(7) + b"\x04\x85", "a tensor"),
        (b"K\x10\x85q\x08K\x01\x85", b"J\x00\x00\x00\x40\x85K\x00\x85", "bytes in a file of"),
        (b"torch\nFloatStorage", b"torch\nQInt8Storage", "code in it.*torch.QInt8Storage"),
        (b"_rebuild_tensor_v2", b"_rebuild_qtensor", "code in it.*_rebuild_qtensor"),
        (b"collections\nOrderedDict", b"builtins\nbytearray", "code in it.*builtins.bytearray"),
        (b"collections\nOrderedDict", b"os\nsystem", "not executed: os.system"),
    ],
)
def test_pickles_that_say_too_much(path, old, new, message):
    pickled = archive(path)
    assert old in pickled
    archive(path, **{"data.pkl": pickled.replace(old, new, 1)})
    refused(path, message)


def test_keys_that_would_take_forever(path):
    """A tuple of two of itself, sixty times over: 2^60 to hash, or to show."""
    nested = b")" + b"".join(b"q\x01h\x01\x86" for _ in range(60))
    for pickled in (b"\x80\x02}" + nested + b"K\x01s.", b"\x80\x02}K\x01" + nested + b"s."):
        archive(path, **{"data.pkl": pickled})
        start = time.monotonic()
        refused(path, "")
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("legacy", [True, False])
def test_views_begin_where_they_begin(path, legacy):
    """Storages that are parts of another's, as the older format lists them."""
    whole = torch.arange(12.0)
    tensors = {"head": whole[:4], "tail": whole[5:], "middle": whole[3:9].reshape(2, 3).T}
    torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)
    require_same(read_file(path), tensors)


def test_storages_that_begin_within_another(path):
    """What PyTorch before 0.4 wrote of a view: the storage's own place in a larger one."""
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        stream.write(pickle.dumps(part, 2))
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x08"
    view = b"(X\x01\x00\x00\x001K\x03K\x04t"  # four elements, from the third on
    tensor = b"ctorch._utils\n_rebuild_tensor\n(%s%stQK\x01K\x03\x85K\x01\x85tR"
    stream.write(b"\x80\x02}X\x01\x00\x00\x00a" + tensor % (storage, view) + b"s.")
    stream.write(pickle.dumps(["0"], 2))
    stream.write((8).to_bytes(8, "little") + np.arange(8, dtype=np.float32).tobytes())
    path.write_bytes(stream.getvalue())
    assert read_file(path)["a"].tolist() == [4, 5, 6]


class Reach:
    """Calls what it likes when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(2, 6))
def test_code_is_named_and_not_run(path, tmp_path, protocol):
    made = tmp_path / "made"
    content = {"conv1.weight": torch.ones(1), "other": Reach(type(made).touch, made)}
    for zipped in (True, False):
        torch.save(content, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        refused(path, "a pickle with code in it, which was not executed: ")
    path.write_bytes(pickle.dumps(content["other"], protocol))
    refused(path, "code in it")
    assert not made.exists()
