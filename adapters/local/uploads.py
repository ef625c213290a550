"""Uploaded files as files, in a folder of the state: `uploads/<container>/<name>`."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from triggers.errors import NotFound, Refused
from triggers.ports import UploadedFile


class FileUploads:
    """Port Uploads. A file's address is its container and name."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder).resolve()

    def name(self, url: str) -> str:
        try:
            path = (self._folder / url.replace("\0", "")).resolve()
        except UnicodeEncodeError as error:
            raise Refused(f"not the name of an uploaded file: {ascii(url)[:200]}") from error
        if not path.is_relative_to(self._folder) or path.relative_to(self._folder).as_posix() != url:
            raise Refused(f"not the name of an uploaded file: {url[:200]}")
        return url

    @contextmanager
    def open(self, name: str) -> Iterator[UploadedFile]:
        try:
            file = (self._folder / self.name(name)).open("rb")
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"no uploaded file {name!r}") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise NotFound(f"no uploaded file {name[:200]!r}: its name is longer than any") from error
        with file:
            about = os.fstat(file.fileno())
            yield UploadedFile(name, f"{about.st_mtime_ns}-{about.st_size}", file)
