"""Import the engine without holding up the other threads, one of which answers `/ping`.

Measured on 2 cores: of the import's 10 s the longest holds of the interpreter lock are the collector's passes over
everything imported so far (up to 0.7 s each), and loading PyTorch's libraries (0.4 s).
"""

import contextlib
import ctypes
import gc
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

LIBRARIES = ("libtorch_global_deps.so", "libtorch_cpu.so", "libtorch_cuda.so")
"""In the order in which PyTorch's own package loads them; those that are not there are passed over."""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import heavy packages in this context: the garbage collector rests, and never looks at what they left."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        _load_libraries()
        yield
    finally:
        gc.freeze()  # not after a collection: that is what takes so long
        if was_on:
            gc.enable()


def _load_libraries() -> None:
    """Load PyTorch's libraries by a foreign call, which releases the interpreter lock, unlike the import's own."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return
    dlopen = ctypes.CDLL(None).dlopen
    dlopen.argtypes, dlopen.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
    for name in LIBRARIES:
        path = Path(spec.origin).parent / "lib" / name
        flags = os.RTLD_GLOBAL if "global" in name else os.RTLD_LOCAL
        if path.is_file():
            dlopen(os.fsencode(path), os.RTLD_NOW | flags)  # one that fails is reported by the import
