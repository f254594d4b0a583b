"""Reading from TLS where the bytes are wanted: pyOpenSSL's `recv_into` takes a buffer for each record and copies it.

A fifth of all that a large file costs. This module alone knows pyOpenSSL's insides: `_ssl` and `_raise_ssl_error`.
"""

from __future__ import annotations

from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from dcalqr.dcache.channel import NOTHING_YET

_lib, _ffi = Binding.lib, Binding.ffi
_RECORD_BYTES = 16 * 1024


class Decrypting(SSL.Connection):
    """One of pyOpenSSL's; `decrypt_into` instead of `recv_into`."""

    _ended = False

    def decrypt_into(self, view: memoryview) -> int:
        """Read what is there, as long as there is room for a whole record; as `Channel.receive`, but raises SSL.Error.

        The view is not empty: OpenSSL would take a read of nothing for the end.

        So who asks for a header gets one record and does not meet the connection's end in the same call: OpenSSL takes
        a session for broken whose end came without notice, and it is remembered only after the header.
        """
        filled: int = 0
        # Given back whatever happens: Python 3.11 crashes when it has to collect a memoryview that C still looks at,
        # as in the traceback of an error that somebody keeps.
        with _ffi.from_buffer(view, require_writable=True) as target:
            while not self._ended and (filled == 0 or len(view) - filled >= _RECORD_BYTES):
                count = _lib.SSL_read(self._ssl, target + filled, len(view) - filled)
                if count > 0:
                    filled += count
                    continue
                try:
                    self._raise_ssl_error(self._ssl, count)
                except SSL.WantReadError:
                    return filled or NOTHING_YET
                except SSL.ZeroReturnError:
                    self._ended = True
                except SSL.SysCallError as error:
                    if code_of(error):
                        raise
                    self._ended = True  # as without TLS: Content-Length tells whether it came too early
        return filled


def code_of(error: SSL.SysCallError) -> int:
    """Give the errno; 0: TCP has ended, TLS has not."""
    code: int = error.args[0]
    return max(0, code)
