"""Removes from compressed pixel streams what no decoder shows: comments, camera data, boxes, bytes behind their end.

`deidentify` calls it for each frame. Decoded pixels stay the same; only segments that no decoder needs go.
"""

from __future__ import annotations

from chestmap.errors import BadImage

CODESTREAM = b"\xff\x4f\xff\x51"
"""SOC and SIZ: JPEG 2000 and HTJ2K begin so."""
SOT, SOD, EOC, COM, TLM = 0xFF90, 0xFF93, b"\xff\xd9", 0xFF64, 0xFF55
JPEG_SCAN, JPEG_END, JPEG_COMMENT, JPEG_COLORS = 0xDA, 0xD9, 0xFE, 0xEE


def without_comments(frame: bytes) -> bytes:
    """A frame of JPEG, JPEG-LS, JPEG 2000 or HTJ2K; another kind has no comments and stays as it is."""
    if frame.startswith(b"\xff\xd8\xff"):
        return _jpeg(frame)
    if frame.startswith(CODESTREAM) or frame[4:8] == b"jP  ":
        start = frame.find(CODESTREAM)
        if start < 0:
            raise _unreadable()
        return _jpeg2000(frame[start:])
    return frame


def _unreadable() -> BadImage:
    return BadImage("its compressed stream is damaged, so comments in it cannot be found: export it uncompressed")


def _jpeg(frame: bytes) -> bytes:
    """Without COM and APP1 … APP15, also between scans; APP14, which tells the colors, stays. Ends at EOI.

    In the data of a scan 0xFF is followed by less than 0x80 (JPEG: by 0), or by a restart marker.
    """
    kept, place = [b"\xff\xd8"], 2
    while place + 4 <= len(frame) and frame[place] == 0xFF:
        marker = frame[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker == JPEG_END:
            break
        length = int.from_bytes(frame[place + 2 : place + 4], "big")
        end = place + 2 + length
        if length < 2 or end > len(frame):
            raise _unreadable()
        if marker == JPEG_SCAN:
            end = _end_of_scan(frame, end)
        if marker != JPEG_COMMENT and (not 0xE1 <= marker <= 0xEF or marker == JPEG_COLORS):
            kept.append(frame[place:end])
        place = end
    return b"".join(kept) + b"\xff\xd9"


def _end_of_scan(frame: bytes, place: int) -> int:
    while (place := frame.find(b"\xff", place)) >= 0 and place + 1 < len(frame):
        after = frame[place + 1]
        if 0x80 <= after < 0xFF and not 0xD0 <= after <= 0xD7:
            return place
        place += 1 if after == 0xFF else 2
    return len(frame)


def _jpeg2000(stream: bytes) -> bytes:
    """Without COM in the main header and in those of tile-parts; their lengths are corrected. Ends at EOC."""
    main, place, _ = _segments(stream, 2, SOT, frozenset({COM}))
    parts, shorter = [], False
    while stream[place : place + 2] == SOT.to_bytes(2, "big"):
        length = int.from_bytes(stream[place + 6 : place + 10], "big")
        end = place + length if length else _last_end(stream)
        header, data, dropped = _segments(stream, place + 12, SOD, frozenset({COM}))
        if not data < end <= len(stream):
            raise _unreadable()
        size = (length - dropped if length else 0).to_bytes(4, "big")
        parts.append(stream[place : place + 6] + size + stream[place + 10 : place + 12] + header + stream[data:end])
        shorter, place = shorter or dropped > 0, end
    if not parts:
        raise _unreadable()
    if shorter:  # TLM, which may be left out, repeats the lengths of tile-parts
        main, _, _ = _segments(stream, 2, SOT, frozenset({COM, TLM}))
    return b"".join([stream[:2], main, *parts, EOC])


def _last_end(stream: bytes) -> int:
    """Of a tile-part that goes on to the end."""
    end = stream.rfind(EOC)
    return end if end > 0 else len(stream)


def _segments(stream: bytes, place: int, last: int, dropped: frozenset[int]) -> tuple[bytes, int, int]:
    """Marker segments up to `last` without those dropped; where `last` is; how many bytes were dropped."""
    kept, gone = [], 0
    while (marker := int.from_bytes(stream[place : place + 2], "big")) != last:
        length = int.from_bytes(stream[place + 2 : place + 4], "big")
        end = place + 2 + length
        if marker < 0xFF00 or length < 2 or end > len(stream):
            raise _unreadable()
        if marker in dropped:
            gone += end - place
        else:
            kept.append(stream[place:end])
        place = end
    return b"".join(kept), place, gone
