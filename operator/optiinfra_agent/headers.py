"""Header blocks of HTTP/2 (HPACK, RFC 7541), as far as one gRPC call over a local socket needs them.

Written here and not taken from the package `hpack` because of weight (measured beside this agent: `h2` 5 MiB and 0.3 s
to import, `hpack` alone 3 to 4 MiB; this 0.3 MiB), and small because there is no dynamic table: the caller announces
a table of size 0, so that whatever the server adds is gone at once, and a reference to it is an error. Of the static
table only what a gRPC answer can carry has a name; all other entries are decoded and nameless.

The Huffman code is canonical: it follows from its lengths alone. They are kept as one letter a symbol (A = 5 bits to
Z = 30, appendix B, symbols 0 to 255 and the end mark).
"""

from optiinfra_agent.errors import WireError

Header = tuple[bytes, bytes]

BLOCK_LIMIT = 16 * 1024
_STATIC_ENTRIES = 61
_STATUS, _CONTENT_TYPE = b":status", b"content-type"
_STATIC: dict[int, Header] = {
    8: (_STATUS, b"200"),
    9: (_STATUS, b"204"),
    10: (_STATUS, b"206"),
    11: (_STATUS, b"304"),
    12: (_STATUS, b"400"),
    13: (_STATUS, b"404"),
    14: (_STATUS, b"500"),
    31: (_CONTENT_TYPE, b""),
}
_LENGTHS = (
    "ISXXXXXXXTZXXZXXXXXXXXZXXXXXXXXXBFFHIBDGFFDGDBBBAAABBBBBBBCDKBHFIBCCCCCCCCCCCCCCCCCCCCCCDCDIOIJBKABABABBBACCBBBAB"
    "CBAABCCCCCKGJIXPRPPRRRSRSSSSSTSTTRSTSSSSQRSRSSTRQPRRSSQSRRTQRSSQQRQSRSSPRRRSRRSVVPORSRUVVVWWVTUOQVWWVWTQQVVXWWWPT"
    "PQRQQSRRUUTTVSVWVVWWWWWXWWWWWVZ"
)
_END_MARK = 256
_LONGEST = 30


def _codes() -> dict[int, int]:
    # Key: the code with a leading 1 bit, so that codes of different lengths never meet.
    codes: dict[int, int] = {}
    code, last = 0, 0
    for length, symbol in sorted((ord(letter) - ord("A") + 5, symbol) for symbol, letter in enumerate(_LENGTHS)):
        code <<= length - last if last else 0
        codes[1 << length | code] = symbol
        code, last = code + 1, length
    return codes


_CODES = _codes()


def encode_headers(headers: tuple[Header, ...]) -> bytes:
    """Encode headers as literals that enter no table, in plain text."""
    block = bytearray()
    for name, value in headers:
        block.append(0)
        for part in (name, value):
            block += _encode_length(len(part)) + part
    return bytes(block)


def decode_headers(block: bytes) -> list[Header]:
    """Return the headers of one block; those of the static table that no gRPC answer carries have no name."""
    headers: list[Header] = []
    position = 0
    while position < len(block):
        first = block[position]
        if first & 0x80:
            index, position = _integer(block, position, bits=7)
            headers.append(_entry(index))
        elif first & 0x40:
            header, position = _literal(block, position, bits=6)
            headers.append(header)
        elif first & 0x20:
            size, position = _integer(block, position, bits=5)
            if size:
                raise WireError(f"a header table of {size} bytes where 0 was announced")
        else:
            header, position = _literal(block, position, bits=4)
            headers.append(header)
    return headers


def _entry(index: int) -> Header:
    if not 0 < index <= _STATIC_ENTRIES:
        raise WireError(f"header {index} of a table that was announced as empty")
    return _STATIC.get(index, (b"", b""))


def _literal(block: bytes, position: int, *, bits: int) -> tuple[Header, int]:
    index, position = _integer(block, position, bits=bits)
    if index:
        name = _entry(index)[0]
    else:
        name, position = _string(block, position)
    value, position = _string(block, position)
    return (name, value), position


def _integer(block: bytes, position: int, *, bits: int) -> tuple[int, int]:
    if position >= len(block):
        raise WireError("a header block is cut off")
    full = (1 << bits) - 1
    value = block[position] & full
    position += 1
    if value < full:
        return value, position
    for shift in (0, 7, 14):
        if position >= len(block):
            raise WireError("a header block is cut off")
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise WireError("a number in a header block is larger than any block")


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    if position >= len(block):
        raise WireError("a header block is cut off")
    is_coded = bool(block[position] & 0x80)
    length, position = _integer(block, position, bits=7)
    end = position + length
    if end > len(block):
        raise WireError("a header block is cut off")
    data = block[position:end]
    return (_huffman(data) if is_coded else data), end


def _huffman(data: bytes) -> bytes:
    decoded = bytearray()
    code, length = 1, 0
    for byte in data:
        for shift in range(7, -1, -1):
            code = code << 1 | byte >> shift & 1
            length += 1
            symbol = _CODES.get(code)
            if symbol is not None:
                if symbol == _END_MARK:
                    raise WireError("an end mark within a header")
                decoded.append(symbol)
                code, length = 1, 0
            elif length >= _LONGEST:
                raise WireError("a header that is not in the code")
    # What is left is padding: fewer than 8 bits, all of them 1 (the begin of the end mark).
    if length > 7 or code != (1 << length + 1) - 1:
        raise WireError("a header with wrong padding")
    return bytes(decoded)


def _encode_length(length: int) -> bytes:
    if length < 0x7F:
        return bytes((length,))
    encoded = bytearray((0x7F,))
    length -= 0x7F
    while length > 0x7F:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)
