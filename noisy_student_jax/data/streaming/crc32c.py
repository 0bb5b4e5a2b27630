"""CRC-32C, the checksum of TFRecord files, in NumPy.

Without its usual inversions the checksum is linear over XOR. A table therefore holds
the contribution of each byte value at each column of a row, and rows are reduced at
once; the checksum of one row enters the next as if XORed to its first four bytes.
"""

import functools

import numpy as np

_POLYNOMIAL = 0x82F63B78
_WIDTH = 512
_ONES = np.uint8(0xFF)
_MASK_DELTA = np.uint32(0xA282EAD8)


def masked(data: bytes) -> int:
    """Returns the masked checksum of bytes, as stored in TFRecord files."""
    return int(_masked(np.array([_whole(data)], np.uint32))[0])


def masked_rows(rows: np.ndarray) -> np.ndarray:
    """Returns the masked checksums of many short messages.

    Args:
      rows: uint8 ``[messages, length]``, with a length from 4 to 512.

    Returns:
      uint32 ``[messages]``.
    """
    rows = rows.copy()
    rows[:, :4] ^= _ONES
    return _masked(~_from_zero(rows))


def _whole(data: bytes) -> int:
    if len(data) < 4:
        state = 0xFFFFFFFF
        last = _table()[-1].tolist()
        for byte in data:
            state = last[(state ^ byte) & 0xFF] ^ state >> 8
        return state ^ 0xFFFFFFFF
    # Leading zeros do not change a linear checksum.
    padding = -len(data) % _WIDTH
    padded = np.zeros(padding + len(data), np.uint8)
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= _ONES
    state = 0
    first, second, third, fourth = _first_columns()
    for row in _from_zero(padded.reshape(-1, _WIDTH)).tolist():
        state = (
            row
            ^ first[state & 0xFF]
            ^ second[state >> 8 & 0xFF]
            ^ third[state >> 16 & 0xFF]
            ^ fourth[state >> 24]
        )
    return state ^ 0xFFFFFFFF


def _from_zero(rows: np.ndarray) -> np.ndarray:
    """Returns each row's checksum without the usual inversions; uint32 ``[rows]``."""
    table = _table()[-rows.shape[1] :]
    columns = np.arange(0, table.size, 256, dtype=np.int32)
    return np.bitwise_xor.reduce(table.ravel()[columns + rows], axis=1)


def _masked(checksums: np.ndarray) -> np.ndarray:
    turned = (checksums >> np.uint32(15)) | (checksums << np.uint32(17))
    return turned + _MASK_DELTA


@functools.cache
def _table() -> np.ndarray:
    """Returns each byte value's contribution at each column, ``[_WIDTH, 256]``."""
    last: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = (last >> 1) ^ (last & 1) * np.uint32(_POLYNOMIAL)
    table = np.empty((_WIDTH, 256), np.uint32)
    table[-1] = last
    for column in reversed(range(_WIDTH - 1)):
        after = table[column + 1]
        table[column] = last[after & 0xFF] ^ (after >> 8)
    return table


@functools.cache
def _first_columns() -> list[list[int]]:
    return _table()[:4].tolist()
