"""Key exchanges that OpenSSL knows and Python's `ssl` has no word for, such as X25519MLKEM768.

`SSLContext.set_ecdh_curve` takes curves alone; `set_groups` comes with Python 3.15. Until then OpenSSL
itself is asked, as `SSL_CTX_set1_groups_list` would. An SSLContext is an object header, then its `SSL_CTX *`
(PySSLContext in Modules/_ssl.c, the same in CPython 3.11 to 3.14).
"""

import ssl
import sys
from typing import Final

_SSL_CTRL_SET_GROUPS_LIST: Final = 92


def set_groups(context: ssl.SSLContext, groups: str) -> None:
    """Have `context` offer these groups alone, in OpenSSL's words, a colon between two.

    Raises:
        ValueError: this OpenSSL does not know them, or this Python is none that is known here.
    """
    if hasattr(context, "set_groups"):
        try:
            context.set_groups(groups)
        except ssl.SSLError as error:
            raise ValueError(str(error)) from error
        return
    if sys.implementation.name != "cpython" or ssl.OPENSSL_VERSION_INFO < (3, 5):
        raise ValueError(f"no way to choose {groups}")
    _set_by_openssl(context, groups)


def _set_by_openssl(context: ssl.SSLContext, groups: str) -> None:
    import _ssl  # noqa: PLC0415  # with ctypes 1 MB, which a policy that is seldom chosen alone pays
    import ctypes  # noqa: PLC0415

    library = ctypes.CDLL(getattr(_ssl, "__file__", None))  # finds what it was linked with
    pointer = ctypes.c_void_p.from_address(id(context) + object.__basicsize__)
    library.SSL_CTX_get_options.restype = ctypes.c_uint64
    if pointer.value is None or library.SSL_CTX_get_options(pointer) != int(context.options):
        raise ValueError("an SSLContext of another shape")
    library.SSL_CTX_ctrl.argtypes = ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_char_p
    library.SSL_CTX_ctrl.restype = ctypes.c_long
    if library.SSL_CTX_ctrl(pointer, _SSL_CTRL_SET_GROUPS_LIST, 0, groups.encode()) != 1:
        raise ValueError(f"OpenSSL does not know {groups}")
