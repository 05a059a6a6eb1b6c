"""Which errors say that memory ran out. No torch."""

from __future__ import annotations

import errno

# of errors that are not torch's OutOfMemoryError: its CPU allocator's, CUDA's, and of cuBLAS, cuDNN, cuSOLVER and cuSPARSE, which take
# memory beside torch's allocator (cublas_api.h and its like)
WORDS = ("can't allocate memory", "out of memory", "_OUT_OF_MEMORY", "_STATUS_ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the device's or the machine's, in the words of torch, of CUDA and its libraries or of the system."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return any(words in str(error) for words in WORDS)
