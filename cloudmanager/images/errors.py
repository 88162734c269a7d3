"""Why the bytes of a file are not, or not safely, a disk.

ImageProblem
├── UnreadableImage         the file system or disk below gave an error
├── EmptyImage              no bytes, or a virtual size of 0
├── DamagedImage
│   └── TruncatedImage          something that it refers to would lie beyond its end
├── UnsafeImage             it refers to other files
│   └── BackedImage             to a backing file, by `name`: a caller that can check that one may allow it
├── UnsupportedImage        its format, version or features are not read here
│   └── UnreasonableImage       its tables are larger than those of any real disk, or cannot be checked in time
└── NotADisk                an archive, a compressed or some other file, one piece of a disk; `kind` names it
"""


class ImageProblem(Exception):
    """`detail` is one or two sentences for a person: what is the matter, and what can be done."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class UnreadableImage(ImageProblem):
    """Says nothing of the image."""


class EmptyImage(ImageProblem):
    """Whatever writes it may not have begun."""


class DamagedImage(ImageProblem):
    """What its headers and tables say cannot be true."""


class TruncatedImage(DamagedImage):
    """Its end is missing. QEMU would read zeros there, without an error."""


class UnsafeImage(ImageProblem):
    """A reader would open files or addresses of its author's choice."""


class BackedImage(UnsafeImage):
    """It reads through the file `name`, of which nothing was checked."""

    def __init__(self, detail: str, name: str) -> None:
        super().__init__(detail)
        self.name = name


class UnsupportedImage(ImageProblem):
    """Nothing here can read it."""


class UnreasonableImage(UnsupportedImage):
    """No real disk has such tables; to read them would cost time and memory without bounds."""


class NotADisk(ImageProblem):
    """Its bytes are no disk's."""

    def __init__(self, detail: str, kind: str) -> None:
        super().__init__(detail)
        self.kind = kind
        """As in "a gzip file"."""
