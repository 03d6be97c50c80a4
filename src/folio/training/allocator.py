"""What the C library does with freed memory."""

import ctypes

LARGE_BYTES = 4_000_000
_M_MMAP_THRESHOLD = -3
"""Of <malloc.h>."""


def return_large_blocks() -> None:
    """Let blocks of 4 MB and more go back to the system once they are freed, where glibc is the C library.

    In the heap, what an optimizer step keeps comes to lie between what it frees, and a training process grows until
    a fifth of it is holes: 1.50 GB where 1.30 GB do at 45 million parameters, 16 sequences of 128 tokens. Pages that
    come back empty cost that step 13 % of its time. Smaller models have no such blocks and run as before.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
