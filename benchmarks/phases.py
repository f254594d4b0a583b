"""What a sample of a profiler belongs to. Pure."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple


class Frame(NamedTuple):
    """One address of a stack: the name of its function, and the file of its code."""

    symbol: str
    file: str


# By the name of the system call, without the kernel's prefixes; the first that matches.
_CALLS = (
    ("fsync", r"fsync|fdatasync|sync_file_range"),
    ("network: connect, close", r"socket|connect|setsockopt|getsockopt|getpeername|getsockname|shutdown|close"),
    ("network: send, receive", r"recv|send|read\b|ksys_read|readv"),
    ("file: write", r"write"),
    (
        "file: open, rename, attributes",
        r"open|rename|link|mkdir|stat|xattr|chmod|access|getdents|lseek|fcntl|dup|statfs",
    ),
    ("waiting, waking", r"futex|epoll|poll|select|nanosleep|eventfd|sched_yield"),
    ("threads", r"clone|exit|madvise|mprotect|set_robust_list|rseq|sigaltstack|sigaction|sigprocmask"),
    ("memory", r"mmap|munmap|brk|mremap"),
)
# By the file of the code; the first that matches.
_LIBRARIES = (
    ("TLS", r"libssl|libcrypto|_rust\.abi3|_ssl\.|_openssl"),
    ("checksum", r"zlib|libz|isal"),
    ("messages", r"msgspec|orjson|aiokafka"),
    ("Python", r"libpython|/python3|\.cpython-|_pydantic"),
    ("C library", r"libc\.so|ld-linux|libm\.|\[vdso\]"),
)
_BULK = re.compile(r"aes|gcm|ghash|chacha|poly1305", re.IGNORECASE)
_PREFIX = re.compile(r"^(__)?(x64_|do_|se_|ia32_)*(sys_)?")


def samples(script: str) -> Iterator[tuple[int, list[Frame]]]:
    """Read what `perf script --fields pid,ip,sym,dso` prints: the process and the stack, innermost frame first."""
    for block in script.split("\n\n"):
        head, *rest = block.strip("\n").splitlines() or [""]
        if head.strip().isdigit() and rest:
            yield int(head), [_frame(line) for line in rest]


def _frame(line: str) -> Frame:
    _, _, rest = line.strip().partition(" ")
    symbol, _, file = rest.rpartition(" (")
    return Frame(symbol, file.rstrip(")"))


def part_of(stack: Sequence[Frame]) -> str:
    """Name what a sample was doing: the group of its system call, or of the library it was in."""
    kernel = [frame.symbol for frame in stack if frame.file.startswith("[kernel") or frame.file.startswith("[guest")]
    if kernel:
        return f"kernel: {_call(kernel)}"
    where = stack[0]
    name = next((group for group, pattern in _LIBRARIES if re.search(pattern, where.file)), "other")
    if name == "TLS":
        return "TLS: ciphers" if _BULK.search(where.symbol) else "TLS: handshake, records"
    return name


def _call(kernel: Sequence[str]) -> str:
    """Name the group of a system call from the kernel's frames, innermost first."""
    entry = next(
        (at for at, symbol in enumerate(kernel) if "do_syscall_64" in symbol or "invoke_syscall" in symbol), None
    )
    if entry is None:
        return "page faults" if any("page_fault" in symbol for symbol in kernel) else "interrupts"
    if entry == 0:
        return "entry and exit"
    if kernel[entry - 1].startswith("asm_"):
        return "interrupts"
    call = _PREFIX.sub("", kernel[entry - 1])
    return next((group for group, pattern in _CALLS if re.search(pattern, call)), f"other ({call})")


def modules(lines: Iterable[str]) -> Counter[str]:
    """Count collapsed stacks (`frame;frame;... count`, outermost first) by the module of the innermost frame."""
    counted: Counter[str] = Counter()
    for line in lines:
        stack, _, count = line.rstrip().rpartition(" ")
        counted[_module(stack.rpartition(";")[2])] += int(count)
    return counted


def _module(frame: str) -> str:
    """Shorten `function (path/of/module.py:12)` to the package and module."""
    place = frame.rpartition(" (")[2].rpartition(":")[0]
    path = place.rpartition("site-packages/")[2]
    return path.partition("/")[0] if "site-packages/" in place else path or "other"
