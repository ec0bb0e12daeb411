"""What is too big or too small to be a chest radiograph, checked on the header before anything is decoded."""

from dataclasses import dataclass

from chestmap.errors import BadImage


@dataclass(frozen=True)
class Limits:
    """Computed radiography ends near 18 million pixels (43 cm at 0.1 mm); twice that bounds time and memory."""

    file_bytes: int = 128 << 20
    pixels: int = 40_000_000
    longest_side: int = 16_384
    shortest_side: int = 16

    def check_bytes(self, count: int) -> None:
        """For the file itself and for what it unpacks to."""
        if count > self.file_bytes:
            raise BadImage(f"{count:,} bytes; at most {self.file_bytes:,} are read: resize or compress the image")

    def check_size(self, width: int, height: int) -> None:
        """`width` and `height` as a header states them, in pixels; nothing has been allocated for them yet."""
        if min(width, height) < self.shortest_side:
            raise BadImage(
                f"{width} x {height} pixels; at least {self.shortest_side} on each side are needed: is it a thumbnail?"
            )
        if max(width, height) > self.longest_side or width * height > self.pixels:
            raise BadImage(
                f"{width} x {height} pixels; at most {self.pixels:,} pixels and {self.longest_side:,} on a side are read: "
                "resize the image"
            )


LIMITS = Limits()
