"""Pickled files are read as data or refused: nothing they name is run."""

import builtins
import contextlib
import datetime
import os
import pathlib
import pickle
import pickletools
import struct
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nwb_calcium_lvm.exceptions import DataError, UnsafeFileError
from nwb_calcium_lvm.io._pickle import ALLOWED, read_array, read_objects, unpickle


def as_npy(path, content: bytes, descr="|O", shape=()):
    """An .npy file of objects around a pickle of our own making."""
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
        file.write(content)
    return path


def text(value: str) -> bytes:
    raw = value.encode()
    return b"\x8c" + struct.pack("<B", len(raw)) + raw


def named(module: str, name: str) -> bytes:
    """Push a global the modern way, which allows dots in names."""
    return text(module) + text(name) + b"\x93"


def called(module: str, name: str, *args: bytes) -> bytes:
    """A pickle that calls a global: REDUCE."""
    return b"\x80\x04" + named(module, name) + b"(" + b"".join(args) + b"tR."


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


DATA = {
    "float": 1.5,
    "int": np.int64(3),
    "float32": np.float32(2.5),
    "text": np.str_("abc"),
    "empty text": np.str_(""),
    "bytes": np.bytes_(b"ab"),
    "flag": np.bool_(True),
    "array": np.arange(6.0).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">f4"),
    "words": np.array(["a", "bcd"]),
    "complex": np.array([1 + 2j]),
    "empty": np.zeros((0, 3), bool),
    "objects": np.array([np.arange(2), None, "x"], dtype=object),
    "nested": {"list": [1, (2, None)], "set": {1, 2}},
    "ordered": OrderedDict(a=1),
    "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
    "how long": datetime.timedelta(seconds=3),
    "linux": pathlib.PurePosixPath("/data/x.tif"),
    "windows": pathlib.PureWindowsPath(r"C:\data\x.tif"),
    "here": pathlib.Path("a") / "b",
}


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_come_back(tmp_path, protocol):
    path = as_npy(tmp_path / "x.npy", pickle.dumps(np.array(DATA, dtype=object), protocol))
    got = read_objects(path)
    assert list(got) == list(DATA)
    for key, value in DATA.items():
        if isinstance(value, np.ndarray):
            # NumPy turns bytes to the machine's order in some protocols.
            assert got[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("="), key
            assert got[key].shape == value.shape, key
            for mine, theirs in zip(got[key].ravel(), value.ravel(), strict=True):
                np.testing.assert_array_equal(mine, theirs)
        else:
            assert got[key] == value, key


def test_paths_of_windows_are_read_here_and_never_concrete():
    parts = b"(" + text("C:\\") + text("data") + b"t"
    for module in ("pathlib", "pathlib._local"):
        path = unpickle(b"\x80\x04" + named(module, "WindowsPath") + parts + b"R.", "x")
        assert path == pathlib.PureWindowsPath("C:\\data")
        assert not isinstance(path, pathlib.Path)
    here = unpickle(pickle.dumps(pathlib.Path("a/b")), "x")
    assert here == pathlib.PurePosixPath("a/b")
    assert not isinstance(here, pathlib.Path)


def test_names_of_old_and_new_numpy_are_read():
    content = pickle.dumps(np.arange(3), 3)
    old = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert old != content
    np.testing.assert_array_equal(unpickle(old, "x"), np.arange(3))


REFUSED = [
    ("builtins", "exec"),
    ("builtins", "eval"),
    ("builtins", "open"),
    ("builtins", "getattr"),
    ("builtins", "setattr"),
    ("builtins", "__import__"),
    ("os", "system"),
    ("posix", "system"),
    ("numpy", "memmap"),
    ("numpy", "fromfile"),
    ("numpy", "load"),
    ("numpy", "ndarray.tofile"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"),
    ("numpy.testing._private.utils", "runstring"),
    ("numpy.f2py.crackfortran", "myeval"),
    ("pathlib", "Path.touch"),
    ("pathlib", "Path.unlink"),
    ("pathlib", "os.system"),
    ("pathlib", "Path.cwd"),
    ("collections", "OrderedDict.fromkeys"),
    ("collections", "_sys.modules"),
    ("datetime", "sys"),
    ("datetime", "datetime.now"),
    ("copyreg", "_reconstructor"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
    ("nwb_calcium_lvm.io._pickle", "unpickle"),
]


@pytest.mark.parametrize(("module", "name"), REFUSED)
def test_names_outside_the_list_are_refused(module, name, tmp_path):
    argument = text(str(tmp_path / "made"))
    modern = called(module, name, argument)
    old = b"\x80\x02c" + module.encode() + b"\n" + name.encode() + b"\n" + b"(" + argument + b"tR."
    instance = b"(" + argument + b"i" + module.encode() + b"\n" + name.encode() + b"\n."
    for content in (modern, old, instance):
        with pytest.raises(UnsafeFileError, match="which is not plain data; it was not run"):
            unpickle(content, "stat.npy")
        path = as_npy(tmp_path / "stat.npy", content)
        with pytest.raises(UnsafeFileError, match=r"stat\.npy"):
            read_objects(path)
    assert not (tmp_path / "made").exists()


def test_objects_that_reduce_to_calls_are_refused(tmp_path):
    made = tmp_path / "made"
    for call in (
        Calls(exec, f"open({str(made)!r}, 'w')"),
        Calls(builtins.open, str(made), "w"),
        Calls(np.memmap, str(made), "u1", "w+", 0, (4,)),
        Calls(pathlib.Path.touch, made),
        Calls(os.system, f"touch {made}"),
        Calls(getattr, pathlib.Path, "touch"),
    ):
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            hidden = np.array([{"med": call}], dtype=object)
            with pytest.raises((UnsafeFileError, DataError)):
                read_objects(as_npy(tmp_path / "x.npy", pickle.dumps(hidden, protocol), shape=(1,)))
    assert not made.exists()


def test_what_may_be_called_cannot_be_altered():
    # BUILD with (None, {name: value}) sets attributes: on a class it would change the class for the whole process.
    for module, name in ALLOWED:
        target = b"\x80\x04" + named(module, name)
        for state in (b"N}" + text("_make") + text("x") + b"s\x86", b"}" + text("__call__") + text("x") + b"s"):
            with pytest.raises(UnsafeFileError, match="alter what it may only call"):
                unpickle(target + state + b"b.", "x")
        with pytest.raises(DataError):
            unpickle(target + b")\x81.", "x")  # NEWOBJ wants a class, and gets none
    assert unpickle(pickle.dumps(np.arange(2)), "x").tolist() == [0, 1]


def test_a_forged_dtype_does_not_reach_numpy():
    """NumPy trusts a dtype's state: a field of objects over plain bytes makes it follow any address."""
    dtype = called("numpy", "dtype", text("V8"))[:-1]
    with pytest.raises(DataError):
        unpickle(dtype + b".", "x")
    real = np.dtype("f8")
    for fields in ((None, ("a",), {"a": (np.dtype("O"), 0)}), ((np.dtype("O"), (1,)), None, None)):
        state = pickle.dumps((3, "|", *fields, 8, 1, 0), 4)[2:-1]
        with pytest.raises(DataError, match="with fields"):
            unpickle(called("numpy", "dtype", text("f8"))[:-1] + state + b"b.", "x")
    with pytest.raises(DataError):  # an array whose dtype is none of ours
        unpickle(
            called("numpy.core.multiarray", "_reconstruct", text("x"))[:-1]
            + pickle.dumps((1, (1,), "f8", False, b"12345678"), 4)[2:-1]
            + b"b.",
            "x",
        )
    assert real == np.dtype("f8")


@pytest.mark.parametrize("spec", ["O", "O8"])
def test_bytes_never_become_objects(spec):
    dtype = called("numpy", "dtype", text(spec))[2:-1]
    eight = b"C\x0812345678"
    for name in ("numpy.core.multiarray", "numpy._core.multiarray"):
        with pytest.raises(DataError, match="scalar of type object"):
            unpickle(called(name, "scalar", dtype, eight), "x")
    with pytest.raises(DataError, match="buffer of objects"):
        unpickle(called("numpy._core.numeric", "_frombuffer", eight, dtype, b"K\x01\x85", text("C")), "x")


def test_old_pickle_of_an_array_of_objects_in_plain_array_place(tmp_path):
    path = as_npy(tmp_path / "F.npy", pickle.dumps(Calls(exec, "raise SystemExit")))
    with pytest.raises(UnsafeFileError, match="nothing of it was run"):
        read_array(path)


def test_damaged_files_say_so(tmp_path):
    path = tmp_path / "F.npy"
    np.save(path, np.arange(100.0))
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(DataError, match="cut short"):
        read_array(path)
    path.write_bytes(b"not an array")
    with pytest.raises(DataError, match=r"not a \.npy file"):
        read_array(path)
    with pytest.raises(DataError, match="no file"):
        read_array(tmp_path / "none.npy")
    np.save(path, {"a": np.arange(100)}, allow_pickle=True)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged or cut short"):
        read_objects(path)
    with pytest.raises(DataError, match="holds a dict"):
        read_objects(as_npy(path, pickle.dumps({})))
    np.save(path, np.zeros((0, 2)))
    assert read_array(path).shape == (0, 2)


def test_plain_arrays_stay_on_disk(tmp_path):
    np.save(tmp_path / "F.npy", np.arange(12, dtype=np.float32).reshape(3, 4))
    F = read_array(tmp_path / "F.npy")
    assert isinstance(F, np.memmap)
    assert not F.flags.writeable
    np.testing.assert_array_equal(F[1], [4, 5, 6, 7])


def test_self_reference_and_depth_do_no_harm():
    loop: list = []
    loop.append(loop)
    got = unpickle(pickle.dumps(loop), "x")
    assert got[0] is got
    deep = b"\x80\x04" + b"(" * 50_000 + b"l" * 50_000 + b"."
    assert isinstance(unpickle(deep, "x"), list)


# -- Random bytes ----------------------------------------------------------------------------------------------------

SEEDS = [pickle.dumps(np.array(DATA, dtype=object), p) for p in (3, 4, 5)] + [
    called(m, n, text("x")) for m, n in REFUSED
]


def harmless_size(content: bytes) -> bool:
    """Whether no opcode asks for a huge memo, which costs memory in any unpickler."""
    try:
        return all(op.name != "LONG_BINPUT" or arg < 10**6 for op, arg, _ in pickletools.genops(content))
    except Exception:
        return b"r" not in content


def loads_or_refuses(content: bytes) -> None:
    assume(harmless_size(content))
    with contextlib.suppress(DataError):
        unpickle(content, "x")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_our_errors(content):
    loads_or_refuses(content)
    loads_or_refuses(b"\x80\x04" + content + b".")


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4), st.data())
@settings(max_examples=300, deadline=None)
def test_altered_pickles_raise_our_errors(seed, changes, data):
    content = bytearray(seed)
    for position, value in changes:
        content[position % len(content)] = value
    cut = data.draw(st.integers(0, len(content)))
    loads_or_refuses(bytes(content if cut % 3 else content[:cut]))


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"\x93NUMPY\x01\x00\x76\x00", b"\x93NUMPY\x02\x00\x76\x00\x00\x00"])
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_headers_raise_our_errors(tmp_path, content, start):
    path = tmp_path / "x.npy"
    path.write_bytes(start + content)
    for read in (read_array, read_objects):
        with pytest.raises(DataError):
            read(path)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@given(st.text("{}[]()'\"|<>OfVi8,: \\descrfortran_oshapeTrueFalse0123456789-+*", max_size=100))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_odd_headers_raise_our_errors(tmp_path, header):
    path = tmp_path / "x.npy"
    raw = header.encode() + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(raw)) + raw)
    with pytest.raises(DataError):
        read_array(path)


@pytest.mark.slow
def test_numpy_itself_would_have_run_it(tmp_path):
    """The attack works where it is not guarded against: else the tests above would prove little."""
    made = tmp_path / "made"
    path = as_npy(tmp_path / "stat.npy", pickle.dumps(Calls(exec, f"open({str(made)!r}, 'w')")))
    subprocess.run([sys.executable, "-c", f"import numpy; numpy.load({str(path)!r}, allow_pickle=True)"], check=True)
    assert made.exists()
