"""Memory that processes of a machine share, so that what `torchrun` or a data loader starts holds decoded images once.

All of them map one file, which has no name any more once they have opened it: nothing is left of it when they end, or
are killed. Where that fails each has its own memory.
"""

import contextlib
import ctypes
import logging
import mmap
import os
import platform
import tempfile
import uuid
import weakref
from multiprocessing import context, reduction
from typing import Any, NamedTuple

import pyarrow as pa
import torch
import torch.distributed as dist


logger = logging.getLogger(__name__)

IN_MEMORY = "/dev/shm"  # Linux; in containers often 64 MB


class SharedBytes(NamedTuple):
    """Bytes, zero at first, and which of how many processes this is that have them in common.

    Processes that are started with them (spawn, forkserver: the workers of a data loader on macOS, Windows and with
    Python 3.14) map the same file. torch would copy the bytes into /dev/shm once, for each process of `torchrun`; it
    still does where there is no file.
    """

    content: torch.Tensor
    process: int = 0
    processes: int = 1
    together: bool = False  # with processes of other machines too
    descriptor: int | None = None  # of the file, open as long as `content` lives

    def __reduce__(self) -> Any:
        if self.descriptor is None or context.get_spawning_popen() is None:
            return SharedBytes, (*self[:-1], None)
        return _attached, (reduction.DupFd(self.descriptor), len(self.content))

    def wait(self, failed: bool = False) -> bool:
        """Wait until all processes that train together come here too, and return whether one of them failed."""
        return any(_gathered(failed)) if self.together else failed


def allocate(size: int, shared: bool = False) -> SharedBytes:
    """Return new bytes.

    Args:
        size: Their number.
        shared: One memory for all processes of this machine that train together; all of them call this, with the same
            arguments.
    """
    _return_freed()
    together = shared and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if together:
        # Like all that follow, a call that waits for all processes.
        machines, rank = _gathered((platform.node(), uuid.getnode())), dist.get_rank()
        peers = [other for other, machine in enumerate(machines) if machine == machines[rank]]
        descriptor = _common_file(size, peers[0], len(peers) > 1)
        if descriptor is not None:
            return _mapped(descriptor, size)._replace(
                process=peers.index(rank), processes=len(peers), together=together
            )
    return _own(size)._replace(together=together)


def _own(size: int) -> SharedBytes:
    """Return bytes of this process, and of those it starts with them."""
    if size and hasattr(os, "memfd_create"):  # Linux
        with contextlib.suppress(OSError):
            descriptor = os.memfd_create("omni_vision_images_")
            os.truncate(descriptor, size)
            return _mapped(descriptor, size)
    return SharedBytes(torch.zeros(size, dtype=torch.uint8))


def _mapped(descriptor: int, size: int) -> SharedBytes:
    """Map an open file, which is closed with the last reference to the bytes."""
    content = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
    weakref.finalize(content, os.close, descriptor)
    return SharedBytes(content, descriptor=descriptor)


def _attached(file: Any, size: int) -> SharedBytes:
    return _mapped(file.detach(), size)


def _common_file(size: int, first: int, several: bool) -> int | None:
    """Open one file in all processes of a machine, of which `first` makes it; None where that fails in one of them."""
    makes = several and dist.get_rank() == first
    file = _gathered(_new_file(size) if makes else None)[first]
    opened = _open(file)
    everywhere = (first, False) not in _gathered((first, opened is not None))
    if makes and file is not None:
        os.unlink(file)
    has_room = opened is not None and everywhere and (not makes or _reserve(opened, size))
    if opened is None or not _gathered(has_room)[first]:
        if makes:
            logger.warning("Each process keeps its own copy of the images: no folder to share them in has room.")
        if opened is not None:
            os.close(opened)
        return None
    return opened


def _gathered(value: Any) -> list[Any]:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _new_file(size: int) -> str | None:
    for folder in (IN_MEMORY, tempfile.gettempdir()):
        with contextlib.suppress(OSError, AttributeError):  # no such folder; Windows
            free = os.statvfs(folder)
            if free.f_bavail * free.f_frsize > size:
                descriptor, file = tempfile.mkstemp(prefix="omni_vision_images_", dir=folder)
                os.close(descriptor)
                return file
    return None


def _open(file: str | None) -> int | None:
    with contextlib.suppress(OSError):
        return None if file is None else os.open(file, os.O_RDWR)
    return None


def _reserve(descriptor: int, size: int) -> bool:
    """Give a file its size; without reserving it, a full folder would end the process when it writes."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (OSError, AttributeError):  # full, or no Linux
        return False
    return True


def _return_freed() -> None:
    """Return to the system what lists of files and Arrow have freed: it is not reused for large arrays."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(AttributeError, OSError, TypeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


__all__ = ["SharedBytes", "allocate"]
